"""The inline runner: every site in this process, one after another, over the memory backends.

It drives the same machine and strategies as a federation does, and its tasks and replies pass through the same wire
form, so the final arrays are those of a real federation, bit for bit, where the numerics fingerprints agree.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hanse.backends.memory import Grants, MemoryBlobs, MemoryLedger
from hanse.channels.app import RoleApp
from hanse.clients.app import App
from hanse.clients.execute import Runtime
from hanse.clients.failures import failure_of, text_of
from hanse.clients.loader import AnyApp, stop_if_loading
from hanse.clients.server import ServerRuntime, StrategyContext
from hanse.clients.threads import num_threads, set_threads
from hanse.core.arrays import Arrays
from hanse.core.blobs import INLINE_BYTES, manifest_of, rechunk
from hanse.core.blocking import run_to_end
from hanse.core.codec import decode, encode_parts
from hanse.core.errors import ConfigError, HanseError, JobFailed, PolicyError, TaskError
from hanse.core.ids import check_name, model_scope, new_job_id, upload_scope
from hanse.core.records import BlobRef, Envelope, Metrics, Reply, Task
from hanse.core.seams import BlobStore, Delivery
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.clock import LoopClock
from hanse.rounds.driver import Observer, Run, Seams
from hanse.rounds.events import BlobKey
from hanse.rounds.host import LocalHost, PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest
from hanse.rounds.result import Result
from hanse.simulation.roles import simulate_roles
from hanse.strategies import Strategy, named
from hanse.strategies.catalogue import CUSTOM

COMPONENT = "main"
DataSets = Mapping[str, Any]
"""Data set name → the data as `site.load` returns it, or a callable without arguments that makes it."""


def simulate(
    app: AnyApp,
    sites: Mapping[str, DataSets] | Sequence[str],
    *,
    roles: Mapping[str, str | Sequence[str]] | None = None,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> Result:
    """Run an app with virtual sites in this process.

    Args:
        app: the app.
        sites: site name → data sets; or only names, for apps that load nothing.
        roles: of an `hs.RoleApp`, the site or sites of each role.
        progress: show a bar over rounds; by default when the terminal shows standard error.
        observer: called with every event (phase, reply, round, finished) as a dict.

    Returns:
        The result; `.arrays` is the final model.

    Raises:
        ConfigError: a wrong argument. JobFailed: the run failed; its `result` holds what there is.

    Example:
        >>> import numpy as np
        >>> import hanse as hs
        >>> app = hs.App(rounds=2, initial=[np.zeros(2)])
        >>> @app.train
        ... def train(arrays, config, site):
        ...     return [arrays["0"] + 1], 1, {}
        >>> hs.simulate(app, ["a", "b"], progress=False).arrays["0"]
        array([2., 2.])
    """
    stop_if_loading()
    data = dict(sites) if isinstance(sites, Mapping) else {site: {} for site in sites}
    if not data:
        raise ConfigError("sites: expected at least one, found none")
    for site in data:
        check_name(site, "site")
    if isinstance(app, RoleApp):
        played = app.spec(roles)
        load = {name: partial(_load, name, sets) for name, sets in data.items()}
        return run_to_end(simulate_roles(app, played, load, observer or (lambda event: None)))
    if roles is not None:
        raise ConfigError("roles: expected none for an hs.App, which asks all sites the same; leave them out")
    spec = app.spec()
    shown = sys.stderr.isatty() if progress is None else progress
    before = num_threads()
    set_threads(spec.threads)
    try:
        with _bar(spec.rounds, shown) as advance:
            observers = [advance, *([observer] if observer is not None else [])]
            result = run_to_end(_simulate(app, spec, data, observers))
    finally:
        set_threads(before)
    if result.status == "failed":
        raise JobFailed(result.error, result)
    return result


async def _simulate(app: App, spec: RunSpec, data: Mapping[str, DataSets], observers: list[Observer]) -> Result:
    job = new_job_id()
    inbox, blobs = _Outbox(), MemoryBlobs()
    seams = Seams(MemoryLedger(), blobs, inbox, Grants(blobs), private=True)
    server = ServerRuntime(app)
    local = LocalHost(
        strategy_of(app, spec, server, tuple(data)),
        spec,
        seams.blobs,
        config=server.config if spec.server_config else None,
        evaluate=server.evaluate if spec.server_evaluate else None,
    )
    host = _ServerSide(app, local)
    model = await store_initial(seams, job, app.initial_arrays)
    run = await Run.create(machine.begin(job, COMPONENT, spec, model), seams, host, LoopClock())
    run.observers.extend(observers)
    run.finished.add_done_callback(inbox.wake)
    models = _Models(blobs)
    virtual = {name: VirtualSite(name, app, sets, seams, models) for name, sets in data.items()}
    await run.start()
    await run.sites_changed(tuple(virtual))
    while not run.finished.done():
        envelope = await inbox.next(run.finished)
        if envelope is not None and envelope.kind == "task":
            task = Task.unpack(envelope.body)
            await run.take(await virtual[task.site].answer(task))
            await run.settle()
    await run.finished
    result = await run.result()
    await run.close()
    return result


@dataclass(slots=True)
class VirtualSite:
    """One site: its data, its client and its state."""

    name: str
    app: App
    data: DataSets
    seams: Seams
    models: "_Models"
    runtime: Runtime | None = None
    state: bytes | None = None

    async def answer(self, task: Task) -> Reply:
        """Execute one task."""
        if self.runtime is None:
            self.runtime = Runtime(
                self.app, site_name=self.name, load=partial(_load, self.name, self.data), log=_to_stderr
            )
        # The answer is encoded before the site is asked again, so it need not be copied.
        outcome = self.runtime.execute(task, self.models.get(task.model), self.state, lend=True)
        self.state = outcome.state
        if outcome.arrays is None:
            return outcome.reply
        return await self._with_update(outcome.reply, task, outcome.arrays)

    async def _with_update(self, reply: Reply, task: Task, arrays: Arrays) -> Reply:
        content = b"".join(encode_parts(arrays))
        if len(content) <= INLINE_BYTES:
            return replace(reply, update=BlobRef.inline(content))
        manifest, scope = manifest_of(content), upload_scope(task.id, self.name)
        await self.seams.blobs.put(scope, manifest, rechunk([content]))
        return replace(reply, update=BlobRef(manifest, scope))


def _load(site: str, data: DataSets, dataset: str) -> Any:
    if dataset not in data:
        known = ", ".join(sorted(data)) or "none"
        raise PolicyError(f"site {site}: data set {dataset!r} is not declared; declared are: {known}")
    value = data[dataset]
    return value() if callable(value) else value


class _Models:
    """The model of the tasks at hand as arrays, the same for every site: user code gets copies."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._last: tuple[str, Arrays] | None = None

    def get(self, ref: BlobRef | None) -> Arrays | None:
        """The arrays that a task names."""
        if ref is None:
            return None
        if self._last is None or self._last[0] != ref.id:
            content = ref.content or self._blobs.read(ref.scope, ref.id, 0, ref.manifest.size)
            self._last = ref.id, decode(content)
        return self._last[1]


class _ServerSide:
    """The app's server side in this process: a failure becomes the error that a worker would make of it.

    The worker's log holds the traceback there; here it goes to standard error.
    """

    def __init__(self, app: App, host: LocalHost) -> None:
        self._host = host
        file = app.module_globals.get("__file__")
        self._directory = Path(file).parent if isinstance(file, str) else None

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        with self._named():
            return await self._host.plan(request)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        with self._named():
            return await self._host.reduce(request)

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        with self._named():
            return await self._host.evaluate(model, round_)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except HanseError as error:
            if error.__cause__ is not None:
                _to_stderr(text_of(error.__cause__))
            raise
        except (Exception, SystemExit) as error:
            _to_stderr(text_of(error))
            raise TaskError(*failure_of(error, self._directory, log="traceback above")) from error


class _Outbox:
    """What the run sends, in order, for one loop that plays every site."""

    def __init__(self) -> None:
        self._waiting: deque[Envelope] = deque()
        self._arrived = asyncio.Event()

    def wake(self, _: object) -> None:
        """The run is over: nothing more will come."""
        self._arrived.set()

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        self._waiting.append(envelope)
        self._arrived.set()

    async def next(self, finished: "asyncio.Future[str]") -> Envelope | None:
        """The next message; None once the run is over."""
        while not self._waiting and not finished.done():
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft() if self._waiting else None

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        raise NotImplementedError("the inline runner takes messages in order of sending")

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Nothing comes again."""

    async def ack(self, receipts: Sequence[str]) -> None:
        """Nothing comes again."""


def strategy_of(app: App, spec: RunSpec, server: ServerRuntime, sites: Sequence[str]) -> Strategy:
    """The app's strategy: built in, given, or made by its own function.

    Raises:
        JobFailed: its function raised, or returned something else.
    """
    if app.given_strategy is not None:
        return app.given_strategy
    if spec.strategy == CUSTOM:
        try:
            return server.strategy(StrategyContext(spec, tuple(sorted(sites))))
        except TaskError as error:
            if error.__cause__ is not None:
                _to_stderr(text_of(error.__cause__))
            raise JobFailed(f"the app's server side: {error}") from None
    return named(spec.strategy, spec.params)


async def store_initial(seams: Seams, job: str, arrays: Arrays | None) -> BlobKey | None:
    """Keep the arrays that the job brought; None if a site will be asked."""
    if arrays is None:
        return None
    content = b"".join(encode_parts(arrays))
    manifest, scope = manifest_of(content), model_scope(job, COMPONENT, 0)
    await seams.blobs.put(scope, manifest, rechunk([content]))
    return scope, manifest.id


class _bar:
    """A bar over rounds on standard error, or nothing."""

    def __init__(self, rounds: int, shown: bool) -> None:
        self._progress: Any = None
        if shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                "[bold]rounds",
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[last]}"),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("", total=rounds, last="")

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if self._progress is not None:
            self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _advance(self, event: dict[str, Any]) -> None:
        if self._progress is not None and event["what"] == "round" and event["record"]["number"] > 0:
            metrics = event["record"]["metrics"]
            shown = [f"{k}={v:.4g}" for k, v in metrics.items() if isinstance(v, float) and "train_" not in k][:3]
            self._progress.update(self._task, advance=1, last="  ".join(shown))


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
