"""`hanse demo`: what it leaves, and that it leaves nothing running, however it ends."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hanse.core.codec import decode
from hanse.rounds.result import Result
from tests.e2e.commands import HANSE, HAS_PROC, Desk, alive, descendants, environment
from tests.patience import WAIT_S

pytest.importorskip("sklearn", reason="the demo needs scikit-learn")
pytestmark = pytest.mark.xdist_group("e2e")
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="processes are looked up in /proc")
HEART = Path(__file__).resolve().parents[3] / "shared" / "data" / "heart_disease"


def test_breast_cancer_on_a_terminal(desk: Desk) -> None:
    text = _on_a_terminal(desk, ["--rounds", "3"], columns=100)
    assert "round 3 of 3" in text
    assert "━" in text
    for hospital in ("luebeck", "bergen", "visby", "riga"):
        assert re.search(rf"{hospital} +✓ done", text)
    assert "finished after 3 rounds" in text
    table = re.findall(r"^ ([A-Z][a-z]+[^\n]*?)  +([0-9.]+) +([0-9.]+) +([0-9.]+)", text, re.MULTILINE)
    accuracy = {name: float(value) for name, value, _, _ in table}
    alone = [value for name, value in accuracy.items() if "alone" in name]
    assert len(alone) == 4
    assert accuracy["Federated"] > max(alone)

    folder = desk.folder / "hanse-demo" / "breast-cancer"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".hanse-demo",
        "model.safetensors",
        "model.safetensors.json",
        "report.html",
    ]
    result = Result.load(folder / "model.safetensors")
    assert result.ok
    assert [record.folded for record in result.rounds] == [("bergen", "luebeck", "riga", "visby")] * 3
    assert set(result.arrays) == {"coef", "intercept"}
    page = (folder / "report.html").read_text()
    assert "Pooled" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.long
def test_columns_at_three_organisations(desk: Desk) -> None:
    out = desk.run("demo", "--vertical")
    rows = {line[2:44].strip().partition(" (")[0]: line for line in out.splitlines() if line.startswith("  ")}
    found = {name: float(re.findall(r"auc ([0-9.]+)", line)[0]) for name, line in rows.items()}
    assert found["Clinic alone"] < 0.95 < found["Joint"]
    assert abs(found["Joint"] - found["Pooled"]) < 0.002
    folder = desk.folder / "hanse-demo" / "vertical"
    parts = {path.parent.name: set(decode(path.read_bytes())) for path in folder.glob("parts/*/*.safetensors")}
    assert set(parts) == {"clinic", "laboratory", "imaging"}  # the notary has nothing to keep
    page = (folder / "report.html").read_text()
    assert "Who played what" in page
    assert "Joint" in page
    assert "expected the demo breast-cancer" in desk.call("demo", "heart-disease", "--vertical").stderr


def test_heart_disease_over_its_own_results_only(desk: Desk) -> None:
    if not HEART.is_dir():
        pytest.skip("needs the four UCI files in shared/data/heart_disease beside the repository")
    earlier = desk.folder / "hanse-demo" / "heart-disease"
    earlier.mkdir(parents=True)
    for name in (".hanse-demo", "model.safetensors"):
        (earlier / name).write_text("of an earlier demo")
    out = desk.run("demo", "heart-disease", "--data", HEART, "--seeds", "2", "--keep")
    assert Result.load(earlier / "model.safetensors").ok
    assert out.count("finished after 7 rounds") == 2
    rows = {line[2:44].strip(): line for line in out.splitlines() if line.startswith("  ")}
    mean = {name: float(line.rpartition("accuracy ")[2]) for name, line in rows.items()}
    assert mean["Federated"] >= 0.73
    assert mean["Federated"] >= mean["Pooled, every patient counts the same"] - 0.01
    # What was kept: each hospital allowed just this app, to just this person, on at least three hospitals' behalf.
    policy = (earlier / "federation" / "cleveland" / "policy.yaml").read_text()
    assert re.search(r"apps:\n- [0-9a-f]{64}\n", policy)
    assert "unlisted_apps: refuse" in policy
    log = earlier / "federation" / "cleveland" / "audit.jsonl"
    assert "lines hold" in desk.run("audit", "verify", log)
    outcomes = [json.loads(line)["outcome"] for line in log.read_text().splitlines()]
    assert outcomes.count("allowed") == 2


def _started(desk: Desk, arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*HANSE, "demo", *arguments],
        cwd=desk.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _await_gone(pids: set[int]) -> None:
    end = time.monotonic() + WAIT_S
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.02)
    left = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in alive(pids)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_ended_in_mid_run_nothing_is_left(number: signal.Signals, desk: Desk, tmp_path: Path) -> None:
    with _started(desk, ["--rounds", "5000"]) as demo:
        assert demo.stdout is not None
        try:
            for line in demo.stdout:
                if line.startswith("round   2/"):
                    break
            pids = descendants(demo.pid)
            assert len(pids) >= 14  # a server, four sites, a launcher each, a worker at each site
            demo.send_signal(number)
            _, errors = demo.communicate(timeout=WAIT_S)
        finally:
            demo.kill()
    if number is signal.SIGKILL:
        assert demo.returncode == -number
    else:
        assert demo.returncode == 130
        assert "stopped; every process has ended" in errors
        assert "Traceback" not in errors
        assert not alive(pids)  # gone before the command returned
    _await_gone(pids)


@needs_proc
def test_ctrl_c_at_any_moment(desk: Desk) -> None:
    """Six moments of the start, from the first import to the sites' joining; SIGTERM does the same as Ctrl-C."""
    for place in range(6):
        with _started(desk, ["--rounds", "5000"]) as demo:
            pids: set[int] = set()
            end = time.monotonic() + 0.4 * place + 0.4
            while time.monotonic() < end:
                pids |= descendants(demo.pid)
                time.sleep(0.01)
            number = (signal.SIGINT, signal.SIGTERM)[place % 2]
            demo.send_signal(number)
            try:
                _, errors = demo.communicate(timeout=WAIT_S)
            finally:
                demo.kill()
        # -SIGINT: Python says so by itself where the interrupt met an import; 1: where it was only starting itself.
        unborn = ("Fatal Python error: init_", "Could not import runpy")
        before_any_of_ours = demo.returncode == 1 and errors.startswith(unborn)
        assert before_any_of_ours or demo.returncode in (130, -number, -signal.SIGINT), (place, errors)
        if demo.returncode == 130:
            assert "Traceback" not in errors, (place, errors)
        _await_gone(pids)


def _on_a_terminal(desk: Desk, arguments: list[str], *, columns: int) -> str:
    """Run the demo on a pseudo-terminal; what it wrote, without escape sequences."""
    ours, theirs = pty.openpty()
    demo = subprocess.Popen(
        [*HANSE, "demo", *arguments],
        cwd=desk.folder,
        env=environment() | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            readable, _, _ = select.select([ours], [], [], WAIT_S)
            assert readable
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how Linux tells that the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert demo.wait(WAIT_S) == 0
    finally:
        demo.kill()
        demo.wait()
        os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "")
