"""`/healthz` and `/metrics` over HTTP, on loopback."""

import contextlib
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hanse.core.errors import ConfigError


def make_app(server: Any) -> FastAPI:
    """The HTTP application of one server."""
    app = FastAPI(title="Hanse server", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def health() -> dict[str, Any]:
        return {"status": "ok", "federation": server.config.federation, "jobs": len(server.jobs.active)}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


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
    except OSError:
        listener.close()
        raise ConfigError(f"http_port: cannot listen on 127.0.0.1:{port}; choose another in server.yaml") from None
    server.http_port = listener.getsockname()[1]
    config = uvicorn.Config(make_app(server), log_level="error", access_log=False, lifespan="off")
    try:
        await _Quiet(config).serve(sockets=[listener])
    finally:
        listener.close()
