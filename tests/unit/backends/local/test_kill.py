"""kill -9 at random moments: what was acknowledged is there, what was not is whole or absent, and life goes on."""

import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

from hanse.backends.local import LocalStore
from hanse.core.blobs import CHUNK_BYTES, manifest_of, split
from hanse.core.errors import ConflictError
from tests.unit.backends.local.writing_child import content_of

CHILD = Path(__file__).with_name("writing_child.py")
KILLS = 6


def live_and_die(directory: Path, durability: str, life: str, after_lines: int) -> dict[str, list[str]]:
    """Start the child, kill it after so many acknowledgements, return all of them by kind."""
    child = subprocess.Popen([sys.executable, CHILD, directory, durability, life], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said: dict[str, list[str]] = defaultdict(list)
    try:
        for number, line in enumerate(child.stdout):
            if number == 0:
                with pytest.raises(ConflictError):
                    LocalStore.open(directory)
            if number == after_lines:
                os.kill(child.pid, signal.SIGKILL)
            # What the pipe still holds was acknowledged too.
            kind, key = line.decode().split()
            said[kind].append(key)
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    return said


@pytest.mark.faults
@pytest.mark.parametrize("durability", ["process", "power"])
async def test_nothing_acknowledged_is_lost(tmp_path: Path, durability: Literal["power", "process"]) -> None:
    draw = random.Random(durability)
    lives: dict[str, dict[str, list[str]]] = {}
    for n in range(KILLS):
        life = f"life{n}"
        lives[life] = live_and_die(tmp_path, durability, life, draw.randrange(1, 400))
        with LocalStore.open(tmp_path, durability) as store:
            for said in lives.values():
                await check_records(store, said)
            await check_messages(store, [id for said in lives.values() for id in said["sent"]])
            for life_, said in lives.items():
                check_blobs(store, life_, said)
            await finish_what_was_coming(store, life, lives[life]["coming"])
            check_files(store, tmp_path)


async def check_records(store: LocalStore, said: dict[str, list[str]]) -> None:
    changed = set(said["set"])
    for key in said["created"]:
        value, version = await store.ledger.get(key)
        assert value in (key.encode(), b"set " + key.encode())
        assert version == (2 if value.startswith(b"set") else 1)
        assert version == 2 or key not in changed
        if int(key.split("/")[1]) % 3 == 0:
            assert await store.ledger.get(key + "/b") == (key.encode(), 1)


async def check_messages(store: LocalStore, sent: list[str]) -> None:
    found = {delivery.envelope.id for delivery in await store.inbox.receive("site", 10**6, wait_s=0)}
    assert found >= set(sent)


@cache
def id_of(seed: str, size: int) -> str:
    """Of content that is slow to make and is looked at after every later life, too."""
    return manifest_of(content_of(seed, size)).id


def check_blobs(store: LocalStore, life: str, said: dict[str, list[str]]) -> None:
    for kind, size in (("small", 3000), ("large", CHUNK_BYTES + 10_000)):
        for seed in said[kind]:
            expected = id_of(seed, size)
            assert manifest_of(store.blobs.read(f"{kind}/{life}", expected, 0, size)).id == expected


async def finish_what_was_coming(store: LocalStore, life: str, seeds: list[str]) -> None:
    """The blob that was on its way can be completed by the missing chunks alone."""
    if seeds:
        content = content_of(seeds[-1], CHUNK_BYTES + 10_000)
        manifest = manifest_of(content)
        scope = f"large/{life}"
        missing = await store.blobs.missing(scope, manifest)
        await store.blobs.put(scope, manifest, [chunk for chunk in split(content) if chunk[0] in missing])
        assert store.blobs.read(scope, manifest.id, 0, manifest.size) == content


def check_files(store: LocalStore, directory: Path) -> None:
    """Whatever is readable under its name verifies; nothing is left from before."""
    for path in (directory / "blobs").rglob("*"):
        if path.is_file() and not path.suffix:
            scope = str(path.parent.relative_to(directory / "blobs"))
            assert store.blobs.path(scope, path.name) == path
    assert not any((directory / "making").iterdir())
