"""Training of two parties without a dealer: against pooled training, with bad input, and what travels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, HanseError, RefusedError
from hanse.crypto import mock_rlwe, rlwe
from hanse.vertical.glm import dealer_free, dealer_free_view, plaintext, slots, softmax, wide
from hanse.vertical.glm.columns import prepare
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.leverage import weighed_down
from hanse.vertical.glm.series import series_of
from hanse.vertical.glm.training import Training, batches, bounds

M = 1 << rlwe.WIDE_BITS


def data(family: str, rows: int = 60, outputs: int = 1) -> tuple[list[Any], Response]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 4))
    z = x @ rng.standard_normal((4, outputs))
    if family == "logistic":
        label = z.argmax(1) if outputs > 1 else (z[:, 0] > 0).astype(int)
    else:
        label = z[:, 0] * 3 + 1 if family == "linear" else rng.poisson(np.exp(np.minimum(z[:, 0], 1)))
    return [prepare(x[:, :2], intercept=True), prepare(x[:, 2:], intercept=False)], response_of(label, family)


def play(
    columns: list[Any],
    response: Response,
    training: Training,
    *,
    own: bool,
    cipher: type[rlwe.PrivateKey] = rlwe.PrivateKey,
    seed: int = 0,
    kind: type[Party] = Party,
    host_training: Training | None = None,
    **options: Any,
) -> Outcome:
    def program(role: str) -> Callable[[Party], Any]:
        async def body(party: Party) -> Any:
            party.__class__ = kind
            if role == "guest":
                return await dealer_free.guest(
                    party, columns[0], response, training, own_gradients=own, cipher=cipher, **options
                )
            return await dealer_free.host(
                party, columns[1], host_training or training, own_gradients=own, cipher=cipher
            )

        return body

    declared = dealer_free.protocol(own_gradients=own, early_stop=training.tolerance > 0)
    return run_scheduled(declared, {"guest": program("guest"), "host": program("host")}, seed)


def joined(outcome: Outcome) -> Any:
    assert outcome.errors == {}
    return np.vstack([outcome.results["guest"].weights, outcome.results["host"].weights])


def pooled(columns: list[Any], response: Response, training: Training, **options: Any) -> plaintext.Fit:
    table = np.hstack([each.values for each in columns])
    penalised = np.concatenate([each.penalised for each in columns])
    return plaintext.fit(table, response, training, penalised=penalised, **options)


CASES = [
    pytest.param(False, "logistic", {"momentum": 0.5, "l2": 0.1}, 1, True, id="shared"),
    pytest.param(False, "logistic", {}, 4, True, id="shared, four classes"),
    pytest.param(False, "linear", {"learning_rate": 0.1}, 1, False, id="shared, linear"),
    pytest.param(False, "poisson", {"learning_rate": 0.05}, 1, False, id="shared, poisson"),
    pytest.param(True, "logistic", {"optimiser": "adam", "learning_rate": 0.1}, 1, True, id="own, adam"),
    pytest.param(True, "logistic", {"wide_scores": True}, 3, False, id="own, three classes"),
    pytest.param(True, "linear", {"l1": 0.05, "learning_rate": 0.1}, 1, False, id="own, l1"),
    pytest.param(True, "poisson", {"learning_rate": 0.05}, 1, True, id="own, poisson"),
]


@pytest.mark.parametrize(("own", "family", "options", "outputs", "weighted"), CASES)
def test_it_is_pooled_training(own: bool, family: str, options: dict[str, Any], outputs: int, weighted: bool) -> None:
    columns, response = data(family, outputs=outputs)
    training = Training(family=family, **{"epochs": 3, "batch_rows": 30, "learning_rate": 0.5} | options)
    further = {"sample_weights": np.random.default_rng(5).random(60)} if weighted else {}
    found = joined(play(columns, response, training, own=own, **further))
    mean = softmax.mean_of(training, response.num_outputs)
    expected = pooled(columns, response, training, mean=mean, **further).weights
    assert np.abs(expected).max() > 0.03
    assert np.abs(found - expected).max() < 6e-4
    assert np.array_equal(found == 0, expected == 0) or not training.l1


def test_an_early_end_of_own_gradients() -> None:
    columns, response = data("linear")
    training = Training(family="linear", epochs=30, batch_rows=60, learning_rate=0.7, tolerance=0.1)
    outcome = play(columns, response, training, own=True)
    expected = pooled(columns, response, training)
    assert 1 < len(expected.changes) < 12
    for role in ("guest", "host"):
        assert np.abs(np.subtract(outcome.results[role].changes, expected.changes)).max() < 1e-3


@pytest.mark.parametrize("own", [False, True])
def test_the_mock_cipher_has_the_same_transcript_and_the_same_end(own: bool) -> None:
    columns, response = data("logistic")
    training = Training(epochs=1, batch_rows=30)
    sizes: list[list[Any]] = []

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            sizes[-1].append((self.role, name, value.dtype, value.shape))
            await super().send(to, name, value)

    found = []
    for cipher in (rlwe.PrivateKey, mock_rlwe.PrivateKey):
        sizes.append([])
        found.append(joined(play(columns, response, training, own=own, cipher=cipher, kind=Recording)))
    assert sizes[0] == sizes[1]
    # with shared weights factors are rounded to 2^-13 after the scores were split at random
    assert np.abs(found[0] - found[1]).max() < (1e-9 if own else 2e-4)


def test_a_warm_start() -> None:
    columns, response = data("logistic")
    start = np.array([[0.5], [-0.25], [0.125]])
    training = Training(epochs=1, batch_rows=30)
    expected = pooled(columns, response, training, start=np.vstack([start, np.zeros((2, 1))])).weights
    for own in (True, False):
        assert np.abs(joined(play(columns, response, training, own=own, start=start)) - expected).max() < 1e-3


# ---- arithmetic modulo 2^112 ----


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**70), 2**70), st.integers(0, M - 1), st.integers(1, 60))
def test_shares_are_truncated_within_one_unit(x: int, share: int, shift: int) -> None:
    """But where the share is within |x| of the ring's end: a chance of 2^-41 here."""
    first, second = np.array([share], object), np.array([x - share], object)
    parts = (wide.truncate(first, shift, is_first=True), wide.truncate(second, shift, is_first=False))
    found = rlwe.centred(int(sum(parts)[0]))
    if abs(x) < share < M - abs(x):
        assert abs(found - (x >> shift)) <= 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**120), 2**120), min_size=1, max_size=6), st.integers(0, 2**32))
def test_products_and_words_are_those_of_python(vector: list[int], seed: int) -> None:
    table = np.random.default_rng(seed).integers(-(2**26), 2**26, (3, len(vector)))
    values = np.array(vector, object)
    found = wide.product(table, values)
    for row, each in zip(table.tolist(), found, strict=True):
        assert each == sum(a * b for a, b in zip(row, vector, strict=True)) % M
    assert (wide.from_words(wide.to_words(values)) == values % M).all()
    assert wide.to_words(values).dtype == np.uint64


# ---- bad input ----


def test_columns_of_too_high_a_rank_are_refused_where_gradients_are_seen() -> None:
    """rank(X) ≥ rows / 4: a host would read labels from its own gradients; repeated columns do not raise the rank."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((64, 3))
    response = response_of((base[:, 0] > 0).astype(int), "logistic")
    training = Training(epochs=1, batch_rows=16)
    guest = prepare(base[:, :1], intercept=True)
    high = prepare(rng.standard_normal((64, 4)), intercept=False)
    outcome = play([guest, high], response, training, own=True)
    assert all(isinstance(outcome.errors[role], RefusedError) for role in ("guest", "host"))
    assert "host: expected columns of rank below a quarter of the rows of a batch, 16, found 4" in str(
        outcome.errors["guest"]
    )
    low = prepare(base[:, [0, 1, 2, 0, 1]] * [1, 1, 1, 2, -3], intercept=False)
    assert play([guest, low], response, training, own=True).errors == {}
    assert play([guest, high], response, training, own=False).errors == {}


@pytest.mark.parametrize(
    ("own", "options", "words"),
    [
        (False, {"optimiser": "adam"}, "expected sgd without l1"),
        (False, {"tolerance": 0.1}, "expected sgd without l1 and tolerance"),
        (False, {"learning_rate": 1e-17}, "too small or too large"),
    ],
)
def test_settings_that_do_not_fit_are_refused(own: bool, options: dict[str, Any], words: str) -> None:
    columns, response = data("logistic")
    outcome = play(columns, response, Training(epochs=1, batch_rows=30, **options), own=own)
    assert any(isinstance(error, ConfigError) and words in str(error) for error in outcome.errors.values())


def test_parties_that_do_not_fit_are_refused() -> None:
    columns, response = data("logistic")
    training = Training(epochs=1, batch_rows=30)
    outcome = play(columns, response, training, own=True, host_training=Training(epochs=2, batch_rows=30))
    assert "expected the settings of the training as here" in str(outcome.errors["guest"])
    fewer, _ = data("logistic", rows=50)
    assert "expected 60 rows as here, found 50" in str(
        play([columns[0], fewer[1]], response, training, own=True).errors["guest"]
    )
    linear, target = data("linear")
    outcome = play(linear, target, Training(family="linear", epochs=1), own=True, sample_weights=np.ones(60))
    assert "not for linear models" in str(outcome.errors["guest"])
    huge = prepare(
        np.random.default_rng(0).choice([-3e4, 3e4], (9000, 3)) * np.eye(3)[np.arange(9000) % 3] / 9,
        intercept=False,
        standardise=False,
    )
    outcome = play(
        [prepare(np.arange(9000.0)[:, None], intercept=True), huge],
        response_of(np.arange(9000) % 2, "logistic"),
        training,
        own=False,
    )
    assert "mean absolute value of at most 4" in str(outcome.errors["host"])
    values = np.zeros((200, 2))
    values[[0, 1]] = [[350.0, -350.0], [-350.0, 350.0]]
    wide_row = prepare(np.hstack([values] * 125) * np.linspace(1, 0.9, 250), intercept=False, standardise=False)
    outcome = play(
        [prepare(np.arange(200.0)[:, None], intercept=True), wide_row],
        response_of(np.arange(200) % 2, "logistic"),
        Training(epochs=1, batch_rows=200),
        own=False,
    )
    assert "absolute values of a row below 65536" in str(outcome.errors["host"])
    large, target = data("logistic", rows=9000)
    outcome = play(large, target, Training(epochs=1, batch_rows=9000), own=False)
    assert "at most 8192" in str(outcome.errors["guest"])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(
        ["hello", "public_key", "vector", "vector_seeds", "heads", "tails", "masked_gradient", "angles"]
    ),
    role=st.sampled_from(["guest", "host"]),
    change=st.sampled_from(["shape", "values"]),
    raw=st.integers(0, 2**31),
)
def test_a_peer_that_sends_garbage_is_refused_or_ends_by_name(name: str, role: str, change: str, raw: int) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            if (self.role, name_) == (role, name):
                if change == "values":
                    value = np.full_like(value, np.array(raw).astype(value.dtype))
                else:
                    value = np.concatenate([value, value])
            await super().send(to, name_, value)

    columns, response = data("logistic")
    outcome = play(columns, response, Training(epochs=1, batch_rows=60), own=True, seed=raw % 100, kind=Deviating)
    assert all(isinstance(error, HanseError) for error in outcome.errors.values())
    for each in ("guest", "host"):
        assert each in outcome.errors or np.isfinite(outcome.results[each].weights).all()
    if change == "shape" and not (name == "angles" and role == "guest"):
        assert outcome.errors


# ---- what travels ----


@pytest.mark.parametrize("own", [False, True])
def test_what_is_opened_is_masked(own: bool) -> None:
    """What a holder of a key decrypts is uniform, whatever the columns are; and what is declared is what is sent."""
    columns, response = data("logistic", rows=600)
    names: set[str] = set()
    opened: list[int] = []
    real = rlwe.PrivateKey.decrypt_products

    def recording(self: rlwe.PrivateKey, answer: rlwe.Answer, num_rows: int, length: int) -> list[int]:
        found = real(self, answer, num_rows, length)
        opened.extend(found)
        return found

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            names.add(name)
            await super().send(to, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlwe.PrivateKey, "decrypt_products", recording)
        assert play(columns, response, Training(epochs=4, batch_rows=150), own=own, kind=Recording).errors == {}
    assert names == {message.name for message in dealer_free.protocol(own_gradients=own).messages}
    bits = np.array([[each % M >> at & 1 for at in range(112)] for each in opened])
    assert len(bits) > 60
    # 112 bits, 5 sigma: false alarm 7e-5
    assert np.abs(bits.mean(axis=0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 5


@pytest.mark.parametrize("own", [False, True])
def test_views_are_made_from_own_input_and_what_is_revealed(own: bool) -> None:
    """The same messages of the same sizes, and the same weights at the end."""
    columns, response = data("logistic", outputs=3)
    training = Training(epochs=2, batch_rows=30, tolerance=1e-9 if own else 0.0)
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": []}
    hellos: dict[str, Any] = {}
    gradients: dict[str, list[Any]] = {"guest": [], "host": []}
    sides: dict[str, Any] = {}
    real = dealer_free._gradients

    async def recording(side: Any, x: Any, d: Any) -> Any:
        sides[side.party.role] = side
        return await real(side, x, d)

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            if name == "hello":
                hellos[self.role] = value
            await super().send(to, name, value)

        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            if name == "masked_gradient":
                gradients[self.role].append((sides[self.role].awaited["sum"] + wide.from_words(value)) % M)
            return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealer_free, "_gradients", recording)
        outcome = play(columns, response, training, own=own, kind=Recording)
    assert outcome.errors == {}
    for at, (role, other) in enumerate((("guest", "host"), ("host", "guest"))):
        reveals = {
            "hello": hellos[other],
            "weights": outcome.results[role].weights,
            "gradients": gradients[role],
            "changes": [float(value[0]) for name, value in seen[role] if name == "change"],
        }
        label = {"response": response} if at == 0 else {}
        view = dealer_free_view.simulate_view(role, columns[at], training, reveals, own_gradients=own, **label)
        assert [(n, v.dtype, v.shape) for n, v in view] == [(n, v.dtype, v.shape) for n, v in seen[role]]
        for name in ("vector", "heads", "angles", "slot_heads"):
            for one in (view, seen[role]):
                raw = [v for n, v in one if n == name]
                if raw:  # uniform modulo primes near 2^30: 6 sigma
                    scaled = np.concatenate([each.reshape(-1) for each in raw]) / 2.0**30
                    assert abs(scaled.mean() - 0.5) < 6 * np.sqrt(1 / 12 / scaled.size) + 2e-3


def test_masks_of_slots_are_uniform_and_their_sums_too() -> None:
    """6 sigma of the mean, for each prime, for single masks and for sums of 48."""
    masks, shape = slots.new_masks(6), (6 * rlwe.SIZE // 48, 48)
    t = rlwe.slot_transform().primes[:, None]
    assert np.abs((masks / t).mean(axis=(0, 2)) - 0.5).max() < 6 * np.sqrt(1 / 12 / (6 * rlwe.SIZE))
    for sums in (slots.summed(masks, (6 * rlwe.SIZE, 1)), slots.summed(masks, shape)):
        scaled = sums.astype(np.float64) / rlwe.slot_modulus()
        assert abs(scaled.mean() - 0.5) < 6 * np.sqrt(1 / 12 / len(scaled))
        assert abs((scaled**2).mean() - 1 / 3) < 6 * np.sqrt(4 / 45 / len(scaled))


def test_reveals_tell_the_modes_apart() -> None:
    own = {each.what for each in dealer_free.protocol(own_gradients=True).reveals}
    shared = {each.what for each in dealer_free.protocol(own_gradients=False).reveals}
    assert own == {"shape", "own_gradient", "own_weights"}
    assert shared == {"shape", "own_weights"}


def test_scores_beyond_fixed_point_end_the_training_when_they_come() -> None:
    """And not, made into other numbers, at its end."""
    columns, response = data("linear")
    training = Training(family="linear", epochs=60, batch_rows=60, learning_rate=16.0)
    outcome = play(columns, response, training, own=True, cipher=mock_rlwe.PrivateKey)
    assert any("diverged: expected finite scores" in str(error) for error in outcome.errors.values())


def marked(high_leverage: str) -> tuple[Any, Any]:
    """After one step from zero, the host's weights for columns that mark one row each; and the labels of these rows."""
    columns, _ = data("logistic")
    label = np.random.default_rng(4).integers(0, 2, 60)
    columns[1] = prepare(np.eye(60)[:, :14], intercept=False)
    training = Training(epochs=1, batch_rows=60, learning_rate=0.5, high_leverage=high_leverage)
    outcome = play(columns, response_of(label, "logistic"), training, own=True, cipher=mock_rlwe.PrivateKey)
    assert outcome.errors == {}
    return outcome.results["host"].weights[:, 0], label[:14] == 1


def test_what_a_column_that_marks_one_row_tells_a_host_with_own_gradients() -> None:
    """The bound on ranks does not prevent this. Weighing rows of high leverage down does: columns then say the same."""
    weights, labels = marked("accept")  # rising where mean − y is below zero
    assert (weights > (weights.max() + weights.min()) / 2).tolist() == labels.tolist()
    weights, _ = marked("weigh_down")
    assert np.ptp(weights) < 1e-3 * np.abs(weights).max()


def test_rows_are_weighed_down_in_gradients_and_not_in_scores() -> None:
    """Against the training in plain loops, with each party's gradient from its weighed rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4))
    x[5, 1], x[40, 2] = 40.0, -30.0  # of the guest and of the host
    label = (x @ [1, 0.1, -0.1, -1] + rng.standard_normal(64) > 0).astype(int)
    columns = [prepare(x[:, :2], intercept=True), prepare(x[:, 2:], intercept=False)]
    training = Training(epochs=2, batch_rows=32, learning_rate=0.5)
    outcome = play(columns, response_of(label, "logistic"), training, own=True, cipher=mock_rlwe.PrivateKey)
    tables = [each.values for each in columns]
    used = [
        weighed_down(np.rint(each * 4096).astype(np.int64), bounds(64, 32), 0.5, "weigh_down") / 4096 for each in tables
    ]
    for table, own, at in zip(tables, used, (5, 40), strict=True):
        assert np.flatnonzero(np.abs(own - table).max(axis=1) > 0.01).tolist() == [at]
    weights = [np.zeros(each.shape[1]) for each in tables]
    for step in batches(64, training):
        d = (
            series_of("logistic")(sum(t[step.rows] @ w for t, w in zip(tables, weights, strict=True)))
            - label[step.rows]
        )
        for own, table in zip(weights, used, strict=True):
            own -= 0.5 * table[step.rows].T @ d / 32
    assert np.abs(joined(outcome)[:, 0] - np.concatenate(weights)).max() < 1e-3


def test_high_leverage_is_refused_or_told_where_that_is_asked_for() -> None:
    columns, response = data("logistic")
    columns[1] = prepare(np.eye(60)[:, :2], intercept=False)
    outcome = play(columns, response, Training(epochs=1, batch_rows=30, high_leverage="refuse"), own=True)
    assert "below 0.5 in every batch, found 2 of more" in str(outcome.errors["host"])
    columns[1] = prepare(np.repeat(np.eye(60)[:, :2], 2, axis=1) + np.eye(60)[:, 10:14], intercept=False)
    outcome = play(columns, response, Training(epochs=1, batch_rows=20, max_leverage=0.01), own=True)
    assert "found more for 100% of one" in str(outcome.errors["host"])
    told = {each.what for each in dealer_free.protocol(own_gradients=True, any_leverage=True).reveals}
    assert told - {each.what for each in dealer_free.protocol(own_gradients=True).reveals} == {"single_rows"}
