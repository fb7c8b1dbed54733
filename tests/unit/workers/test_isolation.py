"""Isolation, tried from inside: what is outside cannot be opened, reached or signalled."""

import os
import socket
from pathlib import Path

import pytest

from hanse.core.codec import encode
from hanse.core.errors import ConfigError
from hanse.workers import isolation, landlock
from hanse.workers.assignment import Assignment
from hanse.workers.isolation import Isolation
from tests.unit.workers.harness import bench, large_model, task

LEVELS = {level.name: level for level in isolation.available()}
confined = pytest.mark.parametrize(
    "level",
    [
        pytest.param(name, marks=pytest.mark.skipif(not LEVELS[name].available, reason=LEVELS[name].reason))
        for name in ("landlock", "user")
    ],
)

PROBE = """
import signal, socket, subprocess, ctypes

def tried(function):
    try:
        function()
        return "done"
    except Exception as error:
        return type(error).__name__

def connect(port):
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        pass

def mapped():
    import mmap
    mmap.mmap(-1, 4096)[0] = 1

@app.query
def query(config, site):
    inside = os.path.join(os.getcwd(), "note")
    return {
        "outside": tried(lambda: open(config["outside"]).read()),
        "listing": tried(lambda: os.listdir(os.path.dirname(config["outside"]))),
        "passwords": tried(lambda: open("/etc/shadow").read()),
        "write": tried(lambda: open(config["outside"] + ".new", "w")),
        "bundle": tried(lambda: open(os.path.join(os.path.dirname(__file__), "x.py"), "w")),
        "own source": tried(lambda: open(__file__).read()),
        "scratch": tried(lambda: (open(inside, "w").write("x"), open(inside).read(), os.remove(inside))),
        "tcp": tried(lambda: connect(config["port"])),
        "udp": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
        "ipv6": tried(lambda: socket.socket(socket.AF_INET6)),
        "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        "unix": tried(lambda: socket.socketpair()),
        "signal": tried(lambda: os.kill(config["agent"], 0)),
        "environment": tried(lambda: open(f"/proc/{config['agent']}/environ").read()),
        "child": tried(lambda: subprocess.run(["cat", config["outside"]], check=True, capture_output=True)),
        "program": tried(lambda: subprocess.run(["true"], check=True)),
        "library": tried(lambda: __import__("sklearn.linear_model")),
        "random": tried(lambda: os.urandom(4)),
        "anonymous": tried(mapped),
        "uid": os.getuid(),
        "threads": tried(lambda: __import__("threading").Thread(target=print).start()),
    }
"""


async def probe(folder: Path, level: Isolation, outside: Path) -> dict[str, object]:
    """What a worker at this level can do, by name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with bench(folder) as b:
            worker = await b.worker(PROBE, isolation=level)
            done = await worker.execute(
                Assignment(task(call="query", config={"outside": str(outside), "port": port, "agent": os.getpid()}))
            )
            assert done.reply.error == "", (done.reply.error, b.lines)
            return dict(done.reply.metrics)


def open_to_others(folder: Path) -> None:
    """Let another user walk into a test's folder."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)


@confined
async def test_a_confined_worker_sees_only_what_it_was_granted(
    tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an agent is started in the folder of its keys
    home = tmp_path / "home"
    home.mkdir()
    outside = tmp_path / "patients.csv"
    outside.write_text("secret")
    open_to_others(home)
    found = await probe(home, Isolation(level), outside)
    denied = ["outside", "listing", "passwords", "write", "bundle", "environment", "tcp", "udp", "ipv6", "netlink"]
    assert {name: found[name] for name in denied} == dict.fromkeys(denied, "PermissionError")
    assert found["child"] == "CalledProcessError"
    allowed = ["own source", "scratch", "unix", "program", "library", "random", "anonymous", "threads"]
    assert {name: found[name] for name in allowed} == dict.fromkeys(allowed, "done")
    if landlock.abi() >= 6 or level == "user":
        assert found["signal"] == "PermissionError"
    assert found["uid"] == (65534 if level == "user" else os.getuid())


async def test_a_plain_process_is_not_said_to_be_confined(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "x").write_text("")
    found = await probe(home, Isolation("process"), tmp_path / "x")
    assert [found[name] for name in ("outside", "tcp", "udp", "child")] == ["done"] * 4


@confined
async def test_grants(tmp_path: Path, level: str) -> None:
    (tmp_path / "home").mkdir()
    data = tmp_path / "patients.csv"
    data.write_text("age,sick\n40,0\n50,1\n")
    open_to_others(tmp_path / "home")
    source = """
    @app.client
    def client(site):
        class Client:
            def get_parameters(self, config): return [np.zeros(1)]
            def fit(self, parameters, config):
                X, y = site.load("patients")
                return parameters, len(y), {"sum": float(X.sum())}
            def evaluate(self, parameters, config): return 0.0, 1, {}
        return Client()
    """
    model = encode(large_model(1))
    (tmp_path / "model").write_bytes(model)
    async with bench(tmp_path / "home") as b:
        declared = {"patients": {"kind": "csv", "path": "../patients.csv", "target": "sick"}}
        worker = await b.worker(source, isolation=Isolation(level), datasets=declared, base=tmp_path / "home")
        done = await worker.execute(Assignment(task(model), model=tmp_path / "model", out=tmp_path / "update"))
        assert (done.reply.error, done.reply.num_examples, done.reply.metrics) == ("", 2, {"sum": 90.0})
        assert done.written
        refused = await b.worker(source, isolation=Isolation(level), declared=("patients",))
        answer = await refused.execute(Assignment(task(model), model=tmp_path / "model", out=tmp_path / "update"))
        assert "not granted" in answer.reply.error


@confined
async def test_confined_with_more_threads(tmp_path: Path, level: str) -> None:
    (tmp_path / "home").mkdir()
    open_to_others(tmp_path / "home")
    async with bench(tmp_path / "home") as b:
        worker = await b.worker(
            "@app.query\ndef query(config, site):\n    return {'tasks': len(os.listdir('/proc/self/task'))}",
            threads=2,
            isolation=Isolation(level),
        )
        assert (await worker.execute(Assignment(task(call="query")))).reply.error == ""


async def test_an_open_network_is_the_owners_choice(tmp_path: Path) -> None:
    if not LEVELS["landlock"].available:
        pytest.skip(LEVELS["landlock"].reason)
    (tmp_path / "x").write_text("")
    (tmp_path / "home").mkdir()
    found = await probe(tmp_path / "home", Isolation("landlock", network=True), tmp_path / "x")
    assert [found[name] for name in ("outside", "tcp", "udp")] == ["PermissionError", "done", "done"]


def test_a_missing_level_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: -38)
    assert [level.available for level in isolation.available()] == [True, False, False]
    with pytest.raises(ConfigError, match=r"isolation landlock: not available here: .*needs Linux 5\.13"):
        isolation.require("landlock")
    monkeypatch.setattr(landlock, "abi", lambda: 5)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="isolation user: not available here: the agent does not run as root"):
        isolation.require("user")
    with pytest.raises(ConfigError, match="expected one of process, landlock, user; found 'jail'"):
        isolation.require("jail")
    with pytest.raises(ConfigError, match="above 0"):
        Isolation("user", uid=0)


def test_isolation_goes_through_json() -> None:
    given = Isolation("landlock", ("/data",), ("/dev/nvidia0",), 7, 8, True)
    assert Isolation.from_json(given.to_json()) == given
