"""Work for the simulation benchmarks, the same for the bare loop and for Hanse: sites, cohorts, orders, a first model.

A folder with X.npy, y.npy (examples, site after site), starts.npy, initial.npz, work.json, and for the bare loop what
Hanse will draw: cohorts.npy `(rounds, cohort)` and orders.npy, the orders of examples of every site of each cohort.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hanse as hs
from benchmarks.harness import Row, at_least, at_most, descendants, median, note
from hanse.clients.loader import load_app
from hanse.clients.threads import set_threads
from hanse.clients.training import order_of
from hanse.core.seeds import key_of

HERE = Path(__file__).parent
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Work:
    """What is simulated.

    Args:
        rounds: the first is not measured.
        sizes: examples of each site.
        shape: of one example.
    """

    model: str
    rounds: int
    cohort: int
    batch_size: int
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    lr: float = 0.05
    seed: int = 7
    device: str | None = None

    def name(self, site: int) -> str:
        """Of a site, as `hs.Population` names it."""
        return f"site-{site:0{len(str(len(self.sizes) - 1))}d}"

    def write(self, folder: Path) -> None:
        """Make the folder's content."""
        rng = np.random.default_rng(1)
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        X = np.lib.format.open_memmap(
            str(folder / "X.npy"), mode="w+", dtype=np.float32, shape=(int(starts[-1]), *self.shape)
        )
        for start in range(0, len(X), 4096):
            X[start : start + 4096] = rng.standard_normal(X[start : start + 4096].shape, dtype=np.float32)
        X.flush()
        np.save(folder / "y.npy", rng.integers(0, 10, len(X)))
        np.save(folder / "starts.npy", starts)
        cohorts = [self.cohort_of(number) for number in range(1, self.rounds + 1)]
        np.save(folder / "cohorts.npy", np.array(cohorts))
        orders = [
            order_of(self._key(number, site), self.sizes[site], 1)[0]
            for number, cohort in enumerate(cohorts, 1)
            for site in cohort
        ]
        np.save(folder / "orders.npy", np.concatenate(orders))
        np.savez(folder / "initial.npz", **_initial(self.model))
        facts = ("model", "rounds", "cohort", "batch_size", "lr", "seed", "device")
        (folder / "work.json").write_text(json.dumps({name: getattr(self, name) for name in facts}))

    def cohort_of(self, number: int) -> list[int]:
        """The sites of a round, as the strategy draws them: by the job's seed and the round, in order of name."""
        key = key_of(self.seed, round_=number, phase="train", purpose="cohort")
        drawn = np.random.Generator(np.random.Philox(key=key)).choice(len(self.sizes), size=self.cohort, replace=False)
        return sorted(drawn.tolist())

    def _key(self, number: int, site: int) -> int:
        return key_of(self.seed, round_=number, phase="train", site=self.name(site), purpose="batches")


def _initial(model: str) -> dict[str, Any]:
    import torch

    from benchmarks._bare_loop import network

    torch.manual_seed(0)
    return {name: tensor.numpy() for name, tensor in network(model).state_dict().items()}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run it.

    Args:
        target: of `over_bare`; None for none.
    """

    name: str
    engine: str
    target: float | None
    is_exact: bool
    replicas: int | None = None


@dataclass(slots=True)
class Timed:
    """Seconds of one run: the median round, on the wall and of the CPU, of this process and those that it started."""

    wall_s: float
    cpu_s: float


def compare(bench: str, work: Work, cases: list[Case], folder: Path, repeats: int) -> Iterator[Row]:
    """Run the bare loop and every case in turn, `repeats` times; check every final model against the bare loop's."""
    work.write(folder)
    os.environ["HANSE_BENCH_WORK"] = str(folder)
    set_threads(1)
    app = load_app(HERE, "_sim_app.py", "app")
    sites = hs.Population(len(work.sizes), data=app.module_globals["data"])
    walls: dict[str, list[float]] = {case.name: [] for case in cases}
    cpus: dict[str, list[float]] = {case.name: [] for case in cases}
    bare_s, furthest = [], dict.fromkeys(walls, 0.0)
    with bare_loop(folder, work.device or "cpu") as bare:
        bare()
        for _ in range(repeats):
            loop = bare()
            bare_s.append(loop.wall_s)
            for case in cases:
                ours, arrays = simulated(app, sites, case)
                walls[case.name].append(ours.wall_s / loop.wall_s)
                cpus[case.name].append(ours.cpu_s / loop.cpu_s)
                furthest[case.name] = max(furthest[case.name], _checked(case, folder, arrays))
    yield note(bench, "bare loop", "round_s_median", median(bare_s), "s")
    for case in cases:
        value = median(walls[case.name])
        if case.target is None:
            yield note(bench, case.name, "over_bare", value, "ratio")
        else:
            yield at_most(bench, case.name, "over_bare", value, "ratio", case.target)
        yield note(bench, case.name, "over_bare_cpu", median(cpus[case.name]), "ratio")
        if not case.is_exact:
            yield note(bench, case.name, "rel_l2", furthest[case.name], "ratio")


def speedup(bench: str, work: Work, folder: Path, target: float | None, repeats: int) -> Iterator[Row]:
    """The sequential engine's time over the batched engine's, in turn; their models after one round are compared.

    Not after several: where two activations differ by less than rounding, a rectifier or a maximum takes the other
    branch, between any two ways to round, and later rounds make more of it.
    """
    work.write(folder)
    os.environ["HANSE_BENCH_WORK"] = str(folder)
    set_threads(1)
    alone, stacked = Case("sequential", "sequential", None, True), Case("batched", "batched", None, False)
    facts = json.loads((folder / "work.json").read_text())
    (folder / "work.json").write_text(json.dumps(facts | {"rounds": 1}))
    app = load_app(HERE, "_sim_app.py", "app")
    sites = hs.Population(len(work.sizes), data=app.module_globals["data"])
    expected: dict[str, Any] = dict(hs.simulate(app, sites, engine="sequential", progress=False).arrays)
    np.savez(folder / "bare.npz", **expected)
    _checked(stacked, folder, hs.simulate(app, sites, engine="batched", progress=False).arrays)
    (folder / "work.json").write_text(json.dumps(facts))
    app = load_app(HERE, "_sim_app.py", "app")
    ratios = []
    for _ in range(repeats):
        one, _ = simulated(app, sites, alone)
        many, _ = simulated(app, sites, stacked)
        ratios.append(one.wall_s / many.wall_s)
    case = f"{work.model}, cohort {work.cohort:,}"
    if target is None:
        yield note(bench, case, "speedup", median(ratios), "ratio")
    else:
        yield at_least(bench, case, "speedup", median(ratios), "ratio", target)


@contextmanager
def bare_loop(folder: Path, device: str) -> Iterator[Any]:
    """A process with the bare loop; each call of what is yielded runs all its rounds once."""
    command = [sys.executable, str(HERE / "_bare_loop.py"), str(folder), device]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def once() -> Timed:
        stdin.write("run\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the bare loop ended with exit code {process.wait()}")
        found = json.loads(line)
        return Timed(median(found["wall_s"][1:]), median(found["cpu_s"][1:]))

    try:
        if stdout.readline() != "ready\n":
            raise RuntimeError("the bare loop did not start")
        yield once
    finally:
        process.kill()
        process.wait()


def simulated(app: Any, sites: Any, case: Case) -> tuple[Timed, Any]:
    """One run of a case: its times and its final model."""
    marks: list[tuple[float, float]] = []

    def watch(event: dict[str, Any]) -> None:
        if event["what"] == "round":
            marks.append((time.perf_counter(), time.process_time() + _children_cpu_s()))

    result = hs.simulate(app, sites, engine=case.engine, replicas=case.replicas, progress=False, observer=watch)
    wall, cpu = (np.diff([mark[place] for mark in marks]).tolist() for place in (0, 1))
    return Timed(median(wall), median(cpu)), result.arrays


def _children_cpu_s() -> float:
    """CPU seconds of the processes that this one has started and that still run, but for the bare loop's: it waits."""
    total = 0
    for pid in descendants(os.getpid()):
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                total += int(path.read_text().split()[0])
    return total / 1e9


def _checked(case: Case, folder: Path, arrays: Any) -> float:
    """Relative L2 distance to the bare loop's model; exact cases have none.

    Raises:
        RuntimeError: it is another model.
    """
    bare, start = np.load(folder / "bare.npz"), np.load(folder / "initial.npz")
    if case.is_exact:
        wrong = [name for name in bare.files if arrays[name].tobytes() != bare[name].tobytes()]
        if wrong:
            raise RuntimeError(f"{case.name}: expected the bits of the bare loop, found others in {', '.join(wrong)}")
        return 0.0
    gap = np.sqrt(sum(float(((arrays[n].astype(np.float64) - bare[n]) ** 2).sum()) for n in bare.files))
    moved = np.sqrt(sum(float(((bare[n].astype(np.float64) - start[n]) ** 2).sum()) for n in bare.files))
    if not gap <= TOLERANCE * moved:
        raise RuntimeError(f"{case.name}: expected at most {TOLERANCE} of the move away, found {gap / moved:.2g}")
    return float(gap / moved)


def missing(bench: str) -> Row | None:
    """A row that says why this benchmark cannot run here; None if it can."""
    if importlib.util.find_spec("torch") is None:
        return note(bench, "skipped: torch is not installed (extra 'torch')", "cases", 0, "")
    return None
