"""Tracking in a real federation: each site's own run as its owner says, the aggregator's as server and person say."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

import hanse as hs
from hanse.backends.local.ports import free_ports
from hanse.clients.app import App
from hanse.clients.loader import find_app
from hanse.demos import heart_disease, local_federation
from hanse.demos.local_federation import LocalFederation
from tests.nursery import MEMBERS, forks
from tests.patience import WAIT_S, wait_until

SITES = ("cleveland", "hungarian", "switzerland", "va")


def hospitals(folder: Path) -> dict[str, Any]:
    """Four invented hospitals in the form of the demo's."""
    rng = np.random.default_rng(4)
    made = {}
    for site in SITES:
        X = rng.normal(size=(60, 13))
        y = (X[:, 0] > 0).astype(np.int64)
        made[site] = heart_disease.Hospital(X[:40], y[:40], X[40:], y[40:])
    return heart_disease.write(made, {site: folder / site for site in SITES})


def app() -> App:
    found = find_app("hanse.demos.heart_disease_app")
    assert isinstance(found, App)
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    """What a file has by now, but for a line that is being written."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def is_over(path: Path) -> bool:
    return path.exists() and any(row["kind"] == "end" for row in rows(path))


APP = """
import numpy as np
import hanse as hs

app = hs.App(rounds=3, initial=[np.zeros(2)], quorum=2)

@app.train
def train(arrays, config, site):
    for step in range(2):
        site.track(step=2 * site.round + step, device="cpu", **{"batch" + "_loss": 1 / (1 + step)})
    return [arrays["0"] + 1], 40, {"loss": 0.5}

@app.evaluate
def evaluate(arrays, config, site):
    return 20, {"accuracy": float(arrays["0"][0]) / len(site.name)}
"""


@pytest.mark.long
def test_each_writes_its_own_run_and_nobody_elses(tmp_path: Path) -> None:
    data: dict[str, Any] = {site: {} for site in ("cleveland", "va")}
    (tmp_path / "app.py").write_text(APP)
    tracking = {"kind": "file", "folder": str(tmp_path / "owners"), "params": {"centre": "here"}}
    federation = LocalFederation(tmp_path / "fed", data, durability="process", settings={"tracking": tracking})
    with forks(local_federation, MEMBERS), federation:
        operator = replace(federation.config, tracking=hs.tracking.File(str(tmp_path / "operator")))
        operator.save(federation.directory / "server")
        federation.server.signal(signal.SIGTERM)
        federation.start_server()
        federation.wait_for_sites()
        wished = find_app(str(tmp_path / "app.py"))
        assert isinstance(wished, App)
        wished.tracking = hs.tracking.File(str(tmp_path / "person"))
        result = hs.run(wished, federation.federation())
        assert result.ok

        def files(who: str) -> list[str]:
            return sorted(path.name for path in (tmp_path / who).rglob("*.jsonl"))

        begin = f"hanse-{result.job}"
        assert files("person") == [f"{begin}-aggregator.jsonl"], "an app's wish is its person's"
        wait_until(lambda: files("operator") == [f"{begin}-aggregator.jsonl"])
        wait_until(lambda: files("owners") == [f"{begin}-cleveland.jsonl", f"{begin}-va.jsonl"])
        wait_until(lambda: is_over(tmp_path / "operator" / "hanse" / f"{begin}-aggregator.jsonl"))
        path = tmp_path / "owners" / "hanse" / f"{begin}-va.jsonl"
        wait_until(lambda: is_over(path))
        own = rows(path)
        assert own[0]["params"]["centre"] == "here"
        assert own[-1]["status"] == "finished"
        told = {(name, step): value for row in own for name, value, step in row["metrics"]}
        for record in result.rounds:
            for step in range(2):
                assert told["batch_loss", 2 * record.number + step] == 1 / (1 + step)
                assert told["round", 2 * record.number + step] == record.number
            assert told["accuracy", record.number] == record.by_site["va"]["accuracy"]
            assert told["train_num_examples", record.number] == 40
        for who in ("person", "operator"):
            whole = rows(tmp_path / who / "hanse" / f"{begin}-aggregator.jsonl")
            assert [row["key"] for row in whole] == ["begin", "round/1", "round/2", "round/3", "end"]
            assert whole[0]["params"]["person"] == "admin"
            assert "batch_loss" not in json.dumps(whole)
    kept = [path for path in (federation.directory / "server").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"batch_loss" in path.read_bytes()]


MLFLOW = """
import os, sys
import mlflow.server as server
from werkzeug.serving import run_simple
os.environ[server.BACKEND_STORE_URI_ENV_VAR], os.environ[server.ARTIFACT_ROOT_ENV_VAR] = sys.argv[1:3]
run_simple("127.0.0.1", int(sys.argv[3]), server.app, threaded=True)
"""
"""MLflow's own server. Not by `mlflow server`, which takes twice as long, and whose helpers would outlive it."""


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    command = [sys.executable, "-c", MLFLOW, f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), str(port)]
    log = (folder / "mlflow.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(WAIT_S)
        log.close()


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@pytest.mark.long
@pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("mlflow.server") is None or find_spec("sqlalchemy") is None,
    reason="needs the whole of MLflow, whose server is started here (pip install mlflow)",
)
def test_five_runs_in_a_real_mlflow_that_was_away_during_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    tracking = {"kind": "mlflow", "uri": f"http://127.0.0.1:{port}", "prefix": "hospitals"}
    data = {site: {"patients": each} for site, each in hospitals(tmp_path / "data").items()}
    federation = LocalFederation(tmp_path / "fed", data, durability="process", settings={"tracking": tracking})
    with federation:
        with (federation.person / "federation.yaml").open("a") as file:
            file.write(f"tracking: {json.dumps(tracking)}\n")
        result = hs.run(app().variant(rounds=3), federation.federation())
        assert result.ok
        with mlflow_server(tmp_path, port) as uri:
            hs.job(result.job, federation.federation()).result()  # looks again: what waited is delivered, once
            client = MlflowClient(uri)

            def runs() -> list[Any]:
                found = client.get_experiment_by_name("hospitals")
                return [] if found is None else list(client.search_runs([found.experiment_id]))

            wait_until(lambda: len([run for run in runs() if run.info.status == "FINISHED"]) == 5)
            by_name = {run.data.tags["hanse.who"]: run for run in runs()}
            assert sorted(by_name) == ["aggregator", *SITES]
            whole = by_name["aggregator"]
            assert whole.info.run_name == f"aggregator-{result.job}"
            history = client.get_metric_history(whole.info.run_id, "accuracy")
            assert [(m.step, m.value) for m in history] == [(r.number, r.metrics["accuracy"]) for r in result.rounds]
            site = by_name["va"]
            assert site.data.params["site"] == "va"
            history = client.get_metric_history(site.info.run_id, "accuracy")
            assert [m.value for m in history] == [r.by_site["va"]["accuracy"] for r in result.rounds]
