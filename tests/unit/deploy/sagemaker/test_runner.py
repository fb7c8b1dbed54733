"""The offline runner keeps SageMaker's contract with a training container, in every way a job can end."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hanse.core.errors import ConfigError, ConflictError, NotFoundError
from hanse.deploy.sagemaker.contract import user_arguments
from hanse.deploy.sagemaker.runner import LocalJobs
from tests.patience import WAIT_S, wait_until

LOOK = """
import json, os, sys
from pathlib import Path
root = Path(os.environ["SM_INPUT_CONFIG_DIR"])
found = {
    "argv": sys.argv[1:],
    "cwd": os.getcwd(),
    "variables": {k: v for k, v in os.environ.items() if k.startswith(("SM_", "TRAINING_", "AWS_"))},
    "files": {p.name: json.loads(p.read_text()) for p in root.iterdir()},
    "data": {c: sorted(p.name for p in Path(os.environ["SM_CHANNEL_" + c.upper()]).iterdir())
             for c in json.loads(os.environ["SM_CHANNELS"])},
    "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"),
}
Path(os.environ["SM_MODEL_DIR"], "weights").write_text("w")
Path(os.environ["SM_OUTPUT_DATA_DIR"], "found.json").write_text(json.dumps(found))
"""


def request(tmp_path: Path, program: str, name: str = "fl-demo-north-1", **more: Any) -> dict[str, Any]:
    code = tmp_path / f"code-{name}"
    code.mkdir(exist_ok=True)
    (code / "main.py").write_text(program)
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train" / "rows.csv").write_text("1,2\n")
    bundle = tmp_path / f"{name}.tar.gz"
    with tarfile.open(bundle, "w:gz") as archive:
        archive.add(code / "main.py", "main.py")
    channel = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"file://{tmp_path / 'train'}"}}
    return {
        "TrainingJobName": name,
        "HyperParameters": {
            "sagemaker_program": '"main.py"',
            "sagemaker_submit_directory": json.dumps(f"file://{bundle}"),
            "max-iter": "10",
            "penalty": '"l2"',
        },
        "AlgorithmSpecification": {"TrainingImage": "none", "TrainingInputMode": "File"},
        "InputDataConfig": [{"ChannelName": "train", "DataSource": channel}],
        "OutputDataConfig": {"S3OutputPath": f"file://{tmp_path / 'out'}"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **more,
    }


def run(tmp_path: Path, asked: dict[str, Any], **options: Any) -> tuple[LocalJobs, dict[str, Any]]:
    jobs = LocalJobs(tmp_path / "jobs", **options)
    jobs.create(asked, account="111111111111", region="eu-central-1")
    assert jobs.wait(asked["TrainingJobName"], 30)
    return jobs, jobs.describe(asked["TrainingJobName"])


def unpacked(tmp_path: Path, name: str, file: str, member: str) -> str:
    with tarfile.open(tmp_path / "out" / name / "output" / file) as archive:
        content = archive.extractfile(member)
        assert content is not None
        return content.read().decode()


def test_a_program_finds_what_the_container_would_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the launcher")
    asked = request(tmp_path, LOOK)
    _, told = run(tmp_path, asked)
    assert (told["TrainingJobStatus"], told["SecondaryStatus"]) == ("Completed", "Completed")
    name = asked["TrainingJobName"]
    assert told["ModelArtifacts"]["S3ModelArtifacts"] == f"file://{tmp_path}/out/{name}/output/model.tar.gz"
    assert unpacked(tmp_path, name, "model.tar.gz", "weights") == "w"
    found = json.loads(unpacked(tmp_path, name, "output.tar.gz", "found.json"))
    assert found["argv"] == ["--max-iter", "10", "--penalty", "l2"]
    assert found["cwd"].endswith("/opt/ml/code")
    told = found["variables"]
    assert told["SM_MODEL_DIR"].endswith("/opt/ml/model")
    assert told["SM_CHANNEL_TRAIN"].endswith("/opt/ml/input/data/train")
    assert json.loads(told["SM_HPS"]) == {"max-iter": 10, "penalty": "l2"}
    assert told["SM_HP_MAX_ITER"] == "10"
    assert told["SM_HP_PENALTY"] == "l2"
    assert told["TRAINING_JOB_ARN"] == f"arn:aws:sagemaker:eu-central-1:111111111111:training-job/{name}"
    assert found["files"]["hyperparameters.json"] == asked["HyperParameters"]
    assert found["files"]["resourceconfig.json"]["hosts"] == ["algo-1"]
    assert found["files"]["inputdataconfig.json"] == {"train": {"TrainingInputMode": "File"}}
    assert found["data"] == {"train": ["rows.csv"]}
    assert found["secret"] is None, "a job has none of the launcher's credentials"
    assert not any((tmp_path / "jobs").glob("*/")), "its root is gone"


def test_failures_have_the_reason_that_the_program_wrote_or_its_last_words(tmp_path: Path) -> None:
    told = 'import os, pathlib\npathlib.Path(os.environ["SM_OUTPUT_DIR"], "failure").write_text("no server")\nexit(3)'
    _, found = run(tmp_path, request(tmp_path, told, "a"))
    assert found["TrainingJobStatus"] == "Failed"
    assert found["FailureReason"] == "AlgorithmError: no server"
    _, found = run(tmp_path, request(tmp_path, "raise SystemExit('it broke')", "b"))
    assert "ExitCode 1" in found["FailureReason"]
    assert "it broke" in found["FailureReason"]


def test_what_cannot_start_fails_with_a_reason(tmp_path: Path) -> None:
    asked = request(tmp_path, "", "a")
    asked["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "file:///nowhere"
    _, found = run(tmp_path, asked)
    assert found["FailureReason"].startswith("ClientError: file:///nowhere: expected data there")
    asked = request(tmp_path, "", "b")
    asked["HyperParameters"]["sagemaker_program"] = '"other.py"'
    _, found = run(tmp_path, asked)
    assert "other.py: expected it in the code bundle" in found["FailureReason"]
    asked = request(tmp_path, "", "c")
    asked["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://bucket/x"
    _, found = run(tmp_path, asked)
    assert "expected a file:// address" in found["FailureReason"]


WAITS = """
import os, signal, sys, time
from pathlib import Path
kept = Path(os.environ["SM_MODEL_DIR"]).parent / "checkpoints" / "starts"
kept.write_text(kept.read_text() + "x" if kept.exists() else "x")
if len(kept.read_text()) > 1:
    Path(os.environ["SM_MODEL_DIR"], "starts").write_text(kept.read_text())
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("waiting", flush=True)
time.sleep(3600)
"""


def started(jobs: LocalJobs, name: str) -> None:
    wait_until(lambda: jobs.log_of(name).exists() and b"waiting" in jobs.log_of(name).read_bytes())


def test_a_job_that_is_stopped_is_stopped_and_not_failed(tmp_path: Path) -> None:
    jobs = LocalJobs(tmp_path / "jobs")
    jobs.create(request(tmp_path, WAITS, "a"))
    started(jobs, "a")
    jobs.stop("a")
    assert jobs.wait("a", WAIT_S)
    found = jobs.describe("a")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert "FailureReason" not in found


def test_one_that_does_not_listen_is_killed_and_one_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    deaf = WAITS.replace("lambda *_: sys.exit(143)", "signal.SIG_IGN")
    limit = {"StoppingCondition": {"MaxRuntimeInSeconds": 1}}
    _, found = run(tmp_path, request(tmp_path, deaf, "a", **limit), stop_s=0.2)
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_a_spot_job_starts_again_with_its_checkpoints(tmp_path: Path) -> None:
    kept = {"CheckpointConfig": {"S3Uri": f"file://{tmp_path / 'kept'}"}}
    jobs = LocalJobs(tmp_path / "jobs")
    jobs.create(request(tmp_path, WAITS, "a", EnableManagedSpotTraining=True, **kept))
    started(jobs, "a")
    jobs.interrupt("a")
    assert jobs.wait("a", WAIT_S)
    assert jobs.describe("a")["TrainingJobStatus"] == "Completed"
    assert unpacked(tmp_path, "a", "model.tar.gz", "starts") == "xx"

    jobs.create(request(tmp_path, WAITS, "b"))
    started(jobs, "b")
    jobs.interrupt("b")
    assert jobs.wait("b", WAIT_S)
    assert jobs.describe("b")["TrainingJobStatus"] == "Stopped", "not a spot job"


def test_names_are_taken_once_and_unknown_ones_said(tmp_path: Path) -> None:
    jobs, _ = run(tmp_path, request(tmp_path, "", "a"))
    with pytest.raises(ConflictError):
        jobs.create(request(tmp_path, "", "a"))
    with pytest.raises(NotFoundError):
        jobs.describe("b")
    with pytest.raises(ConfigError, match="sagemaker_program"):
        jobs.create({"TrainingJobName": "c"})


def test_arguments_are_as_the_toolkit_makes_them() -> None:
    assert user_arguments({"b": 1, "alpha": [1, 2], "on": True}) == ["--alpha", "[1, 2]", "-b", "1", "--on", "true"]
