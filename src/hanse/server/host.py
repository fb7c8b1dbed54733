"""Where an app's server side runs: a worker process of the server, one a job, from the approved bundle.

Built-in strategies plan and reduce in the server itself; an app's own strategy, configuration and evaluation run in
the worker. Each call is a pure function of its arguments, so a call whose worker dies is repeated by a fresh one.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode_parts
from hanse.core.errors import ConfigError, TaskError
from hanse.core.records import Metrics
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.host import (
    LocalHost,
    PlanAnswer,
    PlanRequest,
    ReduceAnswer,
    ReduceRequest,
    wrong_updates,
)
from hanse.strategies import named
from hanse.strategies.catalogue import CUSTOM, catalogue
from hanse.workers.load import Load
from hanse.workers.pool import Called, Worker, Workers

CALL_S = 3600.0
"""A call of server-side code that takes longer is killed."""
REPEATS = 3
LOST = ("killed", "exited", "lost")

T = TypeVar("T")


class ServerHost:
    """A `StrategyHost` for one job at the server.

    Args:
        load: what the worker loads; its scratch folder is made here.
        log: takes each line that the app prints.
    """

    def __init__(
        self,
        spec: RunSpec,
        blobs: BlobStore,
        workers: Workers,
        load: Load,
        *,
        threads: int,
        log: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._blobs = blobs
        self._workers = workers
        self._load = load
        self._log = log
        self._worker: Worker | None = None
        self._turn = asyncio.Lock()
        self._own = spec.strategy == CUSTOM or spec.strategy not in catalogue()
        self._local = None if self._own else LocalHost(named(spec.strategy, spec.params), spec, blobs, threads=threads)

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        if self._local is None:
            answer = PlanAnswer.from_json((await self._call("plan", request.to_json())).value)
        else:
            answer = await self._local.plan(request)
        if not self._spec.server_config:
            return answer
        sites = sorted({ask.site for ask in answer.plan.asks})
        configs = (await self._call("config", {"round": request.round, "sites": sites})).value
        asks = tuple(replace(ask, config={**ask.config, **configs[ask.site]}) for ask in answer.plan.asks)
        return replace(answer, plan=replace(answer.plan, asks=asks))

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        if self._local is not None or request.kind != "fold":
            return await (self._local or LocalHost(named("fedavg", {}), self._spec, self._blobs)).reduce(request)
        refused = wrong_updates(request, next(iter(request.members)).reply.update_kind)
        if refused:
            return ReduceAnswer(None, refused=refused)
        return await self._reduce_there(request)

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        content = await self._content(model)
        called = await self._call("evaluate", {"round": round_}, {"model": content})
        metrics: Metrics = called.value
        return metrics

    async def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        await asyncio.to_thread(shutil.rmtree, self._load.scratch.parent, ignore_errors=True)

    # ---- an app's own strategy ----

    async def _reduce_there(self, request: ReduceRequest) -> ReduceAnswer:
        """The worker reads the updates' files, reduces, and answers the new model and states as one set of arrays."""
        arrays: dict[str, bytes | Path] = {}
        for member in request.members:
            update = member.reply.update
            assert update is not None  # wrong_updates has refused it otherwise
            key = (update.scope, update.id)
            arrays[f"update/{member.ordinal}"] = (
                update.content if update.content is not None else await self._content(key)
            )
        if request.model is not None:
            arrays["model"] = await self._content(request.model)
        for index, key in enumerate(request.state):
            arrays[f"state/{index}"] = await self._content(key)
        out = self._load.scratch.parent / "reduced"
        called = await self._call("reduce", request.to_json(), arrays, out=out)
        if called.value.get("refused"):
            return ReduceAnswer(None, refused={int(o): str(r) for o, r in called.value["refused"].items()})
        made = called.arrays
        if made is None:
            raise TaskError("bad_reply", "the app's strategy answered no arrays")
        parts: dict[str, dict[str, Any]] = {}
        for name, array in made.items():
            part, _, inner = name.partition("/")
            parts.setdefault(part, {})[inner] = array
        keys = [await self._store(request.scope, Arrays(parts[part])) for part in sorted(parts)]
        return ReduceAnswer(keys[0], tuple(keys[1:]))

    async def _store(self, scope: str, arrays: Arrays) -> BlobKey:
        content = b"".join(encode_parts(arrays))
        manifest = manifest_of(content)
        await self._blobs.put(scope, manifest, rechunk([content]))
        return scope, manifest.id

    async def _content(self, key: BlobKey) -> bytes | Path:
        path = await asyncio.to_thread(self._blobs.path, *key)
        if path is not None:
            return path
        manifest = await self._blobs.manifest(*key)
        return bytes(self._blobs.read(*key, 0, manifest.size))

    # ---- the worker ----

    async def _call(
        self, name: str, arguments: Any, arrays: Mapping[str, bytes | Path] | None = None, *, out: Path | None = None
    ) -> Called:
        async def attempt() -> Called:
            worker = await self._ready()
            return await worker.call(name, arguments, arrays, out=out, timeout_s=CALL_S)

        async with self._turn:
            return await _repeated(attempt)

    async def _ready(self) -> Worker:
        if self._worker is None or not self._worker.alive:
            self._load.scratch.mkdir(parents=True, exist_ok=True)
            self._worker = await self._workers.spawn(threads=self._spec.threads, on_log=self._log)
            try:
                await self._worker.load(self._load, timeout_s=CALL_S)
            except (TaskError, ConfigError):
                await self._worker.close()
                self._worker = None
                raise
        return self._worker


async def _repeated(attempt: Callable[[], Awaitable[T]]) -> T:
    for left in range(REPEATS - 1, -1, -1):
        try:
            return await attempt()
        except TaskError as error:
            if error.kind not in LOST or not left:
                raise
    raise AssertionError("unreachable")
