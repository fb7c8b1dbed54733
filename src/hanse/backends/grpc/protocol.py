"""What both ends of a connection agree on: names of methods, limits, channel options, errors as status codes.

The services are described in docs/wire-protocol.md. Blobs travel as raw bytes behind one protobuf header, so that no
copy goes through protobuf. The options were measured: a look-ahead of 1 MiB without bandwidth probing halves the
memory of a transfer; other options made no difference beyond noise.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc

from hanse.core import errors
from hanse.core.errors import CodecError

SERVICE = "hanse.v1.Federation"
ENROLMENT = "hanse.v1.Enrolment"
PIECE_BYTES = 1 << 20
"""Bytes of a blob in one message."""
MAX_PIECES = 1024
"""Messages that bring one chunk: each that is held takes some bytes of its own."""
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_ENROLMENT_BYTES = 64 * 1024
"""Where strangers may call."""
MAX_ENROLMENT_CALLS = 64
"""At one time, likewise."""
HEARTBEAT_S = 2.5
LEASE_S = 10.0
"""A site that was not heard for so long is lost."""

_COMMON = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.http2.bdp_probe", 0),
]
SERVER_OPTIONS = [
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.server_handshake_timeout_ms", 10_000),  # who does not finish the TLS handshake
    ("grpc.max_connection_idle_ms", 30_000),  # who has no call open; a client opens a new connection by itself
]
ENROLMENT_OPTIONS = [
    *(option for option in SERVER_OPTIONS if option[0] != "grpc.max_receive_message_length"),
    ("grpc.max_receive_message_length", MAX_ENROLMENT_BYTES),
]
CLIENT_OPTIONS = [
    *_COMMON,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # also the time in which a connection must come about
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]

Status = grpc.StatusCode
_BY_ERROR: tuple[tuple[type[errors.HanseError], Any], ...] = (
    (errors.PolicyError, Status.PERMISSION_DENIED),
    (errors.TrustError, Status.UNAUTHENTICATED),
    (errors.NotFoundError, Status.NOT_FOUND),
    (errors.ConflictError, Status.ALREADY_EXISTS),
    (errors.TooLargeError, Status.RESOURCE_EXHAUSTED),
    (errors.IntegrityError, Status.DATA_LOSS),
    (errors.RefusedError, Status.INVALID_ARGUMENT),
    (errors.ConfigError, Status.INVALID_ARGUMENT),
    (errors.StorageError, Status.ABORTED),
    (errors.UnavailableError, Status.UNAVAILABLE),
)
_BY_STATUS = {
    Status.PERMISSION_DENIED: errors.PolicyError,
    Status.UNAUTHENTICATED: errors.TrustError,
    Status.NOT_FOUND: errors.NotFoundError,
    Status.ALREADY_EXISTS: errors.ConflictError,
    Status.RESOURCE_EXHAUSTED: errors.TooLargeError,
    Status.DATA_LOSS: errors.IntegrityError,
    Status.INVALID_ARGUMENT: errors.ConfigError,
    Status.ABORTED: errors.StorageError,
    Status.FAILED_PRECONDITION: errors.HanseError,
    Status.INTERNAL: errors.HanseError,
}


_SEND_FAILED = "Internal error from Core"
"""What gRPC says where a message could not be sent because the call is over. It hides the status that the other end
gave, such as a full disk's; asked again, it gives it again, or has overcome it."""


class CutOffError(errors.UnavailableError):
    """The other end ended the call while it was sent to, and gRPC hides how."""


def status_of(error: errors.HanseError) -> Any:
    """The status code for one of our errors."""
    for kind, status in _BY_ERROR:
        if isinstance(error, kind):
            return status
    return Status.FAILED_PRECONDITION


def error_of(error: grpc.RpcError) -> errors.HanseError:
    """One of our errors for what gRPC raised; `UnavailableError` for everything that may pass."""
    code = error.code() if callable(getattr(error, "code", None)) else None
    details = (error.details() if callable(getattr(error, "details", None)) else None) or str(code)
    kind = _BY_STATUS.get(code, errors.UnavailableError)
    if code == Status.INTERNAL and details == _SEND_FAILED:
        kind, details = CutOffError, "it ended the call while it was sent to"
    if issubclass(kind, errors.UnavailableError):
        details = f"the server cannot be reached: {details}"
    return kind(details)


def identity(content: bytes) -> bytes:
    """Raw bytes travel as they are."""
    return content


async def chunk_of(size: int, read: Callable[[], Awaitable[bytes | None]]) -> list[bytes] | None:
    """A chunk of `size` bytes in the pieces in which it comes; None where the sender ends before.

    Args:
        read: the next message, None at the end.

    Raises:
        CodecError: pieces that go beyond the chunk, or too many.
    """
    found: list[bytes] = []
    while size:
        piece = await read()
        if piece is None:
            return None
        if len(piece) > size or len(found) == MAX_PIECES:
            raise CodecError(f"blob: expected at most {size} bytes more of a chunk, in at most {MAX_PIECES} pieces")
        found.append(piece)
        size -= len(piece)
    return found


def pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each message in which bytes [start, stop) of a blob travel."""
    for first in range(start, stop, PIECE_BYTES):
        yield first, min(first + PIECE_BYTES, stop)
