"""`Stream`: a column that is read piece by piece, for tables beyond memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Stream:
    """Values in a fixed order that are read as often as they are needed and never all in memory.

    Attributes:
        pieces: reads them from the beginning: lists or arrays, all of one kind.
    """

    pieces: Callable[[], Iterator[Any]]
