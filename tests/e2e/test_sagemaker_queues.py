"""`transport: queues`: training jobs, as processes with SageMaker's contract, over a federation without a server."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hanse.serverless import contract
from tests.conformance import emulator
from tests.conformance.over_aws import CREDENTIALS, AwsFederation
from tests.e2e.test_sagemaker import left_running
from tests.patience import WAIT_S

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.xdist_group("emulated-aws")]

SITES = ("north", "east")
APP = """
import numpy as np

import hanse as hs

app = hs.App(hs.FedAvg(), rounds={rounds}, quorum=1, min_sites=2, initial={{"w": np.zeros(30_000, np.float32)}})


class Client:
    def __init__(self, x):
        self.x, self.w = x, None

    def get_parameters(self, config):
        return [self.w]

    def fit(self, parameters, config):
        return [parameters[0] + np.float32(self.x.mean())], len(self.x), {{}}

    def evaluate(self, parameters, config):
        return 0.0, len(self.x), {{}}


@app.client
def client(site):
    return Client(site.load("patients")[0])
"""
PROGRAM = "from hanse.deploy.sagemaker.entry import main\nmain()\n"
SITE = "datasets:\n  patients: {kind: csv, path: $SM_CHANNEL_TRAIN/patients.csv, target: sick}\ndurability: process\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[AwsFederation]:
    """Two sites that have joined, whose agents do not run; the launcher's folder beside them."""
    environment = {contract.MODELS: "sites"}
    with AwsFederation(
        tmp_path / "north-aws", {site: {} for site in SITES}, environment=environment, starts=False
    ) as found:
        about = {"federation": found.name, "aws": {"region": emulator.REGION, "models_to_sites": True}}
        about["aws"]["sites"] = list(SITES)
        (found.directory / "federation.yaml").write_text(yaml.safe_dump(about))
        shutil.copytree(found.directory / "anna", found.directory / "admin")
        accounts: dict[str, Any] = {}
        for number, site in enumerate(SITES):
            code, data = tmp_path / site / "code", tmp_path / site / "data"
            code.mkdir(parents=True)
            data.mkdir()
            for name, text in (("run_site.py", PROGRAM), ("site.yaml", SITE), ("policy.yaml", found.policy)):
                (code / name).write_text(text)
            rows = np.full((10 * (number + 1), 2), float(number + 1))
            (data / "patients.csv").write_text("a,sick\n" + "\n".join(f"{a},{b}" for a, b in rows))
            folder = str(found.directory / site)
            accounts[site] = {"local": {"code": str(code), "channels": {"train": str(data)}, "site": folder}}
        (tmp_path / "app.py").write_text(APP.format(rounds=3))
        file = {"federation": found.name, "app": "app.py", "transport": "queues", "queues": str(found.directory)}
        (tmp_path / "federation.yaml").write_text(yaml.safe_dump({**file, "accounts": accounts}))
        yield found


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "hanse.cli.main", "deploy", "sagemaker", *words]


def launch(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command("launch", "federation.yaml", "--local", *words),
        cwd=folder, capture_output=True, text=True, timeout=4 * WAIT_S, check=False, env=os.environ | CREDENTIALS,
    )  # fmt: skip


def test_training_jobs_federate_without_a_server_and_both_sides_have_the_model(
    place: AwsFederation, tmp_path: Path
) -> None:
    done = launch(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "finished"
    assert [account["status"] for account in told["accounts"]] == ["Completed"] * 2
    final = (tmp_path / "results" / "model.safetensors").read_bytes()
    assert np.frombuffer(final[-4:], np.float32)[0] == pytest.approx(3 * (10 * 1 + 20 * 2) / 30)
    for account in told["accounts"]:
        with tarfile.open(account["model"].removeprefix("file://")) as archive:
            member = archive.extractfile("model.safetensors")
            assert member is not None
            assert member.read() == final, "the same model on both sides"
    assert left_running(tmp_path) == []
    assert not (tmp_path / "server").exists()
    assert list((tmp_path / "results" / "tokens").iterdir()) == [], "private keys stay with their sites"
    again = launch(tmp_path, "--json")  # the same sites, by their kept identity; what is left in queues ends no job
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["job"] != told["job"]
