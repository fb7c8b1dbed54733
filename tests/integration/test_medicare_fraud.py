"""The provider-fraud example: its bars on the real table, its notebook, its saved model."""

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from tests.patience import WAIT_S

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "medicare_fraud"
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "medicare_provider_fraud" / "provider_features_19.csv"
SITES = ("north", "east", "south")
needs_data = pytest.mark.skipif(
    not REAL.is_file(), reason="needs the table in ../shared/data/medicare_provider_fraud, which is not part of Hanse"
)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's modules, imported as its script does."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    before = {name: sys.modules.pop(name, None) for name in ("app", "data", "train")}
    import train  # type: ignore[import-not-found]

    yield train
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@needs_data
@pytest.mark.parametrize("balance", ["weights", "smote"])
def test_the_bars_hold_on_the_real_table(example: Any, balance: str, capsys: pytest.CaptureFixture[str]) -> None:
    if balance == "smote" and find_spec("imblearn") is None:
        pytest.skip("imbalanced-learn is not installed")
    result = example.main(["--data", str(REAL), "--balance", balance])
    assert result.metrics["server_auc"] >= 0.94
    assert result.metrics["server_average_precision"] >= 0.70
    assert result.rounds[0].metrics["server_auc"] == 0.5, "round 1 only measures"
    assert "loss" not in result.metrics, "nobody but the server evaluates"
    assert len(capsys.readouterr().out.splitlines()) == len(result.rounds) == 8


@pytest.mark.skipif(find_spec("imblearn") is None, reason="needs imbalanced-learn")
def test_smote_multiplies_rows_of_each_sites_training_part_and_of_nothing_else(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imblearn.over_sampling import SMOTE

    seen: list[tuple[int, int, int]] = []
    own = SMOTE.fit_resample

    def resample(self: Any, rows: Any, labels: Any) -> Any:
        more, balanced = own(self, rows, labels)
        seen.append((len(labels), int(labels.sum()), len(balanced)))
        assert 2 * int(balanced.sum()) == len(balanced) == len(more)
        assert (more[: len(rows)] == rows).all(), "what is there stays"
        return more, balanced

    monkeypatch.setattr(SMOTE, "fit_resample", resample)
    app, data = sys.modules["app"], sys.modules["data"]
    sites, test = data.cut(*data.invented(), SITES)
    result = hs.simulate(
        app.smote, {site: {"providers": part} for site, part in sites.items()}, server={"test": test}, progress=False
    )
    parts = {site: app.parts(*part) for site, part in sites.items()}
    trained = sorted((len(y), int(y.sum()), 2 * int((y == 0).sum())) for (_, y), _ in parts.values())
    assert sorted(set(seen)) == trained, "the training part, without the validation part"
    assert len(seen) == len(SITES) * (app.ROUNDS - 1), "not in the round that only measures"
    assert result.metrics["server_auc"] > 0.9


@needs_data
def test_round_one_measures_what_all_rows_together_have(example: Any) -> None:
    app, data = sys.modules["app"], sys.modules["data"]
    sites, _ = data.cut(*data.read(REAL), SITES)
    result = hs.simulate(
        app.make_app("weights").variant(rounds=1),
        {site: {"providers": part} for site, part in sites.items()},
        server={"test": sites["north"]},
        progress=False,
    )
    rows = np.concatenate([app.parts(*part)[0][0] for part in sites.values()])
    labels = np.concatenate([app.parts(*part)[0][1] for part in sites.values()])
    np.testing.assert_allclose(result.arrays["mean"], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(app.scaled(rows, result.arrays).std(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(result.arrays["share"], labels.mean(), rtol=1e-12)


def test_the_generator_has_the_columns_size_and_imbalance(example: Any, tmp_path: Path) -> None:
    data = sys.modules["data"]
    names, X, y = data.invented()
    assert (len(names), X.shape, int(y.sum())) == (5410, (5410, 17), 506)
    assert np.isfinite(X).all()
    assert (X >= 0).all()
    assert (X[:, 0] >= X[:, 1]).all(), "no more inpatients than claims"
    again = data.invented()
    assert (again[1] == X).all()
    data.write(tmp_path / "t.csv", X[:5], y[:5])
    header = (tmp_path / "t.csv").read_text().splitlines()[0]
    assert header.split(",") == [*data.COLUMNS, "Fraud"]
    sites, (_, test) = data.cut(names, X, y, SITES)
    assert len(test) == 1623
    assert sum(len(part[1]) for part in sites.values()) == 5410 - 1623
    if REAL.is_file():
        assert set(data.COLUMNS) < set(REAL.open().readline().strip().split(","))


def test_the_estimator_is_the_model_and_survives_being_saved(example: Any, tmp_path: Path) -> None:
    app = sys.modules["app"]
    output = tmp_path / "model.skops"
    result = example.main(["--output", str(output)] if find_spec("skops") else [])
    X = np.random.default_rng(0).lognormal(3, 2, size=(50, 17))
    expected = app.chance(result.arrays, app.logged(X))
    model = app.estimator(result.arrays)
    np.testing.assert_allclose(model.predict_proba(app.logged(X))[:, 1], expected, rtol=1e-9)
    if find_spec("skops") is None:
        pytest.skip("skops is not installed: the estimator was compared, not saved")
    again = hs.load_estimator(output)
    assert (again.predict_proba(app.logged(X)) == model.predict_proba(app.logged(X))).all()


@pytest.mark.skipif(
    find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="needs nbclient and ipykernel"
)
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("MEDICARE_EXAMPLE", str(EXAMPLE))
    monkeypatch.setenv("MEDICARE_OUTPUT", str(tmp_path))
    if REAL.is_file():
        monkeypatch.setenv("MEDICARE_DATA", str(REAL))
    book = nbformat.read(EXAMPLE / "provider_fraud.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "kept without outputs"
    NotebookClient(book, timeout=int(4 * WAIT_S), resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert "5410 providers, 9.35 % marked" in told.replace("9.35%", "9.35 %")
    assert "round 8: AUC 0.9" in told
    if find_spec("skops") is not None:
        assert "read back: True" in told
