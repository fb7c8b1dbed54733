"""Names of very many sites: sorted sequences that know their length and members without holding each name.

The round machine and strategies take them where a federation gives tuples; a simulation of a million sites holds none
of its sites' names.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt


class Names(Sequence[str]):
    """Names of sites in order. A subclass says how many there are, and which is at a place."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self._at(i) for i in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"expected a place below {len(self)}, found {index}")
        return self._at(place)

    def __iter__(self) -> Iterator[str]:
        return (self._at(i) for i in range(len(self)))

    def _at(self, place: int) -> str:
        raise NotImplementedError


class Listed(Names):
    """Names that somebody gave."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(sorted(names))
        self._known = frozenset(names)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def _at(self, place: int) -> str:
        return self._names[place]


class Numbered(Names):
    """`prefix-000`, …: as many as wanted, none of them held. Leading zeros make their order that of names."""

    def __init__(self, count: int, prefix: str) -> None:
        self._count = count
        self._width = len(str(count - 1))
        self._prefix = f"{prefix}-"
        self._pattern = re.compile(re.escape(self._prefix) + rf"([0-9]{{{self._width}}})")

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: object) -> bool:
        found = self._pattern.fullmatch(name) if isinstance(name, str) else None
        return found is not None and int(found[1]) < self._count

    def _at(self, place: int) -> str:
        return f"{self._prefix}{place:0{self._width}d}"


class Without(Names):
    """The names of another sequence without a few."""

    def __init__(self, names: Sequence[str], left_out: Iterable[str]) -> None:
        self._all = names
        self._out = frozenset(name for name in left_out if name in names)
        places = sorted(bisect_left(names, name) for name in self._out)
        # Before the k-th name that is left out stand places[k] - k that are not.
        self._before = [place - k for k, place in enumerate(places)]

    def __len__(self) -> int:
        return len(self._all) - len(self._out)

    def __contains__(self, name: object) -> bool:
        return name in self._all and name not in self._out

    def _at(self, place: int) -> str:
        return self._all[place + bisect_right(self._before, place)]


class Picked(Names):
    """Some of the names of another sequence.

    Args:
        places: int64, `(n,)`, increasing.
    """

    def __init__(self, names: Sequence[str], places: npt.NDArray[np.int64]) -> None:
        self._all = names
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name not in self._all:
            return False
        place = bisect_left(self._all, name)
        at = int(np.searchsorted(self._places, place))
        return at < len(self._places) and int(self._places[at]) == place

    def _at(self, place: int) -> str:
        return self._all[int(self._places[place])]
