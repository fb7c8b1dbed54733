"""Frames over a socket between a process and its worker: a JSON header, binary parts, file descriptors.

    4 bytes   little-endian length of the header
    8 bytes   little-endian length of the body
    header    a JSON object: "kind", "fields", "parts" (their lengths), "fds" (how many)
    body      the parts, one after another

Descriptors travel with a frame's first byte. Large content is never in a frame: it is a file whose descriptor is.
Nothing here is pickled, and a reader believes no length before it has checked it.
"""

import array
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hanse.core.errors import CodecError

MAX_HEADER_BYTES = 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
"""All parts of one frame together: a task or reply, a state, arguments of a call."""
MAX_FDS = 250
"""The kernel passes at most 253 at once."""
READ_BYTES = 96 * 1024
"""Below what makes the C library ask the kernel for fresh pages at every read."""

_PREFIX = struct.Struct("<IQ")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. Whoever receives `fds` owns them and closes them."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    parts: tuple[bytes, ...] = ()
    fds: tuple[int, ...] = ()

    def close_fds(self) -> None:
        """Close what came along."""
        for fd in self.fds:
            os.close(fd)


def encode(frame: Frame) -> bytes:
    """The frame's bytes, without its descriptors.

    Raises:
        CodecError: over a limit.
    """
    lengths = [len(part) for part in frame.parts]
    content = {"kind": frame.kind, "fields": frame.fields, "parts": lengths, "fds": len(frame.fds)}
    header = json.dumps(content, separators=(",", ":")).encode()
    size = sum(len(part) for part in frame.parts)
    _check_lengths(len(header), size)
    if len(frame.fds) > MAX_FDS:
        raise CodecError(f"frame: expected at most {MAX_FDS} descriptors, found {len(frame.fds)}")
    return b"".join((_PREFIX.pack(len(header), size), header, *frame.parts))


class Reader:
    """Turns what a stream brings, in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take what was read."""
        self._buffer += data
        self._fds.extend(fds)
        if len(self._fds) > 4 * MAX_FDS:
            raise CodecError("frame: more descriptors than any frame has")

    def next(self) -> Frame | None:
        """The next whole frame, or None.

        Raises:
            CodecError: a length over its limit, or a header that is not one.
        """
        if len(self._buffer) < _PREFIX.size:
            return None
        header_size, body_size = _PREFIX.unpack_from(self._buffer)
        _check_lengths(header_size, body_size)
        start = _PREFIX.size + header_size
        if len(self._buffer) < start + body_size:
            return None
        header = _read_header(bytes(memoryview(self._buffer)[_PREFIX.size : start]))
        lengths, count = header["parts"], header["fds"]
        if sum(lengths) != body_size or count > len(self._fds):
            raise CodecError("frame: parts or descriptors differ from what the header promises")
        parts = []
        for length in lengths:
            parts.append(bytes(memoryview(self._buffer)[start : start + length]))
            start += length
        del self._buffer[:start]
        fds = tuple(self._fds.popleft() for _ in range(count))
        return Frame(header["kind"], header["fields"], tuple(parts), fds)

    def close(self) -> None:
        """Close descriptors that no frame claimed."""
        while self._fds:
            os.close(self._fds.popleft())


def read_some(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Read what is there, with descriptors; `b""` at the end of the stream."""
    space = socket.CMSG_LEN(MAX_FDS * array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(READ_BYTES, space)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, list(fds)


def send(sock: socket.socket, frame: Frame) -> None:
    """Send on a blocking socket."""
    content = encode(frame)
    sent = send_begin(sock, content, frame.fds)
    if sent < len(content):
        sock.sendall(memoryview(content)[sent:])


def send_begin(sock: socket.socket, content: bytes, fds: Sequence[int]) -> int:
    """Send as much as the socket takes at once, descriptors with the first byte; returns how much."""
    if not fds:
        return sock.send(content)
    return socket.send_fds(sock, [content], list(fds))


def receive(sock: socket.socket, reader: Reader) -> Frame | None:
    """The next frame from a blocking socket; None at its end.

    Raises:
        CodecError: what came is not a frame.
    """
    while (frame := reader.next()) is None:
        data, fds = read_some(sock)
        if not data:
            return None
        reader.feed(data, fds)
    return frame


def _check_lengths(header: int, body: int) -> None:
    if not 2 <= header <= MAX_HEADER_BYTES or body > MAX_BODY_BYTES:
        raise CodecError(
            f"frame: expected a header of at most {MAX_HEADER_BYTES} and a body of at most {MAX_BODY_BYTES} bytes, "
            f"found {header} and {body}"
        )


def _read_header(content: bytes) -> dict[str, Any]:
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        raise CodecError("frame: header is not JSON") from None
    if (
        not isinstance(header, dict)
        or not isinstance(header.get("kind"), str)
        or not isinstance(header.get("fields"), dict)
    ):
        raise CodecError("frame: header is not an object with a kind and fields")
    lengths, count = header.get("parts"), header.get("fds")
    if (
        not isinstance(lengths, list)
        or not all(type(length) is int and length >= 0 for length in lengths)
        or type(count) is not int
        or not 0 <= count <= MAX_FDS
    ):
        raise CodecError("frame: header has no lengths of parts")
    return header
