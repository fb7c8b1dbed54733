"""Training with an arbiter that holds the key: against pooled training, bad input, and what travels."""

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
from hanse.vertical.glm import key_holder, key_holder_view, plaintext, softmax, wide
from hanse.vertical.glm.columns import prepare
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.training import Training

M = 1 << rlwe.WIDE_BITS


def data(family: str, rows: int = 80, outputs: int = 1, hosts: int = 2) -> tuple[dict[str, Any], Response]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 2 + 2 * hosts))
    z = x @ rng.standard_normal((x.shape[1], outputs))
    if family == "logistic":
        label = z.argmax(1) if outputs > 1 else (z[:, 0] > 0).astype(int)
    else:
        label = z[:, 0] * 3 + 1 if family == "linear" else rng.poisson(np.exp(np.minimum(z[:, 0], 1)))
    names = ["host"] if hosts == 1 else [f"host-{at + 1}" for at in range(hosts)]
    parts = {"guest": prepare(x[:, :2], intercept=True)}
    parts |= {
        name: prepare(x[:, 2 * at + 2 : 2 * at + 4], intercept=False, standardise=at != 1)
        for at, name in enumerate(names)
    }
    return parts, response_of(label, family)


def play(
    columns: dict[str, Any],
    response: Response,
    training: Training,
    *,
    kind: type[Party] = Party,
    seed: int = 0,
    mock: bool = False,
    others: Training | None = None,
    **options: Any,
) -> Outcome:
    def program(role: str) -> Callable[[Party], Any]:
        public: Any = {"cipher": mock_rlwe.PublicKey} if mock else {}

        async def body(party: Party) -> Any:
            party.__class__ = kind
            if role == "arbiter":
                private: Any = {"cipher": mock_rlwe.PrivateKey} if mock else {}
                return await key_holder.arbiter(party, training, **private)
            if role == "guest":
                return await key_holder.guest(party, columns[role], response, training, **public, **options)
            return await key_holder.host(party, columns[role], others or training, **public)

        return body

    declared = key_holder.protocol(len(columns) - 1, early_stop=training.tolerance > 0)
    return run_scheduled(declared, {role: program(role) for role in declared.roles}, seed)


def joined(outcome: Outcome, columns: dict[str, Any]) -> Any:
    assert outcome.errors == {}
    return np.vstack([outcome.results[role].weights for role in columns])


def pooled(columns: dict[str, Any], response: Response, training: Training, **options: Any) -> plaintext.Fit:
    table = np.hstack([each.values for each in columns.values()])
    penalised = np.concatenate([each.penalised for each in columns.values()])
    return plaintext.fit(table, response, training, penalised=penalised, **options)


CASES = [
    pytest.param("logistic", {"optimiser": "adam", "learning_rate": 0.1}, 1, 2, True, id="adam, weighted, two hosts"),
    pytest.param("logistic", {"momentum": 0.5, "l2": 0.1}, 3, 1, False, id="three classes"),
    pytest.param("linear", {"l1": 0.05, "learning_rate": 0.1}, 1, 2, False, id="linear, l1, two hosts"),
    pytest.param("poisson", {"learning_rate": 0.05}, 1, 1, True, id="poisson, weighted"),
]


@pytest.mark.parametrize(("family", "options", "outputs", "hosts", "weighted"), CASES)
def test_it_is_pooled_training(family: str, options: dict[str, Any], outputs: int, hosts: int, weighted: bool) -> None:
    columns, response = data(family, outputs=outputs, hosts=hosts)
    training = Training(family=family, **{"epochs": 3, "batch_rows": 40, "learning_rate": 0.5} | options)
    further = {"sample_weights": np.random.default_rng(5).random(80)} if weighted else {}
    found = joined(play(columns, response, training, **further), columns)
    mean = softmax.mean_of(training, response.num_outputs)
    expected = pooled(columns, response, training, mean=mean, **further).weights
    assert np.abs(expected).max() > 0.03
    assert np.abs(found - expected).max() < 6e-4
    assert np.array_equal(found == 0, expected == 0) or not training.l1


def test_it_stays_bounded_where_a_taylor_series_runs_away() -> None:
    """Scores beyond ±20 within two epochs: the cubic of the classic protocol overflows, the series does not."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 4))
    y = (x.sum(1) > 0).astype(int)
    columns = {"guest": prepare(x[:, :2], intercept=True), "host": prepare(x[:, 2:], intercept=False)}
    training = Training(epochs=12, batch_rows=40, learning_rate=16.0, wide_scores=True)

    def cubic(z: Any) -> Any:
        return 0.5 + z / 4 - z**3 / 48

    response = response_of(y, "logistic")
    with np.errstate(all="ignore"):
        assert not np.isfinite(pooled(columns, response, training, mean=cubic).weights).all()
    found = joined(play(columns, response, training, mock=True), columns)
    scores = np.hstack([each.values for each in columns.values()]) @ found
    assert 20 < np.abs(scores).max() < 115
    assert ((scores[:, 0] > 0) == y).mean() > 0.97


def test_an_early_end_and_the_arbiter_ends_with_the_others() -> None:
    columns, response = data("linear")
    training = Training(family="linear", epochs=30, batch_rows=80, learning_rate=0.7, tolerance=0.1)
    outcome = play(columns, response, training, mock=True)
    expected = pooled(columns, response, training)
    assert outcome.errors == {}
    assert 1 < len(expected.changes) < 20
    for role in columns:
        assert np.abs(np.subtract(outcome.results[role].changes, expected.changes)).max() < 1e-3


def test_the_mock_cipher_has_the_same_transcript_and_the_same_end() -> None:
    columns, response = data("logistic", hosts=1)
    sizes: list[list[Any]] = []

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            sizes[-1].append((self.role, to, name, value.dtype, value.shape))
            await super().send(to, name, value)

    found = []
    for mock in (False, True):
        sizes.append([])
        found.append(
            joined(play(columns, response, Training(epochs=1, batch_rows=40), mock=mock, kind=Recording), columns)
        )
    assert sizes[0] == sizes[1]
    # the guest's factors are rounded to 2^-13 after the scores were masked
    assert np.abs(found[0] - found[1]).max() < 2e-4


# ---- bad input ----


def said(outcome: Outcome) -> str:
    """What the parties that refused say; others name whom they lost."""
    assert all(isinstance(error, HanseError) for error in outcome.errors.values())
    return " | ".join(str(error) for error in outcome.errors.values() if isinstance(error, ConfigError | RefusedError))


def test_parties_that_do_not_fit_are_refused() -> None:
    columns, response = data("logistic", hosts=1)
    training = Training(epochs=1, batch_rows=40)
    outcome = play(columns, response, training, others=Training(epochs=2, batch_rows=40), mock=True)
    assert "host: expected the settings of the training as here" in said(outcome)
    fewer = {"guest": columns["guest"], "host": data("logistic", rows=60, hosts=1)[0]["host"]}
    assert "expected 80 rows as the guest has, found 60" in said(play(fewer, response, training, mock=True))
    high = {**columns, "host": prepare(np.random.default_rng(0).standard_normal((80, 10)), intercept=False)}
    outcome = play(high, response, training, mock=True)
    assert "host: expected columns of rank below a quarter of the rows of a batch, 40, found 10" in said(outcome)
    assert set(outcome.errors) == {"guest", "host", "arbiter"}
    linear, target = data("linear", hosts=1)
    outcome = play(linear, target, Training(family="linear", epochs=1), mock=True, sample_weights=np.ones(80))
    assert "not for linear models" in said(outcome)


def test_parties_that_look_together_have_few_columns_together() -> None:
    """Each of the hosts alone could not compute labels from its gradients; both could, of the rows of a batch."""
    columns, response = data("logistic", hosts=2)
    rng = np.random.default_rng(0)
    columns |= {host: prepare(rng.standard_normal((80, 9)), intercept=False) for host in ("host-1", "host-2")}
    outcome = play(columns, response, Training(epochs=1, batch_rows=40), mock=True)
    assert "all data parties but one together: expected columns of rank below a quarter" in said(outcome)
    assert set(outcome.errors) == {"guest", "host-1", "host-2", "arbiter"}


def test_a_training_that_diverges_ends_by_name() -> None:
    columns, response = data("linear", hosts=1)
    training = Training(family="linear", epochs=60, batch_rows=80, learning_rate=16.0)
    outcome = play(columns, response, training, mock=True)
    assert any("training diverged" in str(error) for error in outcome.errors.values())
    assert all(isinstance(error, HanseError) for error in outcome.errors.values())


NAMES = [
    ("hello", "host"),
    ("masked_scores", "host"),
    ("heads", "host"),
    ("slot_tails", "guest"),
    ("residual", "guest"),
    ("residual_seeds", "guest"),
    ("public_key", "arbiter"),
    ("angles", "arbiter"),
    ("mean", "arbiter"),
    ("masked_gradient", "arbiter"),
]


@settings(max_examples=25, deadline=None)
@given(
    which=st.sampled_from(NAMES),
    change=st.sampled_from(["shape", "values"]),
    raw=st.integers(0, 2**31),
)
def test_a_peer_that_sends_garbage_is_refused_or_ends_by_name(which: Any, change: str, raw: int) -> None:
    class Deviating(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            if (name, self.role) == which:
                if change == "values":
                    value = np.full_like(value, np.array(raw).astype(value.dtype))
                else:
                    value = np.concatenate([value, value])
            await super().send(to, name, value)

    columns, response = data("logistic", hosts=1)
    outcome = play(columns, response, Training(epochs=1, batch_rows=80), seed=raw % 100, kind=Deviating)
    assert all(isinstance(error, HanseError) for error in outcome.errors.values())
    for each in columns:
        assert each in outcome.errors or np.isfinite(outcome.results[each].weights).all()
    if change == "shape":
        assert outcome.errors


# ---- what travels ----


def test_what_the_arbiter_decrypts_and_what_the_guest_opens_is_masked() -> None:
    """Gradients and scores are uniform; means are hidden by 40 bits and more. What is declared is what is sent."""
    columns, response = data("logistic", rows=200)
    names: set[str] = set()
    opened: list[int] = []
    scores: list[int] = []
    slots: list[Any] = []

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            names.add(name)
            if name == "masked_gradient":
                opened.extend(wide.from_words(value).ravel())
            if name == "masked_scores":
                scores.extend(wide.from_words(value).ravel())
            await super().send(to, name, value)

    real = rlwe.PrivateKey.decrypt_slots

    def recording(self: rlwe.PrivateKey, answer: rlwe.Answer, count: int) -> Any:
        slots.append(real(self, answer, count))
        return slots[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlwe.PrivateKey, "decrypt_slots", recording)
        outcome = play(columns, response, Training(epochs=6, batch_rows=100, tolerance=1e-9), kind=Recording)
    assert outcome.errors == {}
    assert names == {message.name for message in key_holder.protocol(2, early_stop=True).messages}
    for found in (opened, scores):
        bits = np.array([[each >> at & 1 for at in range(112)] for each in found])
        assert len(bits) > 60
        # 112 bits, 5 sigma: false alarm 7e-5
        assert np.abs(bits.mean(axis=0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 5
    for found in slots:  # modulo primes near 2^30
        assert abs(found.astype(np.float64).mean() / 2**30 - 0.5) < 0.02


def test_views_are_made_from_own_input_and_what_is_revealed() -> None:
    """The same messages of the same sizes, each uniform where the real one is; the arbiter's from sizes alone."""
    columns, response = data("logistic", outputs=3)
    training = Training(epochs=2, batch_rows=40, tolerance=1e-9)
    seen: dict[str, list[tuple[str, Array]]] = {role: [] for role in (*columns, "arbiter")}
    hellos: dict[str, Any] = {}
    gradients: dict[str, list[Any]] = {role: [] for role in columns}
    sides: dict[str, Any] = {}
    real = key_holder._gradient

    async def recording(side: Any, x: Any, residuals: Any) -> Any:
        sides[side.party.role] = side
        return await real(side, x, residuals)

    class Recording(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            if name == "hello":
                hellos[self.role] = value
            await super().send(to, name, value)

        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            if name == "masked_gradient":
                gradients[self.role].append((wide.from_words(value) - sides[self.role].awaited["masks"]) % M)
            return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_holder, "_gradient", recording)
        assert play(columns, response, training, kind=Recording).errors == {}
    for role in seen:
        reveals = {
            "hellos": {other: hello for other, hello in hellos.items() if other != role},
            "gradients": gradients.get(role, ()),
            "changes": [float(value[0]) for name, value in seen[role] if name in ("change", "all_changes")],
        }
        label = {"response": response} if role == "guest" else {}
        view = key_holder_view.simulate_view(role, columns.get(role), training, reveals, **label)
        assert [(n, v.dtype, v.shape) for n, v in view] == [(n, v.dtype, v.shape) for n, v in seen[role]]
        for name in ("angles", "mean", "residual", "heads", "slot_heads"):
            for one in (view, seen[role]):
                raw = [v for n, v in one if n == name]
                if raw:  # uniform modulo primes near 2^30: 6 sigma
                    scaled = np.concatenate([each.reshape(-1) for each in raw]) / 2.0**30
                    assert abs(scaled.mean() - 0.5) < 6 * np.sqrt(1 / 12 / scaled.size) + 2e-3


def test_reveals_name_gradients_and_tell_the_arbiter_only_sizes() -> None:
    plain = key_holder.protocol(2)
    assert {each.what for each in plain.reveals if each.to == "arbiter"} == {"shape", "steps"}
    assert {each.what for each in plain.reveals if each.to == "host-1"} == {"shape", "own_gradient", "own_weights"}
    early = key_holder.protocol(2, early_stop=True)
    assert {each.what for each in early.reveals if each.to == "arbiter"} == {"shape", "steps", "weight_change"}
