"""Which kind of reduction a rule is, remembered for its class.

Python 3.11 looks a protocol's members up anew in every `isinstance`, which takes 4 to 8 µs; a round asks five times.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hanse.aggregation.folds import Fold, GroupFold
from hanse.aggregation.gathers import Gather
from hanse.aggregation.selects import Select

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def is_fold(rule: object) -> "TypeIs[Fold[Any]]":
    """Whether its class has the methods of a `Fold`."""
    return _is(rule, Fold)


def is_group_fold(rule: object) -> "TypeIs[GroupFold[Any]]":
    """Whether its class has the methods of a `GroupFold`."""
    return _is(rule, GroupFold)


def is_select(rule: object) -> "TypeIs[Select]":
    """Whether its class has the methods of a `Select`."""
    return _is(rule, Select)


def is_gather(rule: object) -> "TypeIs[Gather]":
    """Whether its class has the methods of a `Gather`."""
    return _is(rule, Gather)


def _is(rule: object, protocol: Any) -> bool:
    kind: Any = type(rule)
    return _has(kind, protocol)


@lru_cache(maxsize=256)
def _has(kind: Any, protocol: Any) -> bool:
    return issubclass(kind, protocol)
