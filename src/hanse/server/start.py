"""`hanse server start`: the launcher of workers first, then everything else, until a signal."""

import asyncio
import contextlib
import gc
import signal
from pathlib import Path

from hanse.core.loops import run
from hanse.workers.launcher import Launcher


def main(directory: Path, *, verbose: bool = False, ready: "asyncio.Event | None" = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        HanseError: it cannot start.
    """
    launcher = Launcher.start()
    try:
        run(_serve(directory, launcher, verbose, ready))
    finally:
        launcher.stop()


async def _serve(directory: Path, launcher: Launcher, verbose: bool, ready: "asyncio.Event | None") -> None:
    from hanse.core.logs import configure

    configure("hanse.server", verbose=verbose)
    from hanse.server.server import Server

    server = Server(directory, launcher)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    await server.start()
    gc.freeze()  # what lives as long as the process is not looked at again and again
    if ready is not None:
        ready.set()
    await stop.wait()
    await server.stop()
