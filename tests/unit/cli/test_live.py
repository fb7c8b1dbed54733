"""The picture fits its terminal, whatever there is to show."""

import io
import os

import pytest
from rich.console import Console

from hanse.cli.live import Lines, Silent, display, draw
from hanse.cli.view import View

MANY = {"loss": 0.25, "accuracy": 0.5, "auc": 0.75, "f1": 0.5, "recall": 0.25, "precision": 1.0, "brier": 0.125}


def picture(view: View, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(draw(view, width, height, 61.0))
    return captured.get().splitlines()


def a_view(sites: int, rounds: int = 4) -> View:
    view = View(
        "An app with a name that is much longer than any terminal would ever want to show it in one line", rounds
    )
    for number in range(sites):
        name = f"site-{number:03d}-{'x' * 40}"
        view.take({"what": "decision", "site": name, "decision": "accept", "reason": ""})
        view.take({"what": "reply", "round": 1, "phase": "evaluate", "site": name, "error": "", "metrics": MANY})
    if sites:
        view.take({"what": "round", "record": {"number": 1, "metrics": MANY, "failed": {name: "lost " * 40}}})
    view.take({"what": "waiting", "reason": "the server cannot be reached " * 5})
    return view


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
@pytest.mark.parametrize("sites", [0, 1, 4, 60])
def test_the_picture_fits(width: int, sites: int) -> None:
    lines = picture(a_view(sites), width, 30)
    assert len(lines) <= 30
    assert all(len(line.rstrip()) <= width for line in lines)


def test_what_is_shown() -> None:
    view = View("breast cancer", rounds=4)
    for site in ("luebeck", "riga"):
        view.take({"what": "decision", "site": site, "decision": "accept", "reason": ""})
    view.take({"what": "phase", "round": 2, "phase": "train", "asked": 2})
    view.take(
        {
            "what": "reply",
            "round": 2,
            "phase": "train",
            "site": "riga",
            "error": "",
            "metrics": {},
            "num_examples": 1234,
        }
    )
    view.take(
        {"what": "reply", "round": 2, "phase": "evaluate", "site": "riga", "error": "", "metrics": {"loss": 0.125}}
    )
    text = "\n".join(picture(view, 80, 24))
    assert "breast cancer" in text
    assert "1:01" in text
    assert "round 2 of 4 · training" in text
    assert "training" in text
    assert "✓ evaluated" in text
    assert "1,234" in text
    assert "0.125" in text
    assert "loss by round" not in text
    assert "loss by round" in "\n".join(picture(view, 120, 24))


def test_sites_in_trouble_come_first_where_not_all_fit() -> None:
    view = a_view(60)
    view.take({"what": "reply", "round": 1, "phase": "train", "site": "zzz", "error": "killed"})
    text = "\n".join(picture(view, 120, 20))
    assert "zzz" in text
    assert "and 5" in text


def test_thirty_sites_with_one_cause_are_one_line() -> None:
    view = View("app", 3)
    for number in range(30):
        view.take(
            {"what": "reply", "round": 1, "phase": "train", "site": f"s{number:02d}", "error": "raised: TypeError"}
        )
    told = [line for line in picture(view, 120, 60) if "TypeError" in line]
    assert [line.split(":")[0].strip() for line in told] == ["30 of 30 sites"]


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = display(View("app", 1))
    assert isinstance(shown, Lines)
    event = {"what": "decision", "site": "riga", "decision": "accept", "reason": ""}
    with shown:
        shown.take(event)
        shown.take(event)  # a connection that was lost and found again tells it twice
    assert capsys.readouterr().out == "site riga accepts\n"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setitem(os.environ, "TERM", "dumb")
    assert isinstance(display(View("app")), Lines)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent(View("app")) as shown:
        shown.take({"what": "decision", "site": "riga", "decision": "accept", "reason": ""})
    assert capsys.readouterr().out == ""
    assert list(shown.view.sites) == ["riga"]
