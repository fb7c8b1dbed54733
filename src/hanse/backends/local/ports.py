"""Ports of this machine's loopback that a server of ours may take."""

import contextlib
import secrets
import socket

from hanse.core.errors import UnavailableError

FIRST, LAST = 20_000, 32_000
"""Below the range from which systems take ports for outgoing connections."""


def free_ports(count: int) -> list[int]:
    """That many different ports which nothing uses at this moment.

    Raises:
        UnavailableError: there are not so many.
    """
    found: list[int] = []
    for _ in range(1000):
        port = FIRST + secrets.randbelow(LAST - FIRST)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
        if len(found) == count:
            return found
    raise UnavailableError(f"no {count} free ports on 127.0.0.1 between {FIRST} and {LAST}")
