"""What `site.track` says, on its way from a worker that may be anything: kept exactly, or refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.clients.site import Site
from hanse.core.errors import CodecError, TaskError
from hanse.core.ids import TaskId
from hanse.core.records import Task
from hanse.core.tracked import MAX_NAME, MAX_TEXT, MAX_VALUES, Tracked, decode_tracked, encode_tracked, plain

VALUES = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=MAX_TEXT)
)
CALLS = st.builds(
    Tracked,
    st.one_of(st.none(), st.integers(0, 2**53 - 1)),
    st.dictionaries(st.text(max_size=20), VALUES, max_size=5),
)


@given(st.lists(CALLS, max_size=5))
def test_what_was_said_is_read_again(said: list[Tracked]) -> None:
    assert decode_tracked(encode_tracked(said)) == tuple(said)


def test_nan_and_infinity_are_numbers() -> None:
    (said,) = decode_tracked(encode_tracked([Tracked(1, {"a": float("nan"), "b": -np.inf})]))
    assert np.isnan(said.values["a"])
    assert said.values["b"] == -np.inf


@pytest.mark.parametrize(
    "value",
    [
        {},
        [[1]],
        [[1, {}, 2]],
        [["1", {}]],
        [[-1, {}]],
        [[2**53, {}]],
        [[True, {}]],
        [[0, []]],
        [[0, {"a": None}]],
        [[0, {"a": [1]}]],
        [[0, {"n" * 201: 1}]],
        [[0, {"a": 2**63}]],
        [[0, {"a": -(10**400)}]],
        [[0, {str(n): n for n in range(MAX_VALUES + 1)}]],
        None,
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(CodecError, match=r"site\.track"):
        decode_tracked(json.dumps(value).encode())


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_json_are_refused(content: bytes) -> None:
    with pytest.raises(CodecError):
        decode_tracked(content)


def test_values_of_numpy_are_converted_and_texts_cut() -> None:
    assert plain("a", np.float32(0.5)) == 0.5
    assert type(plain("a", np.array(3))) is int
    assert plain("a", "x" * 1000) == "x" * MAX_TEXT
    with pytest.raises(CodecError, match="'a' to be a number or a text, found ndarray"):
        plain("a", np.zeros(2))
    for value in (2**63, -(10**400)):  # of which a float, which trackers take, would overflow
        with pytest.raises(CodecError, match="'a' to be a number of at most 64 bits"):
            plain("a", value)


def test_the_most_that_may_be_said_is_read_again() -> None:
    values: dict[str, Any] = {f"{n:05d}" + "\x00" * (MAX_NAME - 5): "\x00" * MAX_TEXT for n in range(MAX_VALUES)}
    assert len(decode_tracked(encode_tracked([Tracked(None, values)]))[0].values) == MAX_VALUES


@pytest.mark.parametrize("step", [2**53, 2**70, -1, True, 0.5])
def test_a_step_that_cannot_be_is_refused_where_it_is_said(step: Any) -> None:
    site = Site("a", load=lambda name: None, log=lambda text: None)
    site.begin(Task(TaskId("j", "main", 1, "train", 1), "a", "train"), {})
    with pytest.raises(TaskError, match="expected step to be a whole number"):
        site.track(step=step, loss=1.0)
    site.track(step=2**53 - 1, loss=1.0)
    site.track(step=1)  # nothing is kept of nothing
    assert len(decode_tracked(encode_tracked(site.tracked))) == 1
