"""Real workers for tests: an app from its source, a task for it, and what it answers."""

import contextlib
import os
import textwrap
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.blobs import manifest_of
from hanse.core.codec import encode
from hanse.core.errors import TaskError
from hanse.core.ids import TaskId
from hanse.core.records import BlobRef, Task
from hanse.workers import launcher
from hanse.workers.handle import Worker
from hanse.workers.launcher import Launcher
from hanse.workers.load import Load
from hanse.workers.pool import Workers
from tests.nursery import LAUNCHER, forks

HEAD = """
import os, sys, time
import numpy as np
from hanse.clients.app import App

app = App(rounds=2)
"""

ADD_ONE = """
@app.train
def train(arrays, config, site):
    return {name: array + 1 for name, array in arrays.items()}, 3, {"loss": 0.5}
"""


@dataclass
class Bench:
    """A folder, a launcher, and the lines its workers have printed."""

    folder: Path
    workers: Workers
    lines: list[str] = field(default_factory=list)
    _count: int = 0

    def load_of(self, source: str, **options: Any) -> Load:
        """A bundle with this source behind the usual head, and an empty scratch folder."""
        self._count += 1
        bundle, scratch = self.folder / f"bundle{self._count}", self.folder / f"scratch{self._count}"
        bundle.mkdir()
        scratch.mkdir()
        (bundle / "app.py").write_text(HEAD + textwrap.dedent(source))
        return Load(bundle, scratch=scratch, **{"entry": "app.py", "site": "a", **options})

    async def worker(self, source: str | Load, *, threads: int = 1, **options: Any) -> Worker:
        """A worker that has loaded the app."""
        worker = await self.workers.spawn(threads=threads, on_log=self.lines.append)
        try:
            await worker.load(source if isinstance(source, Load) else self.load_of(source, **options))
        except TaskError as error:
            worker.log.drain()
            error.add_note("\n".join(self.lines))
            raise
        return worker


@contextlib.asynccontextmanager
async def bench(folder: Path, **options: Any) -> AsyncIterator[Bench]:
    """A launcher for one test."""
    with contextlib.nullcontext() if options else forks(launcher, LAUNCHER):
        workers = Workers(Launcher.start(**options))
    try:
        yield Bench(folder, workers)
    finally:
        await workers.close()


def task(model: bytes | None = None, *, call: str = "train", site: str = "a", ordinal: int = 0, **fields: Any) -> Task:
    """A task of round 1."""
    ref = None
    if model is not None:
        ref = BlobRef.inline(model) if len(model) <= 65536 else BlobRef(manifest_of(model), "j/c/0/model")
    return Task(TaskId("j", "c", 1, call, ordinal), site, call, model=ref, **fields)


def small_model() -> bytes:
    """A model that travels inline."""
    content: list[tuple[str, Array]] = [("w", np.arange(6, dtype=np.float32).reshape(2, 3)), ("b", np.zeros(2))]
    return encode(Arrays(content))


def large_model(megabytes: float = 20.0, seed: int = 0) -> Arrays:
    """A model that travels as a file, of several arrays, not a whole number of chunks."""
    count = int(megabytes * 250_000)
    rng = np.random.default_rng(seed)
    cut = count // 3
    content: list[tuple[str, Array]] = [
        ("a", rng.standard_normal(cut, dtype=np.float32)),
        ("tiny", np.arange(5, dtype=np.int64)),
        ("b", rng.standard_normal(count - cut, dtype=np.float32)),
    ]
    return Arrays(content)


def descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z"
