"""`hs.Peers`: the same training as a job of roles, in one process here; between real sites in `tests/faults`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.clients.site import Site
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, HanseError, RefusedError
from hanse.peer.topologies import planned
from hanse.peer.trainer import Trained
from tests.patience import WAIT_S

NAMES = ("bergen", "luebeck", "riga", "tallinn", "visby")
DATA = {name: {"target": np.random.default_rng(k).normal(size=3)} for k, name in enumerate(NAMES)}
APART = 3
"""Rounds done twice at most: two peers of a ring of five are two rounds apart at most, and one more may be begun."""
TOPOLOGIES = [
    (hs.Gossip("ring"), None),
    (hs.Gossip("ring", gamma=0.8), hs.TopK(0.3)),
    (hs.Gossip("complete", mix="before"), None),
    (hs.RingAllReduce(), None),
    (hs.Cyclic(), None),
]
"""With what messages are compressed."""


def inner(
    *, asked: bool = False, rounds: int = 6, dtype: Any = np.float32, trained: Any = None, codec: Any = None
) -> hs.App:
    start = {"w": np.zeros(3, dtype), "n": np.zeros(1, np.int64)}
    app = hs.App(rounds=rounds, seed=3, initial="ask" if asked else start, compression=codec)

    class Client(hs.NumPyClient):
        def __init__(self, site: Site) -> None:
            self.site = site

        def get_parameters(self, config: Any) -> Any:
            return [np.full(3, len(self.site.name), dtype), np.array([len(self.site.name)])]

        def fit(self, parameters: Any, config: Any) -> Any:
            w, n = parameters
            if trained is not None:
                trained.append((self.site.name, config["round"]))
            seen = self.site.state["seen"] = self.site.state.get("seen", 0) + 1
            w = w + 0.3 * (self.site.load("target") + self.site.rng.normal(0, 0.1, 3) - w) + 0.01 * seen
            return [w.astype(dtype), n + 1], 2 + len(self.site.name), {"seen": seen}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            return float(np.square(parameters[0] - self.site.load("target")).sum()), 4, {}

    app.client(Client)
    return app


def named(arrays: Arrays, name: str) -> dict[str, bytes]:
    return {key.partition("/")[2]: value.tobytes() for key, value in arrays.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize(("topology", "codec"), TOPOLOGIES, ids=repr)
@pytest.mark.parametrize("asked", [False, True])
def test_a_job_of_peers_is_the_simulation_of_peers(topology: Any, codec: Any, asked: bool) -> None:
    if asked and codec is not None:
        with pytest.raises(ConfigError, match="compression of a model whose size nobody knows"):
            hs.Peers(inner(asked=True, codec=codec), topology).cast(NAMES)
        return
    app = hs.Peers(inner(asked=asked, codec=codec), topology, tells=["loss", "train_seen"])
    job = hs.simulate(app, sites=DATA, progress=False)
    expected = hs.simulate_peers(inner(asked=asked, codec=codec), DATA, topology)
    for name in NAMES:
        assert named(job.arrays, name) == {key: value.tobytes() for key, value in expected.models[name].items()}
        told = job.rounds[0].by_site[name]
        assert told["loss"] == expected.rounds[-1].by_site[name]["loss"]
        assert (told["train_seen"], told["rounds"]) == (6, 6)
        assert "train_examples" not in told


@pytest.mark.parametrize(("topology", "codec"), TOPOLOGIES, ids=repr)
@pytest.mark.parametrize("crash", [("bergen", 1), ("riga", 3), ("visby", 5), ("visby", 6)])
async def test_a_broken_session_goes_on_with_the_same_bits(
    tmp_path: Path, topology: Any, codec: Any, crash: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    undisturbed = await session(topology, tmp_path / "whole", None, trained, codec)
    assert len(trained) == 6 * len(NAMES)
    trained.clear()
    with pytest.raises((Crash, HanseError)):
        await session(topology, tmp_path / "broken", crash, trained, codec)
    again = await session(topology, tmp_path / "broken", None, trained, codec)
    for name in NAMES:
        assert {k: v.tobytes() for k, v in again[name].items()} == {
            k: v.tobytes() for k, v in undisturbed[name].items()
        }
    assert len(trained) <= (6 + APART) * len(NAMES)


@pytest.mark.parametrize(("topology", "codec"), TOPOLOGIES, ids=repr)
@pytest.mark.parametrize("sends", [3, 7])
async def test_a_peer_killed_in_the_middle_of_a_round_costs_no_bit(
    tmp_path: Path, topology: Any, codec: Any, sends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours have some of what it was to send them, and not the rest: it dies at its n-th message."""
    undisturbed = await session(topology, tmp_path / "whole", None, [], codec)
    send, left = Party.send, sends

    async def dying(self: Party, to: str, name: str, value: Any) -> None:
        nonlocal left
        if self.role == "riga":
            left -= 1
            if not left:
                raise Crash
        await send(self, to, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(Party, "send", dying)
        with pytest.raises((Crash, HanseError)):
            await session(topology, tmp_path / "broken", None, [], codec)
    assert left == 0
    again = await session(topology, tmp_path / "broken", None, [], codec)
    for name in NAMES:
        found = {key: value.tobytes() for key, value in again[name].items()}
        assert found == {key: value.tobytes() for key, value in undisturbed[name].items()}
        assert found


class Crash(Exception):
    """A peer is killed."""


async def session(
    topology: Any, folder: Path, crash: tuple[str, int] | None, trained: list[str], codec: Any
) -> dict[str, Arrays]:
    """One session of all peers, each with its folder of checkpoints; one dies after it has kept a round."""
    made = hs.Peers(inner(trained=trained, codec=codec), topology).cast(NAMES)
    programs: dict[str, Any] = {}
    for name in NAMES:
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)

        async def play(party: Party, name: str = name, own: Path = own) -> Arrays:
            def load(dataset: str) -> Any:
                return DATA[name][dataset]

            site = Dying(name, load, lambda text: None, checkpoints=own)
            site.dies_after = crash[1] if crash is not None and crash[0] == name else 0
            arrays, _ = await made.programs[name](party, site)
            return arrays

        programs[name] = play
    return await run_local(made.protocol, programs, timeout_s=WAIT_S)


class Dying(Site):
    dies_after = 0

    @property
    def checkpoints(self) -> Any:
        make = super().checkpoints

        def made(about: bytes, kept: int) -> Any:
            found, dies_after = make(about, kept), self.dies_after
            keep = found.keep

            class Kept:
                have, load, drop_after = found.have, found.load, found.drop_after

                def keep(self, number: int, arrays: Arrays, *, since: int | None = None) -> None:
                    keep(number, arrays, since=since)
                    if number == dies_after:
                        raise Crash

            return Kept()

        return made


async def test_a_peer_whose_vector_has_another_length_is_refused_by_name() -> None:
    plan = planned(hs.Gossip("complete"), NAMES[:2], 0, "float32", None)

    class Still:
        def train(self, round_: int, vector: Any) -> Trained:
            return Trained(vector, 1)

        def done(self, round_: int, vector: Any, trained: Trained, memory: Any = None) -> None:
            pass

    def program(size: int) -> Any:
        return lambda party: plan.program(party, Still(), np.zeros(size, np.float32), 2, 0, {})

    with pytest.raises(RefusedError, match=r"sent a vector of [34] elements, expected [34]: the models differ"):
        await run_local(plan.protocol, {NAMES[0]: program(3), NAMES[1]: program(4)}, timeout_s=WAIT_S)


def served(app: hs.App) -> hs.App:
    app.client(lambda site: Idle())
    return app


class Idle(hs.NumPyClient):
    """A client that nobody asks."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: hs.Peers(served(hs.App(hs.FedAdam()))).spec({"peer": NAMES}), "expected no strategy"),
        (
            lambda: hs.Peers(served(hs.App(stop=hs.EarlyStop("loss")))).spec({"peer": NAMES}),
            "found stop, which needs a server",
        ),
        (lambda: hs.Peers(inner()).spec(None), r"sites=\[\.\.\.\] or --site NAME for each, found none"),
        (lambda: hs.Peers(inner()).spec({"peer": ["bergen"]}), "two sites at least, found 1"),
        (lambda: hs.Peers(3), "expected an hs.App, found int"),  # type: ignore[arg-type]
        (lambda: hs.Peers(inner(), dtype="int8"), "expected float32 or float64"),
        (lambda: hs.Peers(inner(), tells="loss"), "expected a list"),
    ],
)
def test_what_does_not_go_is_said(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_model_of_another_dtype_than_declared_is_refused() -> None:
    with pytest.raises(hs.JobFailed, match="the model is of float64"):
        hs.simulate(hs.Peers(inner(asked=True, dtype=np.float64)), sites=DATA, progress=False)
    wide = hs.Peers(inner(asked=True, dtype=np.float64), dtype="float64")
    assert hs.simulate(wide, sites=DATA, progress=False).status == "finished"


def test_what_is_revealed_is_declared() -> None:
    protocol = hs.Peers(inner(), hs.Gossip("ring"), tells=["loss"]).cast(()).protocol
    found = {(each.to, each.about, each.what) for each in protocol.reveals}
    assert ("peer-1", "peer-2", "model") in found
    assert ("server", "peer-1", "loss") in found
    assert {each.what for each in protocol.reveals if each.to == "server"} == {"loss", "rounds"}
