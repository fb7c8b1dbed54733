"""What a role has reached, kept at its own site, so that a session that is begun anew need not begin from nothing.

A checkpoint is some arrays under a number that grows: 0 for what came before the work that can be cut into pieces,
then pieces done (epochs, trees, rounds). Number 0 stays; of the others the last two do where parties are at most one
piece apart, and more where they are further. A checkpoint may stand for a range of numbers, where a later state
contains the earlier ones.

It holds what the role itself knows, shares included, and never one-time material: whoever goes on from it draws masks,
keys and randomness anew. It is erased with the job's other files.
"""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError

KEPT = 2
"""Checkpoints above 0 that stay where parties are in step."""
_MARK = "checkpoint"


class Checkpoints(Protocol):
    """One role's checkpoints of one job."""

    def have(self) -> list[tuple[int, int]]:
        """Ranges of numbers from which this role can go on, ascending; both ends belong to a range."""

    def load(self, number: int) -> Arrays:
        """The arrays of the range that holds `number`."""

    def keep(self, number: int, arrays: Arrays, *, since: int | None = None) -> None:
        """Durable when it returns. `since`: the first number that can be gone on from with these arrays."""

    def drop_after(self, number: int) -> None:
        """Forget what cannot be gone on from where all parties go on from `number`. Durable when it returns.

        What one party reached without the others must be gone before these come as far again: shares of a number fit
        the others' shares of the same session alone.
        """


@dataclass(slots=True)
class FileCheckpoints:
    """Checkpoints as files of canonical safetensors in a folder.

    Args:
        folder: there, and this role's own.
        about: whatever they hold for, such as a digest of the table: others are as if they were not there.
        kept: checkpoints above 0 that stay.
    """

    folder: Path
    about: bytes = b""
    kept: int = KEPT

    def have(self) -> list[tuple[int, int]]:
        """See `Checkpoints.have`."""
        return [(since, number) for since, number, _ in self._all()]

    def load(self, number: int) -> Arrays:
        """See `Checkpoints.load`."""
        for since, last, path in self._all():
            if since <= number <= last:
                return Arrays({name: value for name, value in decode(path.read_bytes()).items() if name != _MARK})
        raise CodecError(f"checkpoint: expected one for {number}, found none")

    def keep(self, number: int, arrays: Arrays, *, since: int | None = None) -> None:
        """See `Checkpoints.keep`."""
        mark = np.frombuffer(b"%d %d " % (number if since is None else since, number) + self.about, np.uint8)
        path = self.folder / f"{number:010d}.safetensors"
        draft = path.with_suffix(".draft")
        with open(draft, "wb", opener=_owner_only) as file:
            file.write(encode(Arrays({_MARK: mark, **arrays})))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        self._sync()
        own = [each for _, _, each in self._all()]
        for old in set(self.folder.glob("*.safetensors")) - set(own[-self.kept :]):
            if old not in own or int(old.stem):  # of another table, or an older one
                old.unlink()

    def drop_after(self, number: int) -> None:
        """See `Checkpoints.drop_after`."""
        for since, _, path in self._all():
            if since > number:
                path.unlink()
        self._sync()

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _all(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in sorted(self.folder.glob("*.safetensors")):
            since, number, about = _mark_of(path).split(b" ", 2)
            if about == self.about:
                found.append((int(since), int(number), path))
        return found


def _mark_of(path: Path) -> bytes:
    """Without reading what else is in the file."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return bytes(decode(memoryview(content))[_MARK])


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@dataclass(frozen=True, slots=True)
class Progress:
    """From where a role's program goes on, and where it leaves what it reaches.

    Attributes:
        number: pieces that are done; 0 at the beginning.
        state: what was kept at that number; empty for 0.
        keep: see `Checkpoints.keep`; it does nothing where nothing is kept.
    """

    number: int = 0
    state: Arrays = field(default_factory=Arrays)
    keep: Callable[..., None] = lambda number, arrays, since=None: None
    keeps: bool = False
    """Whether anything is kept: for whoever would have to gather it first."""


BEGINNING = Progress()
"""Nothing is done yet, and nothing is kept."""


def newest_common(parties: list[list[tuple[int, int]]]) -> int:
    """The largest number that lies in a range of every party; −1 if there is none."""
    ends = sorted({last for ranges in parties for _, last in ranges}, reverse=True)
    for number in ends:
        if all(any(since <= number <= last for since, last in ranges) for ranges in parties):
            return number
    return -1
