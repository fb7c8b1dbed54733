"""Trees of several parties against the oracle: the same SHA-256 over generated tables, pooled and over channels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical.boosting import guest, host
from hanse.vertical.boosting.ciphers import KEEPERS, Layout
from hanse.vertical.boosting.columns import BinnedColumns, binned
from hanse.vertical.boosting.forest import Questions
from hanse.vertical.boosting.pooled import pooled
from hanse.vertical.boosting.protocol import protocol
from hanse.vertical.boosting.response import Response, response_of
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.glm.dealer import data_roles
from tests.unit.vertical import boosting_oracle as oracle

KINDS = {"binary": 2, "multiclass": 3, "regression": 0}
VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5, 7.0, -3.0, 1e300, -1e300, 5e-324, float("nan"), float("nan")])


@st.composite
def tasks(draw: Any) -> tuple[list[np.ndarray], np.ndarray, str, dict[str, Any]]:
    """Tables with ties, constants, missing values and few rows; labels of three kinds, targets over many magnitudes."""
    rows = draw(st.integers(6, 40))
    tables = []
    for _ in range(draw(st.integers(1, 3))):
        columns = draw(
            st.lists(
                st.one_of(
                    st.lists(VALUES, min_size=rows, max_size=rows),
                    st.lists(st.integers(-50, 50).map(float), min_size=rows, max_size=rows),
                    VALUES.map(lambda value: [value] * rows),
                ),
                min_size=1,
                max_size=3,
            )
        )
        tables.append(np.array(columns).T)
    kind = draw(st.sampled_from(list(KINDS)))
    if kind == "regression":
        numbers = st.sampled_from([0.0, 1.0, -1.0, 1e-200, 3.0, 1e6, -1e90, 0.1])
        label = np.array(draw(st.lists(numbers, min_size=rows, max_size=rows)))
    else:
        label = np.array(draw(st.permutations([at % KINDS[kind] for at in range(rows)])))
    options = {
        "num_trees": draw(st.integers(1, 3)),
        "depth": draw(st.integers(1, 4)),
        "learning_rate": draw(st.sampled_from([0.3, 1.0, 1e-3, 50.0])),
        "reg_lambda": draw(st.sampled_from([1.0, 0.0, 0.3])),
        "min_split_gain": draw(st.sampled_from([0.0, 0.05])),
        "min_child_weight": draw(st.sampled_from([0.0, 0.5])),
        "min_bin_rows": draw(st.sampled_from([1, 2, 5])),
        "max_bins": draw(st.sampled_from([2, 3, 8])),
        "guest_trees": draw(st.integers(0, 1)),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }
    if draw(st.booleans()):
        options |= {"top_rate": 0.3, "other_rate": 0.4}
    if draw(st.booleans()):
        options |= {"held_out": 0.25, "patience": 1}
    return tables, label, kind, options


def prepared(
    tables: list[Any], label: Any, kind: str, options: dict[str, Any]
) -> tuple[list[BinnedColumns], Response, Settings]:
    held = Settings(**{"cipher": "mock"} | options)
    columns = [binned(table, [f"c{at}" for at in range(table.shape[1])], held.max_bins) for table in tables]
    return columns, response_of(label, "regression" if kind == "regression" else "classification"), held


def oracles(tables: list[Any], response: Response, kind: str, s: Settings) -> str:
    parties = [[column.tolist() for column in table.T] for table in tables]
    held = oracle.Settings(
        s.num_trees, s.depth, s.learning_rate, s.reg_lambda, s.min_split_gain, s.min_child_weight, s.min_bin_rows,
        s.max_bins, s.top_rate, s.other_rate, s.guest_trees, s.held_out, s.patience, s.seed,
    )  # fmt: skip
    return oracle.Booster(parties, kind, response.target.tolist(), len(response.classes), held).digest()


def play(
    columns: list[BinnedColumns], response: Response, held: Settings, seed: int = 0, *, spoil: Any = None
) -> Outcome:
    """All roles under the seeded scheduler; `spoil(name, array)` changes what is sent."""

    class Spoilt(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            await super().send(to, name, value if spoil is None else spoil(self.role, name, value))

    def program(role: str, own: BinnedColumns) -> Callable[[Party], Any]:
        async def body(party: Party) -> Any:
            party.__class__ = Spoilt
            if role == "guest":
                return await guest.guest(party, own, response, held)
            return await host.host(party, own, held)

        return body

    roles = data_roles(len(columns) - 1)
    programs = {role: program(role, own) for role, own in zip(roles, columns, strict=True)}
    return run_scheduled(protocol(len(columns) - 1, held), programs, seed)


def digest(outcome: Outcome) -> str:
    assert outcome.errors == {}
    questions = [outcome.results["guest"].questions, *list(outcome.results.values())[1:]]
    found: str = outcome.results["guest"].grown.forest.digest(questions)
    return found


@settings(max_examples=120, deadline=None)
@given(tasks())
def test_pooled_trees_are_the_oracles(task: Any) -> None:
    tables, label, kind, options = task
    columns, response, held = prepared(tables, label, kind, options)
    assert pooled(columns, response, held).digest == oracles(tables, response, kind, held)


@settings(max_examples=40, deadline=None)
@given(tasks(), st.integers(0, 2**32))
def test_joint_trees_are_the_oracles(task: Any, seed: int) -> None:
    tables, label, kind, options = task
    tables = tables if len(tables) > 1 else [tables[0], -tables[0]]
    columns, response, held = prepared(tables, label, kind, options)
    assert digest(play(columns, response, held, seed)) == oracles(tables, response, kind, held)
