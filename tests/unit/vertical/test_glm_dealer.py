"""Training with a dealer: against pooled training, at its bounds, with bad input, and its views simulated."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, HanseError, RefusedError, UnavailableError
from hanse.vertical.glm import dealer, dealer_view, plaintext, precision, softmax
from hanse.vertical.glm.columns import prepare
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.training import Training
from tests.patience import WAIT_S


def data(
    family: str, rows: int, widths: tuple[int, ...], seed: int = 0, outputs: int = 1
) -> tuple[list[Any], Response]:
    """Columns of each data party, and the response."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, sum(widths))) @ rng.standard_normal((sum(widths), sum(widths)))
    z = (x / x.std(0)) @ rng.standard_normal((sum(widths), max(outputs, 1))) / np.sqrt(sum(widths))
    if family == "logistic":
        noisy = z + 0.3 * rng.standard_normal(z.shape)
        label = noisy.argmax(1) if outputs > 1 else (noisy[:, 0] > 0).astype(int)
    elif family == "poisson":
        label = rng.poisson(np.exp(np.minimum(z[:, 0], 2)))
    else:
        label = 100 * z[:, 0] + 7
    parts = np.split(x, np.cumsum(widths)[:-1], axis=1)
    columns = [prepare(part, intercept=at == 0) for at, part in enumerate(parts)]
    return columns, response_of(label, family)


def play(
    columns: list[Any],
    response: Response,
    training: Training,
    seed: int = 0,
    kind: type[Party] = Party,
    host_training: Training | None = None,
    **options: Any,
) -> Outcome:
    """A run under the interleaving of `seed`."""
    data_roles = dealer.data_roles(len(columns) - 1)
    other = host_training or training

    def program(role: str) -> Callable[[Party], Any]:
        async def body(party: Party) -> Any:
            party.__class__ = kind
            if role == "arbiter":
                return await dealer.arbiter(party, training)
            at = data_roles.index(role)
            if at == 0:
                return await dealer.guest(party, columns[0], response, training, **options)
            return await dealer.host(party, columns[at], other)

        return body

    declared = dealer.protocol(len(columns) - 1, early_stop=training.tolerance > 0)
    return run_scheduled(declared, {role: program(role) for role in declared.roles}, seed)


def pooled(columns: list[Any], response: Response, training: Training, **options: Any) -> plaintext.Fit:
    table = np.hstack([each.values for each in columns])
    penalised = np.concatenate([each.penalised for each in columns])
    return plaintext.fit(table, response, training, penalised=penalised, **options)


def joined(outcome: Outcome) -> Any:
    assert outcome.errors == {}
    return np.vstack([result.weights for result in outcome.results.values() if result is not None])


CASES = [
    pytest.param("logistic", (2, 3), {}, 1, False, id="logistic"),
    pytest.param("logistic", (1, 2, 3, 1), {}, 1, False, id="three hosts"),
    pytest.param("logistic", (2, 2), {"multi_class": "ovr"}, 4, False, id="four classes, one against the rest"),
    pytest.param("logistic", (2, 2), {}, 3, True, id="three classes, weighted"),
    pytest.param("logistic", (2, 1, 2), {"wide_scores": True, "l2": 0.05}, 5, False, id="five classes, wide"),
    pytest.param("logistic", (2, 2), {"momentum": 0.9, "learning_rate": 0.05}, 1, False, id="momentum"),
    pytest.param("logistic", (2, 2), {"l2": 0.1}, 1, True, id="l2 and sample weights"),
    pytest.param("logistic", (2, 2), {"wide_scores": True}, 1, False, id="wide"),
    pytest.param("linear", (2, 2), {"learning_rate": 0.1}, 1, False, id="linear"),
    pytest.param("linear", (2, 2, 1), {"learning_rate": 0.1, "l2": 0.1}, 1, True, id="linear weighted"),
    pytest.param("poisson", (2, 2), {"learning_rate": 0.05}, 1, False, id="poisson"),
    pytest.param("poisson", (2, 2), {"learning_rate": 0.02, "momentum": 0.5}, 1, True, id="poisson weighted"),
]


@pytest.mark.parametrize(("family", "widths", "options", "outputs", "weighted"), CASES)
def test_it_is_pooled_training(
    family: str, widths: tuple[int, ...], options: dict[str, Any], outputs: int, weighted: bool
) -> None:
    """Nearly to the bit with the series in place of the mean function, and to half a per cent with the latter."""
    columns, response = data(family, 700, widths, outputs=outputs)
    training = Training(family=family, **{"epochs": 6, "batch_rows": 100, "learning_rate": 0.5} | options)
    weights = np.rint(np.random.default_rng(5).random(700) * 256) / 256
    weights[0] = 1.0  # as they are in fixed point
    further = {"sample_weights": weights} if weighted else {}
    found = joined(play(columns, response, training, **further))
    exact = pooled(columns, response, training, **further).weights
    mean = softmax.mean_of(training, response.num_outputs)
    assert np.abs(exact).max() > 0.03
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() < 0.005 * np.abs(exact).max() + 1e-4
    assert np.abs(found - pooled(columns, response, training, mean=mean, **further).weights).max() < 5e-4


def test_each_interleaving_ends_alike() -> None:
    columns, response = data("logistic", 60, (1, 2, 1))
    training = Training(epochs=2, batch_rows=20, tolerance=1e-6, learning_rate=0.5)
    expected = pooled(columns, response, training)
    for seed in range(12):
        outcome = play(columns, response, training, seed)
        assert np.abs(joined(outcome) - expected.weights).max() < 0.004
        assert outcome.elapsed_s == 0
        for role in ("guest", "host-1", "host-2"):
            assert np.abs(np.subtract(outcome.results[role].changes, expected.changes)).max() < 0.005


def test_more_steps_than_the_dealer_deals_ahead() -> None:
    columns, response = data("logistic", 200, (1, 1))
    training = Training(epochs=10, batch_rows=10, learning_rate=0.2)
    assert 3 * dealer.AHEAD < 200 * 10 // 10
    outcome = play(columns, response, training)
    assert np.abs(joined(outcome) - pooled(columns, response, training).weights).max() < 0.004


def test_an_early_end_is_that_of_pooled_training() -> None:
    columns, response = data("linear", 300, (2, 2))
    training = Training(family="linear", epochs=400, batch_rows=100, learning_rate=0.3, tolerance=1e-3)
    outcome = play(columns, response, training)
    expected = pooled(columns, response, training)
    assert 3 < len(expected.changes) < 400
    changes = outcome.results["guest"].changes
    assert changes == outcome.results["host"].changes
    assert abs(len(changes) - len(expected.changes)) <= 1
    assert outcome.results["guest"].num_steps == 3 * len(changes)


def test_a_warm_start_goes_on() -> None:
    columns, response = data("logistic", 300, (2, 2))
    training = Training(epochs=3, batch_rows=100)
    first = joined(play(columns, response, training))
    again = play(columns, response, training, start=first[:3])
    expected = pooled(columns, response, training, start=np.vstack([first[:3], np.zeros((2, 1))]))
    assert np.abs(joined(again) - expected.weights).max() < 0.002


@pytest.mark.parametrize(("wide", "rate", "least"), [(False, 1.5, 20.0), (True, 8.0, 40.0)])
def test_scores_far_out_stay_finite_and_follow_pooled_training(wide: bool, rate: float, least: float) -> None:
    """Twenty epochs on separable data, as with the Taylor series that went to NaN in its second epoch."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 4))
    columns = [prepare(x[:, :2], intercept=True), prepare(x[:, 2:], intercept=False)]
    response = response_of((x.sum(1) > 0).astype(int), "logistic")
    training = Training(epochs=20, batch_rows=50, learning_rate=rate, wide_scores=wide)
    found = joined(play(columns, response, training))
    table = np.hstack([each.values for each in columns])
    assert np.abs(table @ found).max() > least
    expected = pooled(columns, response, training).weights
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


async def test_it_runs_in_one_process() -> None:
    from hanse.channels.local import run_local

    columns, response = data("logistic", 100, (1, 1))
    training = Training(epochs=2, batch_rows=50)
    async with asyncio.timeout(WAIT_S):
        results = await run_local(
            dealer.protocol(),
            {
                "guest": lambda party: dealer.guest(party, columns[0], response, training),
                "host": lambda party: dealer.host(party, columns[1], training),
                "arbiter": lambda party: dealer.arbiter(party, training),
            },
        )
    found = np.vstack([results["guest"].weights, results["host"].weights])
    assert np.abs(found - pooled(columns, response, training).weights).max() < 0.002


# ---- bounds ----


def test_columns_at_the_bound_and_over_it() -> None:
    """A batch of 5000 rows whose column is as large as may be: the sum is right; one more is refused."""
    training = Training(epochs=1, batch_rows=5000, learning_rate=1.0)
    values = np.full((5000, 1), precision.LARGEST_MEAN)
    precision.check_columns(values, [(0, 5000)])
    with pytest.raises(ConfigError, match="1 columns with more; scale them, or clip"):
        precision.check_columns(np.nextafter(values, 5), [(0, 5000)])
    bits = precision.precision_of(training, 5000, weighted=False)
    largest = 5000 * precision.LARGEST_MEAN * precision.LARGEST_RESIDUAL["logistic"]
    assert largest * 2.0 ** (precision.TABLE_BITS + bits.residuals) <= 2.0**61
    columns = [prepare(np.tile([[3.99], [-3.99]], (2500, 1)), intercept=True, standardise=False)]
    columns.append(prepare(np.tile([[-3.99], [3.99]], (2500, 1)), intercept=False, standardise=False))
    response = response_of(np.tile([1, 0], 2500), "logistic")
    found = joined(play(columns, response, training))
    assert np.abs(found - pooled(columns, response, training).weights).max() < 0.01


@pytest.mark.parametrize("family", ["logistic", "linear", "poisson"])
@pytest.mark.parametrize("rows", [1, 2, 100, 1024, 100_000])
def test_what_a_step_truncates_stays_in_range(family: str, rows: int) -> None:
    training = Training(family=family, learning_rate=0.01, l2=0.01, momentum=0.5, batch_rows=max(rows, 2))
    bits = precision.precision_of(training, rows, weighted=True)
    step = precision.step_of(training, bits, rows)
    assert 0.5 <= step.factor < 1
    assert step.decay * precision.LARGEST_WEIGHT * 2.0**precision.WEIGHT_BITS < 2.0**60
    exponent = precision.TABLE_BITS + bits.residuals - step.shift - precision.WEIGHT_BITS
    assert step.factor * 2.0**exponent == pytest.approx(0.01 / rows, rel=1e-12)


def test_a_training_that_diverges_is_named() -> None:
    columns, response = data("linear", 100, (2, 2))
    training = Training(family="linear", epochs=60, batch_rows=20, learning_rate=4.0)
    outcome = play(columns, response, training)
    assert any(isinstance(error, ConfigError) and "diverged" in str(error) for error in outcome.errors.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l1": 0.1}, "no l1"),
        ({"optimiser": "adam"}, "expected sgd"),
        ({"learning_rate": 1e-17}, "too small or too large"),
        ({"learning_rate": 16.0, "momentum": 1 - 1e-8}, "too small or too large for fixed point with this momentum"),
    ],
)
def test_settings_beyond_the_range_are_refused(options: dict[str, Any], words: str) -> None:
    columns, response = data("logistic", 60, (1, 1))
    outcome = play(columns, response, Training(epochs=1, batch_rows=20, **options))
    assert words in str(outcome.errors["guest"])
    assert isinstance(outcome.errors["guest"], ConfigError)


def test_batches_too_large_are_refused() -> None:
    with pytest.raises(ConfigError, match="take smaller batches"):
        precision.precision_of(Training(family="poisson", batch_rows=1 << 22), 1 << 22, weighted=False)


# ---- bad input ----


def test_other_settings_at_a_party_are_refused() -> None:
    columns, response = data("logistic", 60, (1, 1))
    outcome = play(columns, response, Training(epochs=1), host_training=Training(epochs=1, l2=0.1))
    assert isinstance(outcome.errors["guest"], RefusedError)
    assert "settings of the training" in str(outcome.errors["guest"])
    assert outcome.elapsed_s == 0


def test_other_rows_at_a_party_are_refused() -> None:
    (first, _), response = data("logistic", 60, (1, 1))
    (_, second), _ = data("logistic", 61, (1, 1))
    outcome = play([first, second], response, Training(epochs=1))
    assert "as many rows as at the guest" in str(outcome.errors["guest"])


def test_a_label_of_other_rows_or_far_out_is_refused() -> None:
    columns, _ = data("linear", 60, (1, 1))
    outcome = play(columns, response_of(np.arange(61.0), "linear"), Training(family="linear", epochs=1))
    assert "label: expected 60 rows" in str(outcome.errors["guest"])
    columns, _ = data("poisson", 1000, (1, 1))
    label = np.zeros(1000, int)
    label[0] = 1000
    outcome = play(columns, response_of(label, "poisson"), Training(family="poisson", epochs=1))
    assert "hold them down" in str(outcome.errors["guest"])


@pytest.mark.parametrize("start", [np.zeros((2, 1)), np.full((3, 1), 65.0)])
def test_a_start_that_does_not_fit_is_refused(start: Any) -> None:
    columns, response = data("logistic", 60, (2, 1))
    outcome = play(columns, response, Training(epochs=1), start=start)
    assert isinstance(outcome.errors["guest"], ConfigError)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.ones(30), "found 1 dimensions"),
        (np.array([["a"] * 2] * 30), "rows and columns of numbers"),
        (np.arange(7.0)[:, None], "expected 8 to"),
        (np.column_stack([np.arange(40.0), np.full(40, 7.25)]), "found 1 that"),
        (np.column_stack([np.arange(40.0), np.where(np.arange(40) == 3, np.nan, 7.25)]), "1 with missing or infinite"),
        (np.column_stack([np.arange(40.0), np.where(np.arange(40) == 3, -np.inf, 7.25)]), "1 with missing or infinite"),
        (np.zeros((40, 0)), "found 0"),
        (np.column_stack([np.arange(40.0), np.tile([-1.7e308, 1.7e308], 20)]), "found 1 that do not"),
    ],
)
def test_columns_that_do_not_fit_are_refused_without_their_values(table: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="table") as refused, np.errstate(all="ignore"):
        prepare(table, intercept=False)
    assert words in str(refused.value)
    assert "7.25" not in str(refused.value)


NAMES = [
    "hello",
    "seed",
    "correction",
    "masked_table",
    "masked_sample_weights",
    *dealer._STEP_OPENINGS,
    *dealer._ENDINGS,
]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([*NAMES, "progress"]),
    role=st.sampled_from(["guest", "host", "arbiter"]),
    change=st.sampled_from(["shape", "values", "dtype"]),
    when=st.integers(0, 3),
    raw=st.integers(0, 2**63),
)
def test_a_peer_that_sends_garbage_is_refused_or_ends_by_name(
    name: str, role: str, change: str, when: int, raw: int
) -> None:
    """Whatever one party sends, all end, at once or at a deadline, with an error of the tree or with numbers."""

    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            if (self.role, name_) == (role, name):
                self.iteration = (self.iteration or 0) + 1
                if change == "values":
                    value = np.full_like(value, np.array(raw).astype(value.dtype) + when)
                elif change == "shape":
                    value = np.concatenate([value, value]) if value.ndim else value
                else:
                    value = value.astype(np.float64)
            await super().send(to, name_, value)

    columns, response = data("logistic", 40, (1, 1), outputs=3)
    training = Training(epochs=1, batch_rows=20, tolerance=1e-9)
    outcome = play(columns, response, training, raw % 1000, Deviating, sample_weights=np.ones(40))
    assert all(isinstance(error, HanseError) for error in outcome.errors.values())
    for each in ("guest", "host"):
        assert each in outcome.errors or np.isfinite(outcome.results[each].weights).all()
    if change != "values" and any((m.sender, m.name) == (role, name) for m in dealer.protocol().messages):
        assert outcome.errors


def test_a_silent_party_is_named() -> None:
    columns, response = data("logistic", 40, (1, 1))
    training = Training(epochs=1, batch_rows=20)
    declared = dealer.protocol()
    outcome = run_scheduled(
        declared,
        {
            "guest": lambda party: dealer.guest(party, columns[0], response, training),
            "host": lambda party: dealer.host(party, columns[1], training),
            "arbiter": lambda party: dealer.arbiter(party, training),
        },
        3,
        lost=lambda frame: frame.name == "masked_scores" and frame.sender == "host",
        names={"host": "shop"},
    )
    assert isinstance(outcome.errors["guest"], UnavailableError)
    assert "host shop has not sent `masked_scores` of iteration 0 for 30 s" in str(outcome.errors["guest"])


# ---- what is revealed ----


@pytest.mark.parametrize(
    ("family", "widths", "outputs"),
    [("logistic", (2, 3), 1), ("logistic", (2, 1, 2), 4), ("linear", (2, 3), 1), ("linear", (2, 1, 2), 1)],
)
def test_views_are_made_from_own_input_and_what_is_revealed(family: str, widths: tuple[int, ...], outputs: int) -> None:
    columns, response = data(family, 600, widths, outputs=outputs)
    weights = np.linspace(0.1, 1, 600)
    training = Training(family=family, epochs=3, batch_rows=100, tolerance=1e-9, learning_rate=0.1, momentum=0.5)
    seen: dict[str, list[tuple[str, Array]]] = {}
    hellos: dict[str, list[int]] = {}

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            if name == "hello":
                hellos[self.role] = value.tolist()
            await super().send(to, name, value)

        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen.setdefault(self.role, []).append((name, value))
            return value

    outcome = play(columns, response, training, kind=Recording, sample_weights=weights)
    assert outcome.errors == {}
    for at, role in enumerate(dealer.data_roles(len(widths) - 1)):
        reveals = {
            "hellos": {other: hello for other, hello in hellos.items() if other != role},
            "weights": outcome.results[role].weights,
            "changes": outcome.results[role].changes,
        }
        label = {"response": response, "sample_weights": weights} if at == 0 else {}
        simulated = dealer_view.simulate_view(role, columns[at], training, reveals, **label)
        assert [(n, v.dtype, v.shape) for n, v in simulated] == [(n, v.dtype, v.shape) for n, v in seen[role]]
        for view in (simulated, seen[role]):
            masked = [v.reshape(-1) for n, v in view if n.startswith("masked_") or n == "correction"]
            bits = np.unpackbits(np.concatenate(masked).view(np.uint8).reshape(-1, 8), axis=1)
            # 5 sigma at 64 bits for at most six views: false alarm 2e-4.
            assert np.abs(bits.mean(axis=0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 5
    assert {name for name, _ in seen["arbiter"]} == {"hello", "progress"}


def test_what_is_opened_differs_from_run_to_run() -> None:
    """The same input twice: no opened word comes again."""
    columns, response = data("logistic", 60, (1, 1))
    words: list[set[int]] = []

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            if self.role == "guest" and name.startswith("masked_"):
                words[-1].update(value.reshape(-1).tolist())
            return value

    for _ in range(2):
        words.append(set())
        assert play(columns, response, Training(epochs=1, batch_rows=20), kind=Recording).errors == {}
    assert not words[0] & words[1]


def test_reveals_are_declared() -> None:
    told = {(each.to, each.about, each.what) for each in dealer.protocol().reveals}
    assert {what for to, _, what in told if to == "arbiter"} == {"shape", "steps"}
    assert {what for to, _, what in told if to == "guest"} == {"shape", "own_weights"}
    early = {each.what for each in dealer.protocol(2, early_stop=True).reveals}
    assert early == {"shape", "steps", "own_weights", "weight_change"}
    for count in (0, 17):
        with pytest.raises(ConfigError, match="1 to 16"):
            dealer.protocol(count)
