"""Loops are compiled also where there is no place for numba's cache."""

from typing import Any

import pytest

from hanse.core.njit import njit

caching = pytest.importorskip("numba.core.caching", reason="numba is not installed (extra `fast`)")


def twice(number: Any) -> Any:
    return number + number


def test_what_is_compiled_is_kept_where_there_is_a_place() -> None:
    compiled = njit()(twice)
    assert compiled(3) == 6
    assert compiled.stats.cache_path


def test_without_a_place_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    compiled = njit(nogil=True)(twice)
    assert compiled(3) == 6
    assert compiled.stats.cache_path is None
    assert compiled.targetoptions["nogil"]
