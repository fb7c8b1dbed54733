"""The process of `hanse site start`: the launcher of workers first, then everything that holds keys or threads."""

import asyncio
import os
import signal
from pathlib import Path

from hanse.core.errors import ConfigError, TrustError
from hanse.core.loops import run
from hanse.site.config import FILE, SiteConfig, read_config
from hanse.workers.launcher import PRELOAD, Launcher

REJOIN_EXIT = 3
"""The exit code of a site that the federation does not know any more."""


def main(directory: Path, *, verbose: bool = False) -> int:
    """Run the agent of the site in `directory` until it is stopped.

    Returns:
        The exit code: 0 after a clean end, 3 if the federation does not know this site any more.

    Raises:
        ConfigError: a file is missing or wrong. ConflictError: another agent runs there.
    """
    directory = directory.absolute()
    if not (directory / "membership.json").exists():
        raise ConfigError(f"expected a site in {directory}, found no membership.json; join with `hanse site join`")
    config = read_config(directory / FILE)
    launcher = Launcher.start((*PRELOAD, *config.preload), environment=config.environment)
    try:
        return _run(directory, config, launcher, verbose=verbose)
    finally:
        launcher.stop()


def _run(directory: Path, config: SiteConfig, launcher: Launcher, *, verbose: bool) -> int:
    # Imported only now: a launcher that was forked beside threads and keys would hang, or hand them on.
    from hanse.core.logs import configure

    log = configure("hanse.site", verbose=verbose)
    from hanse.site.agent import Agent
    from hanse.workers.datasets import paths_of

    async def work() -> None:
        agent = Agent(directory, launcher=launcher)  # checks declarations
        for name, declaration in config.datasets.items():
            for file in paths_of(declaration, directory):
                if not os.access(file, os.R_OK):  # it may come later, until when jobs that want it fail
                    log.warning("a data set's file cannot be read", dataset=name, file=str(file))
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, agent.stop)
        await agent.run()

    try:
        run(work())
    except TrustError as error:
        log.error(
            "the federation does not know this site any more",
            reason=str(error),
            next="ask its operator for a join token, then run `hanse site join TOKEN` in a new directory",
        )
        return REJOIN_EXIT
    log.info("site stopped")
    return 0
