"""Estimators as files: skops without code, joblib on request only, nothing that could run is read."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import hanse as hs
from hanse.core.errors import CodecError, ConfigError, MissingExtraError, NotFoundError


def model() -> Any:
    X = np.random.default_rng(0).normal(size=(40, 3))
    return LogisticRegression().fit(X, X[:, 0] > 0)


def test_skops_holds_the_estimator(tmp_path: Path) -> None:
    pytest.importorskip("skops", reason="skops is not installed")
    made = model()
    again = hs.load_estimator(hs.save_estimator(made, tmp_path / "m.skops"))
    assert (again.coef_ == made.coef_).all()
    assert type(again) is LogisticRegression


def test_what_is_not_scikit_learns_is_refused(tmp_path: Path) -> None:
    skops_io = pytest.importorskip("skops.io", reason="skops is not installed")
    made = model()
    made.extra = Path("/etc/passwd")
    skops_io.dump(made, tmp_path / "m.skops")
    with pytest.raises(CodecError, match=r"expected types of scikit-learn and numpy only, found pathlib"):
        hs.load_estimator(tmp_path / "m.skops")
    (tmp_path / "bad.skops").write_bytes(b"not a zip")
    with pytest.raises(CodecError, match="expected an estimator"):
        hs.load_estimator(tmp_path / "bad.skops")
    with zipfile.ZipFile(tmp_path / "empty.skops", "w") as file:
        file.writestr("other", "x")
    with pytest.raises(CodecError, match="expected an estimator"):
        hs.load_estimator(tmp_path / "empty.skops")


def test_joblib_is_written_with_a_warning_and_never_read(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is a pickle"):
        hs.save_estimator(model(), tmp_path / "m.joblib")
    assert (tmp_path / "m.joblib").stat().st_size > 0
    with pytest.raises(ConfigError, match=r"expected a \.skops file"):
        hs.load_estimator(tmp_path / "m.joblib")
    with pytest.raises(ConfigError, match=r"ends in \.skops"):
        hs.save_estimator(model(), tmp_path / "m.pkl")
    with pytest.raises(NotFoundError):
        hs.load_estimator(tmp_path / "none.skops")


def test_without_skops_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skops", None)
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(MissingExtraError, match=r"hanse\[skops\]"):
        hs.save_estimator(model(), tmp_path / "m.skops")
