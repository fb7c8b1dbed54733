"""The process of a site: starts, stops, ends with everything it started, and says what is wrong."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.core.errors import ConfigError
from hanse.site.owner import ask
from hanse.site.start import main
from tests.patience import WAIT_S
from tests.unit.site.bench import Town

PROGRAM = "import sys; from pathlib import Path; from hanse.site.start import main; sys.exit(main(Path(sys.argv[1])))"


@contextlib.contextmanager
def agent(directory: Path, said: list[dict[str, object]] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A started agent; what it says before that is added to `said`."""
    environment = {**os.environ, "HANSE_LOG": "json"}
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(directory)], stderr=subprocess.PIPE, env=environment)
    try:
        assert child.stderr is not None
        for line in child.stderr:
            if (read := json.loads(line)).get("event") == "site started":
                break
            if said is not None:
                said.append(read)
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lines(child: "subprocess.Popen[bytes]") -> list[dict[str, object]]:
    assert child.stderr is not None
    return [json.loads(line) for line in child.stderr.read().splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_it_ends_with_everything_it_started(tmp_path: Path, ending: signal.Signals) -> None:
    directory = Town().settle(tmp_path / "site")
    with agent(directory) as child:
        started = children(child.pid)
        assert len(started) == 1  # the launcher
        child.send_signal(ending)
        code = await asyncio.to_thread(child.wait, WAIT_S)
        assert code == (-signal.SIGKILL if ending == signal.SIGKILL else 0)
        async with asyncio.timeout(WAIT_S):
            while any(is_running(pid) for pid in started):  # noqa: ASYNC110 - not our children
                await asyncio.sleep(0.01)
        if ending != signal.SIGKILL:
            assert not (directory / "control.sock").exists()
    if ending == signal.SIGKILL:  # what is left does not keep the next one from starting
        with agent(directory) as child:
            assert ask(directory, "stop") == {"stopping": True}
            assert await asyncio.to_thread(child.wait, WAIT_S) == 0


def test_it_is_lean(tmp_path: Path) -> None:
    directory = Town().settle(tmp_path / "site")
    with agent(directory) as child:
        child.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        # 0.35 s of an idle machine; this is to notice a framework that crept in, on a busy one
        assert usage.ru_utime + usage.ru_stime < 3.0


def test_files_that_are_not_there_are_named_at_the_start(tmp_path: Path) -> None:
    directory = Town().settle(tmp_path / "site")
    (directory / "here.csv").write_text("age,sick\n40,1\n")
    declared = [f"  {name}: {{kind: csv, path: {name}.csv}}\n" for name in ("here", "absent")]
    (directory / "site.yaml").write_text("datasets:\n" + "".join(declared))
    said: list[dict[str, object]] = []
    with agent(directory, said):
        assert [(line["event"], line["dataset"]) for line in said] == [("a data set's file cannot be read", "absent")]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hanse site join"):
        main(tmp_path)


def test_heavy_modules_come_after_the_launcher() -> None:
    heavy = "('grpc', 'cryptography', 'numpy', 'rich')"
    program = f"import sys, hanse.site.start; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b"[]"
