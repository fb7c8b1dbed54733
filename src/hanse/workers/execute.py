"""What a worker does with one request: read the model, run user code, write the update and hash it on the way.

A model that comes as a file is mapped copy-on-write: user code may change it in place, and a page costs memory only
then. An update that is too large for a message is written from where it lies, without another copy, and each piece
is hashed while it is in the cache, so that the agent need not read it again.
"""

import errno
import json
import mmap
import os
import socket
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from blake3 import blake3

from hanse.clients.failures import SERVERS_LOG, failure_of
from hanse.core.arrays import Arrays
from hanse.core.blobs import CHUNK_BYTES, INLINE_BYTES, Buffer, Manifest
from hanse.core.codec import encode_parts, parse_header, view_arrays
from hanse.core.errors import CodecError, ConfigError, HanseError, TooLargeError
from hanse.core.ids import upload_scope
from hanse.core.records import BlobRef, Reply, Task
from hanse.core.tracked import Tracked, encode_tracked
from hanse.workers.load import Load
from hanse.workers.wire import MAX_BODY_BYTES, Frame

PIECE_BYTES = 512 * 1024
"""Hashed and written in one go: it fits a core's own cache."""


Given = Mapping[str, Arrays | CodecError]
"""Arrays handed over with a call, by name; or what is wrong with them, where a site sent them."""


class Outcome(Protocol):
    """What a runtime makes of a task. `hanse.clients.execute.Outcome` is one."""

    @property
    def reply(self) -> Reply:
        """The answer without its arrays."""

    @property
    def arrays(self) -> Arrays | None:
        """The update, or None."""

    @property
    def state(self) -> bytes | None:
        """`site.state` after the task; of no interest where it failed."""

    @property
    def tracked(self) -> Sequence[Tracked]:
        """What the site's code told its own tracker."""


class Runtime(Protocol):
    """What a worker runs: user code behind two functions that know nothing of processes."""

    def execute(
        self,
        task: Task,
        model: Arrays | None,
        state: bytes | memoryview | None,
        *,
        private: Arrays | None = None,
        channel: socket.socket | None = None,
    ) -> Outcome:
        """Execute one task.

        Args:
            private: the same values as `model`, in memory that user code may change.
            channel: what leads to the agent, for a task that plays a role; the runtime's own from here on.
        """

    def call(self, name: str, arguments: Any, arrays: Given) -> tuple[Any, Arrays | None]:
        """Call one server-side function: JSON values and arrays in, a JSON value and perhaps arrays out."""


class Executor:
    """Answers requests with one runtime."""

    def __init__(self, load: Load, runtime: Runtime) -> None:
        self._load = load
        self._runtime = runtime

    def answer(self, frame: Frame) -> Frame:
        """Do what `frame` asks. User code's failures are answers; what ends the process passes through."""
        fds = list(frame.fds)
        try:
            if frame.kind == "execute":
                return self._execute(frame, fds)
            if frame.kind == "call":
                return self._call(frame, fds)
            return _failed("CodecError", f"worker: unknown request {frame.kind[:40]!r}")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            return _failed("StorageError", f"what the task made could not be written: {os.strerror(error.errno)}")
        except HanseError as error:
            return _failed(getattr(error, "kind", type(error).__name__), str(error))
        finally:
            for fd in fds:
                os.close(fd)

    def _execute(self, frame: Frame, fds: list[int]) -> Frame:
        task = Task.unpack(frame.parts[0])
        parts = iter(frame.parts[1:])
        state: bytes | memoryview | None = next(parts) if frame.fields.get("state") is True else None
        if frame.fields.get("state") == "file":
            state = _mapped(fds.pop())
        after_fd = fds.pop() if frame.fields.get("after") else None
        try:
            return self._executed(task, frame, parts, fds, state, after_fd)
        finally:
            if after_fd is not None:
                os.close(after_fd)

    def _executed(
        self,
        task: Task,
        frame: Frame,
        parts: Iterator[bytes],
        fds: list[int],
        state: bytes | memoryview | None,
        after_fd: int | None,
    ) -> Frame:
        try:
            where = frame.fields.get("model", "task")
            if where == "task":
                where, parts = "inline", iter(_inline_model(task))
            model, private = _read(where, parts, fds)
            channel = socket.socket(fileno=fds.pop()) if frame.fields.get("channel") else None
            outcome = self._runtime.execute(task, model, state, private=private, channel=channel)
            reply, arrays, after, tracked = outcome.reply, outcome.arrays, outcome.state, outcome.tracked
            del model, private, outcome
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            reply, arrays, after, tracked = self._failure(task, error), None, None, ()
        if reply.ok and arrays is not None:
            scope = upload_scope(task.id, self._load.site)
            reply = replace(reply, update=_write(arrays, fds.pop(0) if frame.fields.get("out") else None, scope))
        same: dict[str, Any] = {"state": "same"} if state is not None else {}
        if not reply.ok:
            return Frame("done", same, (reply.pack(),))
        more, said = ({"tracked": True}, (encode_tracked(tracked),)) if tracked else ({}, ())
        if after is None:
            return Frame("done", same | more, (reply.pack(), *said))
        if after_fd is not None and len(after) > INLINE_BYTES:
            manifest = write_blob(after_fd, [after])
            parted = {"state": "file", "size": manifest.size}
            return Frame("done", parted | more, (reply.pack(), manifest.hashes, *said))
        if len(after) > MAX_BODY_BYTES // 2:
            limit = MAX_BODY_BYTES // 2
            message = f"site.state: expected at most {limit} bytes beside a model of at most 64 KiB, found {len(after)}"
            reply = Reply.failed(task.id, self._load.site, "refused", message)
            return Frame("done", same, (reply.pack(),))
        return Frame("done", {"state": True, **more}, (reply.pack(), after, *said))

    def _call(self, frame: Frame, fds: list[int]) -> Frame:
        arguments = json.loads(frame.parts[0])
        parts = iter(frame.parts[1:])
        given = {name: _given(where, parts, fds) for name, where in frame.fields.get("arrays", ())}
        try:
            result, out = self._runtime.call(frame.fields["name"], arguments, given)
            content = json.dumps(result).encode()  # NaN is a metric too
        except ConfigError as error:  # not a failure: a plan that cannot be made with these sites, but with others
            return _failed("ConfigError", str(error))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            traceback.print_exc(file=sys.stderr)
            return _failed(*failure_of(error, self._load.bundle, rest=SERVERS_LOG))
        if out is None:
            return Frame("called", {"arrays": "none"}, (content,))
        ref = _write(out, fds.pop(0) if frame.fields.get("out") else None, "")
        if ref.content is not None:
            return Frame("called", {"arrays": "inline"}, (content, ref.content))
        manifest = ref.manifest
        return Frame("called", {"arrays": "file", "size": manifest.size}, (content, manifest.hashes))

    def _failure(self, task: Task, error: BaseException) -> Reply:
        traceback.print_exc(file=sys.stderr)
        return Reply.failed(task.id, self._load.site, *failure_of(error, self._load.bundle))


def write_blob(fd: int, parts: Iterable[Buffer]) -> Manifest:
    """Write `parts` one after another over the file `fd`, from its start, and hash them on the way.

    Returns:
        The manifest of what the file then holds, all of it.

    Raises:
        OSError: the disk refuses.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    size, hasher, hashes = 0, blake3(), bytearray()
    for piece in _pieces(parts):
        hasher.update(piece)
        _write_all(fd, piece)
        size += len(piece)
        if size % CHUNK_BYTES == 0:
            hashes += hasher.digest()
            hasher = blake3()
    if size % CHUNK_BYTES:
        hashes += hasher.digest()
    os.ftruncate(fd, size)
    return Manifest(size, bytes(hashes))


def _pieces(parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """Pieces of at most PIECE_BYTES that end at every multiple of it; copies only where parts are small."""
    pending = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view):
            if not pending and len(view) >= PIECE_BYTES:
                yield view[:PIECE_BYTES]
                view = view[PIECE_BYTES:]
                continue
            taken = view[: PIECE_BYTES - len(pending)]
            pending += taken
            view = view[len(taken) :]
            if len(pending) == PIECE_BYTES:
                yield pending
                pending = bytearray()
    if pending:
        yield pending


def _write_all(fd: int, piece: Buffer) -> None:
    written = os.write(fd, piece)
    while written < len(piece):
        written += os.write(fd, memoryview(piece)[written:])


def _read(where: str, parts: Iterator[bytes], fds: list[int]) -> tuple[Arrays | None, Arrays | None]:
    """The same arrays twice: to compare with, read-only, and for user code, which may change its own."""
    if where == "none":
        return None, None
    if where == "inline":
        return _twice(*_both(next(parts)))
    fd = fds.pop(0)
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            raise CodecError("arrays: the file is empty")
        shared, private = (mmap.mmap(fd, size, access=access) for access in (mmap.ACCESS_READ, mmap.ACCESS_COPY))
        return _twice(memoryview(shared), memoryview(private))
    finally:
        os.close(fd)


def _mapped(fd: int) -> memoryview:
    """A file's content; pages cost no memory of this process's own."""
    try:
        return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_READ))
    finally:
        os.close(fd)


def _given(where: str, parts: Iterator[bytes], fds: list[int]) -> Arrays | CodecError:
    try:
        arrays = _read(where, parts, fds)[1]
    except CodecError as error:
        return error
    return CodecError("arrays: none given") if arrays is None else arrays


def _inline_model(task: Task) -> tuple[bytes, ...]:
    content = None if task.model is None else task.model.content
    if content is None:
        raise CodecError("task: expected its model inline, found none")
    return (content,)


def _both(content: bytes) -> tuple[memoryview, memoryview]:
    return memoryview(content), memoryview(bytearray(content))


def _twice(shared: memoryview, private: memoryview) -> tuple[Arrays, Arrays]:
    layout, start = parse_header(shared)
    return view_arrays(shared[start:], layout), view_arrays(private[start:], layout)


def _write(arrays: Arrays, fd: int | None, scope: str) -> BlobRef:
    parts = list(encode_parts(arrays))
    size = sum(map(len, parts))
    try:
        if size <= INLINE_BYTES:
            return BlobRef.inline(b"".join(parts))
        if fd is None:
            raise TooLargeError(f"update: expected at most {INLINE_BYTES} bytes where no file is given, found {size}")
        return BlobRef(write_blob(fd, parts), scope)
    finally:
        if fd is not None:
            os.close(fd)


def _failed(kind: str, message: str) -> Frame:
    return Frame("failed", {"kind": kind, "message": message[:2000]})
