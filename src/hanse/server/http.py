"""`/healthz` and `/metrics` over HTTP, on loopback.

Two pages that take nothing need no FastAPI, whose import is a third of a server's start.
"""

import contextlib
import socket
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hanse.core.errors import ConfigError


def make_app(server: Any) -> Starlette:
    """The HTTP application of one server."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "federation": server.config.federation, "jobs": len(server.jobs.active)})

    def metrics(_: Request) -> Response:  # in a thread: gathering takes a while
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", health), Route("/metrics", metrics)])


class _Quiet(uvicorn.Server):
    """Leaves signals to the server process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Take none."""
        yield


async def serve(server: Any, port: int) -> None:
    """Serve until cancelled.

    Raises:
        ConfigError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # before its number is told
    except OSError:
        listener.close()
        raise ConfigError(f"http_port: cannot listen on 127.0.0.1:{port}; choose another in server.yaml") from None
    server.http_port = listener.getsockname()[1]
    config = uvicorn.Config(make_app(server), log_level="error", access_log=False, lifespan="off")
    try:
        await _Quiet(config).serve(sockets=[listener])
    finally:
        listener.close()
