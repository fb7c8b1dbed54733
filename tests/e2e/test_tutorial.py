"""The tutorial's commands, as two organisations and a person would type them, in folders of their own."""

import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.cli import doctor
from tests.e2e.commands import Desk, Running, free_ports
from tests.patience import WAIT_S, wait_until

pytestmark = pytest.mark.xdist_group("e2e")

APP = """
import time

import hanse as hs
import numpy as np

app = hs.App(hs.FedAvg(), rounds={rounds}, quorum=2)


class Mean(hs.NumPyClient):
    def __init__(self, X):
        self.X = X

    def get_parameters(self, config):
        return [np.zeros(self.X.shape[1])]

    def fit(self, parameters, config):
        time.sleep({takes_s})
        return [(parameters[0] + self.X.mean(axis=0)) / 2], len(self.X), {{}}

    def evaluate(self, parameters, config):
        return float(np.square(parameters[0] - self.X.mean(axis=0)).sum()), len(self.X), {{}}


@app.client
def client(site):
    X, y = site.load("patients")
    return Mean(X)
"""


class Hospitals:
    """A federation of two sites, each in its own folder."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        made = desk.ask(
            "federation", "init", "hospitals", "--site", "luebeck", "--site", "bergen", "--port", free_ports(3)
        )
        self.file = desk.folder / made["federation_file"]
        self.server = desk.start("server", "start", "--directory", "hospitals")
        self.server.await_line("server ready")
        for place, (site, token) in enumerate(sorted(made["tokens"].items())):
            assert site in desk.run("site", "join", "-", "--directory", site, stdin=token)
            self._own(desk.folder / site, place)
        self.sites = {site: self.start(site) for site in made["tokens"]}

    def start(self, site: str) -> Running:
        running = self.desk.start("site", "start", "--directory", site)
        running.await_line("connected")
        return running

    def ask(self, *arguments: object) -> Any:
        return self.desk.ask(*arguments, "--federation", self.file)

    def run(self, *arguments: object, code: int = 0) -> str:
        return self.desk.run(*arguments, "--federation", self.file, code=code)

    @staticmethod
    def _own(folder: Path, place: int) -> None:
        """What a hospital's owner does: put the data there, say so."""
        X = np.full((10, 3), float(place + 1))
        np.savez(folder / "patients.npz", X=X, y=np.zeros(10))
        text = (folder / "site.yaml").read_text()
        assert "datasets: {}" in text
        text = text.replace("datasets: {}", "datasets:\n  patients: {kind: npz, path: patients.npz, x: X, y: y}")
        (folder / "site.yaml").write_text(text)


@pytest.fixture(scope="module")
def hospitals(shared_desk: Desk) -> Hospitals:
    (shared_desk.folder / "app.py").write_text(APP.format(rounds=3, takes_s=0))
    return Hospitals(shared_desk)


@pytest.fixture
def desk(hospitals: Hospitals) -> Desk:
    return hospitals.desk


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `hanse doctor`, which is called in this process, gives a server that is there."""
    monkeypatch.setattr(doctor, "_REACH_S", WAIT_S)


def test_the_tutorial(hospitals: Hospitals, desk: Desk) -> None:
    sites = hospitals.ask("site", "list")["sites"]
    assert [(site["site"], site["state"]) for site in sites] == [("bergen", "there"), ("luebeck", "there")]
    assert "luebeck" in hospitals.run("site", "list")
    for site in ("luebeck", "bergen"):
        found = desk.ask("doctor", "--directory", site)
        assert found["ok"], found
        assert {check["about"]: check["state"] for check in found["checks"]}["admission"] == "ok"
    assert desk.ask("doctor", "--directory", "hospitals")["ok"]
    assert desk.ask("doctor", "--directory", "hospitals/admin")["ok"]

    # Everything waits for the owners.
    job = hospitals.run("run", "app.py", "--detach").strip()
    desk.running[1].await_line("job decided", "hold")
    desk.running[2].await_line("job decided", "hold")
    held = desk.ask("site", "approve", "--directory", "bergen")["jobs"]
    assert [(each["job"], each["person"], each["rounds"]) for each in held] == [(job, "admin", 3)]
    assert len(held[0]["app"]) == 64
    assert job in desk.run("site", "approve", "--directory", "bergen")
    assert hospitals.ask("job", "show", job)["status"] == "waiting"
    for site in ("luebeck", "bergen"):
        assert job in desk.run("site", "approve", job, "--directory", site)
    lines = hospitals.run("job", "logs", job[-6:], "--follow").splitlines()
    assert lines[-1] == "finished after 3 rounds"
    assert sum(line.startswith("round   ") for line in lines) == 3

    hospitals.run("job", "result", job, "--output", "model.safetensors", "--report", "report.html")
    model = (desk.folder / "model.safetensors").read_bytes()
    assert len(model) < 1000
    assert "<svg" in (desk.folder / "report.html").read_text()
    rounds = hospitals.ask("job", "result", job)["rounds"]
    # (0 + x)/2, then (x/2 + x)/2, …: 7/8 of the mean of 1 and 2 after three rounds; the loss of each is arithmetic.
    assert rounds[-1]["metrics"]["loss"] == pytest.approx(3 * ((1 - 1.3125) ** 2 + (2 - 1.3125) ** 2) / 2)
    listed = hospitals.ask("job", "list")["jobs"]
    assert [(each["job"], each["status"]) for each in listed] == [(job, "finished")]

    # From now on the app is on the owners' lists: it runs without asking.
    app = held[0]["app"]
    for site in ("luebeck", "bergen"):
        path = desk.folder / site / "policy.yaml"
        path.write_text(path.read_text().replace("apps: []", f"apps: [{app}]"))
    out = hospitals.run("run", "app.py", "--output", "again.safetensors", "--report", "again.html")
    assert "site bergen accepts" in out
    assert out.splitlines()[-1] == "finished after 3 rounds"
    assert (desk.folder / "again.safetensors").read_bytes() == model

    # A second person, a researcher: may submit, may not invite.
    token = hospitals.run("person", "add", "anna").strip()
    desk.run("person", "join", token, "--directory", "anna")
    anna = ("--federation", "anna/federation.yaml")
    assert json.loads(desk.run("run", "app.py", "--json", *anna))["status"] == "finished"
    refused = desk.call("site", "invite", "riga", *anna)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "person anna has not got the role admin" in refused.stderr
    used = desk.call("person", "join", token, "--directory", "berta")
    assert used.returncode == 1
    assert used.stderr.startswith("error: ")
    assert "Traceback" not in used.stderr
    hospitals.run("person", "revoke", "anna")
    assert "revoked" in desk.call("job", "list", *anna).stderr
    assert [person["state"] for person in hospitals.ask("person", "list")["people"]] == ["enrolled", "revoked"]


def test_cancelling_and_refusing(hospitals: Hospitals, desk: Desk) -> None:
    (desk.folder / "long.py").write_text(APP.format(rounds=100_000, takes_s=0.05))
    for site in ("luebeck", "bergen"):
        path = desk.folder / site / "policy.yaml"
        path.write_text(re.sub("(?m)^apps: .*", "apps: any", path.read_text()))
    following = desk.start("run", "long.py", "--federation", hospitals.file, "--name", "endless")
    job = following.await_line("job ").split()[1]
    hospitals.server.await_line("job submitted", job)
    hospitals.sites["bergen"].await_line("job decided", job, "accept")

    # Ctrl-C stops the following, not the job.
    following.await_line("job ")
    assert following.end(signal.SIGINT) == 130
    following.await_line("The job goes on", job)
    shown = hospitals.ask("job", "show", job)
    assert (shown["status"], shown["name"]) in [("running", "endless"), ("waiting", "endless")]
    assert hospitals.ask("job", "result", job)["status"] in ("running", "waiting")

    hospitals.run("job", "cancel", job)
    assert hospitals.ask("job", "show", job)["status"] == "cancelled"
    again = desk.call("job", "cancel", job, "--federation", hospitals.file)
    assert (again.returncode, again.stderr) == (1, f"error: job {job} is not at work\n")
    unknown = desk.call("job", "show", "0" * 20, "--federation", hospitals.file)
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error: there is no job")

    # An owner who refuses what needs both.
    path = desk.folder / "bergen" / "policy.yaml"
    path.write_text(path.read_text().replace("apps: any", "apps: []"))
    (desk.folder / "other.py").write_text(APP.format(rounds=4, takes_s=0))
    job = hospitals.run("run", "other.py", "--detach").strip()
    hospitals.sites["bergen"].await_line(job, "hold")
    desk.run("site", "refuse", job, "--reason", "not our study", "--directory", "bergen")
    hospitals.sites["luebeck"].await_line(job, "accept")
    shown = {}

    def is_over() -> bool:
        shown.update(hospitals.ask("job", "show", job))
        return shown["status"] == "failed"

    wait_until(is_over, lambda: shown)
    assert "bergen: not our study" in shown["error"], shown  # two were to take part


def test_the_tutorial_s_end(hospitals: Hospitals, desk: Desk) -> None:
    """A site that is revoked is out at once, and says what to do."""
    hospitals.run("site", "revoke", "bergen")
    assert hospitals.sites["bergen"].process.wait(WAIT_S) == 3
    assert hospitals.ask("site", "list")["sites"][0]["state"] == "revoked"
    checks = {check["about"]: check for check in desk.ask("doctor", "-d", "bergen", code=1)["checks"]}
    assert checks["admission"]["state"] == "wrong"

    # What happened is in two logs that anybody with a public key can check.
    (desk.folder / "head.json").write_text(hospitals.run("audit", "head"))
    assert "lines hold" in desk.run("audit", "verify", "bergen/audit.jsonl")
    checked = desk.run("audit", "verify", "hospitals/audit.jsonl", "--head", "head.json")
    assert "reaches the signed head" in checked
    log = desk.folder / "hospitals" / "audit.jsonl"
    actions = [json.loads(line)["action"] for line in log.read_text().splitlines()]
    assert {"member.join", "job.submit", "job.decision", "round.closed", "job.finished", "member.revoke"} <= set(
        actions
    )
    copy = desk.folder / "copy.jsonl"
    copy.write_text(log.read_text().replace('"actor":"person/anna"', '"actor":"person/otto"'))
    broken = desk.call("audit", "verify", "copy.jsonl", "--membership", "hospitals/server")
    assert broken.returncode == 1
    assert "unsigned" in broken.stdout
    lines = log.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[:-3]))
    assert desk.call("audit", "verify", "copy.jsonl", "--membership", "hospitals/server").returncode == 0
    short = desk.call("audit", "verify", "copy.jsonl", "--membership", "hospitals/server", "--head", "head.json")
    assert (short.returncode, "truncated" in short.stdout) == (1, True)

    for running in (hospitals.sites["luebeck"], hospitals.server):
        assert running.end(signal.SIGINT) == 0


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    desk, port = Desk(tmp_path), free_ports(3)
    desk.run("federation", "init", "hospitals", "--port", port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        found = desk.call("server", "start", "--directory", "hospitals")
        wrong = desk.ask("doctor", "--directory", "hospitals", code=1)
    lines = [line for line in found.stderr.splitlines() if not line.startswith("timestamp=")]
    assert (found.returncode, len(lines)) == (2, 1), found.stderr
    assert lines[0].startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert {check["about"]: check["state"] for check in wrong["checks"]}["port"] == "wrong"
