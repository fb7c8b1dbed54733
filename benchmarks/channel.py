"""A role channel through the server: a ping-pong of 1 kB, and 400 MB one way against a plain TLS connection.

Five processes on loopback: the server with the real gRPC service and mutual TLS, and for each site an agent that seals
and opens, and a worker that plays the role. The plain connection is TLS 1.3 between two processes that do nothing
else, both sides with certificates; both ways take turns, and each ratio is of two neighbouring runs. A transfer ends
when the recipient has answered with some of its bytes; every answer is compared.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.harness import Row, at_least, at_most, descendants, median, note
from hanse.trust.authority import Authority
from hanse.trust.identity import MemberKeys, SigningRequest

FEDERATION = "bench"
REPEATS = 5


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    pings, size, repeats = (20, 4_000_000, 1) if smoke else (1000, 400_000_000, REPEATS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        _certify(directory)
        server = stack.enter_context(_Process("server", name))
        port = server.line()
        host = stack.enter_context(_Process("site", name, "host", port))
        guest = stack.enter_context(_Process("site", name, "guest", port))
        receiver = stack.enter_context(_Process("tls", name, "receive", "0"))
        sender = stack.enter_context(_Process("tls", name, "send", receiver.line()))
        for process in (guest, sender):
            process.line()
        guest.ask(f"ping {pings // 5}")  # warm
        times = guest.ask(f"ping {pings}")
        yield at_most("channel", "relay", "round_trip_ms", 1000 * median(times), "ms", 2.0)
        relayed, plain = [], []
        ours_s = theirs_s = 0.0
        for _ in range(repeats):
            before = sender.core_s() + receiver.core_s()
            plain.append(sender.ask(f"send {size}")[0])
            between = server.core_s() + guest.core_s() + host.core_s()
            theirs_s += sender.core_s() + receiver.core_s() - before
            relayed.append(guest.ask(f"send {size}")[0])
            ours_s += server.core_s() + guest.core_s() + host.core_s() - between
        ratio = median([ours / theirs for ours, theirs in zip(plain, relayed, strict=True)])
        yield at_least("channel", "relay", "of_raw_tls", ratio, "ratio", 0.25)
        yield note("channel", "relay", "one_way_gb_s", size / median(relayed) / 1e9, "GB/s")
        yield note("channel", "raw TLS", "one_way_gb_s", size / median(plain) / 1e9, "GB/s")
        yield note("channel", "relay", "core_s_per_gb", ours_s / (repeats * size / 1e9), "s")
        yield note("channel", "raw TLS", "core_s_per_gb", theirs_s / (repeats * size / 1e9), "s")
        yield note("channel", "relay", "server_peak_mb", server.peak_mb(), "MB")
        yield note("channel", "relay", "agent_peak_mb", max(guest.peak_mb(), host.peak_mb()), "MB")


class _Process:
    """One of `benchmarks._channel_process`; ended with its stdin."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "benchmarks._channel_process", *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("channel: a process ended before its time")
        return line

    def ask(self, line: str) -> list[float]:
        """Tell it something; its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        times: list[float] = json.loads(self.line())
        return times

    def core_s(self) -> float:
        """Seconds of processor time so far, with those of what it has started."""
        total = 0
        for pid in (self._process.pid, *descendants(self._process.pid)):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        """Its largest resident set so far."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith("VmHWM"))


def _certify(directory: Path) -> None:
    """Certificates and keys for a server and two sites."""
    authority = Authority.create(FEDERATION)
    (directory / "authority.pem").write_bytes(authority.certificate_pem)
    for name in ("server", "guest", "host"):
        keys = MemberKeys.generate()
        kind = "server" if name == "server" else "site"
        request = SigningRequest.request(keys, federation=FEDERATION, kind=kind, name=name)
        hosts = ("127.0.0.1",) if name == "server" else ()
        issued = authority.issue(request, kind=kind, name=name, hosts=hosts)
        (directory / f"{name}.pem").write_bytes(issued.certificate_pem + authority.certificate_pem)
        (directory / f"{name}.key").write_bytes(keys.tls_pem())
        (directory / f"{name}.x25519").write_bytes(X25519PrivateKey.generate().private_bytes_raw())
