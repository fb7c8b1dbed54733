"""A whole federation on this machine: one server and some sites as processes of their own, on loopback.

The demonstrations, the fault tests and the benchmarks start theirs here, over the same commands' entry points, the
same enrolment and the same mutual TLS as a real deployment. Every process ends when its parent does.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from hanse.backends.local.ports import free_ports
from hanse.core.errors import UnavailableError
from hanse.person.federation import Federation
from hanse.person.loop import wait_for
from hanse.server.config import ServerConfig
from hanse.server.init import init_federation

_CHILD = """
import os, signal, sys, threading
def leave():
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=leave, daemon=True).start()
from pathlib import Path
from hanse.{kind}.start import main
sys.exit(main(Path(sys.argv[1])))
"""
"""What every child runs: the command's entry point; it leaves when the parent's end of its standard input closes."""

START_S = 120.0
"""How long the processes may take to come up: a minute goes by on a busy machine."""
POLICY = "apps: any\npeople: any\ndatasets: any\nunlisted_apps: hold\n"


@dataclass(slots=True)
class Child:
    """One process of the federation."""

    kind: str
    directory: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it; its output goes to `log` in its directory."""
        with (self.directory / "log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD.format(kind=self.kind), str(self.directory)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, timeout_s: float = 10.0) -> None:
        """Wait until it is gone; kill it if it takes too long."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


@dataclass(slots=True)
class LocalFederation:
    """A federation in `directory`. Use as a context manager, or `start` and `stop`.

    Args:
        sites: site name → declarations of its data sets, as in `site.yaml`.
        durability: of server and sites.
        settings: further lines of every `site.yaml`.
        environment: further variables of every process.
    """

    directory: Path
    sites: Mapping[str, Mapping[str, Any]]
    name: str = "demo"
    durability: str = "power"
    http: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    server: Child = field(init=False)
    children: dict[str, Child] = field(init=False, default_factory=dict)
    config: ServerConfig = field(init=False)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def person(self) -> Path:
        """The directory of the person who may do everything."""
        return self.directory / "server" / "admin"

    def federation(self) -> Federation:
        """As the person reaches it."""
        return Federation.load(self.person)

    def site_directory(self, site: str) -> Path:
        """A site's directory."""
        return self.directory / "sites" / site

    # ---- life ----

    def start(self, *, wait: bool = True) -> None:
        """Make what is not there yet, start every process, wait until all sites are connected.

        Raises:
            UnavailableError: it did not come up; the last lines of the log say why.
        """
        tokens = self.prepare()
        self.server.start(self._environment())
        if tokens:
            self._until(self._listening, "the server does not listen", [self.server])
            wait_for(self._join(tokens))
        for child in self.children.values():
            child.start(self._environment())
        if wait:
            self.wait_for_sites()

    def prepare(self) -> Mapping[str, str]:
        """Write directories and settings; join tokens for sites that have not joined."""
        home = self.directory / "server"
        self.server = Child("server", home)
        tokens: Mapping[str, str] = {}
        if not (home / "server.yaml").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            port, enrolment, http = free_ports(3)
            config = ServerConfig(
                self.name,
                port=port,
                enrolment_port=enrolment,
                http_port=http if self.http else None,
                durability=self.durability,
            )
            tokens = init_federation(home, config, person="admin", sites=list(self.sites)).tokens
        self.config = ServerConfig.load(home)
        for site, datasets in self.sites.items():
            place = self.site_directory(site)
            place.mkdir(parents=True, exist_ok=True)
            values = {"name": site, "durability": self.durability, "datasets": dict(datasets), **self.settings}
            (place / "site.yaml").write_text(yaml.safe_dump(values))
            (place / "policy.yaml").write_text(POLICY)
            self.children[site] = Child("site", place)
        return tokens

    async def _join(self, tokens: Mapping[str, str]) -> None:
        from hanse.backends.grpc.enrol import enrol
        from hanse.trust.joining import join

        await asyncio.gather(
            *(join(self.site_directory(site), token, kind="site", enrol=enrol) for site, token in tokens.items())
        )

    def stop(self) -> None:
        """End every process."""
        everyone = [*self.children.values(), *([self.server] if hasattr(self, "server") else [])]
        for child in everyone:
            child.signal(signal.SIGCONT)
            child.signal(signal.SIGTERM)
        for child in everyone:
            child.wait()

    def start_site(self, site: str) -> None:
        """Start a site's process again."""
        self.children[site].wait(0)
        self.children[site].start(self._environment())

    def start_server(self) -> None:
        """Start the server's process again."""
        self.server.wait(0)
        self.server.start(self._environment())

    def kill(self, child: Child) -> None:
        """kill -9, as a crash would."""
        child.signal(signal.SIGKILL)
        child.wait()

    # ---- waiting ----

    def there(self) -> list[str]:
        """Sites that the server says are there."""

        async def ask() -> list[str]:
            async with self.federation().connect() as session:
                sites = (await session.ask("sites"))["sites"]
                return [site["site"] for site in sites if site["state"] == "there"]

        return wait_for(ask())

    def wait_for_sites(self, sites: Sequence[str] | None = None) -> None:
        """Wait until these sites (or all) are connected."""
        wanted = set(self.sites if sites is None else sites)

        def connected() -> bool:
            try:
                return wanted <= set(self.there())
            except UnavailableError:
                return False

        watched = [self.server, *(self.children[site] for site in wanted)]
        self._until(connected, "sites are missing", watched)

    def _listening(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.config.enrolment_port), 1):
                return True
        except OSError:
            return False

    def _until(self, ready: Callable[[], bool], what: str, watched: Sequence[Child]) -> None:
        end = time.monotonic() + START_S
        while not ready():
            dead = [child for child in watched if not child.alive]
            if dead or time.monotonic() > end:
                child = dead[0] if dead else watched[-1]
                raise UnavailableError(f"{what}; end of {child.directory / 'log'}:\n{tail(child.directory / 'log')}")
            time.sleep(0.02)  # waits for other processes to come up, which nothing announces

    def _environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1", **self.environment}


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
