"""Notices that the owner has changed `policy.yaml` while the agent runs.

Jobs that come are judged by the file as it is then; only those that are held already have to be told of a change. It is
looked at, since a person edits it: the systems' ways of being told differ, and miss what a network file system does.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

LOOK_S = 1.0
"""How often. A change counts once it has been seen twice alike: an editor may still be writing."""


async def watch(path: Path, changed: Callable[[], None]) -> None:
    """Call `changed` after every change of the file, its coming and going too, until cancelled."""
    seen, is_changing = _stamp(path), False
    while True:
        await asyncio.sleep(LOOK_S)
        latest = _stamp(path)
        if is_changing and latest == seen:
            changed()
        is_changing, seen = latest != seen, latest


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
