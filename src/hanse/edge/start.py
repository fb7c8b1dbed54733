"""The process of `hanse edge start`: the launcher of workers first, then everything that holds keys or threads."""

import asyncio
import signal
from pathlib import Path

from hanse.core.errors import ConfigError, TrustError
from hanse.core.loops import run
from hanse.workers.launcher import Launcher

REJOIN_EXIT = 3
"""The exit code of an edge that the federation above does not know any more."""
SITE, PERSON = "edge", "admin"
"""Folders within the server's, unless others are given."""


def main(directory: Path, *, site: Path | None = None, person: Path | None = None, verbose: bool = False) -> int:
    """Run the edge of the federation in `directory` until it is stopped.

    Args:
        site: the folder of the site above; `edge` within `directory` by default.
        person: the folder of the person who submits within the group; `admin` within `directory` by default.

    Returns:
        The exit code: 0 after a clean end, 3 if the federation above does not know this site any more.

    Raises:
        HanseError: it cannot start.
    """
    directory = directory.absolute()
    site, person = site or directory / SITE, person or directory / PERSON
    if not (directory / "server.yaml").exists():
        raise ConfigError(f"expected the group's federation in {directory}; make it with `hanse federation init`")
    if not (site / "membership.json").exists():
        raise ConfigError(f"expected the group's site in {site}; join with `hanse site join TOKEN --directory {site}`")
    launcher = Launcher.start()
    try:
        return _run(directory, site, person, launcher, verbose=verbose)
    finally:
        launcher.stop()


def _run(directory: Path, site: Path, person: Path, launcher: Launcher, *, verbose: bool) -> int:
    # Imported only now: a launcher that was forked beside threads and keys would hang, or hand them on.
    from hanse.core.logs import configure

    log = configure("hanse.edge", verbose=verbose)
    from hanse.edge.edge import Edge

    async def work() -> None:
        edge = Edge(directory, site, person, launcher)
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, edge.stop)
        await edge.run()

    try:
        run(work())
    except TrustError as error:
        log.error("the federation above does not know this site any more", reason=str(error))
        return REJOIN_EXIT
    log.info("edge stopped")
    return 0
