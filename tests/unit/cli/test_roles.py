"""Roles on the command line: what is typed, what an owner is asked, what is shown while they play."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hanse import vertical
from hanse.cli.explain import explain
from hanse.cli.output import show_facts, show_table
from hanse.cli.run import keep, roles_of
from hanse.cli.site import _is_of_edge, _settings, _show_reveals, _ways
from hanse.cli.view import View, line_of
from hanse.core.errors import ConfigError
from hanse.rounds.record import role_record
from hanse.rounds.result import Result


def test_roles_as_typed() -> None:
    assert roles_of(["guest=bank", "host=shop", "host=telco"]) == {"guest": ["bank"], "host": ["shop", "telco"]}
    assert roles_of(None) is None
    for word in ("guest", "=bank", "guest="):
        with pytest.raises(ConfigError, match="expected ROLE=SITE"):
            roles_of([word])


def test_an_owner_is_shown_every_line_of_what_others_learn(capsys: pytest.CaptureFixture[str]) -> None:
    reveals = [asdict(each) for each in vertical.Boosting().whole(["host-1", "host-2"]).reveals]
    _show_reveals({"roles": {"host": "shop", "guest": "bank"}, "reveals": reveals})
    shown = capsys.readouterr().out
    assert len(reveals) > 30
    for each in reveals:
        (line,) = (line for line in shown.splitlines() if line.split()[:3] == [each["to"], each["about"], each["what"]])
        assert line.endswith(each["detail"])


def test_what_is_cut_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([{"a": "x" * 201}, {"a": "y" * 200}], {"a": "A"}, empty="")
    show_facts({"b": "z" * 400})
    assert capsys.readouterr().out.split() == ["A", "x" * 200 + "…", "y" * 200, "b", "z" * 400]


def test_what_an_app_of_groups_reveals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import hanse as hs\n\napp = hs.App(groups=hs.Groups(3, hs.FedMedian()))\n"
    (tmp_path / "app.py").write_text(code + "app.query(lambda config, site: {})\n")
    explain(str(tmp_path / "app.py"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "groups 3 rounds of each for one of the server's, by FedMedian" in lines
    assert "edge member update each member's update of every round, in clear" in lines
    explain(str(tmp_path / "app.py"), json=True)
    assert json.loads(capsys.readouterr().out)["groups"]["strategy"] == "fedmedian"


def test_an_owner_is_asked_who_plays_what(tmp_path: Path) -> None:
    reveal = {"to": "host", "about": "guest", "what": "intersection", "detail": "who is a customer"}
    asked = _settings({"roles": {"host": "shop", "guest": "bank"}, "reveals": [reveal]}, tmp_path)
    assert asked["roles"] == "guest: bank, host: shop"
    assert "uses" not in asked
    uses = _settings({"roles": {"host": "shop"}, "reveals": [], "outputs_of": "j7"}, tmp_path)["uses"]
    assert uses == "what this site kept of job j7: nothing is here of it"
    (tmp_path / "outputs" / "j7").mkdir(parents=True)
    about = {"v": 1, "job": "j7", "person": "bert", "app": "a", "roles": {"host": "shop", "guest": "bank"}}
    (tmp_path / "outputs" / "j7" / "job.json").write_text(json.dumps(about))
    uses = _settings({"roles": {"host": "shop"}, "reveals": [], "outputs_of": "j7"}, tmp_path)["uses"]
    assert uses == "what this site kept of job j7 of bert (guest: bank, host: shop)"
    assert _settings({"strategy": "fedavg", "rounds": 3, "quorum": 2}, tmp_path) == {
        "settings": "fedavg, 3 rounds, quorum 2"
    }
    everybody = _settings({"strategy": "fedavg", "rounds": 3, "quorum": None}, tmp_path)
    assert everybody == {"settings": "fedavg, 3 rounds, quorum all that are asked"}


def test_a_job_without_a_model_keeps_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report = tmp_path / "model.safetensors", tmp_path / "report.html"
    with pytest.raises(ConfigError, match="where sites play roles, each keeps its own, in outputs/j7 of its folder"):
        keep(Result("finished", job="j7"), output, report)
    assert "<h1>" in report.read_text()
    keep(Result("failed", job="j7", error="too few"), output, None)  # the command goes on and says why
    assert "not written: the server has no model" in capsys.readouterr().err
    assert not output.exists()


def test_an_owner_can_type_what_is_shown() -> None:
    assert _ways("j7", Path()) == "→ hanse site approve j7   or   hanse site refuse j7 --reason '…'"
    elsewhere = (
        "→ hanse site approve j7 --directory 'my site'   or   hanse site refuse j7 --directory 'my site' --reason '…'"
    )
    assert _ways("j7", Path("my site")) == elsewhere


def test_a_groups_site_is_told_to_start_as_an_edge(tmp_path: Path) -> None:
    assert not _is_of_edge(tmp_path / "edge")
    (tmp_path / "server.yaml").touch()
    assert _is_of_edge(tmp_path / "edge")
    assert not _is_of_edge(tmp_path / "bergen")


def test_what_is_counted_is_no_measure() -> None:
    view = View("app", rounds=1, job="j")
    view.take({"what": "phase", "round": 1, "phase": "role", "asked": 2})
    answer = {"common": 50, "sent_bytes": 100, "turns": 3}
    view.take({"what": "reply", "round": 1, "phase": "role", "site": "bank", "metrics": answer})
    assert view.measures() == ["common"]
    record = role_record({"guest": "bank", "host": "shop"}, {"guest": answer, "host": answer}, 1.5)
    event = {"what": "round", "record": record.to_json()}
    view.take(event)
    assert view.measures() == ["common"]  # the record says it again, with roles before it
    assert "common 50" in line_of(view, event)
    assert "bytes" not in line_of(view, event)
    view.take(
        {**event, "record": {**record.to_json(), "by_site": {"bank": {"common": 50, "rows": 60}, "shop": {"rows": 9}}}}
    )
    assert "rows" not in line_of(view, event)  # which each tells of itself
