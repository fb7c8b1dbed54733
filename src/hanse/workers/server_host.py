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

from hanse.core.arrays import Array, Arrays
from hanse.core.blobs import Manifest, content_hash, rechunk
from hanse.core.codec import encode_parts, encoded_size
from hanse.core.errors import ConfigError, NotFoundError, RefusedError, TaskError, UnavailableError
from hanse.core.records import Metrics
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest
from hanse.rounds.hosts.local import LocalHost, adopt
from hanse.strategies import named
from hanse.strategies.catalogue import CUSTOM, catalogue
from hanse.workers.answers import Called
from hanse.workers.handle import Worker
from hanse.workers.load import Load
from hanse.workers.pool import Workers

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
        self._is_closed = False
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
        if self._local is not None:
            return await self._local.reduce(request)
        if request.kind == "metrics":
            return ReduceAnswer(request.model, request.state, memory=request.memory)
        if request.kind == "adopt":
            return await adopt(request, self._blobs)
        return await self._reduce_there(request)

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        content = await self._content(model)
        called = await self._call("evaluate", {"round": round_}, {"model": content})
        metrics: Metrics = called.value
        return metrics

    async def close(self) -> None:
        """End the worker. A call that it was busy with is unavailable, and not failed."""
        self._is_closed = True
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        await asyncio.to_thread(shutil.rmtree, self._load.scratch.parent, ignore_errors=True)

    # ---- an app's own strategy ----

    async def _reduce_there(self, request: ReduceRequest) -> ReduceAnswer:
        """The worker reads the updates' files, reduces, and answers the new model and states as one set of arrays."""
        arrays: dict[str, bytes | Path] = {}
        refused: dict[int, str] = {}
        for member in request.members:
            update = member.reply.update
            if update is None:
                continue
            try:
                key = (update.scope, update.id)
                content = update.content if update.content is not None else await self._content(key)
                arrays[f"update/{member.ordinal}"] = content
            except (NotFoundError, RefusedError) as error:
                refused[member.ordinal] = f"cannot be read: {type(error).__name__}: {error}"
        if refused:
            return ReduceAnswer(None, refused=refused)
        if request.model is not None:
            arrays["model"] = await self._content(request.model)
        for index, key in enumerate(request.state):
            arrays[f"state/{index}"] = await self._content(key)
        out = self._load.scratch.parent / "reduced"
        called = await self._call("reduce", request.to_json(), arrays, out=out)
        refused = {int(ordinal): str(reason) for ordinal, reason in called.value.get("refused", {}).items()}
        if refused:
            return ReduceAnswer(None, refused=refused)
        parts: dict[str, dict[str, Array]] = {}
        for name, array in (called.arrays or {}).items():
            part, _, inner = name.partition("/")
            parts.setdefault(part, {})[inner] = array
        keys = [await self._store(request.scope, Arrays(parts[part])) for part in sorted(parts)]
        await asyncio.to_thread(out.unlink, missing_ok=True)
        return ReduceAnswer(keys[0] if keys else None, tuple(keys[1:]), memory=called.value["memory"])

    async def _store(self, scope: str, arrays: Arrays) -> BlobKey:
        """Chunk by chunk, so that there is no second copy of a model."""

        def describe() -> Manifest:
            hashes = [content_hash(chunk) for _, chunk in rechunk(encode_parts(arrays))]
            return Manifest(encoded_size(arrays.layout), b"".join(hashes))

        manifest = await asyncio.to_thread(describe)
        await self._blobs.put(scope, manifest, rechunk(encode_parts(arrays)))
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
            try:
                worker = await self._ready()
                return await worker.call(name, arguments, arrays, out=out, timeout_s=CALL_S)
            except TaskError as error:
                if self._is_closed and error.kind in LOST:  # by us: no fault of the app's, and the run goes on later
                    raise UnavailableError("the server is being stopped") from None
                raise

        async with self._turn:
            return await _repeated(attempt)

    async def _ready(self) -> Worker:
        if self._is_closed:
            raise UnavailableError("the server is being stopped")
        if self._worker is None or not self._worker.alive:
            self._load.scratch.mkdir(parents=True, exist_ok=True)
            self._worker = await self._workers.spawn(threads=self._spec.threads, on_log=self._log)
            try:
                await self._worker.load(self._load, timeout_s=CALL_S)
            except (TaskError, ConfigError) as error:
                await self._worker.close()
                self._worker = None
                if isinstance(error, TaskError):
                    raise
                raise TaskError("refused", f"no worker for the app's server side: {error}") from None
        return self._worker


async def _repeated(attempt: Callable[[], Awaitable[T]]) -> T:
    for left in range(REPEATS - 1, -1, -1):
        try:
            return await attempt()
        except TaskError as error:
            if error.kind not in LOST or not left:
                raise
    raise AssertionError("unreachable")
