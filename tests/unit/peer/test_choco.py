"""Compressed gossip against Algorithm 2 in plain Python, with a copy of every neighbour, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hanse.aggregation import BFloat16, Codec, Int8, RandomK, TopK
from hanse.channels.party import Party
from hanse.channels.schedule import run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError, TaskError
from hanse.core.seeds import key_of
from hanse.peer import choco, gossip, graph
from tests.unit.peer.test_programs import Pull, gossips, names, run

SIZE = 40


def pulls(count: int, lr: float = 0.25) -> dict[str, Pull]:
    rng = np.random.default_rng(count)
    return {name: Pull(rng.normal(size=SIZE), lr) for name in names(count)}


def programs(
    trainers: dict[str, Any], mixing: graph.Mixing, rounds: int, codec: Codec, gamma: float, dtype: Any = np.float64
) -> Callable[[str], Any]:
    def program(name: str) -> Any:
        async def peer(party: Party) -> Array:
            start = np.zeros(SIZE, dtype)
            trainer, row = trainers[name], mixing[name]
            return await choco.peer(
                party,
                trainer,
                start,
                row,
                rounds,
                codec=codec,
                gamma=gamma,
                key=lambda r: key_of(1, round_=r, site=name),
            )

        return peer

    return program


def largest(values: list[float], count: int) -> list[float]:
    """Top-k as a sentence: the `count` largest by magnitude stay, the first ones of equals."""
    kept = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:count]
    return [value if i in kept else 0.0 for i, value in enumerate(values)]


def slow(trainers: dict[str, Pull], mixing: graph.Mixing, rounds: int, count: int, gamma: float) -> dict[str, Any]:
    x = {name: [0.0] * SIZE for name in trainers}
    copies = {holder: {other: [0.0] * SIZE for other in mixing[holder]} for holder in mixing}
    for _ in range(rounds):
        y = {n: [a + t.lr * (b - a) for a, b in zip(x[n], t.target, strict=True)] for n, t in trainers.items()}
        q = {n: largest([a - b for a, b in zip(y[n], copies[n][n], strict=True)], count) for n in trainers}
        for own in copies.values():
            for other, copy in own.items():
                copy[:] = [a + b for a, b in zip(copy, q[other], strict=True)]
        for n, own in copies.items():
            x[n] = [
                y[n][i] + gamma * sum(mixing[n][j] * (own[j][i] - own[n][i]) for j in mixing[n]) for i in range(SIZE)
            ]
    return x


@pytest.mark.parametrize("joined", [graph.ring(names(5)), graph.random_regular(names(6), 3), graph.ring(names(2))])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_choco_sgd(joined: graph.Graph, gamma: float) -> None:
    codec, trainers = TopK(0.15), pulls(len(joined.peers))
    mixing = graph.metropolis_hastings(joined)
    protocol = choco.protocol(joined, codec, "float64", SIZE)
    found = run(protocol, programs(trainers, mixing, 7, codec, gamma), 3)
    expected = slow(trainers, mixing, 7, 6, gamma)
    for name in joined.peers:
        assert np.allclose(found[name], expected[name], rtol=1e-12, atol=1e-13)


def test_with_nothing_left_out_it_is_d_psgd() -> None:
    """bfloat16 is exact for small whole numbers: one round of a pull by 1 towards them."""
    joined = graph.ring(names(4))
    mixing = {p: {q: 0.5 if q == p else 0.25 for q in sorted((p, *others))} for p, others in joined.neighbours.items()}
    targets = {name: np.arange(SIZE, dtype=float) - k for k, name in enumerate(joined.peers)}
    trainers = [{name: Pull(target, 1.0) for name, target in targets.items()} for _ in range(2)]
    found = run(choco.protocol(joined, BFloat16(), "float64", SIZE), programs(trainers[0], mixing, 1, BFloat16(), 1.0))
    starts = {name: np.zeros(SIZE) for name in joined.peers}
    expected = run(gossip.protocol(joined, "float64", SIZE), gossips(trainers[1], mixing, 1, "after", starts))
    for name in joined.peers:
        assert found[name].tolist() == expected[name].tolist()


class Once(Pull):
    """Trains in the first round only."""

    def train(self, round_: int, vector: Array) -> Any:
        self.lr = 1.0 if round_ == 1 else 0.0
        return super().train(round_, vector)


@pytest.mark.parametrize(("codec", "gamma"), [(Int8(16), 1.0), (TopK(0.2), 0.2), (RandomK(0.3), 0.3)], ids=repr)
def test_what_is_left_out_is_sent_later_and_all_agree_on_the_mean(codec: Any, gamma: float) -> None:
    joined = graph.random_regular(names(6), 3)
    trainers = {name: Once(each.target) for name, each in pulls(6).items()}
    mixing = graph.metropolis_hastings(joined)
    found = run(choco.protocol(joined, codec, "float64", SIZE), programs(trainers, mixing, 150, codec, gamma))
    mean = np.mean([each.target for each in trainers.values()], axis=0)
    for vector in found.values():
        assert np.abs(vector - mean).max() < 1e-3


def test_bits_do_not_depend_on_the_interleaving() -> None:
    joined, codec = graph.ring(names(5)), RandomK(0.2)
    mixing = graph.metropolis_hastings(joined)
    found = set()
    for seed in range(6):
        results = run(
            choco.protocol(joined, codec, "float32", SIZE), programs(pulls(5), mixing, 4, codec, 0.4, np.float32), seed
        )
        found.add(b"".join(results[name].tobytes() for name in joined.peers))
    assert len(found) == 1


# ---- bad neighbours ----


def with_liar(codec: Codec, lie: Callable[[str, Array], Array]) -> list[str]:
    """The refusals of a ring of three in which one sends something else."""
    joined = graph.ring(names(3))
    mixing = graph.metropolis_hastings(joined)
    honest = programs(pulls(3), mixing, 2, codec, 0.5)

    def program(name: str) -> Any:
        async def lying(party: Party) -> Array:
            send = party.send

            async def sent(to: str, message: str, array: Array) -> None:
                await send(to, message, lie(message, array))

            party.send = sent  # type: ignore[method-assign,assignment]
            return await honest(name)(party)  # type: ignore[no-any-return]

        return lying if name == "p2" else honest(name)

    outcome = run_scheduled(
        choco.protocol(joined, codec, "float64", SIZE), {name: program(name) for name in joined.peers}, 0
    )
    assert "p0" not in outcome.results
    return [str(error) for error in outcome.errors.values() if isinstance(error, RefusedError)]


@pytest.mark.parametrize(
    ("codec", "part", "change", "words"),
    [
        (TopK(0.1), "place", lambda a: a[::-1].copy(), "p2 sent what no codec makes: array 'vector' expected strictly"),
        (TopK(0.1), "place", lambda a: a + SIZE, "out of range"),
        (TopK(0.1), "value", lambda a: a * np.nan, "p2 sent values that are not finite"),
        (Int8(8), "scale", lambda a: -a - 1, "p2 sent what no codec makes"),
    ],
)
def test_what_no_honest_neighbour_sends_is_refused_by_name(codec: Any, part: str, change: Any, words: str) -> None:
    refused = with_liar(codec, lambda name, array: change(array) if name.startswith(part) else array)
    assert any(words in text for text in refused), refused


@pytest.mark.parametrize("codec", [TopK(0.1), Int8(8), BFloat16()], ids=repr)
def test_another_size_than_declared_does_not_leave_a_peer(codec: Any) -> None:
    """Nor is it taken: a party compares what comes with the declaration, too."""
    joined = graph.ring(names(3))
    mixing = graph.metropolis_hastings(joined)
    larger = choco.protocol(joined, codec, "float64", 2 * SIZE)
    outcome = run_scheduled(larger, {n: programs(pulls(3), mixing, 2, codec, 0.5)(n) for n in joined.peers}, 0)
    assert not outcome.results
    assert any("expected" in str(error) and "found" in str(error) for error in outcome.errors.values())


def test_values_that_a_codec_cannot_send_are_the_peers_own_failure() -> None:
    class Broken(Pull):
        def train(self, round_: int, vector: Array) -> Any:
            return super().train(round_, vector * np.nan)

    joined = graph.ring(names(3))
    trainers = {name: (Broken if name == "p1" else Pull)(each.target) for name, each in pulls(3).items()}
    mixing = graph.metropolis_hastings(joined)
    outcome = run_scheduled(
        choco.protocol(joined, Int8(), "float64", SIZE),
        {name: programs(trainers, mixing, 2, Int8(), 1.0)(name) for name in joined.peers},
        0,
    )
    assert isinstance(outcome.errors["p1"], TaskError)
    assert "not finite" in str(outcome.errors["p1"])
