"""Several strategies and seeds on the same sites: what is run, what is counted, and the page."""

import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError


def app_with(**settings: Any) -> hs.App:
    app = hs.App(**{"rounds": 4, "initial": [np.zeros(3)], **settings})

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        if config.get("proximal_mu", 0) > 1:
            raise ValueError
        return [arrays["0"] + site.rng.random(3)], 1, {"drawn": float(site.rng.random())}

    return app


def test_every_strategy_runs_with_every_seed_as_on_its_own() -> None:
    strategies = [hs.FedAvg(), hs.FedMedian(), hs.FedAdam(server_lr=0.1), hs.FedAdam(server_lr=0.2)]
    found = hs.compare(app_with(), 5, strategies=iter(strategies), seeds=[3, 4], progress=False)  # walked once
    assert len(found.results) == 4
    assert list(found.results)[:2] == ["fedavg", "fedmedian"]
    assert all("server_lr=" in name for name in list(found.results)[2:])
    for strategy, results in zip(strategies, found.results.values(), strict=True):
        for seed, result in zip([3, 4], results, strict=True):
            alone = hs.App(strategy, rounds=4, initial=[np.zeros(3)], seed=seed)
            alone.train(app_with().client_side.train)
            assert result.arrays == hs.simulate(alone, 5, progress=False).arrays


def test_a_strategy_that_extends_the_model_gives_way_to_one_that_does_not() -> None:
    app = hs.App(hs.Scaffold(), rounds=1, initial=[np.zeros(3)])
    app.train(lambda arrays, config, site: (arrays, 1, {"num_steps": 1, "client_lr": 0.1}))
    found = hs.compare(app, 3, strategies=[hs.FedAvg(), hs.Scaffold()], progress=False)
    assert [len(results[0].arrays) for results in found.results.values()] == [1, 2]


def test_rows_are_means_over_seeds() -> None:
    found = hs.compare(app_with(), 5, seeds=range(4), progress=False)
    (row,) = found.rows("train_drawn")
    last = [result.metrics["train_drawn"] for result in found.results["fedavg"]]
    assert row["mean"] == pytest.approx(sum(last) / 4)
    assert repr(found) == "Comparison(fedavg; seeds [0, 1, 2, 3]; metrics train_drawn)"
    assert row["std"] == pytest.approx(statistics.stdev(last))
    assert row["runs"] == 4


def test_a_run_that_fails_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    strategies = {"mild": hs.FedProx(0.1), "wild": hs.FedProx(5.0)}
    found = hs.compare(app_with(retries=0), 3, strategies=strategies, progress=False)
    assert [(row["name"], row["runs"]) for row in found.rows("train_drawn")] == [("mild", 1), ("wild", 0)]
    assert "wild, seed 0: round 1" in capsys.readouterr().err


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    trace = hs.traces.LogNormal(10.0)
    found = hs.compare({"<a>": app_with(), "b": app_with(seed=1)}, 5, seeds=[0, 1], durations=trace, progress=False)
    by_round = found.plot(tmp_path / "rounds.html").read_text()
    by_time = found.plot(tmp_path / "time.html", "train_drawn", time=True).read_text()
    assert "&lt;a&gt;" in by_round
    assert "<a>" not in by_round
    assert by_round.count("<polyline") >= 6
    assert "time in s" in by_time
    for page in (by_round, by_time):
        assert not re.search(r"https?://|<script|src=", page)
        assert "default-src 'none'" in page


def test_time_to_a_value_is_that_of_the_first_round_that_is_as_good() -> None:
    def app_at(rate: float) -> hs.App:
        app = hs.App(rounds=4, initial=[np.zeros(1)], evaluate_every=0)

        @app.train
        def train(arrays: Any, config: Any, site: Any) -> Any:
            at = float(arrays["0"][0]) + rate
            return [arrays["0"] + rate], 1, {"accuracy": at / 10, "loss": -at}

        return app

    apps = {"fast": app_at(2.0), "slow": app_at(1.0)}
    found = hs.compare(apps, 2, seeds=[0, 1], durations=10.0, progress=False)
    for metric, value in (("train_accuracy", 0.4), ("train_loss", -4.0)):
        fast, slow = found.time_to(metric, value)
        assert fast == {"name": "fast", "mean": 20.0, "std": 0.0, "reached": 2, "runs": 2}
        assert slow["mean"] == 40.0
    (_, slow) = found.time_to("train_accuracy", 0.5)
    assert (slow["reached"], slow["runs"], np.isnan(slow["mean"])) == (0, 2, True)
    with pytest.raises(ConfigError, match="expected runs with durations"):
        hs.compare(apps, 2, progress=False).time_to("train_loss", 0.0)
    with pytest.raises(ConfigError, match="metric: expected one of"):
        found.time_to("speed", 0.0)


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    found = hs.compare(app_with(), 3, progress=False)
    with pytest.raises(ConfigError, match="metric: expected one of train_drawn"):
        found.plot(tmp_path / "x.html", "accuracy")
    with pytest.raises(ConfigError, match="metric: expected one of train_drawn"):
        found.rows("acuracy")
    with pytest.raises(ConfigError, match="time: expected runs with durations"):
        found.plot(tmp_path / "x.html", time=True)


@pytest.mark.parametrize(
    ("what", "options", "says"),
    [
        ([], {}, "expected at least one app"),
        ([app_with()], {"strategies": [hs.FedAvg()]}, "strategies: expected one app"),
        (app_with(), {"strategies": hs.FedAvg()}, "strategies: expected several, such as .*, found FedAvg"),
        (app_with(), {"seeds": []}, "seeds: expected at least one"),
        (app_with(), {"seeds": 2}, "seeds: expected several, such as .*, found int"),
        (app_with(), {"checkpoint": "x"}, "checkpoint: expected none"),
    ],
)
def test_bad_arguments(what: Any, options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        hs.compare(what, 3, progress=False, **options)
