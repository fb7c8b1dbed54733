"""Codecs against references written from their definitions, and what a hostile sender could write."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse.aggregation import (
    ArraySink,
    ArraySource,
    BFloat16,
    Int8,
    Krum,
    Median,
    RandomK,
    TopK,
    WeightedMean,
    aggregate,
    codec_named,
    decoded,
    encode_update,
    encoded_layout,
)
from hanse.aggregation.codecs import as_data
from hanse.aggregation.kernels import NumpyKernel
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError, ConfigError, UpdateError
from hanse.core.seeds import generator
from tests.unit.aggregation.updates import same_bits

CODECS = [Int8(8), Int8(1000), BFloat16(), TopK(0.1), TopK(0.4), RandomK(0.2)]
FLOATS = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64)]


def delta(seed: int, dtype: Any = np.float32, size: int = 300) -> Arrays:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, size) * 2.0 ** rng.integers(-10, 10, size)
    return Arrays({"w": values.astype(dtype).reshape(-1, 3), "count": np.array([seed, -2]), "b": np.zeros(0, dtype)})


def sent(arrays: Arrays, codec: Any, seed: int = 1) -> Arrays:
    """Encoded, and through the wire form."""
    made = encode_update(arrays, codec, generator(seed))
    return decode(encode(made))


def read(update: Arrays, like: Arrays, codec: Any) -> dict[str, np.ndarray[Any, Any]]:
    source = decoded(ArraySource(update), like.layout, codec)
    return {spec.name: source.block(i, 0, spec.size) for i, spec in enumerate(like.layout.specs)}


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_sent_has_the_layout_that_follows_from_the_model(codec: Any, dtype: Any) -> None:
    arrays = delta(1, dtype)
    made = sent(arrays, codec)
    assert made.layout == encoded_layout(arrays.layout, codec)
    assert made.nbytes <= arrays.nbytes
    assert codec_named(as_data(codec)) == codec
    assert read(made, arrays, codec)["count"].tolist() == [1, -2]
    same = sent(arrays, codec)
    assert same == made  # the same stream gives the same bytes


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@given(seed=st.integers(0, 99), cut=st.lists(st.integers(0, 300), min_size=2, max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_range_is_the_part_of_the_whole(codec: Any, seed: int, cut: list[int]) -> None:
    arrays = delta(seed)
    source = decoded(ArraySource(sent(arrays, codec)), arrays.layout, codec)
    whole = source.block(0, 0, 300)
    for start, stop in zip(sorted(cut), sorted(cut)[1:], strict=False):
        assert same_bits(source.block(0, start, stop), whole[start:stop])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("block", [8, 7 * 8, 1024])
def test_int8_is_within_one_level_and_right_in_the_mean(dtype: Any, block: int) -> None:
    arrays, codec = delta(3, dtype), Int8(block)
    flat = arrays["w"].astype(np.float64).reshape(-1)
    largest = np.array([np.abs(flat[i : i + block]).max() for i in range(0, 300, block)]).repeat(block)[:300]
    draws = np.array([read(sent(arrays, codec, seed), arrays, codec)["w"].astype(np.float64) for seed in range(400)])
    level = largest / 127 + 1e-300
    assert (np.abs(draws - flat) <= level * (1 + 1e-3)).all()
    # each draw lies within a level: the mean of 400 is within 6 standard errors (≤ level / 2 / 20) of the truth,
    # false alarms below 1e-6 for all elements together
    assert (np.abs(draws.mean(axis=0) - flat) <= 6 * level / 40 + level * 1e-3).all()


def test_int8_of_nothing_and_of_the_smallest_numbers() -> None:
    tiny = Arrays({"w": np.array([0.0, -0.0, 1e-45, -3e-45] * 8, np.float32)})
    assert np.abs(read(sent(tiny, Int8(8)), tiny, Int8(8))["w"]).max() <= 2e-43
    zero = Arrays({"w": np.zeros(64, np.float32)})
    assert not read(sent(zero, Int8(8)), zero, Int8(8))["w"].any()


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=64))
@settings(deadline=None)
def test_bfloat16_is_the_nearest(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.38e38)]
    if not values.size:
        return
    arrays = Arrays({"w": values})
    found = read(sent(arrays, BFloat16()), arrays, BFloat16())["w"]
    for value, near in zip(values.tolist(), found.tolist(), strict=True):
        exponent = max(math.frexp(value)[1], -125) if value else -125
        step = math.ldexp(1.0, exponent - 8)
        assert abs(near - value) <= step / 2
        assert (near / step) == int(near / step)


def test_bfloat16_rounds_float64_once() -> None:
    # 1 + 2^-8 + 2^-40: to float32 first it would be a tie and go down to 1
    arrays = Arrays({"w": np.array([1 + 2.0**-8 + 2.0**-40, -(1 + 2.0**-8), 1 + 2.0**-8 - 2.0**-40])})
    assert read(sent(arrays, BFloat16()), arrays, BFloat16())["w"].tolist() == [1 + 2.0**-7, -1.0, 1.0]


@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 0.5]), min_size=8, max_size=60),
    fraction=st.floats(0.01, 0.4),
)
@settings(deadline=None)
def test_topk_takes_the_largest_and_of_equals_the_first(values: list[float], fraction: float) -> None:
    arrays, codec = Arrays({"w": np.array(values, np.float32)}), TopK(fraction)
    count = max(1, math.ceil(fraction * len(values)))
    best = sorted(sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:count])
    expected = [value if i in best else 0.0 for i, value in enumerate(values)]
    update = sent(arrays, codec)
    if list(update) == ["place/w", "value/w"]:
        assert update["place/w"].tolist() == best
    else:
        expected = values  # it would not have been smaller
    assert read(update, arrays, codec)["w"].tolist() == expected


def test_randomk_is_right_in_the_mean_and_draws_every_element() -> None:
    arrays, codec = Arrays({"w": np.arange(1, 41, dtype=np.float64)}), RandomK(0.1)
    draws = np.array([read(sent(arrays, codec, seed), arrays, codec)["w"] for seed in range(4000)])
    assert ((draws != 0).sum(axis=1) == 4).all()
    # per element: 10·w with chance 0.1, so a standard error of 3·w/√4000; 6 of them
    assert (np.abs(draws.mean(axis=0) / arrays["w"] - 1) < 6 * 3 / math.sqrt(4000)).all()


# ---- inside the sum ----


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=3),
    block=st.sampled_from([8, 100, 1024]),
    positions=st.sets(st.integers(0, 40), min_size=1, max_size=9),
    step=st.sampled_from([64, 1000, 1 << 17]),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_the_fused_sum_has_the_bits_of_decoding_first(
    kernel: Any, sizes: list[int], block: int, positions: set[int], step: int
) -> None:
    rng = np.random.default_rng(len(sizes))
    codec = Int8(block)
    base = Arrays((f"a{i}", np.zeros(n, np.float64 if i == 1 else np.float32)) for i, n in enumerate(sizes))
    updates = [
        Arrays(
            (spec.name, (rng.normal(size=spec.size) * 2.0 ** rng.integers(-60, 60)).astype(spec.dtype))
            for spec in base.layout.specs
        )
        for _ in positions
    ]
    made = [decoded(ArraySource(sent(u, codec, i)), base.layout, codec) for i, u in enumerate(updates)]
    plain = [
        ArraySource(Arrays((spec.name, source.block(i, 0, spec.size)) for i, spec in enumerate(base.layout.specs)))
        for source in made
    ]
    weights = [1 + i * 0.37 for i, _ in enumerate(positions)]
    results = []
    for sources, name in ((plain, "numpy"), (made, kernel)):
        out = ArraySink(base.layout)
        aggregate(sources, sorted(positions), weights, rule=WeightedMean(name), out=out, block_elements=step)
        results.append(out.arrays)
    assert results[0] == results[1]


def test_a_long_vector_is_cut_for_the_numpy_kernel() -> None:
    codec, rng = Int8(1000), np.random.default_rng(0)
    values = Arrays({"w": rng.normal(size=300_001).astype(np.float32)})
    source = decoded(ArraySource(sent(values, codec)), values.layout, codec)
    whole, ours = np.empty(300_001 - 7), np.empty(300_001 - 7)
    kernel, weights = NumpyKernel(), [1.5, 2.5]
    kernel.fold(whole, [source.block(0, 7, 300_001)] * 2, weights, fresh=True)
    kernel.fold(ours, [source.coded(0, 7, 300_001)] * 2, weights, fresh=True)
    assert same_bits(whole, ours)
    kernel.join(whole, [source.block(0, 7, 300_001)] * 2, weights)
    kernel.join(ours, [source.coded(0, 7, 300_001)] * 2, weights)
    assert same_bits(whole, ours)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("rule", [WeightedMean(), Median(), Krum(1, keep=3)], ids=lambda rule: type(rule).__name__)
def test_every_shape_of_rule_reads_every_codec(codec: Any, rule: Any) -> None:
    updates = [delta(seed) for seed in range(7)]
    made = [decoded(ArraySource(sent(u, codec, i)), u.layout, codec) for i, u in enumerate(updates)]
    plain = []
    for source, update in zip(made, updates, strict=True):
        blocks = ((s.name, source.block(i, 0, s.size).reshape(s.shape)) for i, s in enumerate(update.layout.specs))
        plain.append(ArraySource(Arrays(blocks)))
    results = []
    for sources in (made, plain):
        out = ArraySink(updates[0].layout)
        base = ArraySource(delta(50))
        aggregate(sources, range(7), [1.0] * 7, rule=rule, out=out, kind="delta", base=base)
        results.append(out.arrays)
    assert results[0] == results[1]


# ---- what is refused ----


def changed(update: Arrays, name: str, place: int, value: Any) -> Arrays:
    arrays = {key: array.copy() for key, array in update.items()}
    arrays[name].reshape(-1)[place] = value
    return Arrays(arrays)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-30, 3e37])
def test_a_scale_that_no_honest_site_sends(value: float) -> None:
    arrays, codec = delta(1), Int8(8)
    update = changed(sent(arrays, codec), "scale/w", 5, value)
    with pytest.raises(CodecError, match="array 'w' expected scales"):
        decoded(ArraySource(update), arrays.layout, codec)


@pytest.mark.parametrize(("place", "value"), [(0, 299), (29, 300), (29, 2**32 - 1), (7, 0)])
@pytest.mark.parametrize("codec", [TopK(0.1), RandomK(0.1)], ids=repr)
def test_places_that_are_repeated_out_of_order_or_out_of_range(codec: Any, place: int, value: int) -> None:
    arrays = delta(1)
    update = changed(sent(arrays, codec), "place/w", place, value)
    with pytest.raises(CodecError, match="array 'w' expected strictly increasing places below 300"):
        decoded(ArraySource(update), arrays.layout, codec)


def test_a_repeated_place_is_refused_also_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.aggregation.compression.CHECK_ELEMENTS", 4)
    arrays, codec = delta(1), TopK(0.1)
    update = sent(arrays, codec)
    decoded(ArraySource(update), arrays.layout, codec)
    twice = changed(update, "place/w", 4, update["place/w"][3])
    with pytest.raises(CodecError, match="strictly increasing"):
        decoded(ArraySource(twice), arrays.layout, codec)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_another_layout_is_refused_before_a_value_is_read(codec: Any) -> None:
    arrays = delta(1)

    class Unreadable:
        def __init__(self, layout: Any) -> None:
            self.layout = layout

        def block(self, index: int, start: int, stop: int) -> Any:
            raise AssertionError("a value was read")

    for layout in (arrays.layout, sent(delta(1, size=303), codec).layout, sent(delta(1, np.float64), codec).layout):
        with pytest.raises(CodecError, match=f"compressed with {codec.name}: expected"):
            decoded(Unreadable(layout), arrays.layout, codec)


def test_values_that_cannot_be_sent() -> None:
    for value in (math.nan, math.inf, -math.inf):
        arrays = Arrays({"w": np.array([1.0, value] * 20)})
        for codec in (Int8(8), TopK(0.1)):
            with pytest.raises(UpdateError, match="array 'w' has values that are not finite"):
                encode_update(arrays, codec, generator(1))
    with pytest.raises(UpdateError, match="beyond the range of bfloat16"):
        encode_update(Arrays({"w": np.full(9, 3.4e38, np.float32)}), BFloat16(), generator(1))
    with pytest.raises(UpdateError, match="too large once they are scaled"):
        encode_update(Arrays({"w": np.full(100, 3e38, np.float32)}), RandomK(0.1), generator(1))
    assert np.isnan(encode_update(Arrays({"w": np.full(9, np.nan)}), BFloat16(), generator(1))["bfloat16/w"]).all()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "expected one of int8, bfloat16, topk, randomk; found 'None'"),
        ({"name": "zip"}, "found 'zip'"),
        ({"name": ["int8"]}, "found \"\\['int8'\\]\""),
        ({"name": "int8", "bits": 4}, "compression int8: unknown parameters"),
        ({"name": "int8", "block": 7}, "int8.block: expected a whole number from 8"),
        ({"name": "int8", "block": True}, "int8.block"),
        ({"name": "topk", "fraction": 1.0}, "topk.fraction: expected a number above 0 below 1, found 1.0"),
        ({"name": "topk", "fraction": math.nan}, "found nan"),
        ({"name": "randomk", "fraction": "much"}, "found 'much'"),
        ({"name": "randomk", "fraction": True}, "found True"),
    ],
)
def test_plain_data_that_is_no_codec(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        codec_named(value)
