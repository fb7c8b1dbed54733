"""Checkpoints: a run that was stopped at any round ends with the bits of one that was not."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError
from tests.unit.simulation.test_virtual_time import Buffered


class Stop(BaseException):
    """As a Ctrl-C, or the end of the process."""


def app_with(strategy: Any = None, **settings: Any) -> hs.App:
    app = hs.App(strategy, **{"rounds": 6, "initial": {"a/b": np.zeros(5), "c": np.zeros(2, np.float32)}, **settings})

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        site.state["visits"] = site.state.get("visits", 0) + 1
        site.state["memory"] = np.asarray(site.state.get("memory", np.zeros(5))) + site.rng.random(5)
        a = arrays["a/b"] * 0.5 + site.state["memory"]
        return {"a/b": a, "c": arrays["c"] + 1}, 1 + len(site.name), {"visits": site.state["visits"]}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return 1, {"sum": float(arrays["a/b"].sum())}

    return app


def stop_at(round_: int) -> Any:
    def observer(event: Mapping[str, Any]) -> None:
        if event["what"] == "phase" and event["round"] == round_:
            raise Stop

    return observer


def said(result: Any) -> Any:
    rounds = [replace(record, seconds_by_phase={}) for record in result.rounds]
    return result.job != "", {n: a.tobytes() for n, a in result.arrays.items()}, rounds, result.sites, result.status


VIRTUAL: dict[str, Any] = {"durations": hs.traces.LogNormal(20.0), "availability": hs.traces.Dropout(0.15)}
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "plain": (None, {"sample": 4}, {}),
    "optimiser": (hs.FedAdam(), {"sample": 4}, {}),
    "median": (hs.FedMedian(), {}, {}),
    "late": (None, {"sample": 3, "over_select": 0.5}, {}),
    "early stop": (None, {"stop": hs.EarlyStop("sum", patience=4)}, {}),
    "virtual": (None, {"sample": 4, "quorum": 2}, VIRTUAL),
    "asynchronous": (Buffered(), {"rounds": 12, "evaluate_every": 0}, VIRTUAL),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stops", [(1,), (2, 4), (3,)])
def test_stopped_and_resumed_gives_the_same_bits(case: str, stops: tuple[int, ...], tmp_path: Path) -> None:
    strategy, settings, options = CASES[case]
    sites = [f"s{n}" for n in range(9)]
    expected = said(hs.simulate(app_with(strategy, **settings), sites, progress=False, **options))
    kept = tmp_path / "kept"
    for stop in stops:
        with pytest.raises(Stop):
            hs.simulate(
                app_with(strategy, **settings), sites, checkpoint=kept, resume=True, observer=stop_at(stop),
                progress=False, **options,
            )  # fmt: skip
    result = hs.simulate(app_with(strategy, **settings), sites, checkpoint=kept, resume=True, progress=False, **options)
    assert said(result) == expected


def test_a_run_that_is_over_is_given_back(tmp_path: Path) -> None:
    first = hs.simulate(app_with(), 5, checkpoint=tmp_path, progress=False)
    again = hs.simulate(app_with(), 5, checkpoint=tmp_path, resume=True, progress=False)
    assert said(first) == said(again)
    assert first.job == again.job


def test_more_rounds_than_were_asked_for_at_first(tmp_path: Path) -> None:
    expected = said(hs.simulate(app_with(rounds=8), 5, progress=False))
    with pytest.raises(Stop):
        hs.simulate(app_with(rounds=6), 5, checkpoint=tmp_path, observer=stop_at(4), progress=False)
    assert said(hs.simulate(app_with(rounds=8), 5, checkpoint=tmp_path, resume=True, progress=False)) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_has_finished_goes_on_with_more_rounds(case: str, tmp_path: Path) -> None:
    strategy, settings, options = CASES[case]
    sites, rounds = [f"s{n}" for n in range(9)], settings.get("rounds", 6)

    def run(rounds: int, **more: Any) -> Any:
        app = app_with(strategy, **{**settings, "rounds": rounds})
        return hs.simulate(app, sites, progress=False, **options, **more)

    first = run(rounds // 2, checkpoint=tmp_path)
    result = run(rounds, checkpoint=tmp_path, resume=True)
    assert (result.job, result.rounds[: rounds // 2]) == (first.job, first.rounds)
    if case == "asynchronous":  # what was in flight at its end is gone
        assert [record.number for record in result.rounds] == list(range(1, rounds + 1))
    else:
        assert said(result) == said(run(rounds))


@pytest.mark.parametrize("asked", [6, 3])
def test_a_run_that_has_stopped_early_takes_no_more_rounds(asked: int, tmp_path: Path) -> None:
    """Also where it would have ended with that round: one that is never over stops there, too."""

    def run(rounds: int) -> Any:
        stop = hs.EarlyStop("sum", mode="max", min_delta=1e9, patience=2)
        return hs.simulate(app_with(rounds=rounds, stop=stop), 3, checkpoint=tmp_path, resume=True, progress=False)

    assert len(run(asked).rounds) == 3
    with pytest.raises(ConfigError, match=rf"rounds={asked}, found 8"):
        run(8)


def test_checkpoints_now_and_then(tmp_path: Path) -> None:
    expected = said(hs.simulate(app_with(), 5, progress=False))
    seen: list[int] = []

    def observer(event: Mapping[str, Any]) -> None:
        if event["what"] == "phase":
            seen.append(event["round"])

    with pytest.raises(Stop):
        hs.simulate(app_with(), 5, checkpoint=tmp_path, checkpoint_every=2, observer=stop_at(4), progress=False)
    result = hs.simulate(app_with(), 5, checkpoint=tmp_path, resume=True, observer=observer, progress=False)
    assert seen[0] == 3
    assert said(result) == expected


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    hs.simulate(app_with(), 5, checkpoint=tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"found a run in .*resume=True"):
        hs.simulate(app_with(), 5, checkpoint=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"seed": 3}, {}, "with seed=0, found 3"),
        ({}, {"durations": 1.0}, "expected durations and availability to be left out"),
        ({}, {"engine": "nonsense"}, "engine: expected one of"),
    ],
)
def test_another_run_is_refused(
    change: Mapping[str, Any], options: Mapping[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        hs.simulate(app_with(), 5, checkpoint=tmp_path, observer=stop_at(3), progress=False)
    with pytest.raises(ConfigError, match=says):
        hs.simulate(app_with(**change), 5, checkpoint=tmp_path, resume=True, progress=False, **options)


def test_another_fingerprint_is_refused_or_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stop):
        hs.simulate(app_with(), 5, checkpoint=tmp_path, observer=stop_at(3), progress=False)
    monkeypatch.setattr("hanse.simulation.checkpoint.fingerprint", lambda: "another machine")
    with pytest.raises(ConfigError, match="found another machine"):
        hs.simulate(app_with(), 5, checkpoint=tmp_path, resume=True, progress=False)
    result = hs.simulate(app_with(), 5, checkpoint=tmp_path, resume=True, mixed_hardware=True, progress=False)
    assert "not comparable" in result.about["Hardware"]


@pytest.mark.parametrize("content", [b"", b"x" * 100, (5).to_bytes(8, "little") + b"[1,2]"])
def test_a_damaged_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(ConfigError, match=r"checkpoint: .* cannot be read"):
        hs.simulate(app_with(), 5, checkpoint=tmp_path, resume=True, progress=False)


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="resume: expected checkpoint=FOLDER"):
        hs.simulate(app_with(), 5, resume=True, progress=False)
    with pytest.raises(ConfigError, match="checkpoint_every: expected a whole number"):
        hs.simulate(app_with(), 5, checkpoint="/tmp/none", checkpoint_every=0, progress=False)
