"""Names of very many sites: sorted sequences that know their length and members without holding each name.

The round machine and strategies take them where a federation gives tuples; a simulation of a million sites holds none
of its sites' names.
"""

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
        count = len(self)
        place = index + count if index < 0 else index
        if not 0 <= place < count:
            raise IndexError(f"expected a place below {count}, found {index}")
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
        self._form = f"{prefix}-%0{self._width}d"
        self._prefix = f"{prefix}-"
        self._start = len(self._prefix)
        self._length = self._start + self._width

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or len(name) != self._length or not name.startswith(self._prefix):
            return False
        number = name[self._start :]
        return number.isdigit() and number.isascii() and int(number) < self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if type(index) is int and 0 <= index < self._count:  # as a cohort is drawn
            return self._form % index
        return super().__getitem__(index)

    def _at(self, place: int) -> str:
        return self._form % place


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
