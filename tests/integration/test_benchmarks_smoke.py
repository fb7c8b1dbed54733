"""Every benchmark works, shown on a tiny size; its figures are judged by `./run bench` and not here."""

import importlib
import json
import subprocess
import sys

import pytest

from benchmarks import harness
from hanse.demos import local_federation
from tests.nursery import EDGE, MEMBERS, forks
from tests.patience import WAIT_S

PSI = ["core_s_both", "wall_s", "peak_mb", "messages", "sent_mb", "link_s"]
DIRECTORY = ["build_core_s", "cache_mb", "query_ms_median", "query_core_ms"]
METRICS = {"psi": {"default": PSI, "parts": PSI, "fallback": PSI, "directory": DIRECTORY}}
"""Names that were agreed, by benchmark and case."""
GATE = ("aggregation", "large-model", "many-sites", "round-latency", "startup")
"""What everything stands on. The others are run with the long tests."""
HERE = ("groups", "large-model", "round-latency")
"""Run in this process, since most of their time would go into starting the members of federations."""
NAMES = {name: () if name in GATE else (pytest.mark.long,) for name in harness.discover()}
APART = [pytest.param(name, marks=marks) for name, marks in NAMES.items() if name not in HERE]


@pytest.mark.slow
@pytest.mark.xdist_group("benchmarks")
@pytest.mark.parametrize("name", [pytest.param(name, marks=NAMES[name]) for name in HERE])
def test_smoke_of_federations(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    with forks(local_federation, (*MEMBERS, *EDGE)):
        rows = list(module.run(True))
    assert rows
    assert {row.bench for row in rows} == {name}


@pytest.mark.slow
@pytest.mark.xdist_group("benchmarks")  # two at a time would share two cores
@pytest.mark.parametrize("name", APART)
def test_smoke(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--smoke", "--json"],
        cwd=harness.FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * WAIT_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    assert {row["bench"] for row in rows} == {name}
    assert {row["ok"] for row in rows} == {None}
    for case, metrics in METRICS.get(name, {}).items():
        values = {row["metric"]: row["value"] for row in rows if row["case"] == case}
        assert list(values) == metrics
        assert all(value > 0 for value in values.values())
