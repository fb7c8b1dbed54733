"""Peers without a server, in this process: every site of an app is a role program of `hanse.peer`.

The app's client side is what a federation runs, with the same streams of random numbers for the same round and site.
It has no strategy: what a server would do is done by the topology. Every peer must take part in every round.
"""

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hanse.aggregation.rounding import is_float, round_to
from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.clients.app import App
from hanse.clients.loader import stop_if_loading
from hanse.clients.peers import config_of, first_peer, without_server
from hanse.clients.site_trainer import SiteTrainer
from hanse.clients.threads import num_threads, set_threads
from hanse.core.arrays import Array, Arrays, Layout
from hanse.core.blocking import run_to_end
from hanse.core.errors import ConfigError, HanseError, JobFailed
from hanse.core.ids import new_job_id
from hanse.core.records import Value
from hanse.core.spec import RunSpec
from hanse.peer.topologies import Gossip, Topology, planned
from hanse.rounds.record import RoundRecord, mean_metrics, site_metrics
from hanse.rounds.result import Result
from hanse.rounds.telling import Observer
from hanse.simulation.progress import Bar
from hanse.simulation.sites import DataSets, Loader, Population, population_of, to_stderr
from hanse.simulation.tracebacks import Tracebacks

DISAGREEMENT = "disagreement"
"""A round's metric: the root mean square distance of the peers' models from their mean."""
Program = Callable[[Party], Awaitable[Array]]


@dataclass(frozen=True, slots=True)
class PeersResult:
    """What peers ended with.

    Args:
        result: as of any run; its arrays are the mean of the peers' models, its rounds have the metric `disagreement`.
        models: every peer's own last model.
    """

    result: Result
    models: Mapping[str, Arrays]

    @property
    def arrays(self) -> Arrays:
        """The mean of the peers' models."""
        return self.result.arrays

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """One record a round."""
        return self.result.rounds

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last round's metrics."""
        return self.result.metrics


def simulate_peers(
    app: App,
    sites: Population | Mapping[str, DataSets] | Sequence[str] | int,
    topology: Topology | None = None,
    *,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> PeersResult:
    """Run an app without a server, every site as a peer, in this process.

    Args:
        app: its client side and settings; the strategy is left out.
        sites: as in `hs.simulate`; two at least.
        topology: `Gossip()` on a ring by default, `RingAllReduce()` or `Cyclic()`.
        progress: show bars over rounds and peers; by default when the terminal shows standard error.
        observer: called with every event (phase, reply, round, finished) as a dict. A phase is one round of all peers,
            and a reply that one of them has ended it.

    Raises:
        ConfigError: a wrong argument, or a setting that needs a server. JobFailed: a peer failed, by name.

    Example:
        >>> import numpy as np
        >>> import hanse as hs
        >>> app = hs.App(rounds=3, initial=[np.zeros(1)])
        >>> @app.train
        ... def train(arrays, config, site):
        ...     return [arrays["0"] + len(site.name)], 1, {}
        >>> hs.simulate_peers(app, ["a", "bbb"], hs.RingAllReduce()).arrays["0"].tolist()
        [6.0]
    """
    stop_if_loading()
    population = population_of(sites)
    if len(population) < 2:
        raise ConfigError(f"sites: expected two peers at least, found {len(population)}")
    chosen = Gossip() if topology is None else topology
    spec = without_server(app)
    shown = sys.stderr.isatty() if progress is None else progress
    before = num_threads()
    set_threads(spec.threads)
    try:
        with Tracebacks() as tracebacks, Bar(spec.rounds, shown) as advance:
            observers = [watch for watch in (advance, observer) if watch is not None]
            return _Run(app, spec, population, chosen, tracebacks, observers).run()
    finally:
        set_threads(before)


class _Run:
    """All peers of one run."""

    def __init__(
        self,
        app: App,
        spec: RunSpec,
        population: Population,
        topology: Topology,
        tracebacks: Tracebacks,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._observers = observers
        self._app, self._spec, self._topology = app, spec, topology
        self._job = new_job_id()
        self._names = sorted(population.names)
        config = config_of(app, spec)
        self._peers = {
            name: SiteTrainer(name, app, spec, Loader(population, name), self._job, config, to_stderr, tracebacks.take)
            for name in self._names
        }
        self._vectors: dict[int, list[Array]] = {}
        self._distances: dict[int, float] = {}
        self._saved = 0
        for name, peer in self._peers.items():
            peer.told = partial(self._hear, name)

    def run(self) -> PeersResult:
        """Run it to its end."""
        started = time.monotonic()
        try:
            initial = self._initial()
            for peer in self._peers.values():
                peer.begin(initial)
            programs, protocol = self._programs()
            self._tell_begun(1)
            last = run_to_end(run_local(protocol, programs, timeout_s=self._spec.deadline_s))
        except ConfigError:
            raise
        except HanseError as error:
            result = Result("failed", job=self._job, error=str(error), sites=tuple(self._names))
            self._tell("finished", status=result.status, error=result.error)
            raise JobFailed(str(error), result) from None
        models = {name: self._peers[name].arrays(last[name]) for name in self._names}
        records = [self._record(round_) for round_ in range(1, self._spec.rounds + 1)]
        self._tell("finished", status="finished", error="")
        result = Result(
            "finished",
            arrays=_mean(models),
            rounds=tuple(records),
            job=self._job,
            sites=tuple(self._names),
            seconds=time.monotonic() - started,
            fingerprints={name: peer.fingerprint for name, peer in self._peers.items()},
            about={"Topology": repr(self._topology)},
        )
        return PeersResult(result, models)

    def _initial(self) -> Arrays:
        """What all begin from: given, or what one peer says, chosen by the seed as a server would."""
        if self._app.initial_arrays is not None:
            return self._app.initial_arrays
        return self._peers[first_peer(self._names, self._spec.seed)].parameters()

    def _programs(self) -> tuple[dict[str, Program], Protocol]:
        start = self._peers[self._names[0]].start
        spec, dtype = self._spec, str(start.dtype)
        plan = planned(
            self._topology,
            self._names,
            spec.seed,
            dtype,
            start.size,
            self._app.compression,
            allow_nonfinite=spec.allow_nonfinite,
        )
        self._saved = plan.saved

        def program(trainer: SiteTrainer) -> Program:
            async def run(party: Party) -> Array:
                trainer.party = party
                await asyncio.sleep(0)
                return await plan.program(party, trainer, start, self._spec.rounds, 0, {})

            return run

        return {name: program(self._peers[name]) for name in self._names}, plan.protocol

    def _tell(self, what: str, **facts: Any) -> None:
        for observer in self._observers:
            observer({"what": what, "job": self._job, **facts})

    def _tell_begun(self, round_: int) -> None:
        if round_ <= self._spec.rounds:
            self._tell("phase", round=round_, phase="train", asked=len(self._names))

    def _tell_ended(self, name: str, round_: int) -> None:
        """One peer has ended a round; in events it is a reply."""
        said = self._peers[name].said[-1]
        count, metrics = said.answers["train"]
        plain = {key: value for key, value in metrics.items() if not isinstance(value, bytes)}
        facts = {"metrics": plain, "num_examples": count, "seconds": said.seconds}
        self._tell("reply", round=round_, phase="train", site=name, error="", **facts)

    def _hear(self, name: str, round_: int, vector: Array) -> None:
        """Once the last peer has ended the round: how far they are apart. Their vectors are let go of then."""
        if self._observers:
            self._tell_ended(name, round_)
        vectors = self._vectors.setdefault(round_, [])
        vectors.append(vector)
        if len(vectors) == len(self._names):
            mean = sum(vectors[1:], vectors[0].astype(np.float64)) / len(vectors)
            squares = [float(np.square(each - mean).sum()) for each in self._vectors.pop(round_)]
            self._distances[round_] = math.sqrt(math.fsum(squares) / len(squares))
            if self._observers:
                self._tell("round", record=self._record(round_).to_json())
                self._tell_begun(round_ + 1)

    def _record(self, round_: int) -> RoundRecord:
        said = {name: peer.said[round_ - 1] for name, peer in self._peers.items()}
        by_site: dict[str, dict[str, Value]] = {name: {} for name in said}
        metrics: dict[str, float] = {}
        for phase in ("train", "evaluate"):
            answers = {name: each.answers[phase] for name, each in said.items() if phase in each.answers}
            metrics.update(mean_metrics(phase, answers.values()))
            for name, (count, found) in answers.items():
                by_site[name].update(site_metrics(phase, found))
                if count:
                    by_site[name][f"{phase}_examples"] = count
        metrics[DISAGREEMENT] = self._distances[round_]
        saved = {"saved": self._saved} if self._saved else {}
        return RoundRecord(
            number=round_,
            folded=tuple(self._names),
            metrics=metrics,
            by_site=by_site,
            seconds_by_phase={"train": max(each.seconds for each in said.values())},
            bytes={"down": 0, "up": sum(each.sent_bytes for each in said.values()), **saved},
        )


def _mean(models: Mapping[str, Arrays]) -> Arrays:
    """Of floats; integers as the first peer has them."""
    layout: Layout = next(iter(models.values())).layout
    made = []
    for spec in layout.specs:
        arrays = [model[spec.name] for model in models.values()]
        if not is_float(spec.dtype):
            made.append((spec.name, arrays[0]))
            continue
        total = np.zeros(spec.size)
        for array in arrays:
            total += array.reshape(-1).astype(np.float64)
        rounded = round_to(total / len(arrays), spec.dtype, allow_nonfinite=True)
        assert rounded is not None
        made.append((spec.name, rounded.reshape(spec.shape)))
    return Arrays(made)
