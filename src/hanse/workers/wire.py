"""Frames over a socket between a process and its worker: a kind, a few fields, binary parts, file descriptors.

    1, 1, 2 bytes   length of the kind, number of descriptors, number of parts
    4, 8 bytes      length of the fields, length of the body
    kind            ASCII
    lengths         8 bytes a part
    fields          a JSON object; nothing where there are none, as in every frame of an ordinary task
    body            the parts, one after another

All numbers are little-endian. Descriptors travel with a frame's first byte. Large content is never in a frame: it is
a file whose descriptor is. Nothing here is pickled, and a reader believes no length before it has checked it.
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

MAX_FIELDS_BYTES = 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
"""All parts of one frame together: a task or reply, a state, arguments of a call."""
MAX_FDS = 250
"""The kernel passes at most 253 at once."""
READ_BYTES = 96 * 1024
"""Below what makes the C library ask the kernel for fresh pages at every read."""

_PREFIX = struct.Struct("<BBHIQ")
_MAX_PARTS = 2**16 - 1


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
    kind = frame.kind.encode("ascii")
    fields = json.dumps(frame.fields, separators=(",", ":")).encode() if frame.fields else b""
    lengths = [len(part) for part in frame.parts]
    size = sum(lengths)
    _check_lengths(len(fields), size)
    if len(frame.fds) > MAX_FDS or len(lengths) > _MAX_PARTS or len(kind) > 255:
        raise CodecError(
            f"frame: expected at most {MAX_FDS} descriptors, {_MAX_PARTS} parts and 255 letters, "
            f"found {len(frame.fds)}, {len(lengths)} and {len(kind)}"
        )
    prefix = _PREFIX.pack(len(kind), len(frame.fds), len(lengths), len(fields), size)
    return b"".join((prefix, kind, struct.pack(f"<{len(lengths)}Q", *lengths), fields, *frame.parts))


class Reader:
    """Turns what a stream brings, in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take what was read."""
        if not self._buffer:
            self._buffer = data  # a whole frame, most often: its parts are cut out of it without another copy
        elif isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer + data)
        else:
            self._buffer += data
        self._fds.extend(fds)
        if len(self._fds) > 4 * MAX_FDS:
            raise CodecError("frame: more descriptors than any frame has")

    def next(self) -> Frame | None:
        """The next whole frame, or None.

        Raises:
            CodecError: a length over its limit, or a head that is none.
        """
        buffer = self._buffer
        if len(buffer) < _PREFIX.size:
            return None
        kind_size, num_fds, num_parts, fields_size, body_size = _PREFIX.unpack_from(buffer)
        _check_lengths(fields_size, body_size)
        lengths_at = _PREFIX.size + kind_size
        fields_at = lengths_at + 8 * num_parts
        start = fields_at + fields_size
        if len(buffer) < start + body_size:
            return None
        lengths = struct.unpack_from(f"<{num_parts}Q", buffer, lengths_at)
        if not kind_size or sum(lengths) != body_size or num_fds > len(self._fds):
            raise CodecError("frame: kind, parts or descriptors differ from what the head promises")
        try:
            kind = str(buffer[_PREFIX.size : lengths_at], "ascii")
        except UnicodeDecodeError:
            raise CodecError("frame: the kind is no word") from None
        fields = _read_fields(bytes(buffer[fields_at:start])) if fields_size else {}
        parts = []
        with memoryview(buffer) as view:
            for length in lengths:
                parts.append(bytes(view[start : start + length]))
                start += length
        self._buffer = b"" if start == len(buffer) else buffer[start:]
        fds = tuple(self._fds.popleft() for _ in range(num_fds))
        return Frame(kind, fields, tuple(parts), fds)

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


def _check_lengths(fields: int, body: int) -> None:
    if fields > MAX_FIELDS_BYTES or body > MAX_BODY_BYTES:
        raise CodecError(
            f"frame: expected fields of at most {MAX_FIELDS_BYTES} and a body of at most {MAX_BODY_BYTES} bytes, "
            f"found {fields} and {body}"
        )


def _read_fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise CodecError("frame: the fields are not JSON") from None
    if not isinstance(fields, dict):
        raise CodecError("frame: the fields are no object")
    return fields
