"""The example programs: loaded as a site loads them, simulated, and judged by what they claim to show."""

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.loader import load_app, source_of

EXAMPLES = Path(__file__).parents[3] / "examples"


def simulated(name: str, sites: str = "sites") -> Any:
    app = load_app(EXAMPLES, name, "app")
    assert source_of(app) == EXAMPLES / name
    return hs.simulate(app, sites=app.module_globals[sites](), progress=False)


def test_sklearn_logreg_learns_from_all_hospitals() -> None:
    pytest.importorskip("sklearn")
    result = simulated("sklearn_logreg.py", "hospitals")
    assert result.rounds[-1].metrics["accuracy"] > 0.95
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"]


def test_numpy_client_finds_the_true_coefficients() -> None:
    result = simulated("numpy_client.py", "laboratories")
    np.testing.assert_allclose(result.arrays["0"], [2.0, -1.0, 0.5], atol=0.05)


def test_custom_strategy_is_not_moved_by_nonsense() -> None:
    result = simulated("custom_strategy.py")
    np.testing.assert_allclose(result.arrays["0"], [1, 2, 3, 4], atol=0.15)


def test_torch_mlp_reads_digits() -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")
    assert simulated("torch_mlp.py").rounds[-1].metrics["accuracy"] > 0.85


def test_keras_mlp_reads_digits() -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")
    if importlib.util.find_spec("keras") is None:  # importing it would choose its backend
        pytest.skip("keras is not installed")
    result = simulated("keras_mlp.py")
    assert result.rounds[-1].metrics["accuracy"] > 0.85
    again = simulated("keras_mlp.py")
    assert {k: a.tobytes() for k, a in again.arrays.items()} == {k: a.tobytes() for k, a in result.arrays.items()}


def test_an_example_runs_as_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "custom_strategy.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("[")


def test_analytics_says_nothing_of_the_few_women_of_visby() -> None:
    app = load_app(EXAMPLES, "analytics.py", "app")
    sites, question = app.module_globals["clinics"](), app.module_globals["question"]
    answer = question.answer(hs.simulate(app, sites=sites, progress=False).arrays)
    women = {name: int((data["admissions"]["sex"] == "f").sum()) for name, data in sites.items()}
    assert women.pop("visby") < 10
    assert answer.to_rows()[0]["count"] == sum(women.values())


def test_boosting_finds_bad_loans() -> None:
    result = simulated("boosting.py", "banks")
    assert result.rounds[-1].metrics["auc"] > 0.85
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"]
