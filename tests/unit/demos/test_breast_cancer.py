from pathlib import Path

import numpy as np
import pytest

from hanse.core.errors import ConfigError
from hanse.demos import breast_cancer as demo

pytest.importorskip("sklearn", reason="the demo needs scikit-learn")


@pytest.fixture(scope="module")
def cut() -> demo.Hospitals:
    return demo.hospitals()


def test_every_patient_is_in_one_place(cut: demo.Hospitals) -> None:
    parts = [*cut.sites.values(), cut.test]
    rows = np.concatenate([X for X, _ in parts])
    assert len(rows) == 569
    assert len(np.unique(rows, axis=0)) == 569
    assert sum(int(y.sum()) for _, y in parts) == 212


def test_the_counts_are_those_that_are_told(cut: demo.Hospitals) -> None:
    found = {site: (int(y.sum()), int((1 - y).sum())) for site, (_, y) in cut.sites.items()}
    assert found == demo.COUNTS
    assert len(cut.test[1]) == 171
    assert cut.test[1].mean() == pytest.approx(212 / 569, abs=0.003)


def test_the_scale_is_that_of_all_hospitals_and_of_nobody_held_out(cut: demo.Hospitals) -> None:
    rows = np.concatenate([X for X, _ in cut.sites.values()])
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(rows.std(axis=0), 1, rtol=1e-9)
    assert np.abs(cut.test[0].mean(axis=0)).max() > 1e-3


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    one, again, other = demo.hospitals(3), demo.hospitals(3), demo.hospitals(4)
    for site in demo.COUNTS:
        assert one.sites[site][0].tobytes() == again.sites[site][0].tobytes()
        assert one.sites[site][0].tobytes() != other.sites[site][0].tobytes()


def test_files_hold_what_their_declaration_says(cut: demo.Hospitals, tmp_path: Path) -> None:
    declared = demo.write(cut, {site: tmp_path / site for site in cut.sites})
    for site, declaration in declared.items():
        assert declaration["kind"] == "npz"
        with np.load(declaration["path"], allow_pickle=False) as content:
            np.testing.assert_array_equal(content[declaration["x"]], cut.sites[site][0])
            np.testing.assert_array_equal(content[declaration["y"]], cut.sites[site][1])
    with pytest.raises(ConfigError, match="expected a site of luebeck, bergen, visby, riga; found 'paris'"):
        demo.write(cut, {"paris": tmp_path})


def test_everybody_trains_on_the_same_rows(cut: demo.Hospitals) -> None:
    X, y = cut.sites["luebeck"]
    rows, labels = demo.training_rows(X, y)
    assert len(rows) == pytest.approx(0.8 * len(X), abs=1)
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in X}
    assert set(labels) == {0, 1}


def test_alone_is_worse_than_federated_which_is_about_pooled(cut: demo.Hospitals) -> None:
    """The app as shipped, in the inline runner; numbers measured, with room for other library versions."""
    import hanse as hs
    from hanse.demos.breast_cancer_app import app

    result = hs.simulate(app, sites={site: {demo.DATASET: patients} for site, patients in cut.sites.items()})
    assert result.status == "finished"
    *alone, federated, pooled = demo.comparison(result.arrays, cut)
    assert len(alone) == 4
    assert federated["name"] == "Federated"
    assert federated["accuracy"] > max(row["accuracy"] for row in alone) + 0.03
    assert federated["log_loss"] < min(row["log_loss"] for row in alone) - 0.05
    assert federated["auc"] > max(row["auc"] for row in alone) - 0.002
    assert federated["accuracy"] == pytest.approx(pooled["accuracy"], abs=0.03)
    assert federated["auc"] == pytest.approx(pooled["auc"], abs=0.01)


def test_the_judge_agrees_with_hand_counting(cut: demo.Hospitals) -> None:
    """A model that always says one half: accuracy is the share of the well, AUC one half, log loss ln 2."""
    nothing = {"coef": np.zeros((1, 30)), "intercept": np.zeros(1)}
    federated = demo.comparison(nothing, cut)[4]
    assert federated["accuracy"] == pytest.approx(1 - cut.test[1].mean())
    assert federated["auc"] == pytest.approx(0.5)
    assert federated["log_loss"] == pytest.approx(np.log(2))
