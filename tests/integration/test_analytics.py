"""Questions to real sites: their owners allow them without anybody's code, and none of it runs."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hanse as hs
from hanse.cli.main import main
from hanse.clients.loader import find_app
from hanse.demos import local_federation
from hanse.demos.local_federation import LocalFederation
from tests.nursery import MEMBERS, forks
from tests.patience import WAIT_S

POLICY = "people: any\ndatasets: [patients]\napps: []\nunlisted_apps: refuse\nanalytics: {min_group: 5}\n"
SITES = ("luebeck", "bergen", "riga")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    declared = {}
    for site in SITES:
        lines = [
            f"{age:.1f},{sex}" for age, sex in zip(rng.normal(50, 10, 40), rng.choice(["f", "m"], 40), strict=True)
        ]
        (folder / f"{site}.csv").write_text("\n".join(["age,sex", *lines]))
        rows = {"kind": "csv", "path": str(folder / f"{site}.csv")}
        declared[site] = {"patients": rows, "private": rows}
    with (
        forks(local_federation, MEMBERS),
        LocalFederation(folder / "federation", declared, durability="process") as federation,
    ):
        for site in SITES:
            (federation.site_directory(site) / "policy.yaml").write_text(POLICY)
        yield federation


def rows_of(place: LocalFederation) -> dict[str, dict[str, dict[str, list[str]]]]:
    sites = {}
    for site in SITES:
        lines = Path(place.sites[site]["patients"]["path"]).read_text().splitlines()[1:]
        ages, sexes = zip(*(line.split(",") for line in lines), strict=True)
        sites[site] = {"patients": {"age": [float(age) for age in ages], "sex": list(sexes)}}
    return sites  # type: ignore[return-value]  # numbers and texts


@pytest.mark.slow
def test_an_answer_over_grpc_is_that_of_a_simulation(place: LocalFederation) -> None:
    question = hs.analytics.Describe("age", data="patients", by="sex", min_group=5)
    found = hs.ask(place.federation(), question)
    assert found == hs.ask(rows_of(place), question)
    assert sum(int(row["count"] or 0) for row in found.to_rows()) == 120
    two = hs.ask(place.federation(), question, sites=["riga", "bergen"])
    assert sum(int(row["count"] or 0) for row in two.to_rows()) == 80


@pytest.mark.slow
def test_no_code_of_a_question_s_bundle_runs_at_a_site(place: LocalFederation, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    file = tmp_path / "question.py"
    file.write_text(
        f"import os\nfrom pathlib import Path\nimport hanse as hs\nPath({str(marks)!r}, str(os.getpid())).touch()\n"
        "app = hs.App(hs.analytics.Quantiles('age', data='patients', min_group=5))\n"
    )
    app = find_app(file)
    assert hs.run(app, place.federation()).status == "finished"
    assert [mark.name for mark in marks.iterdir()] == [str(os.getpid())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "said"),
    [
        (hs.analytics.Describe("age", data="patients", min_group=4), "min_group: expected at least 5, found 4"),
        (hs.analytics.Describe("age", data="private", min_group=5), "not granted"),
    ],
)
def test_owners_say_no(place: LocalFederation, question: hs.analytics.Question, said: str) -> None:
    with pytest.raises(hs.JobFailed, match=said):
        hs.ask(place.federation(), question, deadline_s=WAIT_S)


@pytest.mark.slow
def test_the_command(place: LocalFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "answer.html"
    common = ["--data", "patients", "--min-group", "5", "--federation", str(place.person)]
    code = main(["stats", "histogram", "age", "--edges", "0,50,100", *common, "--json", "--report", str(report)])
    assert code == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["to"] for row in answer["rows"]] == [50, 100]
    assert sum(row["count"] for row in answer["rows"]) == 120
    assert "<svg" in report.read_text()
    assert main(["stats", "crosstab", "sex", "sex", *common]) == 0
    assert "degrees of freedom: 1" in capsys.readouterr().out
    file = tmp_path / "question.py"
    file.write_text("import hanse as hs\napp = hs.App(hs.analytics.Describe('age', data='patients', min_group=5))\n")
    told = tmp_path / "told.html"
    assert main(["run", str(file), "--federation", str(place.person), "--json", "--report", str(told)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["count"] == 120
    assert "median" in told.read_text()
    assert main(["stats", "histogram", "age", "--edges", "a,b", *common]) == 2
    assert "--edges: expected numbers" in capsys.readouterr().err
