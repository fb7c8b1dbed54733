"""Shares: every chunk of every output is somebody's, and the chunks together are the bits of one reduction."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.aggregation import ArraySource, BlobSink, Krum, WeightedMean, aggregate
from hanse.aggregation import shares as module
from hanse.aggregation.shares import Share, clipped, stretches
from hanse.core.arrays import Arrays, ArraySpec, Layout
from hanse.core.codec import encoded_size

CHUNK = 512


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)


def layout_of(shapes: list[tuple[int, ...]], dtype: str) -> Layout:
    return Layout(tuple(ArraySpec(f"a{n}", np.dtype(dtype), shape) for n, shape in enumerate(shapes)))


SHAPES = st.lists(
    st.one_of(st.tuples(st.integers(0, 900)), st.tuples(st.integers(1, 30), st.integers(1, 30))), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, of=st.integers(1, 6))
def test_shares_cover_every_byte_of_every_output_once(shapes: list[tuple[int, ...]], of: int) -> None:
    for dtype in ("float32", "float64"):
        size = encoded_size(layout_of(shapes, dtype))
        spans = [Share(n, of).span(size) for n in range(of)]
        assert spans[0][0] == 0
        assert spans[-1][1] == size
        assert all(before[1] == after[0] or after[0] >= size for before, after in pairwise(spans))


@settings(max_examples=25, deadline=None)
@given(shapes=SHAPES, of=st.integers(1, 5), seed=st.integers(0, 99))
def test_what_shares_write_is_what_one_reduction_writes(shapes: list[tuple[int, ...]], of: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = layout_of(shapes, "float32")

    def spread(shape: tuple[int, ...]) -> np.typing.NDArray[np.float32]:
        return (rng.normal(size=shape) * 2.0 ** rng.integers(-40, 40, shape)).astype(np.float32)

    updates = [ArraySource(Arrays((s.name, spread(s.shape)) for s in layout.specs)) for _ in range(5)]
    weights = [1.0, 3.0, 2.0, 5.0, 1.0]
    size = encoded_size(layout)

    def reduced(into: bytearray, share: Share | None) -> None:
        def write(start: int, content: memoryview) -> None:
            into[start : start + len(content)] = content

        span = (0, size) if share is None else share.span(size)
        sink = BlobSink(layout, clipped(write, span))  # type: ignore[arg-type]
        together = None if share is None else stretches([layout, layout_of(shapes, "float64")], share)
        aggregate(updates, range(5), weights, rule=WeightedMean(), out=sink, stretches=together, block_elements=64)

    whole, joined = bytearray(size), bytearray(size)
    reduced(whole, None)
    for number in range(of):
        mine = bytearray(size)
        reduced(mine, Share(number, of))
        start, stop = Share(number, of).span(size)
        assert not any(mine[:start]) and not any(mine[stop:])  # noqa: PT018 - both sides of its own part
        joined[start:stop] = mine[start:stop]
    assert joined == whole


def test_a_gather_needs_all_of_it() -> None:
    layout = layout_of([(4,)], "float32")
    source = ArraySource(Arrays({"a0": np.ones(4, np.float32)}))
    with pytest.raises(ValueError, match="whole range"):
        aggregate(
            [source] * 5,
            range(5),
            [1.0] * 5,
            rule=Krum(1),
            out=BlobSink(layout, lambda start, content: None),
            stretches=stretches([layout], Share(0, 1)),
        )


def test_shares_are_numbered() -> None:
    with pytest.raises(ValueError, match="below 2"):
        Share(2, 2)
