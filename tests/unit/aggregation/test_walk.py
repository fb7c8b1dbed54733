"""Deltas, server optimisers with state, blobs as sources and sinks, custom folds, kernels, memory."""

import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import hanse.aggregation.kernels as kernels
from hanse.aggregation import (
    ArraySink,
    ArraySource,
    BlobSink,
    BlobSource,
    WeightedMean,
    Zeros,
    aggregate,
)
from hanse.core.arrays import Arrays, ArraySpec, Layout
from hanse.core.codec import decode, encode, encoded_size
from hanse.core.errors import CodecError, MissingExtraError
from tests.patience import WAIT_S
from tests.unit.aggregation.oracle import nearest, weighted_mean
from tests.unit.aggregation.updates import mean, same_bits, spread


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int32])
def test_a_delta_is_added_in_float64_and_rounded_once(dtype: Any, kernel: Any) -> None:
    rng = np.random.default_rng(6)
    base = np.array(rng.integers(-90, 90, 40)).astype(dtype)
    deltas = [
        np.array(rng.integers(-90, 90, 40) / (1 if np.dtype(dtype).kind == "i" else 64)).astype(dtype) for _ in range(7)
    ]
    weights = [float(w) for w in rng.integers(1, 50, 7)]
    found = mean(
        deltas, range(7), weights, kernel=kernel, kind="delta", base=ArraySource({"x": base}), block_elements=9
    )
    for i in range(40):
        moved = float(base[i]) + weighted_mean([float(d[i]) for d in deltas], range(7), weights, 7)
        assert found[i] == nearest(moved, np.dtype(dtype))


def momentum(model: Any, reduced: Any, states: Sequence[Any], scalars: Mapping[str, float]) -> Any:
    """v ← β·v + (reduced − model); model ← model + v."""
    v = states[0]
    v *= scalars["beta"]
    v += reduced - model
    return model + v


@pytest.mark.parametrize(("threads", "block"), [(1, None), (2, 3), (3, 8)])
def test_an_optimiser_walks_the_same_ranges_as_its_state(threads: int, block: int | None) -> None:
    rng = np.random.default_rng(7)
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    layout = Layout((ArraySpec("w", single, (4, 5)), ArraySpec("steps", np.dtype(np.int64), (3,))))
    wide = Layout((ArraySpec("w", double, (4, 5)), ArraySpec("steps", double, (3,))))
    model, state = Arrays({"w": rng.standard_normal((4, 5)).astype(single), "steps": np.array([1, 2, 3])}), Zeros(wide)
    source: Any = state
    v = np.zeros((4, 5))
    for _ in range(3):
        updates = [
            Arrays({"w": rng.standard_normal((4, 5)).astype(single), "steps": np.array([2, 3, 4])}) for _ in range(6)
        ]
        out, state_out = ArraySink(layout), ArraySink(wide)
        aggregate(
            [ArraySource(u) for u in updates],
            range(6),
            [1.0] * 6,
            rule=WeightedMean("numpy"),
            out=out,
            base=ArraySource(model),
            update=momentum,
            states=[source],
            state_outs=[state_out],
            scalars={"beta": 0.9},
            threads=threads,
            block_elements=block,
        )
        average = np.array(
            [weighted_mean([float(u["w"].flat[i]) for u in updates], range(6), [1.0] * 6, 6) for i in range(20)]
        ).reshape(4, 5)
        v = v * 0.9 + (average - model["w"])
        assert same_bits(out.arrays["w"], (model["w"] + v).astype(single))
        assert same_bits(state_out.arrays["w"], v)
        assert out.arrays["steps"].tolist() == [2, 3, 4]  # counters take the mean, whatever the optimiser
        assert state_out.arrays["steps"].tolist() == [0.0, 0.0, 0.0]
        model, source = out.arrays, ArraySource(state_out.arrays)


def test_a_missing_or_foreign_base_or_state_is_refused() -> None:
    one, other = ArraySource({"x": np.ones(2)}), ArraySource({"y": np.ones(2)})
    out = ArraySink(one.layout)
    call: Any = partial(aggregate, [one], [0], [1.0], rule=WeightedMean("numpy"), out=out)
    with pytest.raises(ValueError, match="expected a base"):
        call(kind="delta")
    with pytest.raises(ValueError, match="one state_out"):
        call(base=one, update=momentum, states=[one])
    with pytest.raises(ValueError, match="expected states"):
        call(base=one, update=momentum, states=[other], state_outs=[out])


def test_blobs_in_and_a_blob_out() -> None:
    rng = np.random.default_rng(9)
    odd = {"flags": np.arange(3, dtype=np.uint8)}  # so that what follows is not aligned
    updates = [
        Arrays({**odd, "w": spread(rng, (50,), np.float32), "h": spread(rng, (7,), ml_dtypes.bfloat16)})
        for _ in range(5)
    ]
    contents = [encode(u) for u in updates]
    reads: list[int] = []

    def read(content: bytes, start: int, stop: int) -> memoryview:
        reads.append(stop - start)
        return memoryview(content)[start:stop]

    sources = [BlobSource(partial(read, content), len(content)) for content in contents]
    reads.clear()
    blob = bytearray(encoded_size(updates[0].layout))

    def write(start: int, data: memoryview) -> None:
        blob[start : start + len(data)] = data

    memory = ArraySink(updates[0].layout)
    for sink in (memory, BlobSink(updates[0].layout, write)):
        aggregate(sources, range(5), [1.0] * 5, rule=WeightedMean("numpy"), out=sink, block_elements=16, threads=2)
    assert max(reads) == 64
    assert decode(bytes(blob)) == memory.arrays


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 8, b"\xff" * 4096, bytes(64)])
def test_a_blob_that_is_not_arrays_is_refused(content: bytes) -> None:
    with pytest.raises(CodecError):
        BlobSource(lambda start, stop: memoryview(content)[start:stop], len(content))


class Largest:
    """A custom fold, written with the four methods of the protocol only: the largest weight · |value|."""

    def zero(self, n: int) -> Any:
        return np.zeros(n)

    def add(self, acc: Any, block: Any, weight: float) -> None:
        np.maximum(acc, weight * np.abs(block.astype(np.float64)), out=acc)

    def merge(self, a: Any, b: Any) -> Any:
        return np.maximum(a, b)

    def finish(self, acc: Any, total_weight: float, out: Any) -> None:
        out[:] = acc


def test_a_custom_fold_needs_four_methods() -> None:
    rng = np.random.default_rng(3)
    updates = [rng.standard_normal(100).astype(np.float32) for _ in range(11)]
    out = ArraySink(ArraySource({"x": updates[0]}).layout)
    sources = [ArraySource({"x": u}) for u in updates]
    aggregate(sources, range(11), [2.0] * 11, rule=Largest(), out=out, threads=2, block_elements=7)
    assert same_bits(out.arrays["x"], (2 * np.abs(np.array(updates))).max(axis=0).astype(np.float32))


def test_memory_is_a_few_blocks_whatever_the_number_of_updates() -> None:
    """200 updates of 8 MB that are made while they are read: the walk may not hold even one of them."""

    class Made:
        layout = Layout((ArraySpec("x", np.dtype(np.float32), (2_000_000,)),))

        def block(self, index: int, start: int, stop: int) -> Any:
            return np.full(stop - start, 2.0, dtype=np.float32)

    class Checked:
        seen = 0

        def write(self, index: int, start: int, block: Any) -> None:
            assert (block == 2.0).all()
            self.seen += len(block)

    sink = Checked()
    tracemalloc.start()
    try:
        aggregate([Made()] * 200, range(200), [3.0] * 200, rule=WeightedMean("numpy"), out=sink, block_elements=1 << 12)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sink.seen == 2_000_000
    assert peak < 2_000_000, "more than a few blocks of 32 kB"


def test_threads_really_work_side_by_side() -> None:
    """With two threads, two blocks are being written at the same time: neither gets on before the other is there."""
    both = threading.Barrier(2, timeout=WAIT_S)

    class Meeting:
        def write(self, index: int, start: int, block: Any) -> None:
            both.wait()

    source = ArraySource({"x": np.ones(8, dtype=np.float32)})
    aggregate([source], [0], [1.0], rule=WeightedMean("numpy"), out=Meeting(), threads=2, block_elements=1)


def test_whole_vectors_go_through_numpy_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    blocks = [spread(rng, (1000,), np.float32) for _ in range(4)]
    whole, pieces = np.ones(1000), np.ones(1000)
    kernel = kernels.NumpyKernel()
    kernel.join(whole, blocks, [1.0, 2.0, 3.0, 5.0])
    kernel.fold(whole, blocks, [1.0, 2.0, 3.0, 5.0], fresh=False)
    monkeypatch.setattr(kernels.NumpyKernel, "block_elements", 64)
    kernel.join(pieces, blocks, [1.0, 2.0, 3.0, 5.0])
    kernel.fold(pieces, blocks, [1.0, 2.0, 3.0, 5.0], fresh=False)
    assert same_bits(whole, pieces)


def test_auto_takes_numba_only_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")
    auto = kernels.AutoKernel(patience_bytes=1000)
    acc = np.empty(100)
    blocks = [np.ones(100, dtype=np.float32)]
    auto.fold(acc, blocks, [1.0], fresh=True)
    assert auto.current == "numpy"
    auto.join(acc, blocks * 2, [1.0, 1.0])
    assert auto.current == "numba"
    auto.fold(acc, blocks, [1.0], fresh=False)
    assert acc.tolist() == [4.0] * 100


def test_numba_by_name_without_numba_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "numba_installed", lambda: False)
    with pytest.raises(MissingExtraError, match="hanse\\[fast\\]"):
        WeightedMean("numba")
    auto = kernels.AutoKernel(patience_bytes=0)
    auto.fold(np.empty(1), [np.ones(1)], [1.0], fresh=True)
    assert auto.current == "numpy"
    with pytest.raises(ValueError, match="auto, numpy or numba"):
        WeightedMean("cupy")  # type: ignore[arg-type]


def test_importing_does_not_load_numba() -> None:
    import subprocess
    import sys

    code = "import sys, hanse.aggregation as a; a.WeightedMean(); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT_S)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_fused_multiply_add(dtype: Any, kernel: Any) -> None:
    """x·w − x·w is 0 if both products are rounded; a fused step leaves what the rounding of the first cut off."""
    weight = 1 + 2.0**-52
    x = np.full(67, 1 + 2.0**-15, dtype=dtype)
    cut_off = Fraction(float(x[0])) * Fraction(weight) - Fraction(float(x[0]) * weight)
    assert cut_off != 0
    chosen = kernels.pick_kernel(kernel)
    acc = np.empty(67)
    for blocks in ([x, -x], [x, -x, x, -x]):
        chosen.fold(acc, blocks, [weight] * len(blocks), fresh=True)
        assert acc.tolist() == [0.0] * 67
        chosen.join(acc, blocks, [weight] * len(blocks))
        assert acc.tolist() == [0.0] * 67
