"""Columns say what rows said, with the same types, whatever came one after another."""

import sys
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hanse.rounds.record import RoundRecord, to_plain
from hanse.rounds.site_rows import RowsTaken, SiteRows

scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=3))
values = st.one_of(scalars, st.lists(scalars, max_size=3))
rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.dictionaries(st.sampled_from(["loss", "acc", "n"]), values)), max_size=20
)


def taken(given: list[tuple[str, dict[str, Any]]]) -> SiteRows:
    taken = RowsTaken()
    for site, row in given:
        taken.add(site, row)
    return taken.rows()


@given(rows)
def test_columns_say_what_dicts_say(given: list[tuple[str, dict[str, Any]]]) -> None:
    expected: dict[str, dict[str, Any]] = {}
    for site, row in given:
        expected.setdefault(site, {}).update(row)
    found = taken(given)
    assert list(found) == list(expected)
    assert len(found) == len(expected)
    assert repr({site: dict(row) for site, row in found.items()}) == repr(expected)  # NaN, and 1 is not True or 1.0
    assert to_plain(found) == to_plain(expected)
    assert RoundRecord.from_json(RoundRecord(1, by_site=found).to_json()).number == 1


def test_many_sites_take_little_memory() -> None:
    found = taken([(f"s{n}", {"train_loss": n / 7, "train_examples": n}) for n in range(1000)])
    (block,) = found._blocks
    assert sum(column.nbytes for column in block.values if isinstance(column, np.ndarray)) == 16_000
    assert sys.getsizeof({"train_loss": 1.0, "train_examples": 1}) * 1000 > 5 * 16_000
    assert found["s7"] == {"train_loss": 1.0, "train_examples": 7}
    assert "s1000" not in found
