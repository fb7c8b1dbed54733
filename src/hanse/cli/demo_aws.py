"""`hanse demo --aws URL`: the same hospitals without a server, on an emulator of AWS; all is removed at the end."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hanse.cli.output import note
from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError
from hanse.deploy.aws import deploying, enrolling
from hanse.deploy.aws.account import EMULATED_ACCOUNT, Account
from hanse.deploy.aws.package import package_here
from hanse.deploy.aws.settings import FILE, Deployment, SitePlan, written
from hanse.site.join import join_by_hand
from hanse.trust.admission import request
from hanse.trust.certificates import SITE

REGION = "eu-central-1"
FEDERATION = "hospitals"


@contextmanager
def deployed(home: Path, endpoint: str, sites: Sequence[str], person: str) -> Iterator[Path]:
    """A federation on an emulator; gives the person's folder.

    Args:
        home: the federation's folder is made in it.

    Raises:
        ConfigError: not an emulator on this machine. HanseError: it cannot be deployed.
    """
    if not endpoint.startswith(("http://127.0.0.1:", "http://localhost:", "http://[::1]:")):
        raise ConfigError(
            f"--aws: expected an emulator on this machine, such as http://127.0.0.1:4566, found {endpoint[:80]!r}; "
            "for AWS itself see: hanse deploy aws"
        )
    if not os.environ.get("AWS_PROFILE"):
        # Emulators believe whoever asks; every process of the demo asks the same way.
        os.environ.setdefault("AWS_ACCESS_KEY_ID", EMULATED_ACCOUNT)
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "emulated")
    deployment = Deployment(FEDERATION, REGION, tuple(map(SitePlan, sites)), is_emulated=True)
    account = Account(REGION, endpoint=endpoint)
    account.id()
    folder = home / "federation"
    person_folder = deploying.init(folder / FILE, deployment, written(FEDERATION, REGION, sites), person=person)
    try:
        deploying.deploy(account, deployment, folder, package_here(), note)
        for site in sites:
            _join(account, deployment, folder, site, home / site)
        yield person_folder
    finally:
        deploying.destroy(account, deployment, lambda _: None)


def reach(endpoint: str) -> dict[str, str]:
    """How a site reaches its queue: the section `aws` of its site.yaml."""
    return {"region": REGION, "endpoint": endpoint}


def _join(account: Account, deployment: Deployment, folder: Path, site: str, place: Path) -> None:
    """What a site and the operator send each other, without the sending."""
    asked = request(place, FEDERATION, site, kind=SITE)
    _, body = enrolling.admit(account, deployment, folder, asked.read_bytes())
    answer = place / f"{site}-admission.json"
    answer.write_bytes(canonical_json(body))
    join_by_hand(place, answer)
