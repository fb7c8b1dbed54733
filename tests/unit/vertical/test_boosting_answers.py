"""Trees on labels that are answered by chance: the pooled trees of the answers, and chances of labels again."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.core.arrays import Arrays
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError
from hanse.vertical.answers import chances, debiased, drawn
from hanse.vertical.boosting.columns import binned
from hanse.vertical.boosting.pooled import pooled
from hanse.vertical.boosting.response import response_of
from hanse.vertical.boosting.saved import part_arrays, part_in

SECRET = bytes(range(32))


def town(rows: int, classes: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    x = np.random.default_rng(3).standard_normal((rows, 4))
    score = x @ [1.5, -1.0, 1.0, 0.5] + 0.5 * np.random.default_rng(4).standard_normal(rows)
    label = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    return {"y": label, "a": x[:, 0], "b": x[:, 1]}, {"c": x[:, 2], "d": x[:, 3]}


@pytest.mark.parametrize("classes", [2, 3])
def test_the_trees_are_those_of_the_answers_and_predict_labels(classes: int) -> None:
    bank, shop = town(3000, classes)
    options: dict[str, Any] = {"key": None, "cipher": "mock", "num_trees": 5, "depth": 2}
    model = hs.vertical.Boosting(**options, label_epsilon=1.0)
    result = hs.vertical.simulate(model, bank, shop)
    answers = result.response.target.astype(int)
    kept, _ = chances(1.0, classes)
    assert abs(np.mean(answers == bank["y"]) - kept) < 0.05  # of 3000 rows; a deviation is 0.01
    own = [{name: bank[name] for name in "ab"}, shop]
    columns = [binned(np.column_stack(list(each.values())), tuple(each), model.max_bins) for each in own]
    assert pooled(columns, response_of(answers, "classification"), model.settings()).digest == result.digest
    real = hs.vertical.simulate(hs.vertical.Boosting(**options), bank, shop)
    assert real.digest != result.digest

    # Uncorrected, nobody would be more certain than p.
    _, found = result.predict(bank, shop)
    found = found if classes > 2 else np.column_stack([1 - found, found])
    assert found.max() > kept + 0.1
    for at in range(classes):
        assert abs(found[:, at].mean() - np.mean(bank["y"] == at)) < 0.05
    assert result.metrics["accuracy"] > real.metrics["accuracy"] - 0.05
    loss = -np.log(np.maximum(found[np.arange(3000), bank["y"]], 1e-15)).mean()
    assert result.metrics["log_loss"] == pytest.approx(loss, abs=1e-3)


@given(st.integers(2, 6), st.floats(0.05, 16), st.integers(0, 2**32))
def test_chances_of_labels_come_back(classes: int, epsilon: float, seed: int) -> None:
    real = np.random.default_rng(seed).dirichlet(np.ones(classes), 5)
    kept, other = chances(epsilon, classes)
    assert math.isclose(kept / other, math.exp(epsilon), rel_tol=1e-9)
    assert math.isclose(kept + (classes - 1) * other, 1)
    assert np.abs(debiased(other + (kept - other) * real, epsilon) - real).max() < 1e-9
    wild = debiased(np.random.default_rng(seed).dirichlet(np.full(classes, 0.1), 5), epsilon)
    assert np.allclose(wild.sum(axis=1), 1)
    assert wild.min() >= 0


def test_a_class_that_nobody_answers_has_trees_as_well() -> None:
    response = response_of(np.array([0, 1, 2] * 20), "classification")
    codes = response.target.astype(int)
    told = drawn(codes, response.classes, 0.1, label="y", rows=[b"%d" % at for at in range(60)], secret=SECRET)
    assert set(told.tolist()) == {0, 1, 2}
    start, _ = response.answered(0.1, "y", [b"%d" % at for at in range(60)], SECRET).start()
    assert np.isfinite(start).all()
    none = type(response)(response.objective, np.zeros(60), response.classes, 0.1)
    assert np.isfinite(none.start()[0]).all()


def test_a_saved_part_knows_that_it_is_of_answers() -> None:
    bank, shop = town(300)
    model = hs.vertical.Boosting(key=None, cipher="mock", num_trees=1, depth=1, label_epsilon=2.0)
    result = hs.vertical.simulate(model, bank, shop)
    arrays = part_arrays(result.parts["guest"], result.response)
    _, response = part_in(arrays)
    assert response is not None
    margins = result.scores.T
    assert response.label_epsilon == 2.0
    assert np.array_equal(response.predict(margins), result.response.predict(margins))
    for bad in (0, -1, 1e9, "2", [2], True):
        about = {
            "v": 1,
            "names": ["a", "b"],
            "hosts": 1,
            "objective": "binary",
            "classes": [0, 1],
            "label_epsilon": bad,
        }
        with pytest.raises(CodecError, match="label_epsilon"):
            part_in(Arrays({**arrays, "about": np.frombuffer(canonical_json(about), np.uint8)}))


def test_what_it_reveals_and_what_it_takes() -> None:
    def words(**given: Any) -> set[str]:
        return {each.what for each in hs.vertical.Boosting(**given).whole(["host"]).reveals if each.about == "guest"}

    assert words() - words(label_epsilon=1.0) == {"node_members"}
    assert words(label_epsilon=1.0) - words() == {"answered_members"}
    with pytest.raises(ConfigError, match="label_epsilon: expected a classification, found a regression"):
        hs.vertical.Boosting(objective="regression", label_epsilon=1.0)
    for bad in (0, 1e-17, -1, math.inf, math.nan, 17, True, "1"):
        with pytest.raises(ConfigError, match="label_epsilon"):
            hs.vertical.Boosting(label_epsilon=bad)  # type: ignore[arg-type]  # what a user may write
