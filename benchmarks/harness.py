"""What every benchmark shares: rows, discovery, running each in a process of its own, and meters.

A benchmark is a module in this folder with

    def run(smoke: bool) -> Iterator[Row]: ...

which does its work for real, checks the result by arithmetic (and raises if it is wrong), and yields
rows as they are known, made by `at_most`, `at_least` or `note`. With `smoke` it does the same on a
tiny size; the harness then drops the verdicts. A module whose name starts with an underscore, or that
has no `run` at its top level, is a helper and no benchmark.

This is not a micro-benchmark timer: repetition and the choice of statistic belong to the benchmark.
"""

import contextlib
import importlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
median = statistics.median


# Rows


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        bench: the benchmark's name, `round-latency`.
        case: what was varied, `2 sites`.
        metric: what was measured, with its unit at the end where it has one: `round_s_median`.
        value: the figure, finite.
        unit: `s`, `MB`, `GB/s`, or `ratio`.
        target: the bound, or None where the figure is only for comparison.
        ok: whether the bound is kept; None where nothing was judged.
    """

    bench: str
    case: str
    metric: str
    value: float
    unit: str
    target: float | None = None
    ok: bool | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.bench}, {self.case}: expected a finite {self.metric}, found {self.value}")

    def to_json(self) -> str:
        """The row as one line of JSON, the value rounded to six significant digits."""
        return json.dumps(asdict(self) | {"value": float(f"{self.value:.6g}")})


def at_most(bench: str, case: str, metric: str, value: float, unit: str, target: float) -> Row:
    """A figure that must not exceed `target`."""
    return Row(bench, case, metric, float(value), unit, target, value <= target)


def at_least(bench: str, case: str, metric: str, value: float, unit: str, target: float) -> Row:
    """A figure that must reach `target`."""
    return Row(bench, case, metric, float(value), unit, target, value >= target)


def note(bench: str, case: str, metric: str, value: float, unit: str) -> Row:
    """A figure given for comparison, without a target."""
    return Row(bench, case, metric, float(value), unit)


# Running


def discover(folder: Path = FOLDER) -> dict[str, str]:
    """Names of the benchmarks in `folder` and their modules, sorted; imports none of them."""
    paths = sorted(folder.glob("*.py"))
    return {
        path.stem.replace("_", "-"): path.stem
        for path in paths
        if not path.stem.startswith("_") and re.search(r"^def run\(", path.read_text(encoding="utf-8"), re.M)
    }


class Show(Protocol):
    """Where finished rows go."""

    def row(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Prints each row as a line of JSON when it is known."""

    def row(self, row: Row) -> None:
        print(row.to_json(), flush=True)

    def close(self) -> None:
        pass


class Table:
    """Prints a line per row on stderr as it is known, and all rows as one table at the end."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def row(self, row: Row) -> None:
        self._rows.append(row)
        print(f"  {row.case}: {row.metric} = {row.value:.4g} {row.unit}", file=sys.stderr, flush=True)

    def close(self) -> None:
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable("bench", "case", "metric")
        for heading in ("value", "target"):
            table.add_column(heading, justify="right")
        table.add_column("ok")
        for row in self._rows:
            verdict = {None: "", True: "[green]ok", False: "[red]missed"}[row.ok]
            target = "" if row.target is None else f"{row.target:.4g}"
            table.add_row(row.bench, row.case, row.metric, f"{row.value:.4g} {row.unit}", target, verdict)
        if self._rows:
            Console().print(table)


def run_apart(name: str, show: Show, *, folder: Path = FOLDER, smoke: bool = False) -> bool:
    """Run one benchmark in a process of its own, so that its memory figures are its own.

    Rows come back through a pipe; what the benchmark prints goes to stderr. A benchmark that crashes
    or yields nothing is reported on stderr and by a row of the case `failed`.

    Args:
        name: a key of `discover(folder)`.
        show: receives each row as soon as it is known.
        folder: a package folder with benchmark modules.
        smoke: tiny sizes; rows lose their targets and verdicts.

    Returns:
        Whether it finished, gave at least one row, and missed no target.
    """
    print(f"{name} ...", file=sys.stderr, flush=True)
    reading, writing = os.pipe()
    call = f"from benchmarks.harness import _child; _child({str(folder)!r}, {name!r}, {smoke}, {writing})"
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    with os.fdopen(reading, encoding="utf-8") as lines:
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", call],
                stdout=sys.stderr.fileno(),
                pass_fds=[writing],
                process_group=0,  # a Ctrl-C reaches it once, through us
                env=os.environ | {"PYTHONPATH": path},
            )
        finally:
            os.close(writing)
        try:
            verdicts = []
            for line in lines:
                row = Row(**json.loads(line))
                verdicts.append(row.ok)
                show.row(row)
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
    if code == 0 and verdicts:
        return False not in verdicts
    cause = f"exit code {code}" if code else "no rows"
    print(f"bench {name}: expected rows and exit code 0, found {cause}; see above", file=sys.stderr)
    show.row(Row(name, "failed", "exit_code", float(code), "", 0.0, False))
    return False


def _stop(child: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
    """End a benchmark's process, first with the time to end the processes it started itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.send_signal(signal.SIGINT)
        child.wait(grace_s)
    if child.poll() is None:
        child.kill()
        child.wait()


def _child(folder: str, name: str, smoke: bool, writing: int) -> None:
    """Run a benchmark in this process and write its rows to the file descriptor `writing`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.set_inheritable(writing, False)  # a process left behind must not hold the pipe open
    sys.path.insert(0, str(Path(folder).parent))
    module = importlib.import_module(f"{Path(folder).name}.{name.replace('-', '_')}")
    with os.fdopen(writing, "w", encoding="utf-8") as out:
        for row in module.run(smoke):
            judged = replace(row, target=None, ok=None) if smoke else row
            out.write(json.dumps(asdict(judged)) + "\n")
            out.flush()


# Memory


def anonymous_memory_mb(pid: int) -> float:
    """Anonymous memory of a process in MB (10^6 bytes): what it holds that no file could give back.

    This is the line `RssAnon` of /proc/PID/status: heap, stacks, private written pages; neither page cache nor
    read-only file maps nor shared memory. The kernel keeps it as a counter, so that reading it disturbs nothing;
    `Anonymous` in smaps_rollup is the same, counted page by page: 4 ms for a process that maps 1 GB. Linux only.

    Raises:
        ProcessLookupError: the process has ended.
        NotImplementedError: this system has no /proc/PID/status.
    """
    return _status_mb(pid, b"RssAnon:")


def resident_memory_mb(pid: int) -> float:
    """Resident memory of a process (RSS) in MB (10^6 bytes), from the same place and with the same errors."""
    return _status_mb(pid, b"VmRSS:")


def _status_mb(pid: int, field: bytes) -> float:
    if not Path("/proc/self/status").exists():
        raise NotImplementedError("expected /proc/PID/status: memory is measured on Linux only")
    try:
        text = Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0  # a zombie has no memory


def descendants(pid: int) -> list[int]:
    """Ids of a process's children, their children and so on, that live now. Linux only."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


class PeakMemory:
    """Samples the memory of processes in a thread and keeps the highest sum.

    A peak between two samples is missed.

    Example:
        with PeakMemory([site.pid], children=True) as memory:
            play_round()
        print(memory.peak_mb)

    Args:
        pids: processes whose memory is added up; one that has ended counts as nothing.
        children: add their descendants, as they are at each sample.
        interval_s: seconds from one sample to the next.
        measure: memory of one process in MB.
    """

    def __init__(
        self,
        pids: Iterable[int],
        *,
        children: bool = False,
        interval_s: float = 0.02,
        measure: Callable[[int], float] = anonymous_memory_mb,
    ) -> None:
        self._pids = list(pids)
        self._children = children
        self._interval_s = interval_s
        self._measure = measure
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._error: Exception | None = None
        self.peak_mb = 0.0

    def __enter__(self) -> Self:
        self._sample()  # an error shows here, at once
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
        self._sample()

    def _watch(self) -> None:
        try:
            while not self._stopped.wait(self._interval_s):
                self._sample()
        except Exception as error:  # handed to the thread that waits in __exit__
            self._error = error

    def _sample(self) -> None:
        pids = set(self._pids)
        if self._children:
            pids.update(child for pid in self._pids for child in descendants(pid))
        total = 0.0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                total += self._measure(pid)
        self.peak_mb = max(self.peak_mb, total)


# Bandwidth


def read_bandwidth_gbps(*, size_mb: int = 1000, threads: int = 2, repeats: int = 5) -> float:
    """The rate at which this machine reads memory, in GB/s (10^9 bytes): a denominator for ratios.

    An array of float64 far larger than the caches is cut into one part per thread, and each thread
    reads its part once. Several ways of reading are tried (see `read_bandwidths`) and the fastest of all
    runs is returned, since a slow meter would flatter whatever is divided by it.
    """
    return max(read_bandwidths(size_mb=size_mb, threads=threads, repeats=repeats).values())


def read_bandwidths(*, size_mb: int = 1000, threads: int = 2, repeats: int = 5) -> dict[str, float]:
    """Best rate in GB/s of each way of reading: numpy's `sum`, `max` and bitwise `or`; a loop if numba is there.

    All of them are vectorised and release the interpreter's lock while they read; no BLAS, whose own
    threads would fight ours. The ways take turns, so that a busy moment of the machine does not fall on
    one of them alone. The array's pages are written first: untouched ones would all be the kernel's
    single page of zeros, which lies in the cache.
    """
    import numpy as np

    array = np.ones(size_mb * 1_000_000 // 8)
    parts = np.array_split(array, threads)
    ways = dict(_ways_to_read())
    expected = {name: [read(part) for part in parts] for name, read in ways.items()}  # also compiles
    best_s = dict.fromkeys(ways, math.inf)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            for name, read in ways.items():
                start = time.perf_counter()
                found = list(pool.map(read, parts))
                best_s[name] = min(best_s[name], time.perf_counter() - start)
                if found != expected[name]:
                    raise RuntimeError(f"{name}: expected {expected[name]}, found {found}")
    return {name: array.nbytes / seconds / 1e9 for name, seconds in best_s.items()}


def _ways_to_read() -> Iterator[tuple[str, Callable[["NDArray[np.float64]"], float]]]:
    """Named functions that read every byte of an array and return a number that depends on all of it."""
    import numpy as np

    yield "sum", lambda part: float(part.sum())
    yield "max", lambda part: float(part.max())
    yield "or", lambda part: float(np.bitwise_or.reduce(part.view(np.int64)))
    try:
        from numba import njit
    except ImportError:
        return

    @njit(nogil=True, fastmath=True)
    def add_up(part: "NDArray[np.float64]") -> float:
        total = 0.0
        for i in range(part.size):
            total += part[i]
        return total

    yield "loop", lambda part: float(add_up(part))
