"""`/healthz` and `/metrics`, asked for over a socket."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from hanse.core.errors import ConfigError
from hanse.server.http import serve
from tests.patience import WAIT_S


class Stub(SimpleNamespace):
    """A server as far as its pages look at it."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "http_port":
            self.listens.set()


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, headers and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head.lower(), body


async def test_two_pages_on_loopback() -> None:
    registry = CollectorRegistry()
    Counter("hanse_rounds", "Rounds.", registry=registry).inc(3)
    server = Stub(
        listens=asyncio.Event(),
        config=SimpleNamespace(federation="hospitals"),
        jobs=SimpleNamespace(active={"a": 1, "b": 2}),
        metrics=SimpleNamespace(registry=registry),
    )
    serving = asyncio.create_task(serve(server, 0))
    await asyncio.wait_for(server.listens.wait(), WAIT_S)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.http_port}"):
        await serve(SimpleNamespace(), server.http_port)
    status, head, body = await get(server.http_port, "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "ok", "federation": "hospitals", "jobs": 2})
    assert "content-type: application/json" in head
    status, head, body = await get(server.http_port, "/metrics")
    assert status == 200
    assert "content-type: text/plain; version=" in head
    assert "hanse_rounds_total 3.0" in body
    assert (await get(server.http_port, "/docs"))[0] == 404
    assert (await get(server.http_port, "/healthz", "POST"))[0] == 405
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
