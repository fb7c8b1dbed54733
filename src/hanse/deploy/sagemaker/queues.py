"""Training jobs over a federation on AWS that has no server: queues carry messages, and nothing listens anywhere.

The federation is one that `hanse deploy aws` made; its folder says how to reach it, and with which sites.
"""

from pathlib import Path

from hanse.core.errors import ConfigError
from hanse.deploy.aws.settings import Deployment, load
from hanse.deploy.sagemaker.joining import PACKED
from hanse.deploy.sagemaker.server import PERSON
from hanse.deploy.sagemaker.settings import Account, Settings
from hanse.person.federation import Federation
from hanse.site.packed import pack
from hanse.trust.private_files import write_file


def reached(settings: Settings, *, local: bool) -> Federation:
    """The federation as the launcher, its first person, reaches it.

    Raises:
        ConfigError: there is none, or its sites are not the accounts' jobs: which line is to be written where.
    """
    assert settings.queues is not None
    deployment = load(settings.queues)
    where = settings.queues / "federation.yaml"
    if deployment.federation != settings.federation:
        raise ConfigError(f"{where}: expected federation {settings.federation}, found {deployment.federation}")
    if not deployment.models_to_sites:
        raise ConfigError(
            f"{where}: aws: expected models_to_sites: true, so that every account keeps the model; then deploy it again"
        )
    for account in settings.accounts:
        check_site(deployment, account, where, local=local)
    place = settings.queues / PERSON
    if not (place / "federation.yaml").exists():
        raise ConfigError(
            f"{place}: expected federation.yaml, found none; run: hanse deploy aws deploy {settings.queues}"
        )
    federation = Federation.load(place)
    if federation.aws is None:
        raise ConfigError(f"{place}: expected a federation without a server, found one at {federation.address}")
    return federation


def check_site(deployment: Deployment, account: Account, where: Path, *, local: bool) -> None:
    """Return if an account's job may come as its site: the execution role is the one that may take on the site's role.

    Raises:
        ConfigError: it may not, and the line that lets it.
    """
    plan = next((site for site in deployment.sites if site.name == account.site), None)
    line = f'{{name: {account.site}, account: "{account.account}", principal: "{account.execution_arn}"}}'
    if plan is None or (not local and (plan.access != "role" or plan.principal != account.execution_arn)):
        wanted = account.site if local else line
        raise ConfigError(f"{where}: aws: sites: expected {wanted}, found {'none' if plan is None else 'another'}")


def way_of(account: Account) -> str:
    """How an account's job becomes its site; as `Told.join`."""
    return f"{PACKED}secret:{account.site_secret}"


def local_identity(account: Account, folder: Path) -> str:
    """The same on this machine: the identity in a private file, in the place of Secrets Manager."""
    assert account.local is not None
    assert account.local.site is not None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / account.site
    write_file(path, pack(account.local.site).encode())
    return f"{PACKED}file:{path}"


def forget_identities(settings: Settings, folder: Path) -> None:
    """Remove what `local_identity` wrote: private keys stay with their sites."""
    for account in settings.accounts:
        (folder / account.site).unlink(missing_ok=True)
