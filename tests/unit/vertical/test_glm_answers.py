"""Labels answered by chance: their probabilities, that they stay, and what a host computes of them and of real ones."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import hanse as hs
from hanse.channels.schedule import run_scheduled
from hanse.channels.secret import SECRET_BYTES, lasting_secret
from hanse.core.errors import ConfigError, StorageError
from hanse.crypto import mock_rlwe
from hanse.vertical.glm import dealer, dealer_free, plaintext, softmax
from hanse.vertical.glm.answers import answered
from hanse.vertical.glm.columns import prepare
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.precision import LARGEST_ANSWER
from hanse.vertical.glm.slots import TABLE_BITS
from hanse.vertical.glm.training import Training
from hanse.workers.load import Load
from hanse.workers.runtime import open_runtime

SECRET = bytes(range(32))


def numbered(rows: int) -> list[bytes]:
    return [b"%d" % at for at in range(rows)]


def codes_of(response: Response) -> npt.NDArray[np.int64]:
    """Which class each row's values stand for."""
    values = response.values
    return values.argmax(axis=1) if values.shape[1] > 1 else (values[:, 0] > 0.5).astype(np.int64)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.2), (2, 3.0), (3, 1.0), (5, 2.0)])
def test_answers_have_the_chances_of_randomised_response_and_are_right_on_average(classes: int, epsilon: float) -> None:
    """60,000 rows; 5 deviations, so that a right program fails once in a million seeds, and this one is fixed."""
    rows = 60_000
    label = np.arange(rows) % classes
    response = response_of(label, "logistic")
    found = answered(response, epsilon, "y", numbered(rows), SECRET)
    told = codes_of(found)
    whole = math.exp(epsilon) + classes - 1
    for real in range(classes):
        for answer in range(classes):
            chance = (math.exp(epsilon) if real == answer else 1.0) / whole
            share, count = np.mean(told[label == real] == answer), rows / classes
            assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / count)
        mean = found.values[label == real].mean(axis=0)
        spread = found.values.std(axis=0) / math.sqrt(rows / classes)
        assert (np.abs(mean - response.values[label == real][0]) < 5 * spread).all()
    if classes > 2:
        assert np.allclose(found.values.sum(axis=1), 1)
    assert np.abs(found.values).max() <= LARGEST_ANSWER


def test_an_answer_is_permanent_and_belongs_to_one_question() -> None:
    """By identifier, in any order; another secret, label, ε or set of classes draws anew."""
    rows = 4000
    label = (np.arange(rows) * 7 % 10 < 4).astype(int)
    ids = numbered(rows)

    def told(label: Any = label, ids: Any = ids, epsilon: float = 1.0, name: str = "y", secret: bytes = SECRET) -> Any:
        return codes_of(answered(response_of(label, "logistic"), epsilon, name, ids, secret))

    usual, order = told(), np.random.default_rng(0).permutation(rows)
    assert np.array_equal(told(label[order], [ids[at] for at in order]), usual[order])
    assert np.array_equal(told(label[:1000], ids[:1000]), usual[:1000])
    for same in (label.astype(float), label.astype(bool), label.astype(np.int8)):  # as a file's reader has it today
        assert np.array_equal(told(same), usual)
    flipped = usual != label
    kept = math.e / (1 + math.e)
    for other in (told(secret=bytes(32)), told(epsilon=1.0 + 1e-9), told(name="z"), told(np.array(["a", "b"])[label])):
        both = np.mean((other != label) & flipped)
        assert abs(both - (1 - kept) ** 2) < 5 * math.sqrt(0.07 / rows)  # as two answers that do not know each other
    changed = told(1 - label) != 1 - label
    assert abs(np.mean(changed & flipped) - (1 - kept) ** 2) < 5 * math.sqrt(0.07 / rows)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_an_epsilon_too_small_for_fixed_point_is_refused_with_the_least(classes: int) -> None:
    response = response_of(np.arange(60) % classes, "logistic")
    least = math.log((LARGEST_ANSWER + classes - 2) / (LARGEST_ANSWER - 1))
    assert np.isclose(np.abs(answered(response, least + 1e-9, "y", numbered(60), SECRET).values).max(), LARGEST_ANSWER)
    with pytest.raises(ConfigError, match=f"at least {least:.3f} for {classes} classes"):
        answered(response, least - 1e-3, "y", numbered(60), SECRET)


@pytest.mark.parametrize(
    "given", [{"label_epsilon": 0}, {"label_epsilon": 1e-17}, {"label_epsilon": 17}, {"label_epsilon": math.nan}]
)
def test_values_that_are_no_epsilon_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="label_epsilon"):
        hs.vertical.LogisticRegression(**given)
    with pytest.raises(ConfigError, match="label_epsilon: expected a logistic"):
        Training(family="linear", label_epsilon=1.0)


@pytest.mark.parametrize(("room", "classes"), [("dealer", 2), ("own", 2), ("own", 3)])
def test_training_on_answers_is_pooled_training_on_answers(room: str, classes: int) -> None:
    """At the smallest ε, whose answers are the largest numbers that fixed point has to hold."""
    rng = np.random.default_rng(3)
    x, label = rng.standard_normal((64, 4)), np.arange(64) % classes
    columns = [prepare(x[:, :2], intercept=True), prepare(x[:, 2:], intercept=False)]
    epsilon = math.log((LARGEST_ANSWER + classes - 2) / (LARGEST_ANSWER - 1)) + 1e-6
    response = answered(response_of(label, "logistic"), epsilon, "y", numbered(64), SECRET)
    training = Training(epochs=2, batch_rows=32, learning_rate=0.5, label_epsilon=epsilon)
    if room == "dealer":
        programs: Any = {
            "guest": lambda party: dealer.guest(party, columns[0], response, training),
            "host": lambda party: dealer.host(party, columns[1], training),
            "arbiter": lambda party: dealer.arbiter(party, training),
        }
        declared = dealer.protocol()
    else:
        options: Any = {"own_gradients": True, "cipher": mock_rlwe.PrivateKey}
        programs = {
            "guest": lambda party: dealer_free.guest(party, columns[0], response, training, **options),
            "host": lambda party: dealer_free.host(party, columns[1], training, **options),
        }
        declared = dealer_free.protocol(own_gradients=True, label_epsilon=epsilon)
    outcome = run_scheduled(declared, programs, 0)
    assert outcome.errors == {}
    found = np.vstack([outcome.results[role].weights for role in ("guest", "host")])
    table = np.hstack([each.values for each in columns])
    penalised = np.concatenate([each.penalised for each in columns])
    mean = softmax.mean_of(training, response.num_outputs)
    expected = plaintext.fit(table, response, training, penalised=penalised, mean=mean).weights
    assert np.abs(found - expected).max() < 6e-4
    real = plaintext.fit(table, response_of(label, "logistic"), training, penalised=penalised).weights
    assert np.abs(found - real).max() > 0.05


# ---- what a host computes of one gradient ----


def reduced(basis: list[list[int]]) -> list[list[int]]:
    """A. Lenstra, H. Lenstra, L. Lovász, 1982 (δ = 0.99), orthogonal vectors in float64, made anew at each step."""
    basis, at = [list(row) for row in basis], 1
    while at < len(basis):
        triangle = np.linalg.qr(np.array(basis[: at + 1], np.float64).T, mode="r")
        sizes = np.diag(triangle)
        mu = (triangle / sizes[:, None]).T
        for other in range(at - 1, -1, -1):
            times = round(mu[at, other])
            if times:
                basis[at] = [a - times * b for a, b in zip(basis[at], basis[other], strict=True)]
                mu[at] -= times * mu[other]
        if sizes[at] ** 2 >= (0.99 - mu[at, at - 1] ** 2) * sizes[at - 1] ** 2:
            at += 1
        else:
            basis[at], basis[at - 1] = basis[at - 1], basis[at]
            at = max(1, at - 1)
    return basis


def solved(table: npt.NDArray[np.int64], sums: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """A 0/1 vector y with tableᵀ·y = sums, by lattice reduction: J. Lagarias, A. Odlyzko, JACM 32, 1985."""
    rows, heavy = len(table), 1 << 8
    basis = [[2 * (at == row) for at in range(rows)] + [heavy * int(x) for x in table[row]] for row in range(rows)]
    basis.append([1] * rows + [heavy * int(x) for x in sums])
    for vector in reduced(basis):
        if not any(vector[rows:]) and set(map(abs, vector[:rows])) == {1}:
            for sign in (1, -1):
                found = (1 - sign * np.array(vector[:rows])) // 2
                if np.array_equal(found @ table, sums):
                    return np.asarray(found, np.int64)
    return None


@pytest.mark.parametrize("epsilon", [None, 1.0])
def test_a_host_that_solves_one_gradient_for_labels_finds_answers_where_these_are_trained_on(
    epsilon: float | None,
) -> None:
    """24 rows and 5 columns, which the rule for ranks allows. All weights begin with 0, so that d = ½ − y."""
    rng = np.random.default_rng(11)
    rows, rate = 24, 0.5
    label = rng.integers(0, 2, rows)
    columns = [prepare(rng.standard_normal((rows, each)), intercept=each == 2) for each in (2, 5)]
    response = response_of(label, "logistic")
    if epsilon is not None:
        response = answered(response, epsilon, "y", numbered(rows), SECRET)
    training = Training(epochs=1, batch_rows=rows, learning_rate=rate, high_leverage="refuse", max_leverage=0.95)
    options: Any = {"own_gradients": True, "cipher": mock_rlwe.PrivateKey}
    outcome = run_scheduled(
        dealer_free.protocol(own_gradients=True, label_epsilon=epsilon),
        {
            "guest": lambda party: dealer_free.guest(party, columns[0], response, training, **options),
            "host": lambda party: dealer_free.host(party, columns[1], training, **options),
        },
        0,
    )
    assert outcome.errors == {}
    gradient = -outcome.results["host"].weights[:, 0] * rows / rate
    table = np.rint(columns[1].values * 2.0**TABLE_BITS).astype(np.int64)
    low, high = np.unique(response.values)
    sums = np.rint(((0.5 - low) * table.sum(axis=0) - gradient * 2.0**TABLE_BITS) / (high - low)).astype(np.int64)
    found = solved(table, sums)
    assert found is not None
    assert np.array_equal(found, codes_of(response))
    assert np.array_equal(found, label) == (epsilon is None)


# ---- as a user ----


def test_a_model_names_what_it_tells_and_its_metrics_are_of_real_labels() -> None:
    rng = np.random.default_rng(2)
    rows = 3000
    x = rng.standard_normal((rows, 3))
    label = (x @ [2.0, -1.5, 1.0] + 0.5 * rng.standard_normal(rows) > 0).astype(int)
    ids = np.array([f"p{at}" for at in range(rows)])
    guest, host = {"id": ids, "y": label, "a": x[:, 0]}, {"id": ids, "b": x[:, 1], "c": x[:, 2]}
    model = hs.vertical.LogisticRegression(epochs=5, batch_rows=500, label_epsilon=1.0)
    result = hs.vertical.simulate(model, guest, host)
    flipped = np.mean((result.response.values[:, 0] > 0.5) != label[result.rows])
    assert 0.2 < flipped < 0.34  # 1 / (1 + e) = 0.27
    assert result.metrics["auc"] > 0.93
    again = hs.vertical.simulate(model, guest, host)
    assert (again.response.values != result.response.values).any()  # in a simulation, a secret for each

    for protocol in ("own-gradient", "arbiter"):
        words = [
            {
                each.what
                for each in hs.vertical.LogisticRegression(protocol=protocol, label_epsilon=epsilon)
                .whole(["host"])
                .reveals
                if each.about == "guest" and each.to == "host"
            }
            for epsilon in (None, 2.0)
        ]
        assert words[0] - words[1] == {"own_gradient"}
        assert words[1] - words[0] == {"answered_gradient"}


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_a_host_that_chooses_the_rows_does_not_learn_which_classes_occur_there(kind: str) -> None:
    """It knows that all labels but one are 0: that a training goes well must not say that this one is not."""
    rows = 60
    label = np.repeat([0, 1], rows // 2)
    x = np.random.default_rng(5).standard_normal((rows, 2))
    given: Any = {"label_epsilon": 1.0}
    model: Any = (
        hs.vertical.LogisticRegression(epochs=1, batch_rows=25, protocol="dealer", **given)
        if kind == "linear"
        else hs.vertical.Boosting(num_trees=1, depth=1, cipher="mock", **given)
    )
    guest = {"id": np.arange(rows), "y": label, "a": x[:, 0]}
    for chosen in (np.arange(25), np.append(np.arange(24), rows - 1)):
        result = hs.vertical.simulate(model, guest, {"id": chosen, "b": x[chosen, 1]})
        assert result.response.classes == (0, 1)
        assert len(result.rows) == 25

    among, few = np.array([0.0, 1, 2, math.nan]), np.array([2.0, 0])
    assert model.respond(few, among).classes == (0, 1, 2)
    with pytest.raises(ConfigError, match="1 that are not"):
        model.respond(among, among)


def test_a_sites_secret_is_drawn_once_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    found = lasting_secret(path)
    assert len(set(found)) > 8
    assert lasting_secret(path) == found
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]
    assert lasting_secret(tmp_path / "another") != found
    path.write_bytes(found[:7])
    with pytest.raises(StorageError, match=f"expected {SECRET_BYTES} bytes in secret, found 7"):
        lasting_secret(path)
    with pytest.raises(StorageError, match="cannot keep it"):
        lasting_secret(tmp_path / "none" / "secret")


def test_a_worker_knows_its_sites_secret_in_every_job(tmp_path: Path) -> None:
    model = "import hanse as hs\napp = hs.vertical.LogisticRegression(label_epsilon=1.0)\n"
    declared = hs.vertical.LogisticRegression(label_epsilon=1.0).whole(["host"])
    found = []
    for job in ("first", "second"):
        bundle, scratch = tmp_path / job, tmp_path / f"{job} scratch"
        for folder in (bundle, scratch, tmp_path / "spent"):
            folder.mkdir(exist_ok=True)
        (bundle / "app.py").write_text(model)
        options = {"protocol": declared.describe()}
        side: Any = open_runtime(
            Load(bundle, "app.py", scratch, role="client", site="bank", spent=tmp_path / "spent", options=options)
        )
        found.append(side._runtime.site.secret())
    assert found[0] == found[1] == (tmp_path / "spent" / "secret").read_bytes()
