"""The benchmark harness: rows, exit codes, isolation of each benchmark, meters."""

import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.harness import PeakMemory, Row, at_least, at_most, note
from tests.patience import WAIT_S

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
FROM = "from benchmarks.harness import at_most, note\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of benchmarks: one good, one that misses its target, one that crashes, one that is empty."""
    place = tmp_path / "measures"
    place.mkdir()
    modules = {
        "__init__": "",
        "_helper": "def run(smoke): yield 1",
        "meters": "def other(): pass",
        "crashes": FROM + "def run(smoke):\n yield note('crashes', 'a', 'n', 1, 'B')\n raise ValueError('boom')",
        "empty": "def run(smoke):\n return\n yield",
        "misses": FROM + "def run(smoke):\n yield at_most('misses', 'a', 'time_s', 2, 's', 1)",
        "reaches_it": FROM
        + "def run(smoke):\n print('noise')\n yield at_most('reaches-it', 'a', 'time_s', 0.00412345678, 's', 0.005)",
    }
    for name, text in modules.items():
        (place / f"{name}.py").write_text(text, encoding="utf-8")
    return place


def test_targets_have_a_direction() -> None:
    assert at_most("b", "c", "m", 1, "s", 1).ok is True
    assert at_most("b", "c", "m", 1.01, "s", 1).ok is False
    assert at_least("b", "c", "m", 1, "ratio", 1).ok is True
    assert at_least("b", "c", "m", 0.99, "ratio", 1).ok is False
    assert (note("b", "c", "m", 1, "s").target, note("b", "c", "m", 1, "s").ok) == (None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_is_finite(value: float) -> None:
    with pytest.raises(ValueError, match="expected a finite time_s"):
        at_most("b", "c", "time_s", value, "s", 1)


def test_a_row_is_one_json_object_in_the_agreed_order() -> None:
    row = at_most("round-latency", "2 sites", "round_s_median", 0.00412345678, "s", 0.005)
    assert row.to_json() == (
        '{"bench": "round-latency", "case": "2 sites", "metric": "round_s_median", "value": 0.00412346, '
        '"unit": "s", "target": 0.005, "ok": true}'
    )


def test_discovery_finds_modules_with_run_and_imports_none(folder: Path) -> None:
    (folder / "explodes.py").write_text("raise SystemExit('imported')\ndef run(smoke): ...", encoding="utf-8")
    assert list(harness.discover(folder)) == ["crashes", "empty", "explodes", "misses", "reaches-it"]


def test_hanse_s_own_benchmarks_are_found_by_the_same_rule() -> None:
    assert "harness" not in harness.discover()


def run(folder: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[Row], str]:
    code = main([*arguments, "--json"], folder)
    out, err = capfd.readouterr()
    return code, [Row(**json.loads(line)) for line in out.splitlines()], err


def test_all_ok_is_exit_code_0_and_stdout_holds_rows_only(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, rows, err = run(folder, capfd, "reaches-it")
    assert (code, [(row.value, row.ok) for row in rows]) == (0, [(0.00412346, True)])
    assert "noise" in err


def test_a_missed_target_is_exit_code_1(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = run(folder, capfd, "misses")
    assert (code, [row.ok for row in rows]) == (1, [False])


def test_smoke_judges_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = run(folder, capfd, "misses", "--smoke")
    assert (code, [(row.target, row.ok) for row in rows]) == (0, [(None, None)])


def test_a_crash_keeps_its_rows_and_does_not_hide_the_others(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, rows, err = run(folder, capfd, "crashes", "empty", "reaches_it", "--smoke")
    assert code == 1
    assert [(row.bench, row.case, row.ok) for row in rows] == [
        ("crashes", "a", None),
        ("crashes", "failed", False),
        ("empty", "failed", False),
        ("reaches-it", "a", None),
    ]
    assert "ValueError: boom" in err
    assert "bench empty: expected rows and exit code 0, found no rows" in err


def test_an_unknown_name_is_exit_code_2_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, rows, err = run(folder, capfd, "misses", "nonsense")
    assert (code, rows) == (2, [])
    assert err == "bench: expected names among crashes, empty, misses, reaches-it; found nonsense\n"


def test_the_table_shows_every_row(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["misses", "reaches-it"], folder) == 1
    out = capfd.readouterr().out
    assert "missed" in out
    assert "0.004123 s" in out


def test_interrupting_ends_the_benchmark_and_its_cleanup_runs(tmp_path: Path) -> None:
    place = tmp_path / "measures"
    place.mkdir()
    (place / "__init__.py").touch()
    (place / "waits.py").write_text(
        "import os, sys, threading\n"
        "def run(smoke):\n"
        " try:\n  print('pid', os.getpid(), file=sys.stderr, flush=True)\n  threading.Event().wait(3600)\n"
        " finally:\n  print('cleaned up', file=sys.stderr, flush=True)\n"
        " yield",
        encoding="utf-8",
    )
    call = (
        "import sys; from pathlib import Path; from benchmarks.__main__ import main; "
        f"sys.exit(main([], Path({str(place)!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.PIPE, cwd=harness.FOLDER.parent) as process:
        assert process.stderr is not None
        pid = next(int(line.split()[1]) for line in process.stderr if line.startswith(b"pid"))
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert b"cleaned up" in process.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@LINUX
def test_anonymous_memory_counts_written_pages_and_no_file_maps(tmp_path: Path) -> None:
    import numpy as np

    before = harness.anonymous_memory_mb(os.getpid())
    pages = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # no allocator may have some left
    held = np.frombuffer(pages, dtype=np.uint8)
    held[:] = 1
    grown = harness.anonymous_memory_mb(os.getpid()) - before
    assert held.nbytes / 1e6 == 50
    assert 45 < grown < 70

    path = tmp_path / "file"
    held.tofile(path)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    before = harness.anonymous_memory_mb(os.getpid())
    assert mapped.sum(dtype=np.int64) == 50_000_000
    assert harness.anonymous_memory_mb(os.getpid()) - before < 20


@LINUX
def test_memory_of_a_process_that_has_ended_is_an_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        harness.resident_memory_mb(process.pid)


@LINUX
def test_peak_memory_sees_what_a_grandchild_held_and_gave_back() -> None:
    holder = (
        "import sys; held = bytearray(b'x') * 80_000_000; print('held', flush=True); sys.stdin.readline(); "
        "del held; print('freed', flush=True); sys.stdin.readline()"
    )
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holder!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with PeakMemory([process.pid], children=True, interval_s=0.005) as memory:
                assert process.stdout.readline() == "held\n"
                while memory.peak_mb < 80:  # bounded by the test's timeout
                    pass
                process.stdin.write("\n")
                assert process.stdout.readline() == "freed\n"
            assert 80 < memory.peak_mb < 200
        finally:
            process.stdin.write("\n\n")
            process.stdin.flush()


def test_peak_memory_hands_a_meter_s_error_to_the_caller() -> None:
    calls = []

    def breaks(pid: int) -> float:
        calls.append(pid)
        if len(calls) > 1:
            raise OSError("unreadable")
        return 1.0

    with pytest.raises(OSError, match="unreadable"), PeakMemory([1], interval_s=0.001, measure=breaks) as memory:
        memory._thread.join()


def test_read_bandwidth_is_the_best_of_the_ways() -> None:
    rates = harness.read_bandwidths(size_mb=64, repeats=2)
    assert {"sum", "max", "or"} <= set(rates)
    assert all(0.1 < rate < 5000 for rate in rates.values())
