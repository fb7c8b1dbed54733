"""Groups of sites with an aggregator of their own, a few of its rounds for one of the server's, in this process.

The algorithm and its paper are in `hanse.strategies.groups`. An edge is a site of the upper federation whose training
is a few rounds of a lower one: the server needs to know nothing of it, and what it sees is one update a group. Edges as
processes of a real federation are `hanse.edge`, with the same bits.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hanse.aggregation import ArraySink, ArraySource
from hanse.clients.app import App, ServerSide
from hanse.clients.client import Answer, Client
from hanse.clients.execute import Outcome, Runtime
from hanse.clients.failures import OnFailure
from hanse.clients.functions import ClientSide
from hanse.clients.server import ServerRuntime
from hanse.clients.site import Site
from hanse.core.arrays import Arrays, Layout
from hanse.core.codec import encoded_size
from hanse.core.errors import ConfigError, PolicyError, TaskError
from hanse.core.ids import TaskId, check_name
from hanse.core.records import Config, Task
from hanse.core.spec import RunSpec
from hanse.rounds import causes
from hanse.rounds.hosts.folding import fold
from hanse.rounds.hosts.group import together
from hanse.rounds.hosts.items import Item, update_kind
from hanse.rounds.performing import planned_parameters
from hanse.rounds.result import Result
from hanse.simulation.simulate import simulate
from hanse.simulation.tracebacks import Tracebacks
from hanse.strategies.groups import Groups
from hanse.strategies.strategy import FoldInput

DataSets = Mapping[str, Any]
MEMBER = "member/"
"""What the names of members' states in an edge's `site.state` begin with."""


def simulate_hierarchy(
    app: App, groups: Mapping[str, Mapping[str, DataSets] | Sequence[str]], **options: Any
) -> Result:
    """Run an app with groups of virtual sites, each with an aggregator of its own.

    Args:
        app: one with `groups=hs.Groups(...)`. Its settings and strategy are the server's, and sites are groups there.
        groups: group → member → data sets, or group → names of members.
        options: of `simulate`.

    Returns:
        The result; its sites are the groups.

    Raises:
        ConfigError: a wrong argument. JobFailed: the run failed.

    Example:
        >>> import numpy as np
        >>> import hanse as hs
        >>> app = hs.App(rounds=2, initial=[np.zeros(1)], groups=hs.Groups(rounds=3))
        >>> @app.train
        ... def train(arrays, config, site):
        ...     return [arrays["0"] + 1], 1, {}
        >>> groups = {"north": ["a", "b"], "south": ["c"]}
        >>> hs.simulate_hierarchy(app, groups, progress=False).arrays["0"]
        array([6.])
    """
    members: dict[str, dict[str, DataSets]] = {
        name: dict(found) if isinstance(found, Mapping) else {each: {} for each in found}
        for name, found in groups.items()
    }
    _check(app, members)
    inner = app.groups
    assert inner is not None
    spec, tracebacks = app.spec(), Tracebacks()

    def client(site: Site) -> Client:
        return Edge(app, members[site.name], inner, tracebacks.take)

    top = copy.copy(app)
    top.groups = None
    top.client_side = ClientSide(client=client)
    top.server_side = replace(app.server_side, config=None)
    top._spec = replace(app._spec, evaluate_every=spec.evaluate_every)  # as if it had the parts that it had
    with tracebacks:
        return simulate(top, list(members), **options)


class Edge(Client):
    """A group of sites behind one site: training is a few rounds of its members.

    Members' states are kept in this site's own, so an edge may be replaced between any two tasks.
    """

    def __init__(self, app: App, members: Mapping[str, DataSets], groups: Groups, failed: OnFailure) -> None:
        self._spec: RunSpec = app.spec()
        self._strategy, self._rounds = groups.strategy, groups.rounds
        self._quorum = len(members) if groups.quorum is None else groups.quorum
        server = ServerRuntime(_with_config_alone(app))
        self._config: Callable[[int, str], Config] = server.config
        self._names = sorted(members)
        self._site: Site | None = None
        self._runtimes = {
            name: Runtime(app, site_name=name, load=_loader(name, members[name]), log=self._log, failed=failed)
            for name in self._names
        }

    def parameters(self, config: dict[str, Any], site: Site) -> Any:
        """See `Client`: those of one member, chosen by the seed."""
        self._site = site
        name = planned_parameters(self._spec, self._names, False, 0)[0].site
        return self._sound(name, self._ask(name, "parameters", 0, 0, None, config, site)).arrays

    def train(self, arrays: Arrays, config: dict[str, Any], site: Site) -> Answer:
        """See `Client`: Algorithm 1, lines 4 to 12, of one edge."""
        self._site = site
        model = arrays
        folded: dict[str, Outcome] = {}
        moved = 0
        for step in range(self._rounds):
            number = (site.round - 1) * self._rounds + step + 1
            outcomes = {
                name: self._ask(name, "train", number, place, model, config, site)
                for place, name in enumerate(self._names)
            }
            size = encoded_size(model.layout)
            model, folded = self._folded(outcomes, model, number)
            updates = [each.arrays for each in folded.values() if each.arrays is not None]
            moved += size * len(folded) + sum(encoded_size(update.layout) for update in updates)
        answers = [(each.reply.num_examples, each.reply.metrics) for each in folded.values()]
        return Answer(model, *together(answers, moved))

    def evaluate(self, arrays: Arrays, config: dict[str, Any], site: Site) -> Answer:
        """See `Client`: the members' metrics, weighted by their examples."""
        self._site = site
        number = site.round * self._rounds
        outcomes = {
            name: self._ask(name, "evaluate", number, place, arrays, config, site)
            for place, name in enumerate(self._names)
        }
        answers = [
            (each.reply.num_examples, each.reply.metrics)
            for name, each in outcomes.items()
            if self._sound(name, each, needed=self._quorum == len(self._names)).reply.ok
        ]
        self._check_quorum(len(answers), {name: each.reply.error for name, each in outcomes.items()})
        return Answer(None, *together(answers, encoded_size(arrays.layout) * len(answers)))

    def _folded(self, outcomes: Mapping[str, Outcome], model: Arrays, number: int) -> tuple[Arrays, dict[str, Outcome]]:
        """The group's next model, and what was folded into it; members that failed or are refused are left out."""
        left = {name: each for name, each in outcomes.items() if each.reply.ok}
        reasons = {name: each.reply.error for name, each in outcomes.items() if not each.reply.ok}
        while True:
            self._check_quorum(len(left), reasons)
            sinks: list[ArraySink] = []

            def make_sink(layout: Layout, sinks: list[ArraySink] = sinks) -> ArraySink:
                sinks.append(ArraySink(layout))
                return sinks[-1]

            refused = fold(
                self._strategy,
                self._spec,
                [_item(place, name, left[name]) for place, name in enumerate(self._names) if name in left],
                make_sink,
                round_=number,
                size=len(self._names),
                base=ArraySource(model),
            )
            if not refused:
                return sinks[0].arrays, left
            for place, reason in refused.items():
                reasons[self._names[place]] = reason
                del left[self._names[place]]

    def _check_quorum(self, found: int, reasons: Mapping[str, str]) -> None:
        if found < self._quorum:
            why = causes.told({name: reason for name, reason in reasons.items() if reason}, len(self._names))
            raise TaskError("refused", f"expected answers of {self._quorum} members, found {found}: {why}")

    def _ask(
        self, name: str, call: str, number: int, place: int, model: Arrays | None, config: Mapping[str, Any], site: Site
    ) -> Outcome:
        own = self._config(number, name) if number else {}
        task = Task(
            TaskId("edge", "main", number, call, place),
            name,
            call,
            config={**config, "round": number, **own},
            update_kind=update_kind(self._strategy, self._spec),
            seed=self._spec.seed,
            allow_nonfinite=self._spec.allow_nonfinite,
        )
        held = site.state.get(MEMBER + name)
        outcome = self._runtimes[name].execute(task, model, None if held is None else held.tobytes())
        if outcome.state is not None:
            site.state[MEMBER + name] = np.frombuffer(outcome.state, np.uint8)
        return outcome

    def _sound(self, name: str, outcome: Outcome, *, needed: bool = True) -> Outcome:
        if needed and not outcome.reply.ok:
            raise TaskError(outcome.reply.error_kind, f"member {name}: {outcome.reply.error}")
        return outcome

    def _log(self, text: str) -> None:
        if self._site is not None:
            self._site.log(text)


def _with_config_alone(app: App) -> App:
    """The app with its per-round configuration and nothing else at the server."""
    twin = copy.copy(app)
    twin.server_side = ServerSide(config=app.server_side.config)
    return twin


def _item(place: int, name: str, outcome: Outcome) -> Item:
    reply = outcome.reply
    about = FoldInput(name, reply.num_examples, 0, reply.metrics)
    source = None if outcome.arrays is None else ArraySource(outcome.arrays)
    return Item(place, place, about, reply.update_kind, source)


def _loader(site: str, data: DataSets) -> Callable[[str], Any]:
    def load(dataset: str) -> Any:
        if dataset not in data:
            known = ", ".join(sorted(data)) or "none"
            raise PolicyError(f"site {site}: data set {dataset!r} is not declared; declared are: {known}")
        value = data[dataset]
        return value() if callable(value) else value

    return load


def _check(app: App, members: Mapping[str, Mapping[str, DataSets]]) -> None:
    """Refuse what cannot be run in groups.

    Raises:
        ConfigError: by name.
    """
    if app.groups is None:
        raise ConfigError("hierarchy: expected an app with groups=hs.Groups(rounds=...), found one without")
    names = [name for found in members.values() for name in found]
    for name in (*members, *names):
        check_name(name, "site")
    empty = [group for group, found in members.items() if not found]
    if not members or empty:
        raise ConfigError(f"groups: expected members in each, found none in {', '.join(empty) or 'any'}")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"groups: expected every site in one group, found {', '.join(twice[:4])} in several")
    least, quorum = min(len(found) for found in members.values()), app.groups.quorum
    if quorum is not None and quorum > least:
        raise ConfigError(f"groups.quorum: expected 1 to {least}, the smallest group's members, found {quorum}")
