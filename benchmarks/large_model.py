"""A 400 MB model over gRPC with mutual TLS, against raw TLS sockets that move the same bytes in the same run.

A round moves the model down to every site and an update of the same size up from each. The raw pair of sockets does
nothing but that: no files, no hashes, no aggregation. Memory is anonymous memory (the page cache belongs to files).
"""

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._apps import LARGE
from benchmarks._federation import federation, round_times, submit_text
from benchmarks.harness import FOLDER, PeakMemory, Row, at_most, median, note

FLOATS = 100_000_000
ROUNDS = 3
PIECE = 1 << 20


def run(smoke: bool) -> Iterator[Row]:
    """Cases `process` and `power` with two sites, then the server's memory with 8 sites and with a 1.6 GB model."""
    size = 3_000_000 if smoke else FLOATS
    raw = median([raw_tls(size * 4, pairs=2) for _ in range(1 if smoke else 3)])
    yield note("large-model", "raw-tls", "round_s_median", raw, "s")
    for case, target in [("process", 3.0), ("power", 4.0)][: 1 if smoke else None]:
        seconds, server_mb, site_mb = _case(size, 2, case, 2 if smoke else ROUNDS)
        yield at_most("large-model", case, "round_s_median", seconds, "s", target)
        if case == "process":
            yield at_most("large-model", case, "over_raw_tls", seconds / raw, "x", 3.2)
        yield at_most("large-model", case, "server_peak_mb", server_mb, "MB", 250.0)
        model_mb = size * 4 / 1e6
        yield at_most(
            "large-model", case, "site_peak_x_model", site_mb / model_mb, "x", (2 * model_mb + 150) / model_mb
        )
    if smoke:
        return
    _, server_mb, _ = _case(size, 8, "process", 2)
    yield at_most("large-model", "process 8 sites", "server_peak_mb", server_mb, "MB", 250.0)
    _, server_mb, _ = _case(4 * size, 2, "process", 2)
    yield at_most("large-model", "process 1.6 GB", "server_peak_mb", server_mb, "MB", 250.0)


def _case(size: int, num_sites: int, durability: str, rounds: int) -> tuple[float, float, float]:
    with federation(num_sites, durability=durability) as running:
        sites = list(running.children.values())
        with (
            PeakMemory([running.server.pid], children=True) as server,
            PeakMemory([sites[0].pid], children=True) as site,
        ):
            job = submit_text(running, LARGE.format(rounds=rounds, sites=num_sites, size=size))
            times = round_times(job)
        result = job.snapshot()
    expected = np.random.default_rng(7).random(size, dtype=np.float32)
    for _ in range(rounds):
        expected[0] += np.float32(1)
    if not np.array_equal(result.arrays["0"], expected):
        raise AssertionError("the final model is not what the sites' updates make")
    return median(times), server.peak_mb, site.peak_mb


def raw_tls(num_bytes: int, *, pairs: int) -> float:
    """Seconds in which `pairs` client processes each get and send `num_bytes` over TLS, all at once."""
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:
        certificate, key = _certificate(Path(place))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listener = socket.create_server(("127.0.0.1", 0))
        clients = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.large_model", str(listener.getsockname()[1]), str(num_bytes)],
                cwd=FOLDER.parent,
            )
            for _ in range(pairs)
        ]
        secured = [context.wrap_socket(listener.accept()[0], server_side=True) for _ in clients]
        threads = [threading.Thread(target=_serve, args=(each, num_bytes)) for each in secured]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        for client in clients:
            if client.wait() != 0:
                raise AssertionError("a raw TLS client failed")
        listener.close()
        return seconds


def _serve(secured: ssl.SSLSocket, num_bytes: int) -> None:
    send_bytes(secured, num_bytes)
    receive_bytes(secured, num_bytes)
    secured.close()


def send_bytes(secured: ssl.SSLSocket, num_bytes: int) -> None:
    """Send that many bytes of random content."""
    piece = memoryview(os.urandom(PIECE))
    for start in range(0, num_bytes, PIECE):
        secured.sendall(piece[: min(PIECE, num_bytes - start)])


def receive_bytes(secured: ssl.SSLSocket, num_bytes: int) -> None:
    """Receive that many bytes into one buffer."""
    buffer = memoryview(bytearray(PIECE))
    while num_bytes:
        received = secured.recv_into(buffer[: min(PIECE, num_bytes)])
        if not received:
            raise AssertionError("the raw TLS connection ended early")
        num_bytes -= received


def _certificate(place: Path) -> tuple[Path, Path]:
    from hanse.trust.authority import Authority
    from hanse.trust.identity import MemberKeys, SigningRequest

    authority, keys = Authority.create("bench"), MemberKeys.generate()
    request = SigningRequest.request(keys, federation="bench", kind="server", name="server")
    issued = authority.issue(request, kind="server", name="server", hosts=["127.0.0.1"])
    certificate, key = place / "certificate.pem", place / "key.pem"
    certificate.write_bytes(issued.certificate_pem)
    key.write_bytes(keys.tls_pem())
    return certificate, key


def _client(port: int, num_bytes: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secured:
        receive_bytes(secured, num_bytes)
        send_bytes(secured, num_bytes)


if __name__ == "__main__":
    _client(int(sys.argv[1]), int(sys.argv[2]))
