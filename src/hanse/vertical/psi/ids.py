"""Identifiers as bytes, secret orders, and the greeting with which both protocols begin.

Text is encoded as UTF-8, as it stands: whoever wants case, spaces or Unicode forms folded does that before. Whole
numbers are their decimal digits. No message here says which identifier is meant.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Message
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto.oprf import MAX_ITEMS

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Composed(Sequence[bytes]):
    """Identifiers that were made of columns (`hanse.vertical.psi.keys`).

    Attributes:
        values: the identifiers as bytes.
        kind: of the columns, see `kind_of`.
    """

    values: Sequence[bytes]
    kind: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]


Ids = Sequence[str] | Sequence[bytes] | Sequence[int] | npt.NDArray[Any] | Composed
"""Identifiers, all text, all whole numbers or all bytes, each once."""


VERSION = 2
KINDS = {1: "text", 2: "whole numbers", 3: "bytes"}
MAX_COLUMNS = 15
"""Of a key: what a kind has room for, alternatives included."""
HELLO = (
    Message("hello", "guest", "host", "int64", (3,)),
    Message("hello", "host", "guest", "int64", (3,)),
)
"""Version, kind of the identifiers (0 where there are none), and how many."""


def kind_of(ids: Ids) -> int:
    """A key of `KINDS`; of several columns its digits in base 4, 0 between alternatives.

    Raises:
        ConfigError: identifiers of several kinds, or of another one.
    """
    if isinstance(ids, Composed):
        return ids.kind
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iuU":
        return 1 if ids.dtype.kind == "U" else 2
    found = {type(each) for each in ids}
    for number, kind in ((1, str), (2, int), (3, bytes)):
        if found <= {kind}:
            return number
    names = ", ".join(sorted(each.__name__ for each in found))
    raise ConfigError(f"ids: expected all text, all whole numbers or all bytes; found {names}")


def kind_in_words(kind: int) -> str | None:
    """`text`, `text + whole numbers`, `text or text`; None for a number that is no kind."""
    if not 0 < kind < 4 ** (2 * MAX_COLUMNS):
        return None
    digits = np.base_repr(kind, 4)
    alternatives = digits.split("0")
    if not all(alternatives):
        return None
    return " or ".join(" + ".join(KINDS[int(each)] for each in columns) for columns in alternatives)


def encoded(ids: Ids, kind: int) -> Iterator[bytes]:
    """Every identifier as bytes, in order."""
    values: Any = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if kind == 1:
        return (each.encode("utf-8", "surrogatepass") for each in values)
    return (b"%d" % each for each in values) if kind == 2 else iter(values)


async def greet(party: Party, peer: str, kind: int, count: int) -> int:
    """Exchange version, kind and number; returns the peer's number.

    Raises:
        RefusedError: another version, another kind of identifiers, an impossible number.
    """
    await party.send(peer, "hello", np.array([VERSION, kind if count else 0, count], np.int64))
    version, their_kind, their_count = (int(each) for each in await party.recv(peer, "hello"))
    if version != VERSION:
        raise RefusedError(f"{peer}: expected version {VERSION} of the protocol, found {version}")
    if not 0 <= their_count <= MAX_ITEMS or (kind_in_words(their_kind) is None if their_count else their_kind):
        raise RefusedError(f"{peer}: expected a kind of ids and a number up to {MAX_ITEMS}, found others")
    if their_kind != kind and count and their_count:
        sides = sorted([(party.role, kind), (peer, their_kind)])
        found = ", ".join(f"{kind_in_words(each)} at {role}" for role, each in sides)
        raise RefusedError(f"ids: expected one kind, found {found}")
    return their_count


def secret_order(count: int) -> Places:
    """A uniformly random order of `count` things from the operating system's random source."""
    return np.argsort(np.frombuffer(os.urandom(8 * count), np.uint64), kind="stable").astype(np.int64, copy=False)


def checked_matches(matches: Places, count: int) -> Places:
    """Places that the guest names in this party's list.

    Raises:
        RefusedError: one outside the list, or one named twice.
    """
    if len(matches) and not (matches.min() >= 0 and matches.max() < count):
        raise RefusedError(f"matches: expected places from 0 to {count - 1}, found others")
    if len(np.unique(matches)) != len(matches):
        raise RefusedError("matches: expected each place once, found repeated ones")
    return matches
