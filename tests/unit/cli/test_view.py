"""What the screen knows, from lists of events."""

import math
from typing import Any

import pytest

from hanse.cli.view import View, ending, line_of, trend


def record(number: int, **more: Any) -> dict[str, Any]:
    return {"what": "round", "record": {"number": number, **more}}


def after(*events: dict[str, Any], rounds: int = 3) -> View:
    view = View("app", rounds=rounds)
    for event in events:
        view.take(event)
    return view


YES = {"what": "decision", "site": "riga", "decision": "accept", "reason": ""}
NO = {"what": "decision", "site": "visby", "decision": "refuse", "reason": "people: not on the list"}
TRAIN = {"what": "phase", "round": 1, "phase": "train", "asked": 1}
REPLY = {
    "what": "reply",
    "round": 1,
    "phase": "evaluate",
    "site": "riga",
    "error": "",
    "metrics": {"loss": 0.5, "accuracy": 0.25},
    "num_examples": 10,
}


def test_sites_are_sorted_and_say_what_they_do() -> None:
    view = after(NO, YES)
    assert list(view.sites) == ["riga", "visby"]
    assert (view.sites["riga"].state, view.sites["visby"].why) == ("ready", "people: not on the list")
    view.take(TRAIN)
    assert (view.sites["riga"].state, view.sites["riga"].tone) == ("training", "busy")
    assert view.sites["visby"].state == "refused"  # it was not asked
    assert (view.round, view.completed, view.phase, view.status) == (1, 0, "train", "running")


def test_replies_bring_metrics() -> None:
    view = after(YES, TRAIN, REPLY, REPLY | {"metrics": {"loss": 0.25}})
    site = view.sites["riga"]
    assert (site.state, site.tone, site.examples) == ("evaluated", "good", 10)
    assert site.metrics == {"loss": 0.25, "accuracy": 0.25}
    assert site.losses == [0.5, 0.25]


def test_a_failure_is_shown_with_its_cause() -> None:
    view = after(YES, TRAIN, REPLY | {"error": "raised: ValueError"})
    assert (view.sites["riga"].tone, view.sites["riga"].why) == ("bad", "raised: ValueError")
    view = after(YES, record(1, failed={"riga": "lost"}, late=["visby"], folded=["bergen"]))
    assert {name: (site.state, site.tone) for name, site in view.sites.items()} == {
        "riga": ("failed", "bad"),
        "visby": ("late", "bad"),
        "bergen": ("done", "good"),
    }


def test_rounds_advance_the_bar() -> None:
    view = after(record(0), record(1, metrics={"loss": 1.0}), record(2, metrics={"loss": 0.5}))
    assert (view.completed, view.losses, view.metrics) == (2, [1.0, 0.5], {"loss": 0.5})


def test_an_early_stop_fills_the_bar() -> None:
    view = after(record(1), {"what": "finished", "status": "finished", "error": ""}, rounds=50)
    assert (view.rounds, view.completed, view.over) == (1, 1, True)
    assert ending(view) == "finished after 1 round"


def test_a_failed_job_names_its_cause() -> None:
    view = after({"what": "finished", "status": "failed", "error": "quorum: 1 of 2 answered"})
    assert ending(view) == "failed after 0 rounds: quorum: 1 of 2 answered"


def test_measured_in_evaluation_goes_before_training_and_loss_first() -> None:
    view = View("app")
    assert view.measures() == []
    view.site("riga").metrics = {"train_loss": 1.0, "train_num_examples": 4}
    assert view.measures() == ["train_loss"]
    view.site("riga").metrics |= {"zeta": 1.0, "auc": 1.0, "accuracy": 1.0, "loss": 1.0, "evaluate_examples": 3}
    assert view.measures() == ["loss", "accuracy", "auc", "zeta"]


def test_trouble_goes_away_with_the_next_event() -> None:
    view = after({"what": "waiting", "reason": "refused"})
    assert view.trouble == "refused"
    view.take(YES)
    assert view.trouble == ""


def test_what_others_wrote_cannot_move_the_cursor() -> None:
    view = after(NO | {"site": "ri\x1b[2Jga", "reason": "\x1b]0;title\x07\nnext"})
    (site,) = view.sites.values()
    assert "\x1b" not in site.name + site.why
    line = line_of(view, NO | {"reason": "\x1b[2J"})
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (YES, "site riga accepts"),
        (NO, "site visby refuses: people: not on the list"),
        (TRAIN, ""),
        (REPLY, ""),
        (REPLY | {"error": "killed"}, "round 1: site riga failed: killed"),
        (record(0), ""),
        (
            record(
                2, metrics={"loss": 0.5}, folded=["riga"], seconds_by_phase={"train": 0.25}, failed={"visby": "lost"}
            ),
            "round   2/3  loss 0.500  1 sites  0.25 s; visby: lost",
        ),
        ({"what": "waiting", "reason": "no route"}, "waiting for the server: no route"),
        ({"what": "finished", "status": "cancelled", "error": ""}, "cancelled after 0 rounds"),
        ({"what": "of a later version"}, ""),
    ],
)
def test_lines(event: dict[str, Any], line: str) -> None:
    view = View("app", rounds=3)
    view.take(event)
    assert line_of(view, event) == line


def test_a_cause_is_told_of_the_first_site_and_named_of_the_others() -> None:
    view = View("app", rounds=3)
    lines, logs = [], []
    failed = [REPLY | {"site": site, "error": "raised: TypeError"} for site in ("a", "b", "c")]
    whole = record(1, failed=dict.fromkeys("abc", "raised: TypeError"), folded=["riga"])
    for event in [YES, NO, NO | {"site": "wismar"}, *failed, REPLY | {"error": "killed"}, whole]:
        view.take(event)
        lines.append(line_of(view, event))
        logs.append(line_of(view, event, every_reply=True))
    assert [line for line in lines if line] == [
        "site riga accepts",
        "site visby refuses: people: not on the list",
        "site wismar refuses, as visby",
        "round 1: site a failed: raised: TypeError",
        "round 1: site riga failed: killed",
        "round   1/3  1 sites  0.00 s; 3 of 6 sites: a, b, c: raised: TypeError",
    ]
    assert logs[4:6] == ["round 1: site b failed, as a", "round 1: site c failed, as a"]


def test_logs_hold_every_reply() -> None:
    view = after(TRAIN)
    assert line_of(view, TRAIN, every_reply=True) == "round 1: train, 1 asked"
    assert line_of(view, REPLY, every_reply=True) == "round 1: riga evaluated  loss 0.500  accuracy 0.250"


def test_trend() -> None:
    assert trend([], 8) == trend([1.0], 8) == trend([math.nan, 1.0], 8) == ""
    assert trend([0.0, 1.0], 8) == "▁█"
    assert trend([1.0, 1.0, 1.0], 8) == "▁▁▁"
    assert trend([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"
