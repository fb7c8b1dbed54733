"""What a person may get wrong, for every command: one line, exit code 2, no traceback."""

from pathlib import Path

import pytest

from hanse.cli.commands import COMMANDS
from hanse.server.init import NewFederation
from tests.unit.cli.conftest import Hanse

TOKEN = "hansejoin1" + "a" * 40

CASES: dict[str, list[tuple[list[str], str]]] = {
    "demo": [
        (["lung-cancer"], "breast-cancer"),
        (["--rounds", "0"], "--rounds"),
        (["--rounds", "many"], "--rounds"),
        (["heart-disease", "--data", "nowhere"], "expected four files in nowhere"),
        (["heart-disease", "--seeds", "0"], "--seeds"),
        (["--directory", "full"], "expected an empty folder"),
        (["--directory", "full/file.txt"], "expected an empty folder"),
    ],
    "run": [
        ([], "app"),
        (["app.py"], "federation.yaml: not found"),
        (["app.py", "--federation", "bad.yaml"], "expected YAML"),
        (["app.py", "--federation", "keys.yaml"], "expected the keys"),
        (["nothere.py", "--federation", "PERSON"], "expected a Python file"),
        (["nothere.py"], "nothere.py: expected a Python file"),
        (["notebook.ipynb", "--federation", "PERSON"], "notebook"),
        (["broken.py", "--federation", "PERSON"], "broken.py: line 2: SyntaxError"),
        (["raises.py", "--federation", "PERSON"], "raises.py: line 2: ZeroDivisionError"),
        (["exits.py", "--federation", "PERSON"], "ended the program"),
        (["empty.py", "--federation", "PERSON"], "expected one hs.App"),
        (["app.py:other", "--federation", "PERSON"], "expected an hs.App called 'other'"),
        (["app.py", "--federation", "PERSON", "--detach", "--output", "m"], "--detach"),
        (["app.py", "--federation", "PERSON", "--role", "guest"], "--role: expected ROLE=SITE"),
        (["app.py", "--federation", "PERSON", "--role", "guest=bank"], "roles: expected none for an hs.App"),
    ],
    "explain": [
        ([], "app"),
        (["nothere.py"], "expected a Python file"),
        (["broken.py"], "broken.py: line 2: SyntaxError"),
        (["empty.py"], "expected one hs.App"),
        (["app.py"], "expected an hs.RoleApp or an hs.App with groups, found an hs.App"),
    ],
    "federation init": [
        ([], "name"),
        (["Bad Name"], "expected 1 to 63 characters"),
        (["x", "--site", "Bad Site"], "expected 1 to 63 characters"),
        (["x", "--site", "a", "--site", "a"], "every name once"),
        (["x", "--port", "70000"], "--port"),
        (["x", "--port", "7400", "--enrolment-port", "7400"], "expected different ones"),
        (["x", "--port", "65535"], "up to 65535"),
        (["x", "--directory", "SERVER"], "there is a federation already"),
        (["x", "--host", "fl.example.org:7400"], "without a port"),
        (["x", "--hours", "-1"], "--hours"),
        (["x", "--person", "server"], "folder of the server"),
    ],
    "server start": [
        (["--directory", "nowhere"], "found no server.yaml"),
        ([], "found no server.yaml"),
        (["--directory", "badserver"], "expected YAML"),
    ],
    "site invite": [([], "name"), (["riga"], "federation.yaml: not found")],
    "site join": [
        ([], "token"),
        (["nonsense"], "token"),
        ([TOKEN], "token"),
        ([" "], "token"),
    ],
    "site request": [([], "federation"), (["hospitals", "UPPER"], "found 'UPPER'")],
    "person request": [([], "federation"), (["hospitals", "UPPER"], "found 'UPPER'")],
    "edge start": [
        ([], "found no server.yaml"),
        (["--directory", "badserver"], "hanse site join TOKEN --directory"),
    ],
    "site pack": [([], "membership.json"), (["-d", "nowhere"], "membership.json")],
    "site start": [
        ([], "membership.json"),
        (["-d", "nowhere"], "membership.json"),
        (["-d", "badsite"], "site.yaml, line 2"),
        (["-d", "PERSON"], "expected the folder of a site, found that of person admin"),
    ],
    "site status": [([], "membership.json"), (["-d", "PERSON"], "found that of person admin")],
    "site approve": [
        ([], "membership.json"),
        (["job1", "-d", "nowhere"], "membership.json"),
        (["-d", "PERSON"], "found that of person admin"),
    ],
    "site refuse": [([], "job"), (["job1"], "membership.json")],
    "site list": [([], "federation.yaml: not found"), (["--federation", "bad.yaml"], "expected YAML")],
    "site revoke": [([], "name"), (["riga"], "federation.yaml: not found")],
    "person add": [([], "name"), (["anna"], "federation.yaml: not found")],
    "person join": [(["nonsense"], "token"), (["SITETOKEN"], "expected one for a person")],
    "person list": [([], "federation.yaml: not found")],
    "person revoke": [([], "name"), (["anna"], "federation.yaml: not found")],
    "job list": [([], "federation.yaml: not found"), (["--nope"], "--nope"), (["extra"], "extra")],
    "job show": [([], "job"), (["0000000"], "federation.yaml: not found"), (["ab"], "at least 4 characters")],
    "job logs": [([], "job"), (["0000000"], "federation.yaml: not found")],
    "job result": [([], "job"), (["0000000"], "federation.yaml: not found")],
    "job remove": [([], "JOB"), (["0000000", "--yes"], "federation.yaml: not found")],
    "job cancel": [([], "job"), (["0000000"], "federation.yaml: not found")],
    "job resume": [([], "job"), (["0000000"], "federation.yaml: not found")],
    "deploy aws init": [
        ([], "path"),
        (["a.yaml", "--region", "mars", "--site", "x"], "region: expected a region such as"),
    ],
    "deploy aws deploy": [(["nothere.yaml"], "nothere.yaml: not found"), (["bad.yaml"], "expected YAML")],
    "deploy aws diff": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy aws admit": [([], "request"), (["nothere.json"], "federation.yaml: not found")],
    "deploy aws revoke": [([], "kind"), (["site", "riga"], "federation.yaml: not found")],
    "deploy aws members": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy aws package": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy aws cost": [(["nothere.yaml"], "nothere.yaml: not found"), (["keys.yaml"], "expected keys")],
    "deploy aws destroy": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy sagemaker launch": [
        ([], "federation.yaml: not found"),
        (["bad.yaml"], "expected YAML"),
        (["keys.yaml", "--local"], "is not a setting"),
    ],
    "deploy sagemaker plan": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy sagemaker template": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy sagemaker status": [(["nothere.yaml"], "nothere.yaml: not found")],
    "deploy sagemaker stop": [(["nothere.yaml"], "nothere.yaml: not found")],
    "audit verify": [
        ([], "file"),
        (["nothere.jsonl"], "no such file"),
        (["app.py"], "no membership.json beside it"),
        (["app.py", "--membership", "nowhere"], "expected a membership.json"),
        (["app.py", "--membership", "empty.py"], "empty.py"),
        (["app.py", "--key", "empty.py"], "expected an Ed25519 public key"),
        (["app.py", "--key", "a", "--membership", "b"], "found both"),
        (["app.py", "--membership", "SERVER/server", "--head", "empty.py"], "empty.py"),
    ],
    "stats describe": [
        ([], "columns"),
        (["age"], "--data"),
        (["age", "--data", "p"], "federation.yaml: not found"),
        (["age", "age", "--data", "p"], "distinct names"),
        (["age", "--data", "p", "--min-group", "0"], "min_group: expected a whole number"),
    ],
    "stats quantiles": [(["age", "--data", "p", "--q", "1.5"], "q: expected finite numbers from 0 to 1")],
    "stats histogram": [
        (["age", "--data", "p", "--edges", "a,b"], "--edges: expected numbers"),
        (["age", "--data", "p", "--edges", "2,1"], "each above the one before"),
    ],
    "stats correlation": [(["age", "--data", "p"], "at least two")],
    "stats crosstab": [(["sex", "--data", "p"], "columns")],
    "stats top": [(["icd", "--data", "p", "--number", "0"], "k: expected a whole number")],
    "stats survival": [(["days", "died", "--data", "p", "--unit", "-1"], "unit: expected")],
    "audit head": [([], "federation.yaml: not found")],
    "doctor": [(["--directory", "nowhere"], "no such folder"), ([], "found none of these")],
}


def test_every_command_is_tried() -> None:
    assert set(CASES) == {command.words for command in COMMANDS}


@pytest.fixture
def places(tmp_path: Path, made: NewFederation) -> dict[str, str]:
    """Files that are wrong in some way, in the current folder; and names of places that are right."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file.txt").write_text("mine")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: }")
    (tmp_path / "keys.yaml").write_text("password: secret")
    (tmp_path / "badserver").mkdir()
    (tmp_path / "badserver" / "server.yaml").write_text("federation: [")
    (tmp_path / "badsite").mkdir()
    (tmp_path / "badsite" / "membership.json").write_text("{}")
    (tmp_path / "badsite" / "site.yaml").write_text("name: x\ndurability: perhaps\n")
    (tmp_path / "notebook.ipynb").write_text("{}")
    (tmp_path / "broken.py").write_text("import hanse\napp = (\n")
    (tmp_path / "raises.py").write_text("import hanse\n1 / 0\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "app.py").write_text(
        "import hanse as hs\napp = hs.App(rounds=1)\n\n@app.client\ndef client(site):\n    return None\n"
    )
    return {
        "PERSON": str(made.person_directory),
        "SERVER": str(made.directory),
        "SERVER/server": str(made.directory / "server"),
        "SITETOKEN": made.tokens["luebeck"],
    }


@pytest.mark.parametrize(
    ("words", "arguments", "expected"),
    [(words, *case) for words, cases in CASES.items() for case in cases],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(
    words: str, arguments: list[str], expected: str, hanse: Hanse, places: dict[str, str]
) -> None:
    found = hanse(*words.split(), *(places.get(each, each) for each in arguments))
    assert found.code == 2, found
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert expected in found.err
    assert "Traceback" not in found.err
    if "heart-disease" not in arguments:  # that one lists four files with their hashes
        assert found.err.count("\n") == 1


def test_nothing_was_written_over(hanse: Hanse, places: dict[str, str], tmp_path: Path) -> None:
    hanse("demo", "--directory", "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file.txt"]


def test_half_a_federation_does_not_stay(hanse: Hanse, tmp_path: Path) -> None:
    assert hanse("federation", "init", "x", "--host", "fl.example.org:7400").code == 2
    assert not (tmp_path / "x").exists()
    assert hanse("federation", "init", "x", "--host", "fl.example.org").code == 0


def test_a_server_that_is_not_there_is_no_wrong_argument(hanse: Hanse, places: dict[str, str]) -> None:
    found = hanse("job", "list", "--federation", places["PERSON"])
    assert found.code == 1
    assert found.err.startswith("error: the server cannot be reached")
    assert found.err.count("\n") == 1
