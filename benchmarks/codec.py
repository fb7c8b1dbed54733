"""The weighted mean of 20 updates of 10 million float32 that arrive as int8 in blocks of 1024, decoded inside the sum.

`rate_over_plain` is the rate, counted in the float32 bytes that the updates stand for, over that of the plain float32
sum of the same updates with the same kernel, one thread each; the median of interleaved pairs. Beside it, how fast a
site compresses, over copying the same delta. Every result is compared bit by bit with the mean of updates that were
decoded beforehand.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import numpy as np

from benchmarks.harness import Row, at_least, median, note
from hanse.aggregation import (
    ArraySink,
    ArraySource,
    BFloat16,
    Codec,
    Int8,
    RandomK,
    TopK,
    WeightedMean,
    aggregate,
    decoded,
    encode_update,
)
from hanse.core.arrays import Arrays, Layout
from hanse.core.seeds import generator

NUM_UPDATES = 20
WEIGHTS = [float(100 + 37 * i) for i in range(NUM_UPDATES)]
CODECS: dict[str, Codec] = {
    "int8": Int8(1024),
    "bfloat16": BFloat16(),
    "top 1%": TopK(0.01),
    "random 1%": RandomK(0.01),
}
TARGETS = {("int8", "numba"): 0.5}

KernelName = Literal["numpy", "numba"]


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    elements, repeats = (10_000, 1) if smoke else (10_000_000, 7)
    for name, codec in CODECS.items():
        deltas = [_delta(elements, i) for i in range(NUM_UPDATES if name == "int8" else 4)]
        layout = deltas[0].layout
        sent, over_copy = _encode(deltas, codec)
        yield note("codec", name, "bytes_over_plain", sent[0].nbytes / deltas[0].nbytes, "ratio")
        yield note("codec", name, "encode_over_copy", over_copy, "ratio")
        updates = [decoded(ArraySource(update), layout, codec) for update in sent]
        plain = [ArraySource({"w": update.block(0, 0, elements)}) for update in updates]
        kernels: tuple[KernelName, ...] = ("numba", "numpy")
        for kernel in kernels:
            ratio = _over_plain(updates, plain, layout, kernel, repeats)
            case, target = f"{name} {kernel}", TARGETS.get((name, kernel))
            if target is None:
                yield note("codec", case, "rate_over_plain", ratio, "ratio")
            else:
                yield at_least("codec", case, "rate_over_plain", ratio, "ratio", target)


def _delta(elements: int, seed: int) -> Arrays:
    return Arrays({"w": np.random.default_rng(seed).standard_normal(elements, dtype=np.float32)})


def _encode(deltas: list[Arrays], codec: Codec) -> tuple[list[Arrays], float]:
    """What is sent, and the time that takes over that of a copy."""
    sent: list[Arrays] = []
    ratios = []
    for seed, delta in enumerate(deltas):
        copying = _seconds(delta["w"].copy)
        encoding = _seconds(partial(encode_update, delta, codec, generator(seed)))
        sent.append(encode_update(delta, codec, generator(seed)))
        ratios.append(encoding / copying)
    return sent, median(ratios)


def _over_plain(updates: list[Any], plain: list[Any], layout: Layout, kernel: KernelName, repeats: int) -> float:
    sinks = {"plain": ArraySink(layout), "coded": ArraySink(layout)}

    def reduce(sources: list[Any], sink: ArraySink) -> None:
        weights = WEIGHTS[: len(sources)]
        aggregate(sources, range(len(sources)), weights, rule=WeightedMean(kernel), out=sink)

    ratios = []
    for turn in range(repeats + 1):
        seconds = _seconds(lambda: reduce(plain, sinks["plain"]))
        ratio = seconds / _seconds(lambda: reduce(updates, sinks["coded"]))
        if sinks["plain"].arrays != sinks["coded"].arrays:
            raise RuntimeError("the sum of compressed updates is not that of decoded ones")
        sinks["coded"].arrays["w"][:] = np.nan  # the next turn must write it anew
        if turn:  # the first one compiles and touches the memory
            ratios.append(ratio)
    return median(ratios)


def _seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process: others may share the machine."""
    start = time.process_time()
    work()
    return time.process_time() - start
