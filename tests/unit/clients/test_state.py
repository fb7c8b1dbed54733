"""`site.state` as bytes."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.clients.state import decode_state, encode_state
from hanse.core.errors import CodecError

text = st.text(st.characters(codec="utf-8"), max_size=10)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
states = st.dictionaries(
    text,
    st.recursive(
        plain, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=20
    ),
    max_size=8,
)


@given(states)
def test_decoding_is_the_inverse_of_encoding(state: dict[str, Any]) -> None:
    content = encode_state(state)
    assert decode_state(content) == state
    assert encode_state(decode_state(content)) == content


def test_arrays_nan_and_numpy_scalars_are_kept() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    state = decode_state(
        encode_state({"a": array, "nan": math.nan, "n": np.float32(0.5), "t": (1, 2), "e": np.zeros(0)})
    )
    assert state["a"].dtype == np.int16
    assert (state["a"] == array).all()
    state["a"] += 1  # one's own copy, writable
    assert math.isnan(state["nan"])
    assert (state["n"], state["t"], state["e"].shape) == (0.5, [1, 2], (0,))


def test_no_state_is_an_empty_state() -> None:
    assert decode_state(None) == {}


@pytest.mark.parametrize("bad", [{"x": object()}, {"x": {1: 2}}, {1: 2}, {"x": [np.zeros(2)]}, {"x": np.array(["a"])}])
def test_what_cannot_be_kept_is_refused(bad: Any) -> None:
    with pytest.raises(CodecError, match="site"):
        encode_state(bad)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(CodecError):
        decode_state(content)


def test_a_flipped_byte_never_passes_silently_as_code() -> None:
    content = bytearray(encode_state({"n": 1, "a": np.arange(3.0)}))
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 0x55
        try:
            decode_state(bytes(flipped))
        except CodecError:
            continue
