"""`hanse deploy sagemaker launch --local`: the whole recipe on one machine; what is left when a job cannot start."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.patience import WAIT_S, wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "medicare_fraud"
pytestmark = pytest.mark.long


@pytest.fixture
def place(tmp_path: Path) -> Path:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    folder = tmp_path / "medicare_fraud"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "data", "results", "server"))
    subprocess.run([sys.executable, str(folder / "sagemaker" / "prepare.py")], check=True, stdout=subprocess.DEVNULL)
    return folder / "sagemaker"


def hanse(place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hanse.cli.main", "deploy", "sagemaker", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=4 * WAIT_S, check=False)


def left_running(place: Path) -> list[str]:
    """Processes whose command or working directory names the test's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(place) in command or str(place) in os.readlink(process / "cwd"):
                found.append(command)
        except OSError:
            continue
    return found


def test_the_whole_recipe_on_one_machine(place: Path) -> None:
    """Tracked, too: each site's run by its own bundle, the aggregator's by the launcher's file."""
    with (place / "code" / "site.yaml").open("a") as file:
        file.write("tracking: {kind: file, folder: $SM_OUTPUT_DATA_DIR/runs, prefix: own}\n")
    text = (place / "federation.yaml").read_text()
    (place / "federation.yaml").write_text(
        text.replace("server:\n", f"server:\n  tracking: {{kind: tensorboard, folder: {place / 'runs'}}}\n", 1)
    )
    done = hanse(place, "launch", "federation.yaml", "--local", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["status"] == "finished"
    assert told["metrics"]["server_auc"] > 0.85
    assert [account["status"] for account in told["accounts"]] == ["Completed"] * 3
    final = (place / "results" / "model.safetensors").read_bytes()
    for account in told["accounts"]:
        with tarfile.open(account["model"].removeprefix("file://")) as archive:
            assert sorted(archive.getnames()) == ["model.json", "model.safetensors", "result.json"]
            member = archive.extractfile("model.safetensors")
            assert member is not None
            assert member.read() == final, "the same model on both sides"
        with tarfile.open(Path(account["model"].removeprefix("file://")).parent / "output.tar.gz") as archive:
            assert f"runs/own/own-{told['job']}-{account['site']}.jsonl" in archive.getnames()
    events = sorted((place / "runs").rglob("events.out.tfevents*"))
    assert {path.parent.name for path in events} == {f"hanse-{told['job']}-aggregator"}
    assert any(b"server_auc" in path.read_bytes() for path in events)
    assert left_running(place) == []
    seen = hanse(place, "status", "federation.yaml", "--json")
    assert json.loads(seen.stdout)["job"] == told["job"]


def test_a_job_that_cannot_start_ends_the_launch_by_name_and_nothing_runs_on(place: Path) -> None:
    broken = place / "broken"
    shutil.copytree(place / "code", broken)
    (broken / "policy.yaml").unlink()
    text = (place / "federation.yaml").read_text()
    (place / "federation.yaml").write_text(text.replace("{code: code, channels: {train: data/east}}", "{code: broken}"))
    done = hanse(place, "launch", "federation.yaml", "--local")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "east: its training job" in line
    assert "expected policy.yaml beside the program" in line
    assert left_running(place) == []


def launched(place: Path) -> "subprocess.Popen[str]":
    """A launch, seen until its third round; it has a round more before there is a file `go`."""
    app = place.parent / "app.py"
    held = f"""
        while round == 5 and not Path({str(place / "go")!r}).exists():
            time.sleep(0.05)
"""
    line = "    def evaluate(arrays, round, load):"
    text = (
        app.read_text()
        .replace(line, line + held)
        .replace("import warnings\n", "import time\nimport warnings\nfrom pathlib import Path\n")
    )
    assert held in text
    app.write_text(text)
    command = [sys.executable, "-m", "hanse.cli.main", "deploy", "sagemaker", "launch", "federation.yaml", "--local"]
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("round 3"):
            return process
    raise AssertionError("".join(seen))


def server_of(place: Path) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if b"hanse.cli.processes" in command and str(place).encode() in command:
                return int(process.name)
    raise AssertionError("no server")


def test_a_server_that_is_killed_comes_back_and_the_jobs_go_on(place: Path) -> None:
    process = launched(place)
    os.kill(server_of(place), signal.SIGKILL)
    (place / "go").touch()
    _, told = process.communicate(timeout=4 * WAIT_S)
    assert process.returncode == 0, told
    result = json.loads((place / "results" / "model.safetensors.json").read_text())
    assert [record["number"] for record in result["rounds"]] == list(range(1, 9))
    assert left_running(place) == []


def test_nothing_outlives_a_launcher_that_is_killed(place: Path) -> None:
    process = launched(place)
    assert len(left_running(place)) >= 4
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    wait_until(lambda: not left_running(place), lambda: left_running(place))
