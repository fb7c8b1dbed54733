"""`Peers`: an `hs.App` whose sites train without a server in the middle, as a job between real sites.

    app = hs.Peers(hospital, hs.Gossip("ring"))
    hs.run(app, federation="federation.yaml", sites=["bergen", "luebeck", "visby"])

Every site plays a role of its own name: it runs the app's client side and exchanges models with its neighbours, over
channels that are sealed end to end. The server brings them together, relays what it cannot read, and learns what the
app `tells`. Each site's last model stays at the site, in the job's `outputs`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hanse.channels import resuming
from hanse.channels.app import RoleApp, RolePlay, RoleProgram
from hanse.channels.checkpoints import Checkpoints, Progress
from hanse.channels.party import Party
from hanse.channels.protocol import Message, Protocol, Reveal
from hanse.channels.spec import RoleSpec, assigned
from hanse.clients.app import App
from hanse.clients.server import ServerRuntime
from hanse.clients.site import Site
from hanse.clients.site_trainer import SiteTrainer
from hanse.core.arrays import Array, Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER
from hanse.core.origin import file_of, maker_of
from hanse.core.records import Config, Value
from hanse.core.seeds import generator, key_of
from hanse.core.spec import RunSpec
from hanse.peer.gossip import OPEN
from hanse.peer.topologies import Gossip, Plan, Topology, planned
from hanse.strategies.fedavg import FedAvg

EXAMPLE = ("peer-1", "peer-2", "peer-3")
"""Peers of which nobody has said who they are: `hanse explain`."""
_VECTOR, _STATE = "vector", "site state"


class Peers(RolePlay):
    """An app without a server.

    Args:
        app: its client side and settings; it has no strategy, and nothing that needs a server.
        topology: `Gossip()` on a ring by default, `RingAllReduce()` or `Cyclic()`.
        tells: names of metrics that the server and the submitter learn, each site's of the last round in which there
            were some: those of `evaluate` as they are, those of training as `train_…`.
        dtype: of what peers exchange, `float32` or `float64`, where the app has no `initial` that says it.
        timeout_s: seconds that a peer waits for its neighbours' models; they train meanwhile.
        deadline_s, away_s, retries: of a job, as for `hs.RoleApp`.

    Raises:
        ConfigError: a setting that needs a server, or a value that is wrong, by name.
    """

    def __init__(
        self,
        app: App,
        topology: Topology | None = None,
        *,
        tells: Sequence[str] = ("loss", "accuracy"),
        dtype: str = "float32",
        timeout_s: float = 3600.0,
        deadline_s: float = 86_400.0,
        away_s: float = 600.0,
        retries: int = 10,
    ) -> None:
        if not isinstance(app, App):
            raise ConfigError(f"peers: expected an hs.App, found {type(app).__name__}")
        if isinstance(tells, str) or not all(isinstance(name, str) for name in tells):
            raise ConfigError(f"peers.tells: expected a list of metrics' names, found {tells!r:.60}")
        if dtype not in ("float32", "float64"):
            raise ConfigError(f"peers.dtype: expected float32 or float64, found {dtype!r:.60}")
        self.app = app
        self.topology = Gossip() if topology is None else topology
        self.tells = tuple(tells)
        self.include = app.include
        self._dtype = dtype
        self._options: dict[str, Any] = {
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
            "away_s": away_s,
            "retries": retries,
        }
        self.module_globals = maker_of(*(file_of(kind) for kind in type(self).__mro__))

    def cast(self, roles: Collection[str]) -> RoleApp:
        """See `RolePlay.cast`: every role is a peer."""
        spec, names = without_server(self.app), sorted(roles or EXAMPLE)
        if len(names) < 2:
            raise ConfigError(f"peers: expected two sites at least, found {len(names)}")
        given = self.app.initial_arrays
        start = None if given is None else SiteTrainer.vector_of(given)
        dtype, size = (self._dtype, None) if start is None else (str(start.dtype), start.size)
        lax = spec.allow_nonfinite
        plan = planned(self.topology, names, spec.seed, dtype, size, self.app.compression, allow_nonfinite=lax)
        parts = {"resuming": resuming.protocol(names[0], names[1:]), "training": plan.protocol}
        if given is None:
            parts = {"starting": _starting(first_peer(names, spec.seed), names), **parts}
        joined = Protocol.joined(plan.protocol.name, parts)
        measured = [
            Reveal(SERVER, role, name, "of this site's rows, in the last round that measured it")
            for role in names
            for name in self.tells
        ]
        told = [*measured, *(Reveal(SERVER, role, "rounds", "how many rounds it has done") for role in names)]
        app = RoleApp(
            replace(joined, reveals=(*joined.reveals, *told)),
            seed=spec.seed,
            threads=spec.threads,
            include=self.include,
            **self._options,
        )
        app.module_globals = self.module_globals
        for name in names:
            app.role(name)(self._program(spec, plan, names, np.dtype(dtype)))
        return app

    def spec(self, roles: Mapping[str, str | Sequence[str]] | None) -> RoleSpec:
        """See `RolePlay.spec`: whatever the roles are called, every site plays one of its own name."""
        if roles is None:
            raise ConfigError(
                "peers: expected the sites that train together, sites=[...] or --site NAME for each, found none"
            )
        sites = sorted(assigned(roles).values())
        return super().spec({site: site for site in sites})

    def _program(self, spec: RunSpec, plan: Plan, names: Sequence[str], dtype: np.dtype[Any]) -> RoleProgram:
        async def play(party: Party, site: Site) -> tuple[Arrays, Mapping[str, Value]]:
            trainer = SiteTrainer(party.role, self.app, spec, site.load, "peers", config_of(self.app, spec), site.log)
            initial = self.app.initial_arrays
            if initial is None:
                initial = await _start(party.part("starting"), trainer, first_peer(names, spec.seed), names)
            trainer.begin(initial)
            if trainer.start.dtype != dtype:
                raise ConfigError(f"peers: the model is of {trainer.start.dtype}; write hs.Peers(dtype=...) with that")
            kept = None
            if site.checkpoints is not None:
                kept = site.checkpoints(repr(self.topology).encode(), plan.apart + 1)
            progress, start = await _resumed(party.part("resuming"), trainer, kept, names[0])
            trainer.told = lambda round_, vector: _kept(progress, trainer, round_, vector)
            memory = {name[7:]: np.array(each) for name, each in progress.state.items() if name.startswith("memory/")}
            last = await plan.program(party.part("training"), trainer, start, spec.rounds, progress.number, memory)
            found = {"rounds": spec.rounds, **trainer.latest}
            return trainer.arrays(last), {name: found[name] for name in (*self.tells, "rounds") if name in found}

        return play

    def __repr__(self) -> str:
        return f"Peers({self.topology!r})"


def without_server(app: App) -> RunSpec:
    """The run's spec, if nothing in it needs a server.

    Raises:
        ConfigError: something does, by name.
    """
    spec = app.spec()
    if spec.strategy != FedAvg.name or app.server_side.strategy is not None:
        raise ConfigError(f"peers: expected no strategy, since there is no server, found {spec.strategy}; leave it out")
    needs = {
        "sample": spec.sample not in (1, 1.0),
        "over_select": spec.over_select != 0,
        "stop": spec.stop is not None,
        "@app.evaluate_on_server": spec.server_evaluate,
    }
    for name, found in needs.items():
        if found:
            raise ConfigError(f"peers: found {name}, which needs a server; leave it out")
    return spec


def config_of(app: App, spec: RunSpec) -> Callable[[int, str], Config]:
    """What `@app.config` says for a round and a site, asked at the site itself."""
    return ServerRuntime(app).config if spec.server_config else lambda round_, site: {}


def first_peer(names: Sequence[str], seed: int) -> str:
    """The peer whose code is asked for the initial model, chosen as a server would."""
    return names[int(generator(key_of(seed, purpose="initial")).integers(len(names)))]


def _starting(first: str, names: Sequence[str]) -> Protocol:
    others = [name for name in names if name != first]
    return Protocol(
        name="peer/starting",
        roles=tuple(names),  # the order of the ring
        messages=tuple(Message("model", first, other, "uint8", (None,)) for other in others),
        guarantee=OPEN,
        reveals=tuple(Reveal(other, first, "model", "the model that all begin from") for other in others),
    )


async def _start(party: Party, trainer: SiteTrainer, first: str, names: Sequence[str]) -> Arrays:
    """The initial model, of the peer that is asked for it."""
    if party.role != first:
        return decode(np.asarray(await party.recv(first, "model")).tobytes())
    initial = trainer.parameters()
    content = np.frombuffer(encode(initial), np.uint8)
    for other in names:
        if other != first:
            await party.send(other, "model", content)
    return initial


async def _resumed(party: Party, trainer: SiteTrainer, kept: Checkpoints | None, leader: str) -> tuple[Progress, Array]:
    """Where all go on from, and this peer's vector there."""
    have = [] if kept is None else kept.have()
    agreed = await (resuming.lead(party, have) if party.role == leader else resuming.follow(party, have, leader))
    if kept is None:
        return Progress(), trainer.start
    kept.drop_after(max(agreed, 0))
    if agreed <= 0:
        return Progress(keep=kept.keep, keeps=True), trainer.start
    state = kept.load(agreed)
    trainer.go_on(
        Arrays({name.partition("/")[2]: value for name, value in state.items() if name.startswith("model/")}),
        state[_STATE].tobytes() if _STATE in state else None,
    )
    return Progress(agreed, state, kept.keep, True), np.array(state[_VECTOR])


def _kept(progress: Progress, trainer: SiteTrainer, round_: int, vector: Array) -> None:
    if not progress.keeps:
        return
    model, state = trainer.standing
    found = {_VECTOR: vector, **{f"model/{name}": array for name, array in model.items()}}
    found |= {f"memory/{name}": array for name, array in trainer.memory.items()}
    if state:
        found[_STATE] = np.frombuffer(state, np.uint8)
    progress.keep(round_, Arrays(found))
