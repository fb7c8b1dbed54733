"""Questions as plain data, apps made of them, `hs.ask`, and what is refused on the way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.analytics import Correlation, Crosstab, Describe, Histogram, Quantiles, Question, Survival, TopK, question_of
from hanse.analytics.catalogue import QUESTIONS
from hanse.clients.loader import find_app
from hanse.core.spec import RunSpec
from hanse.person.questions import app_text
from hanse.strategies import named
from hanse.strategies.analysis import Analysis
from tests.unit.analytics.sites import asked, patients

EVERY: list[Question] = [
    Describe(["age", "bmi"], data="patients", by="sex", min_sites=2),
    Quantiles("age", [0.1, 0.9], data="patients", min_group=3),
    Histogram("age", [0, 50, 100], data="patients", by="sex", groups=["f"]),
    Correlation(["age", "bmi"], data="patients"),
    Crosstab("sex", "stage", data="patients", row_values=["f", "m"]),
    TopK("age", 3, data="patients", min_group=2),
    Survival("time", "event", data="patients", by="stage", unit=7),
]


def test_no_question_is_left_out() -> None:
    assert {type(question) for question in EVERY} == set(QUESTIONS.values())
    assert all(name == kind.kind for name, kind in QUESTIONS.items())
    assert {question.kind for question in EVERY} == set(QUESTIONS)


@pytest.mark.parametrize("question", EVERY, ids=lambda question: question.kind)
class TestEvery:
    def test_survives_the_way_to_a_site(self, question: Question) -> None:
        spec = hs.App(question).spec()
        sent = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
        strategy = named(sent.strategy, sent.params)
        assert isinstance(strategy, Analysis)
        assert strategy.asked == question
        assert (spec.rounds, spec.initial, spec.evaluate_every) == (1, "none", 0)

    def test_is_an_app_in_a_file(self, question: Question, tmp_path: Path) -> None:
        file = tmp_path / "question.py"
        file.write_text(app_text(question, quorum=2))
        app = find_app(file)
        assert app.spec() == hs.App(question, quorum=2).spec()

    def test_the_order_of_sites_changes_no_bit(self, question: Question) -> None:
        sites = patients(9)
        renamed = {f"z{9 - place}": data for place, data in enumerate(sites.values())}
        first, second = asked(sites, question)[1], asked(renamed, question)[1]
        assert first.arrays == second.arrays

    def test_prints_and_reports(self, question: Question, tmp_path: Path) -> None:
        answer, _ = asked(patients(9), question)
        assert answer.rows
        assert answer.title in str(answer)
        assert json.loads(json.dumps(answer.to_json()))["rows"] == answer.to_rows()
        page = answer.report(tmp_path / "answer.html").read_text()
        assert "<script" not in page
        assert page.count("<tr>") == len(answer.rows) + 1
        if answer.drawing:
            assert answer.plot(tmp_path / "answer.svg").startswith("<svg xmlns=")

    def test_of_sites_with_too_few_rows_nothing_is_known(self, question: Question) -> None:
        if question.min_group < 10:
            return
        sites = {f"s{i}": {"patients": {n: v[:9] for n, v in d["patients"].items()}}
                 for i, d in enumerate(patients().values())}  # fmt: skip
        _, result = asked(sites, question)
        told = {name: array for name, array in result.arrays.items() if array.dtype == np.int64 and name != "ranks"}
        assert not any(array.any() for name, array in told.items() if name != "withheld")


def test_names_from_sites_cannot_harm_a_page() -> None:
    rows = {"x": np.arange(20.0), "g": ["<img src=x onerror=alert(1)>"] * 20}
    answer, _ = asked({"a": {"d": rows}}, Histogram("x", [0, 30], data="d", by="g"))
    assert "<img" not in answer._repr_html_()
    assert "&lt;img" in answer._repr_html_()


def test_ask_asks_those_who_are_chosen() -> None:
    sites = {name: {"d": {"x": np.full(20, value)}} for name, value in (("a", 1.0), ("b", 3.0))}
    question = Describe("x", data="d", order=False)
    assert hs.ask(sites, question).to_rows()[0]["mean"] == 2
    assert hs.ask(sites, question, sites=["b"]).to_rows()[0]["mean"] == 3
    with pytest.raises(hs.ConfigError, match="found 'c'"):
        hs.ask(sites, question, sites=["c"])
    with pytest.raises(hs.ConfigError, match="expected a question"):
        hs.ask(sites, "age")  # type: ignore[arg-type]  # on purpose


def test_a_site_without_the_column_is_left_out_by_name() -> None:
    sites: dict[str, Any] = {"a": {"d": {"x": np.arange(20.0)}}, "b": {"d": {"y": np.arange(20.0)}}}
    question = Describe("x", data="d", order=False)
    result = hs.simulate(hs.App(question, quorum=1), sites, progress=False)
    assert question.answer(result.arrays).to_rows()[0]["count"] == 20
    assert "column 'x'" in result.rounds[0].failed["b"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("rows", {}, "expected one of describe"),
        ("describe", {}, "question describe"),
        ("describe", {"columns": ["a"], "data": "d", "more": 1}, "more"),
        ("top", {"column": "a", "data": "d", "k": 10**9}, "k: expected"),
        ("survival", {"time": "t", "event": 7, "data": "d"}, "event"),
    ],
)
def test_wrong_plain_data_are_refused(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(hs.ConfigError, match=said):
        question_of(kind, options)


def test_an_app_with_a_question_has_nothing_else() -> None:
    question = Describe("x", data="d")
    app = hs.App(question)

    @app.query
    def query(config: Any, site: Any) -> Any:
        return {}

    with pytest.raises(hs.ConfigError, match="no functions beside a question"):
        app.spec()
    with pytest.raises(hs.ConfigError, match="neither initial nor rounds"):
        hs.App(question, rounds=2).spec()


def test_names_that_a_site_makes_up_are_refused() -> None:
    question = Describe("x", data="d", by="g")
    words = hs.Arrays({"groups": np.frombuffer(b'["a", 7]', np.uint8)})
    assert "texts" in question.wrong("groups", None, words)
    assert "cannot be read" in question.wrong("groups", None, hs.Arrays({"groups": np.frombuffer(b"\xff[", np.uint8)}))
    assert "called groups" in question.wrong("groups", None, hs.Arrays({"other": np.zeros(2, np.uint8)}))
    deep = np.frombuffer(b"[" * 100_000, np.uint8)
    assert "cannot be read" in question.wrong("groups", None, hs.Arrays({"groups": deep}))
    survival = Survival("t", "e", data="d")
    for times in (np.array([-1.0]), np.array([[1.0]]), np.zeros(100_001)):
        assert survival.wrong("times", None, hs.Arrays({"times": times}))


# ---- the same sites in every phase ----


def test_a_sample_of_sites_is_the_same_in_every_phase() -> None:
    sites = {f"s{i}": {"d": {"x": np.arange(20.0) + 100 * i}} for i in range(6)}
    question = Quantiles("x", [0.0, 0.3, 0.5, 1.0], data="d", min_group=1)
    result = hs.simulate(hs.App(question, sample=2, seed=5), sites, progress=False)
    asked_sites = result.rounds[0].folded
    assert len(asked_sites) == 2
    values = np.concatenate([sites[site]["d"]["x"] for site in asked_sites])
    found = [row["value"] for row in question.answer(result.arrays).to_rows()]
    assert found == np.quantile(values, question.q).tolist()


def failing(monkeypatch: pytest.MonkeyPatch, name: str, phase: str) -> None:
    from hanse.clients.analysis import AnalysisClient

    step = AnalysisClient.step

    def sometimes(self: Any, arrays: Any, config: Any, site: Any) -> Any:
        if (site.name, site.phase) == (name, phase):
            raise RuntimeError("gone")
        return step(self, arrays, config, site)

    monkeypatch.setattr(AnalysisClient, "step", sometimes)


def test_a_site_that_leaves_between_phases_ends_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = {f"s{i}": {"d": {"x": np.arange(20.0)}} for i in range(3)}
    question = Quantiles("x", data="d", min_group=1)
    failing(monkeypatch, "s1", "byte-3")
    with pytest.raises(hs.JobFailed, match="phase byte-3: expected 3 replies, found 2"):
        hs.simulate(hs.App(question, quorum=2), sites, progress=False)


def test_a_site_that_is_not_there_at_first_is_not_missed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = {f"s{i}": {"d": {"x": np.arange(20.0) + i}} for i in range(3)}
    question = Quantiles("x", data="d", min_group=1)
    failing(monkeypatch, "s1", "byte-0")
    result = hs.simulate(hs.App(question, quorum=2), sites, progress=False)
    values = np.concatenate([sites[site]["d"]["x"] for site in ("s0", "s2")])
    assert [row["value"] for row in question.answer(result.arrays).to_rows()] == np.quantile(
        values, question.q
    ).tolist()


def test_data_that_change_between_phases_give_no_wrong_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from hanse.analytics import orders

    tell = orders.tell

    def changed(phase: str, *rest: Any) -> Any:
        told = tell(phase, *rest)
        if phase == "byte-4":
            told["bytes"][0, 0, 0, 0] += 1
        return told

    monkeypatch.setattr(orders, "tell", changed)
    with pytest.raises(hs.JobFailed, match="other rows than in the phase before"):
        asked({"a": {"d": {"x": np.arange(20.0)}}}, Quantiles("x", data="d", min_group=1))
