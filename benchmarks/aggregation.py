"""Weighted mean of 20 updates of 25 million float32, in float64, page cache warm, two threads.

    kernel …        the updates are mapped and were read before; the result goes to memory that is there
    end-to-end …    each update's file is opened, mapped and parsed, the result is written to a new file

Figures are bytes of updates per second over the machine's read bandwidth, which is measured right before each
run, since on a shared machine both vary together; of the runs' ratios the median is given. Every element of every
result is checked: updates are a + i·b with few significant bits, so that the mean is known without a long sum.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.harness import PeakMemory, Row, at_least, median, note, read_bandwidth_gbps
from hanse.aggregation import ArraySink, BlobSink, BlobSource, WeightedMean, aggregate
from hanse.core.arrays import Arrays, ArraySpec, Layout
from hanse.core.codec import decode, encode_parts, encoded_size

NUM_UPDATES = 20
THREADS = 2
WEIGHTS = [float(100 + 37 * i) for i in range(NUM_UPDATES)]

KernelName = Literal["numpy", "numba"]


@dataclass(frozen=True, slots=True)
class Work:
    """The files of one run."""

    paths: list[Path]
    layout: Layout
    folder: Path

    @property
    def nbytes(self) -> int:
        """Bytes of all updates together, without headers."""
        return self.layout.nbytes * len(self.paths)


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    repeats = 1 if smoke else 9
    layout = _layout(1000 if smoke else 1)
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder:
        work = Work([_write_update(Path(folder), layout, i) for i in range(NUM_UPDATES)], layout, Path(folder))
        with PeakMemory([os.getpid()], interval_s=0.002) as memory:
            before = memory.peak_mb
            _end_to_end(work, "numpy")
        yield note("aggregation", "end-to-end numpy", "extra_peak_mb", memory.peak_mb - before, "MB")
        mapped = [_open(path) for path in work.paths]
        sink = ArraySink(layout)
        cases: dict[str, tuple[Callable[[], None], float]] = {
            "kernel numpy": (lambda: _reduce(mapped, sink, "numpy"), 0.3),
            "kernel accelerated": (lambda: _reduce(mapped, sink, "numba"), 0.6),
            "end-to-end numpy": (lambda: _end_to_end(work, "numpy"), 0.18),
            "end-to-end accelerated": (lambda: _end_to_end(work, "numba"), 0.33),
        }
        expected = _expected(layout)
        ratios: dict[str, list[float]] = {case: [] for case in cases}
        bandwidths = []
        for turn in range(repeats + 1):
            for case, (call, _) in cases.items():
                bandwidth = _bandwidth(smoke)
                start = time.perf_counter()
                call()
                seconds = time.perf_counter() - start
                _check(expected, sink.arrays if case.startswith("kernel") else _result(work))
                if turn:  # the first one warms up: compiles, fills caches, touches the result
                    ratios[case].append(work.nbytes / seconds / 1e9 / bandwidth)
                    bandwidths.append(bandwidth)
        yield note("aggregation", "machine", "read_bandwidth", median(bandwidths), "GB/s")
        for case, (_, target) in cases.items():
            yield at_least("aggregation", case, "of_read_bandwidth", median(ratios[case]), "ratio", target)


def _layout(divisor: int) -> Layout:
    """25 million elements in three arrays."""
    single = np.dtype(np.float32)
    shapes = {"dense.0": (4000, 5000 // divisor), "dense.1": (1000, 4999 // divisor), "bias": (1000,)}
    return Layout(tuple(ArraySpec(name, single, shape) for name, shape in shapes.items()))


def _terms(layout: Layout) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """For each array a and b of a + i·b: multiples of 2**-10 below 2, so sums of products are exact in float64."""
    rng = np.random.default_rng(3)
    return [
        tuple(rng.integers(-2000, 2000, spec.size, dtype=np.int16) for _ in range(2))  # type: ignore[misc]
        for spec in layout.specs
    ]


def _write_update(folder: Path, layout: Layout, i: int) -> Path:
    arrays = Arrays(
        (spec.name, ((a + np.float32(i) * b) * np.float32(2**-10)).astype(np.float32).reshape(spec.shape))
        for spec, (a, b) in zip(layout.specs, _terms(layout), strict=True)
    )
    path = folder / f"update-{i}"
    with path.open("wb") as file:
        for part in encode_parts(arrays):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())  # or it would be written back while we measure
    return path


def _open(path: Path) -> BlobSource:
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return BlobSource(lambda start, stop: view[start:stop], len(view))


def _reduce(sources: list[BlobSource], sink: ArraySink | BlobSink, kernel: KernelName) -> None:
    positions = list(range(NUM_UPDATES))
    aggregate(sources, positions, WEIGHTS, rule=WeightedMean(kernel), out=sink, threads=THREADS)


def _end_to_end(work: Work, kernel: KernelName) -> None:
    target = work.folder / "result"
    target.unlink(missing_ok=True)
    sources = [_open(path) for path in work.paths]
    fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        _reduce(sources, BlobSink(work.layout, lambda start, data: _pwrite(fd, data, start)), kernel)
    finally:
        os.close(fd)
    if target.stat().st_size != encoded_size(work.layout):
        raise RuntimeError(f"expected {encoded_size(work.layout)} bytes, found {target.stat().st_size}")


def _pwrite(fd: int, data: memoryview, start: int) -> None:
    if os.pwrite(fd, data, start) != len(data):
        raise OSError("short write")


def _result(work: Work) -> Arrays:
    return decode((work.folder / "result").read_bytes())


def _expected(layout: Layout) -> list[npt.NDArray[np.float32]]:
    """Σ w·(a + i·b) / Σ w = (a·Σw + b·Σ(w·i)) / Σw: exact until the division, whatever the order."""
    total, moment = sum(WEIGHTS), sum(weight * i for i, weight in enumerate(WEIGHTS))
    return [((a * (total * 2**-10) + b * (moment * 2**-10)) / total).astype(np.float32) for a, b in _terms(layout)]


def _check(expected: list[npt.NDArray[np.float32]], found: Arrays) -> None:
    for name, array, mean in zip(found, found.to_list(), expected, strict=True):
        wrong = int((array.reshape(-1).view(np.uint32) != mean.view(np.uint32)).sum())
        if wrong:
            raise RuntimeError(f"{name}: {wrong} of {array.size} elements differ from the expected mean")
        array_view = array.reshape(-1)
        if array_view.flags.writeable:
            array_view[:] = np.nan  # the next run must write it anew


def _bandwidth(smoke: bool) -> float:
    return (
        read_bandwidth_gbps(size_mb=8, repeats=1)
        if smoke
        else read_bandwidth_gbps(size_mb=500, threads=THREADS, repeats=1)
    )
