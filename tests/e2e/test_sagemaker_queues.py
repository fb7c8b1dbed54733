"""`transport: queues`: training jobs, as processes with SageMaker's contract, over a federation without a server.

On one machine (`--local`), and in accounts of others, where jobs are interrupted and stopped in mid-run.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hanse.deploy.sagemaker.settings import read_settings
from hanse.serverless import contract
from hanse.site.packed import pack
from tests.conformance import emulator
from tests.conformance.over_aws import CREDENTIALS, AwsFederation
from tests.e2e.test_sagemaker import left_running
from tests.integration.training_accounts import Accounts, Processes, accounts_up
from tests.patience import WAIT_S

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.xdist_group("emulated-aws")]

SITES = ("north", "east")
APP = """
import os
import time

import numpy as np

import hanse as hs

GATE = {gate!r}
app = hs.App(hs.FedAvg(), rounds={rounds}, quorum={quorum}, min_sites=2, initial={{"w": np.zeros(30_000, np.float32)}})


class Client:
    def __init__(self, x):
        self.x, self.w = x, None

    def get_parameters(self, config):
        return [self.w]

    def fit(self, parameters, config):
        time.sleep({pause})
        while config["round"] == 4 and len(self.x) == 20 and GATE and not os.path.exists(GATE):
            time.sleep(0.05)  # east waits, where a test says so
        return [parameters[0] + np.float32(self.x.mean())], len(self.x), {{}}

    def evaluate(self, parameters, config):
        return 0.0, len(self.x), {{}}


@app.client
def client(site):
    return Client(site.load("patients")[0])
"""
PROGRAM = "from hanse.deploy.sagemaker.entry import main\nmain()\n"
SITE = """
datasets: {patients: {kind: csv, path: $SM_CHANNEL_TRAIN/patients.csv, target: sick}}
durability: process
tracking: {kind: file, folder: $SM_OUTPUT_DATA_DIR/runs, prefix: own}
"""


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
        with (found.directory / "admin" / "federation.yaml").open("a") as file_of_person:
            file_of_person.write(f"tracking: {{kind: file, folder: {tmp_path / 'runs'}, prefix: whole}}\n")
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
        (tmp_path / "app.py").write_text(APP.format(rounds=3, quorum=1, pause=0, gate=""))
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
    (whole,) = (tmp_path / "runs").rglob("*.jsonl")
    assert whole.name == f"whole-{told['job']}-aggregator.jsonl"
    assert [json.loads(line)["key"] for line in whole.read_text().splitlines()] == [
        "begin", "round/1", "round/2", "round/3", "end",
    ]  # fmt: skip
    for account in told["accounts"]:
        place_of_output = Path(account["model"].removeprefix("file://")).parent / "output.tar.gz"
        with tarfile.open(place_of_output) as archive:
            member = archive.extractfile(f"runs/own/own-{told['job']}-{account['site']}.jsonl")
            assert member is not None
            own = [json.loads(line) for line in member]
        assert [row["kind"] for row in own][:1] + [row["kind"] for row in own][-1:] == ["begin", "end"]
        assert own[-1]["status"] == "finished", "also what is said at the very end leaves the container"
    assert left_running(tmp_path) == []
    assert not (tmp_path / "server").exists()
    assert list((tmp_path / "results" / "tokens").iterdir()) == [], "private keys stay with their sites"
    again = launch(tmp_path, "--json")  # the same sites, by their kept identity; what is left in queues ends no job
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["job"] != told["job"]


# ---- in accounts of others ----

OWN = "123456789012"
"""The account of the federation, in the emulator."""


@dataclass
class Launch:
    """A launch in accounts of others."""

    folder: Path
    aws: Accounts
    processes: Processes
    launcher: "subprocess.Popen[str]"
    seen: list[str]

    def until(self, word: str) -> None:
        """Read what the launcher says until a line has that word."""
        assert self.launcher.stderr is not None
        for line in self.launcher.stderr:
            self.seen.append(line.rstrip())
            if word in line:
                return
        raise AssertionError("\n".join(self.seen))

    def name(self, site: str) -> str:
        (found,) = (name for name in self.aws.made if f"-{site}-" in name)
        return found

    def ends(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, and what it has noted."""
        _, told = self.launcher.communicate(timeout=4 * WAIT_S)
        self.seen += told.splitlines()
        return self.launcher.returncode, json.loads((self.folder / "results" / "launch.json").read_text())

    def rounds(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "results" / "model.safetensors.json").read_text())[
            "rounds"
        ]
        return found


@pytest.fixture
def accounts(place: AwsFederation, tmp_path: Path) -> Iterator[Any]:
    """Starts launches. Each site's identity is in a secret of its own account; its job takes on the site's role."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    endpoint = str(place.config.endpoint)
    processes = Processes(tmp_path)
    file = yaml.safe_load((tmp_path / "federation.yaml").read_text())
    about = yaml.safe_load((place.directory / "federation.yaml").read_text())
    about["aws"]["sites"] = []
    numbers = dict(zip(SITES, ("111111111111", "222222222222"), strict=True))
    for site, account in numbers.items():
        execution = f"arn:aws:iam::{account}:role/FL-execution"
        about["aws"]["sites"].append({"name": site, "account": account, "principal": execution})
        config = yaml.safe_load((place.directory / site / "site.yaml").read_text())
        config["aws"]["role"] = f"arn:aws:iam::{OWN}:role/hanse-{place.name}-{site}"
        (place.directory / site / "site.yaml").write_text(yaml.safe_dump(config))
        sts = boto3.client("sts", region_name=emulator.REGION, endpoint_url=endpoint)
        given = sts.assume_role(RoleArn=execution, RoleSessionName="SageMaker")["Credentials"]
        keys = {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }
        secrets = boto3.client("secretsmanager", region_name=emulator.REGION, endpoint_url=endpoint, **keys)
        kept = secrets.create_secret(Name=f"hanse-{place.name}-{site}", SecretString=pack(place.directory / site))
        environment = {name.upper(): value for name, value in keys.items()}
        processes.environment[execution] = environment | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": emulator.REGION}
        bucket = processes.buckets / site
        shutil.copytree(tmp_path / site / "data", bucket / "data")
        with tarfile.open(bucket / "code.tar.gz", "w:gz") as archive:
            for each in sorted((tmp_path / site / "code").iterdir()):
                archive.add(each, each.name)
        file["accounts"][site] = {
            "account": account,
            "external_id": f"{site}-id",
            "site_secret": kept["ARN"],
            **{"code": f"s3://{site}/code.tar.gz", "output": f"s3://{site}/models"},
            "channels": {"train": f"s3://{site}/data"},
        }
    file["accounts"]["east"] |= {"spot": True, "checkpoints": "s3://east/checkpoints"}
    roles = {"kickoff_role": "FL-kickoff-client-job", "execution_role": "FL-execution"}
    file["defaults"] = {"region": emulator.REGION, "image": "1.dkr.ecr.eu-central-1.amazonaws.com/x:1", **roles}
    (place.directory / "federation.yaml").write_text(yaml.safe_dump(about))
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(file))
    started: list[Launch] = []
    with accounts_up(read_settings(tmp_path / "federation.yaml").accounts) as aws:
        aws.live = processes

        def launched(rounds: int, quorum: int, gate: str = "") -> Launch:
            (tmp_path / "app.py").write_text(APP.format(rounds=rounds, quorum=quorum, pause=0.2, gate=gate))
            environment, pipe = os.environ | CREDENTIALS, subprocess.PIPE
            launcher = subprocess.Popen(
                command("launch", "federation.yaml", "--endpoint-url", aws.url),
                cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True,
            )  # fmt: skip
            started.append(Launch(tmp_path, aws, processes, launcher, []))
            return started[-1]

        try:
            yield launched
        finally:
            for each in started:
                each.launcher.kill()
                each.launcher.communicate()
            processes.runner.close()


def test_a_machine_is_taken_away_and_the_launcher_is_killed_and_each_site_counts_once(accounts: Any) -> None:
    rounds = 16
    launch = accounts(rounds, 2)
    launch.until("round 3")
    launch.processes.runner.interrupt(launch.name("east"))
    launch.until("round 5")
    launch.launcher.kill()
    before = json.loads((launch.folder / "results" / "launch.json").read_text())
    again = accounts(rounds, 2)
    code, told = again.ends()
    assert code == 0, "\n".join(again.seen)
    assert (told["status"], told["job"]) == ("finished", before["job"])
    assert {site: each["reason"] or each["status"] for site, each in told["sites"].items()} == dict.fromkeys(
        SITES, "Completed"
    )
    assert all(each["adopted"] for each in told["sites"].values())
    assert len(launch.aws.made) == 2, "nothing is started twice, also not by spot capacity that comes back"
    found = again.rounds()
    assert [each["number"] for each in found] == list(range(1, rounds + 1))
    for each in found:
        assert sorted(each["by_site"]) == sorted(SITES)
    final = (launch.folder / "results" / "model.safetensors").read_bytes()
    value = np.frombuffer(final[-4:], np.float32)[0]
    assert value == pytest.approx(rounds * (10 * 1 + 20 * 2) / 30), "each counted once"
    log = launch.processes.runner.log_of(launch.name("east")).read_text()
    assert log.count("site started") == 2, "it came again"


def test_a_job_that_its_owner_stops_in_mid_run_is_named_and_the_others_go_on(accounts: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    launch = accounts(8, 1, str(gate))
    launch.until("round 3")
    launch.processes.runner.stop(launch.name("north"))
    assert launch.processes.runner.wait(launch.name("north"), WAIT_S)
    gate.touch()
    code, told = launch.ends()
    assert code == 0, "\n".join(launch.seen)
    assert {site: each["status"] for site, each in told["sites"].items()} == {"north": "Stopped", "east": "Completed"}
    assert "not by this launcher but from its own account" in told["sites"]["north"]["reason"]
    rounds = launch.rounds()
    assert [each["number"] for each in rounds] == list(range(1, 9))
    assert sorted(rounds[-1]["by_site"]) == ["east"]
