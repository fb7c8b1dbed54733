"""`hs.simulate`: the call, its arguments, and what must be true before anything starts."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hanse.channels.app import RolePlay
from hanse.clients.app import App
from hanse.clients.failures import SHOWN, text_of
from hanse.clients.loader import AnyApp, stop_if_loading
from hanse.clients.peers import Peers
from hanse.clients.server import ServerRuntime, StrategyContext
from hanse.clients.threads import num_threads, set_threads
from hanse.core.arrays import Arrays
from hanse.core.blocking import run_to_end
from hanse.core.errors import ConfigError, JobFailed, NotFoundError, TaskError
from hanse.core.ids import new_job_id
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.result import Result
from hanse.rounds.telling import Observer
from hanse.simulation import engines
from hanse.simulation.checkpoint import Checkpoints
from hanse.simulation.engine import Engine
from hanse.simulation.garbage import collect_rarely
from hanse.simulation.models import COMPONENT
from hanse.simulation.progress import Bar
from hanse.simulation.roles import simulate_roles
from hanse.simulation.shell import Shell
from hanse.simulation.sites import DataSets, Loader, Places, Population, population_of, to_stderr
from hanse.simulation.tracebacks import Tracebacks
from hanse.simulation.traces import Availability, Durations, LogNormal, traces_of
from hanse.strategies import Strategy, named
from hanse.strategies.asynchronous import Asynchronous
from hanse.strategies.catalogue import CUSTOM
from hanse.tracking import Tracking
from hanse.tracking.events import follower, settings_of

ASYNCHRONOUS_S = 1.0
"""Median of the virtual seconds that a site takes where an asynchronous strategy is given no durations."""


def simulate(
    app: AnyApp,
    sites: Population | Mapping[str, DataSets] | Sequence[str] | int,
    *,
    engine: str = "auto",
    replicas: int | None = None,
    resources: Mapping[str, float] | None = None,
    mixed_hardware: bool = False,
    reproducible: bool = True,
    durations: Durations | float | None = None,
    availability: Availability | None = None,
    roles: Mapping[str, str | Sequence[str]] | None = None,
    server: DataSets | None = None,
    outputs: Result | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> Result:
    """Run an app with virtual sites on this machine.

    Args:
        app: the app.
        sites: site name → data sets; or only names, or their number, for apps that load nothing; or
            `hs.Population`, whose sites cost nothing until they are sampled.
        engine: where client code runs: `sequential`, one site after another in this process; `replicas`, in processes
            of our own, for apps in a module file; `ray`, on a Ray cluster; `auto` measures a few sites and chooses
            among those on this machine. All give the same bits. `batched` trains many sites in one kernel where the
            training is declared (`numpy-batched`, `torch-batched`: with that kernel only); its result is that of the
            others up to rounding.
        replicas: how many processes, or actors on Ray; by default one for each core. With `batched`, 2 or more stack in
            each.
        resources: of each actor on Ray, such as `{"num_gpus": 0.25}`.
        reproducible: `auto` may choose `batched` only where this is False.
        mixed_hardware: take replicas whose numerics fingerprint differs; then bits are not comparable.
        durations: virtual seconds that a site takes, a number or a function of a visit such as
            `hs.traces.LogNormal()`. Then deadlines, grace and quorum act in virtual time, and `RoundRecord.time_s` says
            when a round was over. By default no time passes; with an asynchronous strategy sites differ as
            `hs.traces.LogNormal(1.0)` says.
        roles: of an `hs.RoleApp`, the site or sites of each role; of the other arguments only `outputs` and
            `observer` are for it.
        outputs: of an `hs.RoleApp` with `outputs_of`, the result of the earlier simulation.
        server: data sets that the server holds, which `@app.evaluate_on_server` loads.
        availability: who answers, a function of a visit such as `hs.traces.Diurnal()`.
        checkpoint: a folder in which the run is kept after a round.
        checkpoint_every: rounds between two of them.
        resume: go on with the run that is kept there, if there is one, on the engine on which it was begun.
        progress: show bars over rounds and sites; by default when the terminal shows standard error.
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
    population = population_of(sites)
    if isinstance(app, RolePlay):
        played = app.spec({"peer": population.names} if isinstance(app, Peers) and roles is None else roles)
        load = {name: Loader(population, name) for name in played.sites if name in population.names}
        given, tell = Arrays() if outputs is None else outputs.arrays, observer or (lambda event: None)
        with Tracebacks() as shown_once:
            return run_to_end(simulate_roles(app, played, load, tell, given, shown_once.take))
    if roles is not None:
        raise ConfigError("roles: expected none for an hs.App, which asks all sites the same; leave them out")
    spec = app.spec()
    if spec.groups is not None:
        raise ConfigError("app: its sites are groups; write hs.simulate_hierarchy(app, {group: {member: data}})")
    check_fits(spec, len(population))
    if resume and checkpoint is None:
        raise ConfigError("resume: expected checkpoint=FOLDER beside it, found none")
    shown = sys.stderr.isatty() if progress is None else progress
    before = num_threads()
    set_threads(spec.threads)
    runs_on: Engine | None = None
    tracking: Tracking | None = None
    tracebacks = Tracebacks()
    collecting = collect_rarely()
    try:
        runtime = ServerRuntime(app, held(server or {}), rest=SHOWN)
        strategy = strategy_of(app, spec, runtime, population.names)
        if durations is None and (strategy.order == "receipt" or isinstance(strategy, Asynchronous)):
            durations = LogNormal(ASYNCHRONOUS_S)  # it lives by the differences between sites
        traces = traces_of(durations, availability)
        folder = None if checkpoint is None else Checkpoints(checkpoint, resume=resume, every=checkpoint_every)
        kept = folder.load() if folder is not None and folder.exists else None
        if kept is not None:
            kept.check(spec, virtual=traces.virtual, mixed_hardware=mixed_hardware)
            engine = engines.resumed(engine, kept.engine)
        state = machine.begin(new_job_id(), COMPONENT, spec) if kept is None else kept.state
        done = max(0, state.round - 1)
        runs_on = engines.make_engine(
            engine,
            Places(app, population, failed=tracebacks.take),
            replicas=replicas,
            mixed_hardware=mixed_hardware,
            resources=resources,
            reproducible=reproducible,
            rounds=spec.rounds - done,
            settings=None if kept is None else kept.engine["settings"],
        )
        tracking = None if app.tracking is None else Tracking(app.tracking, say=to_stderr)
        with tracebacks, Bar(spec.rounds, shown, done=done) as advance:
            tracked = None if tracking is None else follower(tracking, settings_of(spec), population.names)
            observers = [watch for watch in (advance, observer, tracked) if watch is not None]
            shell = Shell(app, strategy, runtime, population, runs_on, traces, state, observers)
            if folder is not None:
                shell.on_checkpoint = partial(folder.save, engine=runs_on)
            if kept is None:
                shell.begin(app.initial_arrays)
            else:
                shell.mixed = kept.mixed
                kept.restore(shell)
            result = shell.run()
    finally:
        if runs_on is not None:
            runs_on.close()
        set_threads(before)
        if tracking is not None:
            tracking.close()
        collecting()
    if result.status == "failed":
        raise JobFailed(result.error, result)
    return result


def held(data: DataSets) -> Callable[[str], Any] | None:
    """How the app's server side loads what the server holds; None where that is nothing."""
    if not data:
        return None

    def load(name: str) -> Any:
        if name not in data:
            known = ", ".join(sorted(data))
            raise NotFoundError(f"data set {name[:60]!r}: expected one of hs.simulate(server={{...}}): {known}")
        return data[name]

    return load


def check_fits(spec: RunSpec, num_sites: int) -> None:
    """Refuse what so many sites can never do.

    Raises:
        ConfigError: which argument of the app.
    """
    wanted: dict[str, Any] = {"quorum": spec.quorum, "min_sites": spec.min_sites}
    if type(spec.sample) is int:
        wanted["sample"] = spec.sample
    for name, value in wanted.items():
        if value is not None and value > num_sites:
            raise ConfigError(f"{name}: expected at most the {num_sites} sites that there are, found {value}")


def strategy_of(app: App, spec: RunSpec, server: ServerRuntime, sites: Sequence[str]) -> Strategy:
    """The app's strategy: built in, given, or made by its own function.

    Raises:
        JobFailed: its function raised, or returned something else.
    """
    if app.given_strategy is not None:
        return app.given_strategy
    if spec.strategy == CUSTOM:
        try:
            return server.strategy(StrategyContext(spec, tuple(sites)))
        except TaskError as error:
            if error.__cause__ is not None:
                to_stderr(text_of(error.__cause__))
            raise JobFailed(f"the app's server side: {error}") from None
    return named(spec.strategy, spec.params)
