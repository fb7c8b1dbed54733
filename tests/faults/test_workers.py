"""What user code may do to its worker, and what becomes of the agent: real processes, really killed."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from hanse.core.codec import decode, encode
from hanse.core.errors import StorageError, TaskError, UnavailableError
from hanse.workers import handle, process
from hanse.workers.assignment import Assignment
from tests.patience import WAIT_S
from tests.unit.workers.harness import ADD_ONE, bench, descriptors, is_running, large_model, small_model, task

pytestmark = pytest.mark.faults

linux = pytest.mark.skipif(not process.LINUX, reason="reads /proc")


async def started(lines: list[str], word: str = "started") -> str:
    """Wait until a worker has printed a line that begins with `word`."""
    async with asyncio.timeout(WAIT_S):
        while not (found := [line for line in lines if line.startswith(word)]):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return found[0]


async def gone(pid: int) -> bool:
    """Whether a process ends."""
    until = time.monotonic() + WAIT_S
    while is_running(pid) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return not is_running(pid)


SLEEPER = """
@app.train
def train(arrays, config, site):
    print("started", os.getpid())
    time.sleep(3600)
"""


async def test_killed_in_mid_task(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker(SLEEPER)
        running = asyncio.create_task(worker.execute(Assignment(task(small_model()), model=small_model())))
        await started(b.lines)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(TaskError, match="killed by SIGKILL") as caught:
            await asyncio.wait_for(running, WAIT_S)
        assert caught.value.kind == "killed"
        assert (await worker.exited).kind == "killed"
        with pytest.raises(TaskError, match="SIGKILL"):
            await worker.execute(Assignment(task(small_model()), model=small_model()))
        fresh = await b.worker(ADD_ONE)
        assert (await fresh.execute(Assignment(task(small_model()), model=small_model()))).reply.ok


@linux
async def test_the_cause_of_a_death_is_told_right_however_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher knows, and is kept from its work: that a worker's socket has ended says only that it may be dead."""
    monkeypatch.setattr(handle, "ORPHANED_SOCKET_S", 0.01)
    async with bench(tmp_path) as b:
        worker = await b.worker(SLEEPER)
        running = asyncio.create_task(worker.execute(Assignment(task(small_model()), model=small_model())))
        await started(b.lines)
        os.kill(b.workers.launcher.pid, signal.SIGSTOP)
        try:
            os.kill(worker.pid, signal.SIGKILL)
            await asyncio.wait((running,), timeout=0.2)
        finally:
            os.kill(b.workers.launcher.pid, signal.SIGCONT)
        with pytest.raises(TaskError, match="killed by SIGKILL"):
            await asyncio.wait_for(running, WAIT_S)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("raise ValueError('row 17 of patient Meier')", "raised", "ValueError at app.py"),
        ("sys.exit(3)", "exited", "exit"),
        ("return 1/0", "raised", "ZeroDivisionError"),
        ("def f(): f()\n    f()", "raised", "RecursionError"),
        ("return None", "bad_reply", "train"),
        ("return {'w': np.full((2, 3), np.nan, np.float32), 'b': np.zeros(2)}, 1, {}", "bad_reply", "NaN"),
    ],
)
async def test_failures_are_replies_and_the_worker_goes_on(tmp_path: Path, body: str, kind: str, message: str) -> None:
    source = f"""
@app.train
def train(arrays, config, site):
    if config.get("good"):
        return dict(arrays), 1, {{}}
    site.state["touched"] = 1
    {body}
"""
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        done = await worker.execute(Assignment(task(small_model()), model=small_model(), state=None))
        assert (done.reply.error_kind, done.state, done.written) == (kind, None, False)
        assert message in done.reply.error
        assert "Meier" not in done.reply.error
        again = await worker.execute(Assignment(task(small_model(), config={"good": True}), model=small_model()))
        assert again.reply.ok


async def test_os_exit(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker("@app.train\ndef train(arrays, config, site):\n    os._exit(3)")
        with pytest.raises(TaskError, match="exit code 3") as caught:
            await worker.execute(Assignment(task(small_model()), model=small_model()))
        assert caught.value.kind == "exited"


async def test_exit_and_raise_while_loading(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for source, kind in (("sys.exit(1)", "exited"), ("raise KeyError('x')", "raised"), ("os._exit(9)", "exited")):
            with pytest.raises(TaskError) as caught:
                await b.worker(source)
            assert caught.value.kind == kind
        worker = await b.workers.spawn()
        with pytest.raises(TaskError, match=r"longer than its 0\.2 s") as caught:
            await worker.load(b.load_of("time.sleep(3600)"), timeout_s=0.2)
        assert caught.value.kind == "timeout"


async def test_hanging_past_the_deadline(tmp_path: Path) -> None:
    source = """
    import signal
    @app.train
    def train(arrays, config, site):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
        while True:
            pass
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        assigned = Assignment(task(small_model()), model=small_model(), timeout_s=0.3)
        with pytest.raises(TaskError, match=r"longer than its 0\.3 s") as caught:
            await asyncio.wait_for(worker.execute(assigned), WAIT_S)
        assert caught.value.kind == "timeout"
        assert not worker.alive
        assert (await worker.exited).kind == "timeout"


async def test_cancelling_kills(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker(SLEEPER)
        running = asyncio.create_task(worker.execute(Assignment(task(small_model()), model=small_model())))
        await started(b.lines)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "cancelled" in str(await asyncio.wait_for(worker.exited, WAIT_S))


async def test_printing_100_mb_neither_blocks_nor_fills(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        line = b"x" * 99 + b"\\n"
        for _ in range(1000):
            os.write(1, line * 1000)
        os.write(2, b"\\x1b[31mred\\x1b[0m without an end")
        return dict(arrays), 1, {}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        async with asyncio.timeout(WAIT_S):
            assert (await worker.execute(Assignment(task(small_model()), model=small_model()))).reply.ok
        await worker.close()
        assert sum(map(len, b.lines)) < 300_000
        note = next(line for line in b.lines if "not kept" in line)
        assert int(note.split()[1]) == 100_000_000 + len("\x1b[31mred\x1b[0m without an end") - 256 * 1024


async def test_a_later_task_may_print_again(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        print("y" * 400_000 if config.get("much") else "hello \\x1b[2J")
        return dict(arrays), 1, {}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        await worker.execute(Assignment(task(small_model(), config={"much": True}), model=small_model()))
        await worker.execute(Assignment(task(small_model()), model=small_model()))
        assert b.lines[-1] == "hello �[2J"
        assert any("137857 more bytes" in line for line in b.lines)


@linux
async def test_children_do_not_outlive_the_worker(tmp_path: Path) -> None:
    source = """
    import subprocess
    @app.train
    def train(arrays, config, site):
        plain = subprocess.Popen(["sleep", "3600"])
        # a daemon: its own session, its parent gone at once
        if os.fork() == 0:
            os.setsid()
            if (daemon := os.fork()) == 0:
                os.execvp("sleep", ["sleep", "3600"])
            print("daemon", daemon, flush=True)
            os._exit(0)
        print("plain", plain.pid)
        return dict(arrays), 1, {}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        assert (await worker.execute(Assignment(task(small_model()), model=small_model()))).reply.ok
        pids = [int((await started(b.lines, word)).split()[1]) for word in ("plain", "daemon")]
        assert all(is_running(pid) for pid in pids)
        await worker.close()
        assert [await gone(pid) for pid in pids] == [True, True]


@linux
async def test_a_forked_child_that_holds_the_socket_does_not_hide_the_death(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        os._exit(5)
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        with pytest.raises(TaskError, match="exit code 5"):
            await asyncio.wait_for(worker.execute(Assignment(task(small_model()), model=small_model())), WAIT_S)


async def test_closing_the_socket(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        os.closerange(3, 64)
        time.sleep(3600)
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        with pytest.raises(TaskError, match="closed its connection") as caught:
            await asyncio.wait_for(worker.execute(Assignment(task(small_model()), model=small_model())), WAIT_S)
        assert caught.value.kind == "exited"


@pytest.mark.parametrize(
    "junk",
    [
        "os.write(3, os.urandom(4096))",
        "os.write(3, bytes(16))",  # the kind is no word
        "os.write(3, bytes([4, 0, 0, 0]) + bytes(4) + (2**60).to_bytes(8, 'little'))",
        "os.write(3, bytes([4, 0, 0, 0]) + (2).to_bytes(4, 'little') + bytes(8) + b'done[]')",
        "os.write(3, bytes([4, 0, 0, 0]) + bytes(12) + b'done')",
        "os.write(3, bytes([6, 0, 0, 0]) + bytes(12) + b'loaded')",
    ],
)
async def test_speaking_nonsense(tmp_path: Path, junk: str) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker(f"@app.train\ndef train(arrays, config, site):\n    {junk}\n    time.sleep(3600)")
        with pytest.raises(TaskError) as caught:
            await asyncio.wait_for(worker.execute(Assignment(task(small_model()), model=small_model())), WAIT_S)
        assert caught.value.kind == "bad_reply"
        assert (await asyncio.wait_for(worker.exited, WAIT_S)).kind == "bad_reply"


@linux
async def test_huge_memory_meets_its_limit(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        if config.get("huge"):
            np.ones(2_000_000_000)
        return dict(arrays), 1, {}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source, memory_bytes=512 * 1024 * 1024)
        done = await worker.execute(Assignment(task(small_model(), config={"huge": True}), model=small_model()))
        assert done.reply.error_kind == "raised"
        assert "Memory" in done.reply.error
        assert (await worker.execute(Assignment(task(small_model()), model=small_model()))).reply.ok


async def test_disk_full_is_a_storage_error(tmp_path: Path) -> None:
    source = """
    import resource
    @app.train
    def train(arrays, config, site):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        return dict(arrays), 1, {}
    """
    model = encode(large_model(4))
    path = tmp_path / "model"
    path.write_bytes(model)
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        with pytest.raises(StorageError, match="could not be written"):
            await worker.execute(Assignment(task(model), model=path, out=tmp_path / "update"))
        assert worker.alive


async def test_replacing_the_worker_between_tasks_changes_no_bit(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        noise = np.random.standard_normal(6) + site.rng.standard_normal(6) + site.state.get("sum", 0.0)
        site.state["sum"] = float(noise.sum())
        site.state["order"] = [str(word) for word in {"b", "a", "d", "c"}]   # the hash seed is the same everywhere
        new = {name: array + noise[: array.size].reshape(array.shape).astype(array.dtype)
               for name, array in arrays.items()}
        return new, 1, {"sum": site.state["sum"]}
    """
    results = []
    for replaced in (False, True):
        model, state, state_bytes = small_model(), None, []
        folder = tmp_path / str(replaced)
        folder.mkdir()
        async with bench(folder) as b:
            load = b.load_of(source)
            worker = await b.worker(load)
            for ordinal in range(3):
                if replaced:
                    await worker.close()
                    worker = await b.worker(load)
                done = await worker.execute(Assignment(task(model, ordinal=ordinal, seed=5), model=model, state=state))
                assert done.reply.update is not None
                model, state = done.reply.update.content, done.state  # type: ignore[assignment]
                state_bytes.append(state)
        results.append((model, state_bytes))
    assert results[0] == results[1]
    assert not np.isnan(decode(results[0][0])["w"]).any()


PARENT = """
import asyncio, pathlib, sys
from hanse.workers.assignment import Assignment
from tests.unit.workers.harness import bench, task, small_model
SOURCE = '''
import subprocess
@app.train
def train(arrays, config, site):
    child = subprocess.Popen(["sleep", "3600"])
    print("pids", os.getpid(), os.getppid(), child.pid)
    time.sleep(3600)
'''
async def main():
    async with bench(pathlib.Path(sys.argv[1])) as b:
        worker = await b.worker(SOURCE)
        worker.log._on_line = lambda line: print(line, flush=True)
        await worker.execute(Assignment(task(small_model()), model=small_model()))
asyncio.run(main())
"""


@linux
async def test_parent_killed_takes_all_along(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert parent.stdout is not None
        pids = [int(pid) for pid in (await asyncio.to_thread(parent.stdout.readline)).split()[1:]]
        assert len(pids) == 3
        assert all(is_running(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
    assert [await gone(pid) for pid in pids] == [True, True, True]


@linux
async def test_launcher_killed_is_replaced(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker(SLEEPER)
        running = asyncio.create_task(worker.execute(Assignment(task(small_model()), model=small_model())))
        pid = int((await started(b.lines)).split()[1])
        os.kill(b.workers.launcher.pid, signal.SIGKILL)
        with pytest.raises(TaskError) as caught:
            await asyncio.wait_for(running, WAIT_S)
        assert caught.value.kind in ("lost", "killed")
        assert await gone(pid)
        fresh = await b.worker(ADD_ONE)
        assert (await fresh.execute(Assignment(task(small_model()), model=small_model()))).reply.ok


async def test_a_launcher_that_cannot_start_is_a_named_failure(tmp_path: Path) -> None:
    async with bench(tmp_path, runtime="nonesuch:open") as b:
        with pytest.raises(TaskError, match="ModuleNotFoundError"):
            await b.worker(ADD_ONE)
    async with bench(
        tmp_path, preload=("os", "antigravity_that_exits"), environment={"PYTHONHOME": "/nonexistent"}
    ) as b:
        with pytest.raises(UnavailableError, match="ended at once"):
            await b.workers.spawn()


@linux
@pytest.mark.slow
async def test_fifty_cycles_leak_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        load = b.load_of(ADD_ONE)
        await (await b.worker(load)).close()
        launcher = b.workers.launcher.pid
        gc.collect()  # what earlier tests left is let go of now and not in between
        before = descriptors(), descriptors(launcher)
        for index in range(50):
            worker = await b.worker(load)
            if index % 2:
                assert (await worker.execute(Assignment(task(small_model()), model=small_model()))).reply.ok
            await worker.close()
        now = descriptors(), descriptors(launcher)
        assert now[0] <= before[0], f"{before} before, {now} now"
        assert now[1] <= before[1], f"{before} before, {now} now"
        assert Path(f"/proc/{launcher}/task/{launcher}/children").read_text() == ""
        assert len(b.workers) == 0
