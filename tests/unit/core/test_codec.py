"""The canonical form: round trips, an independent reader, and every way in which bytes can be something else."""

import json
import math
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.arrays import DTYPES, Arrays
from hanse.core.codec import (
    ALIGNMENT,
    canonical_json,
    decode,
    encode,
    encode_parts,
    encoded_size,
    header_of,
    parse_header,
    view_arrays,
)
from hanse.core.errors import CodecError

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def some_arrays(draw: st.DrawFn) -> Arrays:
    pairs = []
    for name in draw(st.lists(names, max_size=5, unique=True)):
        dtype, shape = draw(st.sampled_from(list(DTYPES.values()))), draw(shapes)
        size = math.prod(shape) * dtype.itemsize
        content = bytes(size) if dtype == np.bool_ else draw(st.binary(min_size=size, max_size=size))
        pairs.append((name, np.frombuffer(content, dtype).reshape(shape)))
    return Arrays(pairs)


@given(some_arrays())
def test_decoding_undoes_encoding_to_the_bit(arrays: Arrays) -> None:
    content = encode(arrays)
    decoded = decode(content)
    assert decoded == arrays
    assert list(decoded) == list(arrays)
    assert encode(decoded) == content
    assert len(content) == encoded_size(arrays.layout)


@given(some_arrays())
def test_data_begins_aligned_and_follows_the_header(arrays: Arrays) -> None:
    layout, start = parse_header(encode(arrays))
    assert layout == arrays.layout
    assert start % ALIGNMENT == 0
    assert b"".join(encode_parts(arrays)) == encode(arrays)


def test_the_safetensors_library_reads_what_we_write() -> None:
    generator = np.random.default_rng(1)
    plain = [name for name in DTYPES if name not in ("BF16", "F8_E5M2", "F8_E4M3", "C64")]
    arrays = Arrays({name: generator.integers(0, 2, (2, 3)).astype(DTYPES[name]) for name in plain})
    loaded = safetensors.numpy.load(encode(arrays))
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_a_golden_header() -> None:
    """The bytes of version 1: they decide every blob's id and may never change."""
    arrays = Arrays({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "é": np.array(1, ml_dtypes.bfloat16)})
    text = '{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
    text += '"é":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}'
    header = text.encode()
    header += b" " * (-(8 + len(header)) % 64)
    assert header_of(arrays.layout) == len(header).to_bytes(8, "little") + header
    assert encode(arrays)[len(header) + 8 :] == arrays["w"].tobytes() + b"\x80\x3f"


def test_decoding_copies_nothing_and_gives_read_only_arrays() -> None:
    content = encode(Arrays({"w": np.ones(1000)}))
    array = decode(content)["w"]
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(content, np.uint8))


def test_views_of_writable_memory_are_writable() -> None:
    arrays = Arrays({"w": np.ones(3)})
    content = bytearray(encode(arrays))
    _, start = parse_header(bytes(content))
    view_arrays(memoryview(content)[start:], arrays.layout)["w"][1] = 5
    assert decode(bytes(content))["w"].tolist() == [1, 5, 1]


def test_a_header_is_read_without_its_data() -> None:
    arrays = Arrays({"w": np.ones(1000)})
    content = encode(arrays)
    start = len(header_of(arrays.layout))
    assert parse_header(content[:start], total=len(content)) == (arrays.layout, start)
    with pytest.raises(CodecError, match="promises"):
        parse_header(content[:start])


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


FOUR = b"\0\0\0\0"
WRONG: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "a header longer than the content": (64).to_bytes(8, "little") + b"{}",
    "a gigantic header": (2**63).to_bytes(8, "little") + b"{}",
    "an unaligned header": (2).to_bytes(8, "little") + b"{}",
    "no JSON": with_header(b"{]"),
    "no UTF-8": with_header(b'{"\xff":1}'),
    "no object": with_header([]),
    "nested too deep": with_header(b"[" * 100_000),
    "digits without end": with_header(b'{"a":' + b"9" * 5000 + b"}"),
    "metadata": with_header({"__metadata__": {"a": "b"}}),
    "no entry": with_header({"a": 1}),
    "a missing field": with_header({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
    "one field more": with_header({"a": entry(more=1)}, FOUR),
    "an unknown dtype": with_header({"a": entry("F31")}, FOUR),
    "a dtype that is a list": with_header({"a": entry(["F32"])}, FOUR),
    "a negative shape": with_header({"a": entry(shape=[-1])}, FOUR),
    "a fractional shape": with_header({"a": entry(shape=[1.0])}, FOUR),
    "a boolean shape": with_header({"a": entry(shape=[True])}, FOUR),
    "a shape that is a number": with_header({"a": entry(shape=1)}, FOUR),
    "33 dimensions": with_header({"a": entry(shape=[1] * 33)}, FOUR),
    "a huge shape": with_header({"a": entry(shape=[2**47] * 32, offsets=[0, 4])}, FOUR),
    "a shape of 2^62 elements with honest offsets": with_header({"a": entry("U8", [2**31, 2**31], [0, 2**62])}),
    "an empty array of impossible size": with_header({"a": entry(shape=[0, *[2**47] * 31], offsets=[0, 0])}),
    "a hole": with_header({"a": entry(offsets=[4, 8])}, FOUR + FOUR),
    "an overlap": with_header({"a": entry(), "b": entry()}, FOUR),
    "offsets that are floats": with_header({"a": entry(offsets=[0.0, 4.0])}, FOUR),
    "three offsets": with_header({"a": entry(offsets=[0, 4, 4])}, FOUR),
    "too little data": with_header({"a": entry()}, FOUR[:3]),
    "too much data": with_header({"a": entry()}, FOUR + b"\0"),
    "a repeated name": with_header(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), FOUR + FOUR),
    "spaces": with_header(json.dumps({"a": entry()}).encode(), FOUR),
    "another order of fields": with_header({"a": dict(reversed(entry().items()))}, FOUR),
    "an escaped name": with_header(b'{"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR),
    "half a surrogate pair": with_header(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR),
    "UTF-16": with_header(json.dumps({"a": entry()}).encode("utf-16"), FOUR),
    "NaN": with_header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', FOUR),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_the_canonical_form_is_refused(what: str) -> None:
    with pytest.raises(CodecError, match="arrays: "):
        decode(WRONG[what])


def test_longer_padding_is_refused() -> None:
    content = with_header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + b" " * 64, FOUR)
    with pytest.raises(CodecError, match="canonical"):
        decode(content)


@given(st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    with pytest.raises(CodecError):
        decode(content)


@given(some_arrays(), st.data())
def test_truncated_and_flipped(arrays: Arrays, data: st.DataObject) -> None:
    content = bytearray(encode(arrays))
    with pytest.raises(CodecError):
        decode(bytes(content[: data.draw(st.integers(0, len(content) - 1))]))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = decode(bytes(content))
    except CodecError:
        return
    # A flip may hit the data or make another valid header; then it is that header's canonical form.
    assert encode(changed) == bytes(content)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    st.dictionaries(names, st.fixed_dictionaries({"dtype": _json, "shape": _json, "data_offsets": _json}), max_size=3)
)
def test_random_headers_raise_nothing_but_refusals(header: dict[str, Any]) -> None:
    with suppress(CodecError):
        decode(with_header(header))


@given(st.dictionaries(names, st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
def test_canonical_json_does_not_depend_on_order(value: dict[str, Any]) -> None:
    content = canonical_json(value)
    assert content == canonical_json(dict(reversed(value.items())))
    assert json.loads(content) == value


def test_canonical_json_is_compact_sorted_utf8_and_finite() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json([value])
