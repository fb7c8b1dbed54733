"""Private set intersection of 10^6 and 10^6 random identifiers, half of them shared, on both parties' own processes.

The case `parts` has 10^7 on each side, which are read piece by piece and intersected part by part in the same memory.

Two processes joined by a pair of sockets, without encryption: what is measured is the protocol, not a channel.
Time starts when both hold their identifiers and includes compiling numba's loops. Each party checks that it found
exactly the shared half; here it is checked that both found it in the same order. Memory is the peak of the resident
set, libraries and identifiers included. `link_s` is computed, not measured: all bytes at 100 Mbit/s, and 50 ms for
each turn.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import _psi_directory
from benchmarks.harness import Row, at_most, note

ROLES = ("guest", "host")
LINK_BYTES_PER_S = 100e6 / 8
LINK_DELAY_S = 0.05
_TARGETS: dict[str, tuple[float | None, float | None, float | None]] = {
    "default": (20.0, 15.0, 600.0),
    "parts": (None, None, 600.0),
    "fallback": (170.0, 90.0, None),
}
_SIZES = {"default": (1_000_000, 40_000), "parts": (10_000_000, 30_000), "fallback": (1_000_000, 2_000)}
"""Identifiers of each side, in earnest and in a smoke run."""


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    for case, targets in _TARGETS.items():
        parties = _play(case, _SIZES[case][smoke])
        if parties[0].pop("order") != parties[1].pop("order"):
            raise RuntimeError(f"{case}: the parties' results are in different orders")
        core_s = sum(each["cpu_s"] for each in parties)
        wall_s = max(each["wall_s"] for each in parties)
        peak_mb = max(each["peak_mb"] for each in parties)
        found = (("core_s_both", core_s, "s"), ("wall_s", wall_s, "s"), ("peak_mb", peak_mb, "MB"))
        for (metric, value, unit), target in zip(found, targets, strict=True):
            yield (
                note("psi", case, metric, value, unit)
                if target is None
                else at_most("psi", case, metric, value, unit, target)
            )
        size = sum(each["sent_bytes"] for each in parties)
        yield note("psi", case, "messages", sum(each["sent_messages"] for each in parties), "messages")
        yield note("psi", case, "sent_mb", size / 1e6, "MB")
        turns = sum(each["turns"] for each in parties)
        yield note("psi", case, "link_s", size / LINK_BYTES_PER_S + turns * LINK_DELAY_S, "s")
    yield from _psi_directory.rows(smoke)


def _play(case: str, num_ids: int) -> list[dict[str, Any]]:
    """Both parties' figures."""
    processes = []
    try:
        for role, end in zip(ROLES, socket.socketpair(), strict=True):
            with end:
                command = [sys.executable, "-m", "benchmarks._psi_party", case, role, str(num_ids), str(end.fileno())]
                processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[end.fileno()], text=True
                    )
                )
        for process in processes:
            if _line(process) != "ready":
                raise RuntimeError(f"{case}: a party ended before it was ready")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(_line(process)) for process in processes]
    finally:
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
