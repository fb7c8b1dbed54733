"""What a question to the sites is: a frozen value that says what a site may tell in each phase, and what comes of it.

A question has phases. In each, every site tells arrays (`tell`), which are either added up over the sites (`layout`
says which arrays, `advance` makes of the totals what is known next) or read one by one (`layout` is None, then `wrong`
and `join`). What is known so far is a set of arrays, the model of the run; it is sent along with the next phase, and
the last one holds the whole answer (`answer`). All methods are pure; nothing here knows how arrays travel.

**Guarantee.** Every number that a site tells stands for at least `min_group` of its rows, or is 0 because there are
none or too few. Cells to which fewer than `min_sites` sites contributed are emptied when the totals are taken.
**Reveals.** To the server: each site's numbers; to whoever asked: the totals. Several questions about overlapping
rows can be subtracted from each other; no question knows of the others. See docs/explanation/analytics.md.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.analytics.answer import Answer
from hanse.analytics.table import Table
from hanse.analytics.words import frequent_words, joined_words, pack_words, read_words, wrong_words
from hanse.core.arrays import Array, Arrays, ArraySpec, Layout
from hanse.core.errors import ConfigError

GROUPS = "groups"
"""The phase in which names of groups are agreed, and the array that holds them afterwards."""
ALL = ""
"""The one group of a question that makes no difference between rows."""
MAX_COLUMNS = 1000
I64 = np.dtype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Asked of every site about one of its data sets.

    Args:
        data: the data set's name.
        min_group: rows that every number a site tells must stand for; the site's policy may demand more.
        min_sites: sites that every number of the answer must stand for.

    Raises:
        ConfigError: a value that is wrong, by name.
    """

    data: str
    min_group: int = 10
    min_sites: int = 1

    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_text("data", self.data)
        check_whole("min_group", self.min_group, 1, 1_000_000)
        check_whole("min_sites", self.min_sites, 1, 1_000_000)

    # ---- the protocol ----

    def phases(self) -> tuple[str, ...]:
        """Names of the phases, in order."""
        return ("tell",)

    def tell(self, phase: str, table: Table, model: Arrays | None) -> Arrays:
        """What this site may tell.

        Raises:
            ConfigError: its data have no such column, or another kind of values.
        """
        raise NotImplementedError

    def layout(self, phase: str, model: Arrays | None) -> Layout | None:
        """The arrays that every site tells in this phase; None if they differ from site to site."""
        raise NotImplementedError

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """What is known after a phase whose arrays were added up."""
        raise NotImplementedError

    def wrong(self, phase: str, model: Arrays | None, told: Arrays) -> str:
        """Why a site's arrays cannot be joined; empty if they can."""
        return ""

    def join(self, phase: str, model: Arrays | None, told: Sequence[Arrays]) -> Arrays:
        """What is known after a phase whose arrays were read one by one."""
        raise NotImplementedError

    def answer(self, model: Arrays) -> Answer:
        """The answer, from what is known after the last phase."""
        raise NotImplementedError

    # ---- as plain data ----

    def options(self) -> dict[str, Any]:
        """The fields as JSON values."""
        made = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}

    # ---- for subclasses ----

    def _enough(self, rows: Array) -> bool:
        return len(rows) >= max(self.min_group, 1)

    def _notes(self) -> tuple[str, ...]:
        if self.min_group == 1:
            return ()
        return (f"Every site left out what stands for fewer than {self.min_group} of its rows.",)


@dataclass(frozen=True, kw_only=True)
class GroupedQuestion(Question):
    """A question that may be asked by group: apart for each value of a column.

    Args:
        by: the column whose values make the groups; empty for one group of all rows.
        groups: its values; where there are none, the sites name those that at least `min_group` of their rows have.
    """

    by: str = ""
    groups: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by:
            check_text("by", self.by)
        freeze(self, "groups", check_words("groups", self.groups))
        if self.groups and not self.by:
            raise ConfigError("groups: expected none without by=COLUMN")

    def phases(self) -> tuple[str, ...]:
        """`groups`, where their names are not known, then the question's own."""
        return (GROUPS, *self.steps()) if self.by and not self.groups else self.steps()

    def tell(self, phase: str, table: Table, model: Arrays | None) -> Arrays:
        """See `Question.tell`."""
        if phase == GROUPS:
            return Arrays({GROUPS: pack_words(frequent_words(table.words(self.by), self.min_group))})
        return self.tell_groups(phase, table, model, self._rows(table, model))

    def layout(self, phase: str, model: Arrays | None) -> Layout | None:
        """See `Question.layout`."""
        return None if phase == GROUPS else self.layout_of(phase, model, len(self.names(model)))

    def wrong(self, phase: str, model: Arrays | None, told: Arrays) -> str:
        """See `Question.wrong`."""
        return wrong_words(told, [GROUPS])

    def join(self, phase: str, model: Arrays | None, told: Sequence[Arrays]) -> Arrays:
        """See `Question.join`."""
        return Arrays({GROUPS: pack_words(joined_words(arrays[GROUPS] for arrays in told))})

    def names(self, model: Arrays | None) -> tuple[str, ...]:
        """Names of the groups."""
        if not self.by or self.groups:
            return tuple(self.groups) or (ALL,)
        return () if model is None else read_words(model[GROUPS])

    def steps(self) -> tuple[str, ...]:
        """The question's own phases."""
        return ("tell",)

    def tell_groups(
        self, phase: str, table: Table, model: Arrays | None, rows: Sequence[npt.NDArray[np.intp]]
    ) -> Arrays:
        """As `tell`, with the places of each group's rows."""
        raise NotImplementedError

    def layout_of(self, phase: str, model: Arrays | None, num_groups: int) -> Layout | None:
        """As `layout`, with the number of groups."""
        raise NotImplementedError

    def _rows(self, table: Table, model: Arrays | None) -> list[npt.NDArray[np.intp]]:
        if not self.by:
            return [np.arange(table.num_rows)]
        names = self.names(model)
        return table.once(("rows", self.by, names), lambda: [np.flatnonzero(table.words(self.by) == n) for n in names])

    def _labelled(self, name: str) -> dict[str, Any]:
        return {self.by: name} if self.by else {}


def layout_for(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """A layout of int64 arrays."""
    return Layout(tuple(ArraySpec(name, I64, shape) for name, shape in shapes.items()))


def known_and(model: Arrays | None, more: Mapping[str, Array]) -> Arrays:
    """What is known, and more."""
    return Arrays({**(model or {}), **more})


def freeze(question: Any, name: str, value: Any) -> None:
    """Set a field of a frozen value while it is made."""
    object.__setattr__(question, name, value)


def check_text(name: str, value: Any) -> str:
    """A name of 1 to 200 letters.

    Raises:
        ConfigError: something else.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ConfigError(f"{name}: expected a name, found {str(value)[:60]!r}")
    return value


def check_words(name: str, value: Any) -> tuple[str, ...]:
    """A list of distinct names, as a tuple.

    Raises:
        ConfigError: something else.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{name}: expected a list of names, found {type(value).__name__}")
    words = tuple(check_text(name, word) for word in value)
    if len(set(words)) != len(words) or len(words) > MAX_COLUMNS:
        raise ConfigError(f"{name}: expected at most {MAX_COLUMNS} distinct names, found {len(words)}")
    return words


def check_columns(name: str, value: Any) -> tuple[str, ...]:
    """One column or several, as a tuple.

    Raises:
        ConfigError: none, or something else.
    """
    columns = check_words(name, (value,) if isinstance(value, str) else value)
    if not columns:
        raise ConfigError(f"{name}: expected at least one column, found none")
    return columns


def check_numbers(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
    """A list of finite numbers within bounds, as a tuple.

    Raises:
        ConfigError: something else.
    """
    listed = [value] if isinstance(value, int | float) else value
    if isinstance(listed, str) or not isinstance(listed, Sequence | np.ndarray) or not 0 < len(listed) <= MAX_COLUMNS:
        raise ConfigError(f"{name}: expected a list of 1 to {MAX_COLUMNS} numbers, found {type(value).__name__}")
    numbers: list[float] = []
    for item in listed:
        is_number = isinstance(item, int | float | np.integer | np.floating) and not isinstance(item, bool)
        if not is_number or not math.isfinite(item) or not low <= item <= high:
            raise ConfigError(f"{name}: expected finite numbers from {low:g} to {high:g}, found {item!r}"[:200])
        numbers.append(float(item))
    return tuple(numbers)


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        ConfigError: something else.
    """
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r}"[:200])
    return value
