"""One site's training in several processes: each takes a share of every batch, and gradients are summed by all-reduce.

What PyTorch's `DistributedDataParallel` does (Li et al., "PyTorch distributed: experiences on accelerating data
parallel training", VLDB 2020), on the flat vectors of `flat.py`: after every backward pass one all-reduce over Gloo for
each vector, weighted by the sizes of the shares, so that the sum is the gradient of the whole batch. All processes step
alike and stay equal. With equal numbers of processes the bits are equal; with others sums round differently.

Buffers that a module changes while it trains (batch norm's statistics) are those of the first process, as in
`DistributedDataParallel`, and see its shares only.

`delayed.py` is the asynchronous way to use the same processes.

The others are started by the first, from the same Python, for the same app's file (`data_parallel_process.py`), and end
with it. They are told what to do in plain bytes: JSON and safetensors. Gloo listens on loopback alone.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hanse.clients.tensors import array_of_tensor, imported
from hanse.clients.threads import num_threads
from hanse.core.arrays import Arrays
from hanse.core.codec import encode
from hanse.core.errors import ConfigError, TaskError

STARTING_S = 120.0
"""How long the processes may take to find each other: each imports PyTorch first."""
WAITING_S = 1800.0
"""How long one may wait for the others in a step."""
DATA_KEPT = 4
"""Sites whose examples the other processes keep."""


@dataclass(frozen=True)
class Share:
    """One of the processes.

    Args:
        rank: from 0.
        count: how many there are.
        group: PyTorch's process group.
    """

    rank: int
    count: int
    group: Any

    def of(self, rows: Any) -> Any:
        """Its part of a batch's rows: every `count`-th; may be empty."""
        return rows[self.rank :: self.count]

    def add_up(self, vector: Any) -> None:
        """Σ over the processes, in place.

        Raises:
            RuntimeError: one of them has ended.
        """
        self.group.allreduce([vector]).wait()


def meet(store: str, rank: int, count: int) -> Share:
    """Find the other processes, over loopback. `store`: a file that all of them can write."""
    distributed = imported().distributed
    options = distributed.ProcessGroupGloo._Options()
    options._devices = [distributed.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = timedelta(seconds=STARTING_S)
    files = distributed.FileStore(store, count)
    files.set_timeout(timedelta(seconds=STARTING_S))
    group = distributed.ProcessGroupGloo(files, rank, count, options)
    group._set_default_timeout(timedelta(seconds=WAITING_S))
    return Share(rank, count, group)


class Helpers:
    """The other processes of one module; see `helpers_of`."""

    def __init__(self, source: Mapping[str, str], count: int) -> None:
        self._source, self._count = source, count
        self._folder = tempfile.TemporaryDirectory(prefix="hanse-data-parallel-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Connection] = []
        self._data: dict[int, None] = {}
        self._share: Share | None = None

    def begin(
        self,
        facts: Mapping[str, Any],
        model: Arrays,
        correction: Mapping[str, Any],
        order: Any,
        number: int,
        X: Any,
        y: Any,
    ) -> Share:
        """Have the others begin a training, and answer our own share of it.

        Args:
            facts: what is trained how, plain JSON.
            number: of the site in this process; its examples are sent once.

        Raises:
            TaskError: they cannot be started, or one has ended.
        """
        try:
            if self._share is None:
                self._start()
            parts = {f"model/{name}": array for name, array in model.items()} | {"order": order}
            parts |= {f"correction/{name}": array for name, array in correction.items()}
            if number not in self._data:
                parts |= {"X": array_of_tensor(X), "y": array_of_tensor(y)}
                self._data = dict.fromkeys([*list(self._data)[1 - DATA_KEPT :], number])
            header = json.dumps({**facts, "number": number, "keep": list(self._data)}).encode()
            content = encode(Arrays(parts))
            for link in self._links:
                link.send_bytes(header)
                link.send_bytes(content)
        except (OSError, RuntimeError) as error:
            raise self.broken(error) from error
        assert self._share is not None
        return self._share

    @property
    def links(self) -> Sequence[Connection]:
        """To the other processes, by rank from 1."""
        return self._links

    def broken(self, error: Exception) -> TaskError:
        """End all, so that the next task starts afresh; what to tell of it."""
        codes = [process.poll() for process in self._processes]
        self.close()
        ended = ", ".join(str(code) for code in codes if code is not None)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return TaskError(
            "raised",
            "hs.torch(processes=...): one of the site's processes has ended"
            + (f" (exit code {ended}); its cause is in the site's log" if ended else f": {lines[0][:200]}"),
        )

    def close(self) -> None:
        """End them."""
        self._share = None
        self._data = {}
        for link in self._links:
            link.close()
        for process in self._processes:
            process.kill()
            process.wait()
        self._links, self._processes = [], []

    def _start(self) -> None:
        store = str(Path(tempfile.mkdtemp(dir=self._folder.name)) / "store")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        for rank in range(1, self._count):
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "hanse.clients.data_parallel_process", str(theirs.fileno())]
                self._processes.append(
                    subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
                )
            self._links.append(Connection(ours.detach()))
            load = {**self._source, "store": store, "rank": rank, "count": self._count, "threads": num_threads()}
            self._links[-1].send_bytes(json.dumps(load).encode())
        for link in self._links:  # each has loaded the module; Gloo would wait in vain for one that could not
            if (said := link.recv_bytes().decode()) != "loaded":
                raise RuntimeError(said)
        self._share = meet(store, 0, self._count)


@cache
def helpers_of(make: Any, count: int) -> Helpers:
    """The processes that train what `make` makes, beside this one; they are started with the first training.

    Raises:
        ConfigError: other processes cannot find it.
    """
    helpers = Helpers(source_of(make), count)
    atexit.register(helpers.close)
    return helpers


def source_of(make: Any) -> dict[str, str]:
    """Where other processes find a function or class: a file and a name in it, or a module's name.

    Raises:
        ConfigError: nowhere.
    """
    name, module_name = getattr(make, "__qualname__", ""), getattr(make, "__module__", "")
    module = sys.modules.get(module_name)
    if name.isidentifier() and getattr(module, name, None) is make:
        file = getattr(module, "__file__", None)
        if module_name == "__main__" or module_name.startswith("_hanse_app_"):
            if file is not None and Path(file).suffix == ".py":
                return {"file": str(Path(file).resolve()), "name": name}
        else:
            return {"module": module_name, "name": name}
    raise ConfigError(
        "processes: expected a function or class at the top level of a module file that makes the module, since other "
        f"processes must find it; found {name or type(make).__name__}"
    )
