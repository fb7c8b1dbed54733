"""The programs under a scheduler that reorders and repeats frames, against slow references in plain Python."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.party import Party
from hanse.channels.schedule import run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError, UnavailableError
from hanse.peer import cyclic, gossip, graph, ring
from hanse.peer.topologies import Cyclic, Gossip, RingAllReduce, planned
from hanse.peer.trainer import Trained

SIZE = 7


class Pull:
    """Trains towards a target: x ← x + lr (t − x). Notes what it is given."""

    def __init__(self, target: Array, lr: float = 0.25, examples: int = 1) -> None:
        self.target, self.lr, self.examples = target, lr, examples
        self.given: list[Array] = []
        self.ended: list[Array] = []

    def train(self, round_: int, vector: Array) -> Trained:
        self.given.append(vector.copy())
        assert len(self.given) == round_
        return Trained(vector + (self.lr * (self.target - vector)).astype(vector.dtype), self.examples)

    def done(self, round_: int, vector: Array, trained: Trained, memory: Any = None) -> None:
        self.ended.append(vector.copy())
        assert len(self.ended) == round_


def names(count: int) -> list[str]:
    return [f"p{i}" for i in range(count)]


def pulls(count: int, lr: float = 0.25) -> dict[str, Pull]:
    rng = np.random.default_rng(count)
    return {name: Pull(rng.normal(size=SIZE), lr, i + 1) for i, name in enumerate(names(count))}


def run(protocol: Any, program: Callable[[str], Any], seed: int = 0, **options: Any) -> Any:
    outcome = run_scheduled(protocol, {role: program(role) for role in protocol.roles}, seed, **options)
    assert not outcome.errors, outcome.errors
    return outcome.results


# ---- gossip ----


def gossips(
    trainers: dict[str, Pull], mixing: graph.Mixing, rounds: int, mix: str, starts: Any = None
) -> Callable[[str], Any]:
    def program(name: str) -> Any:
        async def play(party: Party) -> Any:
            start = np.zeros(SIZE) if starts is None else starts[name]
            return await gossip.peer(party, trainers[name], start, mixing[name], rounds, mix=mix)

        return play

    return program


def slow_gossip(trainers: dict[str, Pull], mixing: graph.Mixing, rounds: int, mix: str) -> dict[str, list[float]]:
    x = {name: [0.0] * SIZE for name in trainers}
    for _ in range(rounds):
        y = {n: [a + t.lr * (b - a) for a, b in zip(x[n], t.target, strict=True)] for n, t in trainers.items()}
        source = y if mix == "after" else x
        mixed = {}
        for name, row in mixing.items():
            mixed[name] = [sum(row[other] * source[other][i] for other in row) for i in range(SIZE)]
            if mix == "before":
                mixed[name] = [m + b - a for m, b, a in zip(mixed[name], y[name], x[name], strict=True)]
        x = mixed
    return x


@pytest.mark.parametrize("mix", ["after", "before"])
@pytest.mark.parametrize("joined", [graph.ring(names(5)), graph.random_regular(names(6), 3), graph.complete(names(3))])
@pytest.mark.parametrize("seed", range(3))
def test_d_psgd(joined: graph.Graph, mix: str, seed: int) -> None:
    trainers, mixing = pulls(len(joined.peers)), graph.metropolis_hastings(joined)
    found = run(gossip.protocol(joined, "float64", SIZE), gossips(trainers, mixing, 6, mix), seed)
    expected = slow_gossip(trainers, mixing, 6, mix)
    for name in joined.peers:
        assert np.allclose(found[name], expected[name], rtol=1e-12, atol=1e-13)
        assert len(trainers[name].ended) == 6


@given(seed=st.integers(0, 10_000), start=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_averaging_alone_leads_to_the_mean_at_the_spectral_rate(seed: int, start: int) -> None:
    joined = graph.random_regular(names(8), 3, seed)
    mixing = graph.metropolis_hastings(joined)
    rng = np.random.default_rng(start)
    starts = {name: rng.normal(size=SIZE) for name in joined.peers}
    trainers = {name: Pull(np.zeros(SIZE), lr=0.0) for name in joined.peers}
    rounds = 12
    program = gossips(trainers, mixing, rounds, "after", starts)
    found = run(gossip.protocol(joined, "float64", SIZE), program, seed)
    mean = np.mean(list(starts.values()), axis=0)

    def away(vectors: dict[str, Any]) -> float:
        return float(np.sqrt(sum(np.square(vector - mean).sum() for vector in vectors.values())))

    assert np.allclose(np.mean(list(found.values()), axis=0), mean, atol=1e-12)  # no mass is lost
    assert away(found) <= graph.mixing_rate(mixing) ** rounds * away(starts) + 1e-12
    assert away(found) > 0


def test_bits_do_not_depend_on_the_interleaving() -> None:
    joined = graph.ring(names(5))
    mixing = graph.metropolis_hastings(joined)
    protocol = gossip.protocol(joined, "float32", SIZE)
    found = set()
    for seed in range(8):
        starts = {name: np.zeros(SIZE, np.float32) for name in joined.peers}
        results = run(protocol, gossips(pulls(5), mixing, 4, "after", starts), seed)
        assert all(vector.dtype == np.float32 for vector in results.values())
        found.add(b"".join(results[name].tobytes() for name in joined.peers))
    assert len(found) == 1


def test_a_peer_that_is_never_heard_ends_the_others_by_name() -> None:
    joined = graph.ring(names(4))
    trainers, mixing = pulls(4), graph.metropolis_hastings(joined)
    program = gossips(trainers, mixing, 3, "after")
    outcome = run_scheduled(
        gossip.protocol(joined, "float64", SIZE), {name: program(name) for name in ("p0", "p2", "p3")}, 1
    )
    assert not outcome.results
    assert str(outcome.errors["p0"]).startswith("p1 has not sent `vector` of iteration 1 for 30 s")
    assert all(isinstance(error, UnavailableError) for error in outcome.errors.values())


def test_a_peer_that_fails_in_the_middle_ends_the_others_at_once() -> None:
    joined = graph.ring(names(4))
    trainers, mixing = pulls(4), graph.metropolis_hastings(joined)

    def fail(round_: int, vector: Array) -> Trained:
        if round_ == 3:
            raise RuntimeError("on purpose")
        return Pull.train(trainers["p2"], round_, vector)

    trainers["p2"].train = fail  # type: ignore[method-assign]
    program = gossips(trainers, mixing, 5, "after")
    outcome = run_scheduled(gossip.protocol(joined, "float64", SIZE), {n: program(n) for n in joined.peers}, 2)
    assert str(outcome.errors.pop("p2")) == "on purpose"
    assert str(outcome.errors["p1"]).startswith("p2 stopped before it sent `vector` of iteration 3")
    assert len(outcome.errors) == 3
    assert outcome.elapsed_s < 1


# ---- ring ----


@given(count=st.integers(2, 7), size=st.integers(0, 20), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_all_reduce_of_whole_numbers_is_their_sum(count: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = {name: rng.integers(-(2**40), 2**40, size).astype(np.float64) for name in names(count)}

    def program(name: str) -> Any:
        return lambda party: ring.all_reduce(party, vectors[name])

    before = {name: vector.copy() for name, vector in vectors.items()}
    found = run(ring.protocol(names(count)), program, seed)
    for name in vectors:
        assert found[name].tolist() == sum(vectors.values()).tolist()  # type: ignore[union-attr]
        assert (vectors[name] == before[name]).all()


def test_all_peers_get_the_same_bits_near_the_canonical_sum() -> None:
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=1000) * 2.0 ** rng.integers(-30, 30, 1000) for name in names(6)}
    found = run(ring.protocol(names(6)), lambda name: lambda party: ring.all_reduce(party, vectors[name]))
    assert len({vector.tobytes() for vector in found.values()}) == 1
    exact = np.sum(np.array(list(vectors.values())).astype(np.longdouble), axis=0)
    size = np.sum(np.abs(np.array(list(vectors.values()))), axis=0)
    assert (np.abs(found["p0"] - exact) <= 6 * 2.0**-53 * size).all()


def test_each_link_carries_about_two_vectors() -> None:
    vectors = {name: np.ones(6000) for name in names(6)}
    programs = {name: (lambda party, name=name: ring.all_reduce(party, vectors[name])) for name in names(6)}
    outcome = run_scheduled(ring.protocol(names(6)), programs, 0)
    for party in outcome.parties.values():
        assert party.counters.sent_messages == 10
        assert 2 * 5 / 6 * 48_000 <= party.counters.sent_bytes <= 2 * 5 / 6 * 48_000 + 10 * 256


@pytest.mark.parametrize("weights", ["examples", "equal"])
@pytest.mark.parametrize("count", [2, 5])
def test_ring_training_is_fedavg(weights: str, count: int) -> None:
    trainers = pulls(count)

    def program(name: str) -> Any:
        return lambda party: ring.peer(party, trainers[name], np.zeros(SIZE), 5, weights=weights)

    found = run(ring.protocol(names(count)), program, 3)
    w = [0.0] * SIZE
    shares = [t.examples if weights == "examples" else 1 for t in trainers.values()]
    for _ in range(5):
        local = [[a + t.lr * (b - a) for a, b in zip(w, t.target, strict=True)] for t in trainers.values()]
        w = [sum(s * y[i] for s, y in zip(shares, local, strict=True)) / sum(shares) for i in range(SIZE)]
    assert len({vector.tobytes() for vector in found.values()}) == 1
    assert np.allclose(found["p0"], w, rtol=1e-12)


def test_where_nobody_counted_an_example_the_model_stays() -> None:
    trainers = {name: Pull(np.ones(SIZE), examples=0) for name in names(3)}
    start = np.full(SIZE, 0.5)
    found = run(ring.protocol(names(3)), lambda name: lambda party: ring.peer(party, trainers[name], start, 2))
    assert found["p1"].tolist() == start.tolist()


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.nan, "p1 sent values that are not"),
        (np.inf, "p1 sent values that are not"),
        (-9.0, "a finite sum of weights"),
    ],
)
def test_weights_that_add_up_to_no_number_end_the_ring(weight: float, words: str) -> None:
    """With a NaN every peer would keep its model, round after round, and say nothing."""
    trainers = {name: Pull(np.ones(SIZE), examples=1) for name in names(3)}
    trainers["p1"].examples = weight  # type: ignore[assignment]  # what no honest peer says
    programs = {n: (lambda party, n=n: ring.peer(party, trainers[n], np.zeros(SIZE), 2)) for n in names(3)}
    outcome = run_scheduled(ring.protocol(names(3)), programs, 0)
    assert not outcome.results
    assert any(words in str(error) for error in outcome.errors.values())


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize(
    "topology", [Gossip("ring"), Gossip("ring", mix="before"), RingAllReduce(), Cyclic()], ids=repr
)
@pytest.mark.parametrize("culprit", ["p0", "p2", "p3"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite_are_laid_to_who_sent_them(topology: Any, culprit: str, value: float) -> None:
    """Whoever is the first to be sent them says so, and nobody trains on them."""
    trainers = pulls(4)
    trainers[culprit].target = np.where(np.arange(SIZE) == 3, value, 0.0)
    plan = planned(topology, names(4), 0, "float64", SIZE)
    programs = {n: (lambda party, n=n: plan.program(party, trainers[n], np.zeros(SIZE), 3, 0, {})) for n in names(4)}
    outcome = run_scheduled(plan.protocol, programs, 1)
    assert not outcome.results
    said = {str(error) for error in outcome.errors.values() if "not finite" in str(error)}
    assert said == {f"{culprit} sent values that are not finite"}
    assert all(np.isfinite(vector).all() for n in names(4) if n != culprit for vector in trainers[n].given)


def test_values_that_are_not_finite_are_taken_where_the_app_allows_them() -> None:
    trainers = pulls(3)
    trainers["p1"].target = np.full(SIZE, np.nan)
    plan = planned(Gossip("complete"), names(3), 0, "float64", SIZE, allow_nonfinite=True)
    program = {n: (lambda party, n=n: plan.program(party, trainers[n], np.zeros(SIZE), 2, 0, {})) for n in names(3)}
    outcome = run_scheduled(plan.protocol, program, 1)
    assert not outcome.errors
    assert all(np.isnan(vector).all() for vector in outcome.results.values())


@pytest.mark.parametrize("weights", ["examples", "equal"])
def test_what_goes_around_a_ring_is_declared(weights: str) -> None:
    """Of two peers, what the first receives gives the other's model away, and how many examples it has."""
    received = []

    class Hearing(Party):
        async def recv(self, sender: str, name: str) -> Array:
            received.append(await super().recv(sender, name))
            return received[-1]

    async def first(party: Party) -> Array:
        party.__class__ = Hearing
        return await ring.peer(party, Pull(np.ones(SIZE), examples=3), np.zeros(SIZE), 1, weights=weights)

    other = Pull(np.full(SIZE, 2.0), lr=1.0, examples=7)
    declared = planned(RingAllReduce(weights), names(2), 0, "float64", SIZE).protocol
    programs = {"p0": first, "p1": lambda party: ring.peer(party, other, np.zeros(SIZE), 1, weights=weights)}
    assert run_scheduled(declared, programs, 0).errors == {}
    its_count = received[0][-1]  # the second chunk, of which the last is the sum of weights
    assert its_count == (7 if weights == "examples" else 1)
    assert received[0][0] / its_count == 2.0
    said = {each.what for each in declared.reveals if (each.to, each.about) == ("p0", "p1")}
    assert said == ({"model", "examples"} if weights == "examples" else {"model"})


def test_models_of_other_lengths_are_refused_by_name() -> None:
    sizes = {"p0": 9, "p1": 9, "p2": 3}
    programs = {n: (lambda party, n=n: ring.all_reduce(party, np.ones(sizes[n]))) for n in names(3)}
    outcome = run_scheduled(ring.protocol(names(3)), programs, 0)
    assert not outcome.results
    refused = [error for error in outcome.errors.values() if isinstance(error, RefusedError)]
    assert any("sent a vector of" in str(error) and "the models differ" in str(error) for error in refused)


# ---- cyclic ----


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_cyclic_training_is_one_training_after_another(count: int, seed: int) -> None:
    trainers, start = pulls(count), np.full(SIZE, 2.0)

    def program(name: str) -> Any:
        return lambda party: cyclic.peer(party, trainers[name], start, 3)

    found = run(cyclic.protocol(names(count), "float64", SIZE), program, seed)
    x = start.copy()
    for _ in range(3):
        for trainer in trainers.values():
            x = x + trainer.lr * (trainer.target - x)
    assert {vector.tobytes() for vector in found.values()} == {x.tobytes()}
    assert all(len(trainer.ended) == 3 for trainer in trainers.values())


def test_declarations_say_who_sees_whose_model() -> None:
    joined = graph.ring(names(4))
    declared = gossip.protocol(joined, "float32", SIZE).describe()
    assert {(each["to"], each["about"]) for each in declared["reveals"]} == {
        (a, b) for a, others in joined.neighbours.items() for b in others
    }
    assert declared["guarantee"]["adversary"] == "none"
