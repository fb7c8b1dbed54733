"""`hanse deploy sagemaker launch` as in production, but for the cloud: three accounts in moto, whose training jobs are
processes that join the server by the AWS identity of their execution role."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.training_accounts import REGION, Processes, accounts_up
from tests.patience import WAIT_S, wait_until

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

from hanse.deploy.sagemaker.settings import Settings, read_settings  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.long]
ROUNDS = 14
APP = """
import time
from pathlib import Path

import numpy as np
import hanse as hs

app = hs.App(rounds={rounds}, initial=[np.zeros(2)], quorum=2)

@app.train
def train(arrays, config, site):
    rows = site.load("rows")
    while config["round"] == 7 and not Path({go!r}).exists():
        time.sleep(0.05)
    return [arrays["0"] + 1], len(rows["x"]), {{"loss": 1 / config["round"]}}
"""
FEDERATION = """
federation: demo
app: app.py
server: {address: 127.0.0.1, port: PORT1, enrolment_port: PORT2}
defaults:
  region: eu-central-1
  kickoff_role: FL-kickoff-client-job
  execution_role: FL-execution
  image: 1.dkr.ecr.eu-central-1.amazonaws.com/x:1
accounts:
  north: {account: "111111111111", external_id: north-7f3a, code: s3://north/code.tar.gz, channels: {train: s3://north/data},
    output: s3://north/models}
  south: {account: "333333333333", external_id: south-55d0, code: s3://south/code.tar.gz, channels: {train: s3://south/data},
    output: s3://south/models, spot: true, checkpoints: s3://south/checkpoints}
"""
SITE = "datasets: {rows: {kind: npz, path: $SM_CHANNEL_TRAIN/rows.npz}}\ndurability: process\n"
POLICY = "apps: any\nunlisted_apps: refuse\npeople: [admin]\ndatasets: [rows]\n"
PROGRAM = "from hanse.deploy.sagemaker.entry import main\nmain()\n"
BOTH = ("north", "south")


class Place:
    """A launcher's machine, and the accounts that it works in."""

    def __init__(self, folder: Path, aws: Any, settings: Settings, processes: Any) -> None:
        self.folder, self.aws, self.settings, self.processes = folder, aws, settings, processes
        self.commands: list[subprocess.Popen[str]] = []

    def command(self, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "hanse.cli.main", "deploy", "sagemaker", *words]
        if words[0] != "plan" and self.aws is not None:
            command += ["--endpoint-url", self.aws.url]
        pipe = subprocess.PIPE
        self.commands.append(subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True))
        return self.commands[-1]

    def ask(self, *words: str) -> dict[str, Any]:
        out, told = (asked := self.command(*words, "--json")).communicate(timeout=WAIT_S)
        assert asked.returncode == 0, told
        found: dict[str, Any] = json.loads(out)
        return found

    def name(self, site: str) -> str:
        (found,) = (name for name in self.aws.made if f"-{site}-" in name)
        return found

    def processes_of_server(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"hanse.cli.processes" in command and str(self.folder).encode() in command:
                found.append(int(process.name))
        return found


def read_until(process: "subprocess.Popen[str]", is_it: Callable[[str], bool]) -> list[str]:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line.rstrip())
        if is_it(line):
            return seen
    raise AssertionError("\n".join(seen))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from hanse.demos.local_federation import free_ports

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    ports = free_ports(2)
    text = FEDERATION.replace("PORT1", str(min(ports))).replace("PORT2", str(max(ports)))
    (tmp_path / "federation.yaml").write_text(text)
    (tmp_path / "app.py").write_text(APP.format(rounds=ROUNDS, go=str(tmp_path / "go")))
    settings = read_settings(tmp_path / "federation.yaml")
    processes = Processes(tmp_path)
    for site in BOTH:
        bucket = processes.buckets / site
        (bucket / "data").mkdir(parents=True)
        np.savez(bucket / "data" / "rows.npz", x=np.zeros(4), y=np.zeros(4))
        with tarfile.open(bucket / "code.tar.gz", "w:gz") as archive:
            for name, content in (("site.yaml", SITE), ("policy.yaml", POLICY), ("run_site.py", PROGRAM)):
                (tmp_path / name).write_text(content)
                archive.add(tmp_path / name, name)
    with accounts_up(settings.accounts) as aws:
        sts = boto3.client("sts", region_name=REGION, endpoint_url=aws.url)
        for account in settings.accounts:
            given = sts.assume_role(RoleArn=account.execution_arn, RoleSessionName="SageMaker")["Credentials"]
            processes.environment[account.execution_arn] = {
                "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
                "AWS_SESSION_TOKEN": given["SessionToken"],
            }
        aws.live = processes
        place = Place(tmp_path, aws, settings, processes)
        try:
            yield place
        finally:
            for command in place.commands:
                command.kill()
                command.communicate()
            processes.runner.close()


def killed_and_taken_up(
    place: Place, disturb: Callable[[], None] = lambda: None
) -> "tuple[subprocess.Popen[str], dict[str, Any]]":
    """A launch that is killed in mid-run and started again; the second launcher, and what `status` said in between.

    Args:
        disturb: called in round 3; the launcher is killed three rounds later, and the app waits for it.
    """
    first = place.command("launch")
    read_until(first, lambda line: line.startswith("round 3"))
    disturb()
    read_until(first, lambda line: line.startswith("round 6"))
    first.kill()
    first.communicate()
    wait_until(lambda: not place.processes_of_server(), lambda: "the server ends with its launcher")
    told = place.ask("status")
    assert {account["status"] for account in told["accounts"]} == {"InProgress"}, "jobs keep trying"
    if place.aws is not None:
        (place.folder / "go").touch()
    second = place.command("launch")
    seen = read_until(second, lambda line: line.startswith("round "))
    adopted = [line for line in seen if line.endswith("(adopted)") and "InProgress" in line]
    assert len(adopted) == len(told["accounts"]), seen
    return second, told


def finished(place: Place, launcher: "subprocess.Popen[str]", before: dict[str, Any]) -> dict[str, Any]:
    """What the launch left behind, which began as `status` said before."""
    out, err = launcher.communicate(timeout=2000)
    assert launcher.returncode == 0, err
    assert "error" not in err
    assert "model" in out
    told = place.ask("status")
    assert (told["job"], told["status"]) == (before["job"], "finished"), "taken up, not submitted again"
    names = {each["site"]: each["job"] for each in before["accounts"]}
    assert {each["site"]: each["job"] for each in told["accounts"]} == names, "nothing was started twice"
    assert {account["status"] for account in told["accounts"]} == {"Completed"}
    result: dict[str, Any] = json.loads((place.settings.output / "model.safetensors.json").read_text())
    numbers = [each["number"] for each in result["rounds"]]
    assert numbers == list(range(1, len(numbers) + 1))
    for each in result["rounds"]:
        assert sorted(each["by_site"]) == sorted(names)
    assert place.processes_of_server() == []
    return result


def test_launched_killed_taken_up_interrupted_and_finished(place: Place) -> None:
    planned = place.ask("plan")["accounts"]
    second, before = killed_and_taken_up(place, lambda: place.processes.runner.interrupt(place.name("south")))
    names = [place.name(site) for site in BOTH]
    for site, name in zip(BOTH, names, strict=True):
        assert planned[site]["request"]["TrainingJobName"].split("-")[3:] == name.split("-")[3:]
    result = finished(place, second, before)
    assert len(result["rounds"]) == ROUNDS
    assert place.aws.made == names
    final = (place.settings.output / "model.safetensors").read_bytes()
    for site in BOTH:
        status = place.processes.runner.describe(place.name(site))
        with tarfile.open(status["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("file://")) as archive:
            member = archive.extractfile("model.safetensors")
            assert member is not None
            assert member.read() == final
    log = place.processes.runner.log_of(place.name("south")).read_text()
    assert log.count("site started") == 2, "it came again after its machine was taken away"


@pytest.mark.aws
@pytest.mark.timeout(3600)
def test_the_same_in_accounts_that_are_real() -> None:
    """With a federation of your own whose app takes more than six rounds; costs a training job in each account."""
    file = os.environ.get("HANSE_SAGEMAKER_FEDERATION")
    if not file:
        pytest.skip("runs in real accounts: set HANSE_SAGEMAKER_FEDERATION to a federation.yaml that names them")
    place = Place(Path(file).absolute().parent, None, read_settings(Path(file)), None)
    try:
        second, before = killed_and_taken_up(place)
        finished(place, second, before)
    finally:
        for command in place.commands:
            command.kill()
            command.communicate()
        place.command("stop").communicate(timeout=600)
