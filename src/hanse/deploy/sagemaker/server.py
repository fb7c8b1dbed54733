"""The federation's server beside a launch: made if there is none, kept up while it lasts; what jobs are told of it."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.backends.local.ports import free_ports
from hanse.core.errors import ConfigError, UnavailableError
from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.settings import QUEUES, Account, Settings
from hanse.person.federation import Federation
from hanse.trust.aws_identity import AwsIdentity

PERSON = "admin"
STOP_S, RESTARTS = 15.0, 5


@contextmanager
def server_up(settings: Settings, *, by_identity: bool, log: Path, sts: str = "") -> Iterator[Federation]:
    """The federation's server: made if it is not there, started if it does not run; ended again if it was started here.

    Args:
        by_identity: whether sites join by their AWS identities.
        log: where the server's log goes.
        sts: another address of STS than AWS's, for a server that is made.

    Raises:
        UnavailableError: it does not come up; with the last words of its log.
    """
    place = settings.server.directory
    if not (place / "server.yaml").exists():
        _found(settings, by_identity=by_identity, sts=sts)
    federation = Federation.load(place / PERSON)
    if _answers(federation):
        if by_identity:
            _check_identities(settings, "restart the server after writing it")
        yield federation
        return
    if by_identity:
        _write_identities(settings)
    server = _Server(place, log)
    server.start()
    try:
        yield federation
    finally:
        server.stop()


class _Server:
    """The server's process; one that ends by itself is started again, and its jobs go on."""

    def __init__(self, place: Path, log: Path) -> None:
        self._place, self._log = place, log
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._keep_up, name="server", daemon=True)

    def start(self) -> None:
        """Returns when it can be reached.

        Raises:
            UnavailableError: it ends instead; with the last words of its log.
        """
        self._begin()
        self._watch.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        if self._child is not None:
            _ended(self._child)
        self._watch.join(STOP_S)

    def _begin(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as out:
            command = [sys.executable, "-m", "hanse.cli.processes", "server", str(self._place)]
            self._child = child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, start_new_session=True
            )
        if child.stdout is None or child.stdout.readline() != b"ready\n":
            _ended(child)
            raise UnavailableError(f"the server did not start: {_last_line(self._log)}")

    def _keep_up(self) -> None:
        for _ in range(RESTARTS):
            if self._child is not None:
                self._child.wait()
            if self._stopping.is_set():
                return
            with contextlib.suppress(UnavailableError):
                self._begin()
            if self._stopping.is_set() and self._child is not None:  # stopped in between
                _ended(self._child)


def _ended(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _found(settings: Settings, *, by_identity: bool, sts: str) -> None:
    from hanse.server.config import ServerConfig
    from hanse.server.init import init_federation
    from hanse.tracking import tracker_from

    place = settings.server
    port, enrolment = (place.port, place.enrolment_port) if place.port else free_ports(2)
    config = ServerConfig(
        federation=settings.federation,
        listen="127.0.0.1" if place.address == "127.0.0.1" else "0.0.0.0",
        port=port,
        enrolment_port=enrolment,
        http_port=None,
        hosts=tuple(dict.fromkeys((place.address, "127.0.0.1", "localhost"))),
        models_to_sites=True,
        datasets=place.datasets,
        tracking=None if place.tracking is None else tracker_from(dict(place.tracking), "server.tracking"),
        aws_identities=identities_of(settings) if by_identity else {},
        aws_sts=sts,
    )
    init_federation(place.directory, config, person=PERSON)


def identities_of(settings: Settings) -> dict[str, AwsIdentity]:
    """Who may join as which site: the account's execution role, where the site has no token."""
    joining = [account for account in settings.accounts if not account.token_secret]
    return {each.site: AwsIdentity(each.account, each.execution_role) for each in joining}


def _write_identities(settings: Settings) -> None:
    """Have `server.yaml` know the accounts of today and no others, before the server starts."""
    from hanse.server.config import ServerConfig

    config = ServerConfig.load(settings.server.directory)
    known = identities_of(settings)
    if known != config.aws_identities:
        replace(config, aws_identities=known).save(settings.server.directory)


def _check_identities(settings: Settings, advice: str) -> None:
    from hanse.server.config import ServerConfig

    known = ServerConfig.load(settings.server.directory).aws_identities
    wanted = identities_of(settings)
    if others := sorted(set(known) - set(wanted)):
        raise ConfigError(
            f"{settings.server.directory / 'server.yaml'}: aws_identities: found {', '.join(others)}, which "
            f"federation.yaml does not name and who could still join; take it out there; {advice}"
        )
    for site, identity in wanted.items():
        if known.get(site) != identity:
            raise ConfigError(
                f"{settings.server.directory / 'server.yaml'}: aws_identities: expected {site}: {{account: "
                f'"{identity.account}", role: {identity.role}}}; {advice}'
            )


def _answers(federation: Federation) -> bool:
    host, _, port = federation.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 2):
            return True
    except OSError:
        return False


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else f"see {log}"


def told_of(
    settings: Settings, federation: Federation, join: Callable[[Account], str], **more: Any
) -> Callable[[Account], Told]:
    """What each site's job is told.

    Args:
        join: how a site joins, as `Told.join`.
    """
    from hanse.server.config import ServerConfig
    from hanse.trust.certificates import fingerprint

    authority = fingerprint(federation.membership.authority_pem).hex()
    if settings.queues is not None:
        server = enrolment = QUEUES
    else:
        config = ServerConfig.load(settings.server.directory)
        server, enrolment = config.address, config.enrolment_address

    def told(account: Account) -> Told:
        return Told(
            settings.federation,
            account.site,
            server,
            enrolment,
            authority,
            join(account),
            **more,
        )

    return told


def local_token(federation: Federation, site: str, folder: Path) -> str:
    """A join token in a private file, in the place of Secrets Manager; a site of an earlier launch is let in anew."""

    async def invite() -> str:
        async with federation.connect() as session:
            known = {each["site"]: each["state"] for each in (await session.ask("sites"))["sites"]}
            if known.get(site, "revoked") != "revoked":
                await session.ask("revoke", kind="site", name=site)
            return str((await session.ask("invite", kind="site", name=site, hours=24.0))["token"])

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / site
    path.touch(mode=0o600)
    path.write_text(asyncio.run(invite()))
    return f"file:{path}"
