"""Transfer learning: gradients against differences, shared secrets against the clear, the target alone, its view."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import CodecError, ConfigError, RefusedError
from hanse.crypto import fixed_point
from hanse.vertical import metrics
from hanse.vertical.glm.columns import prepare
from hanse.vertical.tables import Table, read_table
from hanse.vertical.transfer import dealer, mathematics, models
from hanse.vertical.transfer.mathematics import SCALE, Settings

SHARED = Path(__file__).parents[4] / "shared" / "data" / "fate"
SMALL = Settings(dimensions=3, iterations=6, seed=2)


def people(seed: int = 0, rows: int = 90, common: int = 40) -> tuple[Any, Any, Any, Any]:
    """H of the guest, signs, places of common rows, H of these at the host."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((rows, 2))
    a = np.column_stack([np.ones(rows), hidden + 0.3 * rng.standard_normal((rows, 2)), rng.standard_normal(rows)])
    b = np.column_stack([np.ones(rows), hidden @ rng.standard_normal((2, 4)) + 0.3 * rng.standard_normal((rows, 4))])
    places = rng.permutation(rows)[:common]
    return a, np.where(hidden[:, 0] + hidden[:, 1] > 0, 1.0, -1.0), places, b[places]


def run(data: Any, chosen: Settings = SMALL, seed: int = 0, kind: type[Party] = Party) -> Outcome:
    a, signs, places, b = data

    def program(role: str, *arguments: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = kind
            return await getattr(dealer, role)(party, *arguments)

        return body

    return run_scheduled(
        dealer.PROTOCOL,
        {
            "guest": program("guest", a, signs, places, chosen),
            "host": program("host", b, chosen),
            "arbiter": program("arbiter"),
        },
        seed,
    )


def loss(data: Any, chosen: Settings, source: Any, target: Any) -> float:
    """As the module's text has it, by loops over rows."""
    a, signs, places, b = data
    phi = SCALE * sum(y * np.tanh(h @ source) for y, h in zip(signs, a, strict=True)) / len(a)

    def taylor(y: float, score: float) -> float:
        return float(np.log(2) - y * score / 2 + score**2 / 8)

    total = 0.0
    for place, h in zip(places, b, strict=True):
        u, other = np.tanh(h @ target), np.tanh(a[place] @ source)
        total += (taylor(signs[place], phi @ u) + chosen.alignment / 2 * ((u - other) ** 2).sum()) / len(b)
    for y, h in zip(signs, a, strict=True):
        total += chosen.own_loss * taylor(y, phi @ np.tanh(h @ source)) / len(a)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_loss(seed: int) -> None:
    chosen = Settings(dimensions=3, alignment=0.7, own_loss=0.4)
    data = people(seed, 30, 22)
    a, signs, places, b = data
    w, v = (mathematics.first_weights(h.shape[1], chosen, r) for h, r in ((a, "guest"), (b, "host")))
    source, target = mathematics.guest_terms(a, signs, places, w, chosen), mathematics.host_terms(b, v, chosen)
    found = (
        source.alone + np.einsum("kpl,kl->pk", source.matrix, target.vector),
        target.alone + np.einsum("kpl,kl->pk", target.matrix, source.vector),
    )
    for which, gradient in enumerate(found):
        for place in np.ndindex(gradient.shape):
            moved = [[w.copy(), v.copy()] for _ in range(2)]
            moved[0][which][place] += 1e-5
            moved[1][which][place] -= 1e-5
            difference = (loss(data, chosen, *moved[0]) - loss(data, chosen, *moved[1])) / 2e-5
            assert gradient[place] == pytest.approx(difference, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_shared_secrets_give_what_the_clear_gives(seed: int) -> None:
    data = people(seed)
    outcome = run(data, seed=seed)
    assert outcome.errors == {}
    source, target, phi = mathematics.fit(*data, SMALL)
    assert np.abs(outcome.results["guest"].weights - source).max() < 1e-4
    assert np.abs(outcome.results["host"].weights - target).max() < 1e-4
    assert np.array_equal(outcome.results["guest"].translator, outcome.results["host"].translator)
    assert np.abs(outcome.results["host"].translator - phi).max() < 1e-4
    assert outcome.results["arbiter"] is None


def test_the_view_is_made_from_own_input_and_what_is_revealed() -> None:
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": [], "arbiter": []}

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            return value

    data = people(1, 300, 200)
    a, signs, places, b = data
    outcome = run(data, kind=Recording)
    assert outcome.errors == {}
    for role, peer in (("guest", "host"), ("host", "guest")):
        real = seen[role]
        terms, products = [], []
        descents = {
            "guest": mathematics.Descent(mathematics.first_weights(4, SMALL, "guest"), SMALL),
            "host": mathematics.Descent(mathematics.first_weights(5, SMALL, "host"), SMALL),
        }
        for _ in range(SMALL.iterations):  # what it is told of its gradients, in exact fixed point
            both = {
                "guest": mathematics.guest_terms(a, signs, places, descents["guest"].weights, SMALL),
                "host": mathematics.host_terms(b, descents["host"].weights, SMALL),
            }
            told = {}
            for own, other in (("guest", "host"), ("host", "guest")):
                matrix, _ = dealer._encoded(both[own])
                _, vector = dealer._encoded(both[other])
                told[own] = dealer._products(matrix, vector)
                rest = fixed_point.decode(told[own], dealer.MATRIX_BITS + dealer.VECTOR_BITS)
                descents[own].step(both[own].alone + rest.T)
            terms.append(both[role])
            products.append(told[role])
        assert np.array_equal(descents[role].weights, outcome.results[role].weights)  # bit for bit
        reveals = {"hello": real[0][1], "products": products, "translator": outcome.results[peer].translator}
        view = dealer.simulate_view(role, terms, reveals, SMALL)
        assert [(n, v.dtype, v.shape) for n, v in view] == [(n, v.dtype, v.shape) for n, v in real]
        for shown in (view, real):  # both open to what is revealed
            seed = shown[1][1].tobytes()
            for at, own_terms in enumerate(terms):
                vector, product = shown[2 + 4 * at][1], shown[5 + 4 * at][1]
                mask = dealer._of_matrices(seed, at, own_terms.matrix.shape)
                assert np.array_equal(dealer._own_share(own_terms, mask, vector) + product, products[at])
        masked = np.concatenate([v.reshape(-1) for n, v in real if n.startswith("masked")])
        bits = np.unpackbits(np.ascontiguousarray(masked).view(np.uint8).reshape(-1, 8), axis=1)
        # 5.5 sigma at 64 bits for each of two parties: false alarm 5e-6
        assert np.abs(bits.mean(axis=0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 5.5
    assert [name for name, _ in seen["arbiter"]] == ["hello", "hello"]


@pytest.mark.parametrize(
    ("role", "name", "change", "words"),
    [
        ("guest", "hello", lambda v: v + np.array([1, 0, 0, 0, 0][: len(v)]), "expected version 1"),
        (
            "host",
            "hello",
            lambda v: v + np.array([0, 1, 0, 0, 0][: len(v)]),
            "expected 40 common rows as here, found 41",
        ),
        ("host", "hello", lambda v: v + (len(v) == 4) * np.array([0, 0, 0, 1, 0][: len(v)]), "expected the settings"),
        ("guest", "hello", lambda v: v + (len(v) == 5) * np.array([0, 1, 0, 0, 0][: len(v)]), "the same sizes"),
        ("host", "masked_matrix", lambda v: v[:, :, 1:].copy(), "expected an array"),
        ("guest", "masked_vector", lambda v: v[1:].copy(), "expected an array"),
        ("arbiter", "correction", lambda v: v[1:].copy(), "expected an array"),
        ("guest", "product", lambda v: v[1:].copy(), "expected an array"),
        ("guest", "product", lambda v: v + 2**62, "within the range of fixed point"),
        ("guest", "translator", lambda v: v * np.nan, "numbers within ±4"),
    ],
)
def test_a_party_that_deviates_is_refused(role: str, name: str, change: Any, words: str) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            await super().send(to, name_, change(value) if (self.role, name_) == (role, name) else value)

    outcome = run(people(), kind=Deviating)
    assert words in "".join(str(each) for each in outcome.errors.values() if isinstance(each, RefusedError))


def test_input_that_does_not_fit_is_refused() -> None:
    a, signs, places, b = people()
    assert "−1 and 1" in str(run((a, signs * 0, places, b)).errors["guest"])
    assert "20 to" in str(run((a, signs, places[:19], b[:19])).errors["guest"])
    assert "4 that are not; take a smaller clip" in str(
        run((a, signs, places, b * [1, 1e3, 1e3, 1e3, np.nan])).errors["host"]
    )
    value: Any
    for name, value in (("dimensions", 0), ("learning_rate", 0.0), ("alignment", -1.0), ("l2", float("nan"))):
        with pytest.raises(ConfigError, match=name):
            Settings(**{name: value})
    with pytest.raises(RefusedError, match="numbers in dimensions × columns × rows"):
        dealer._check_sizes("host", 1 << 14, 1 << 10, 64)


# ---- as an app, on public data ----


def tables() -> tuple[Table, Table]:
    """The bank's and the shop's, rows in one order."""
    guest = read_table(SHARED / "default_credit_hetero_guest.csv.gz", key="id", label="y")
    host = read_table(SHARED / "default_credit_hetero_host.csv.gz", key="id")
    assert guest.ids is not None
    assert host.ids is not None
    places = {each: at for at, each in enumerate(host.ids.tolist())}
    return guest, host.take(np.array([places[each] for each in guest.ids.tolist()]))


def alone(h: Any, y: Any, l2: float) -> Any:
    """Logistic regression of the target alone, on the labels of the common rows; scores of all its rows."""
    w, few = np.zeros(h.shape[1]), h[: len(y)]
    for _ in range(300):
        w -= 0.5 * (few.T @ (1 / (1 + np.exp(-few @ w)) - y) / len(y) + l2 * np.append(0, w[1:]))
    return h @ w


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the example data of FATE in ../shared/data/fate")
def test_it_beats_the_target_alone_whatever_penalty_that_takes() -> None:
    """Over eight draws of 60 common rows; the app on the last of them gives what the clear gives."""
    guest, host = tables()
    assert guest.label is not None
    assert guest.ids is not None
    ours, theirs = [], []
    for seed in range(8):
        order = np.random.default_rng(seed).permutation(guest.num_rows)[:6000]
        bank, shop = order[:3000], np.concatenate([order[:60], order[3000:]])
        a, b = (prepare(t.values[at], intercept=True, clip=4.0).values for t, at in ((guest, bank), (host, shop)))
        y, labels = guest.label[bank], guest.label[shop]
        chosen = Settings(seed=seed)
        _, w, phi = mathematics.fit(a, np.where(y > 0, 1.0, -1.0), np.arange(60), b[:60], chosen)
        scores = np.tanh(b @ w) @ phi
        ours.append(metrics.auc(labels[60:], scores[60:]))
        theirs.append([metrics.auc(labels[60:], alone(b, labels[:60], l2)[60:]) for l2 in (0.01, 0.1, 1.0, 3.0)])
    assert np.mean(ours) > np.mean(theirs, axis=0).max() + 0.003, (np.mean(ours), np.mean(theirs, axis=0))

    data: dict[str, Any] = {"notary": {}}
    for site, table, rows in (("bank", guest, bank), ("shop", host, shop)):
        data[site] = {"d": {"id": guest.ids[rows], **dict(zip(table.names, table.values[rows].T, strict=True))}}
    data["bank"]["d"]["y"] = y
    app = hs.vertical.TransferLearning(dataset="d", key="id", label="y", seed=seed)
    result = hs.simulate(app, data, roles={"guest": "bank", "host": "shop", "arbiter": "notary"})
    assert result.metrics["host_common"] == 60
    assert np.abs(result.arrays["host/scores"] - scores).max() < 0.01
    kept = {name.removeprefix("host/"): each for name, each in result.arrays.items() if name.startswith("host/")}
    chances = models.predict(kept, host.values[shop])
    assert np.allclose(np.log(chances / (1 - chances)), result.arrays["host/scores"], atol=1e-9)


def test_files_of_something_else_are_refused() -> None:
    with pytest.raises(CodecError, match="expected the finite arrays"):
        models.predict({"weights": np.ones((3, 2))}, np.ones((1, 2)))


def test_what_it_reveals_names_what_gradients_tell() -> None:
    said = {(each.to, each.about, each.what) for each in models.PROTOCOL.reveals}
    assert {
        ("host", "guest", "own_gradient"),
        ("guest", "host", "own_gradient"),
        ("host", "guest", "translator"),
    } <= said
    assert models.PROTOCOL.guarantee.adversary == "semi-honest"
