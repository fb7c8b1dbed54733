"""What a worker answers, as values, and the checks that make one of a received frame.

A worker ran code that is not ours: a size, a scope or a kind of error counts only after it was compared here.
"""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.core import errors
from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest
from hanse.core.codec import decode
from hanse.core.errors import CodecError, ConfigError, HanseError, StorageError, TaskError
from hanse.core.ids import upload_scope
from hanse.core.records import Reply
from hanse.core.tracked import Tracked, decode_tracked
from hanse.workers.assignment import Assignment, State, StateFile
from hanse.workers.wire import Frame


@dataclass(frozen=True, slots=True)
class Done:
    """What a task came to.

    Args:
        reply: complete: a small update is inline, a large one is in the file `Assignment.out`.
        state: the site's state after the task; the one before it if the task failed. In the file
            `Assignment.after`, if it is over 64 KiB; the hashes are the worker's own.
        packed: the reply as the worker packed it, to be signed and sent on as it is.
        written: whether the update is in the file; `reply.update.manifest` then describes all of it. The hashes are
            the worker's own: whoever receives the blob verifies it.
        tracked: what the site's code told its own tracker, which is nobody else's business.
    """

    reply: Reply
    packed: bytes
    state: State
    written: bool
    tracked: tuple[Tracked, ...] = ()


@dataclass(frozen=True, slots=True)
class Called:
    """What a server-side call answered: a JSON value, and perhaps arrays, which are this process's own copy.

    `manifest` describes the file where the arrays came in one.
    """

    value: Any
    arrays: Arrays | None = None
    manifest: Manifest | None = None


def done_in(frame: Frame, assignment: Assignment, *, site: str | None) -> Done:
    """What a worker says a task came to.

    Args:
        assignment: what it was given.
        site: whose reply it must be, if that is known.

    Raises:
        CodecError, IntegrityError, ValueError, IndexError, KeyError, TypeError: no such answer.
    """
    task, out, after = assignment.task, assignment.out, assignment.after
    reply = Reply.unpack(frame.parts[0])
    if reply.task != task.id or (site is not None and reply.site != site):
        raise CodecError("a reply to another task, or of another site")
    state: State = assignment.state if frame.fields.get("state") == "same" else None
    if frame.fields.get("state") is True:
        state = frame.parts[1]
    elif frame.fields.get("state") == "file":
        manifest = _manifest_in(frame)
        if after is None or after.stat().st_size != manifest.size:
            raise CodecError("a state whose size is not its file's")
        state = StateFile(after, manifest)
    tracked = decode_tracked(frame.parts[-1]) if frame.fields.get("tracked") is True else ()
    written = reply.update is not None and reply.update.content is None
    if written and reply.update is not None:
        if out is None or out.stat().st_size != reply.update.manifest.size:
            raise CodecError("an update whose size is not its file's")
        if reply.update.scope != upload_scope(task.id, reply.site):
            raise CodecError("an update outside the site's scope")
    return Done(reply, frame.parts[0], state, written, tracked)


def called_in(frame: Frame, out: Path | None) -> Called:
    """What a server-side call answered; its arrays may be in the file `out`.

    Raises:
        CodecError, ValueError, IndexError, KeyError, TypeError: no such answer.
    """
    try:
        value = json.loads(frame.parts[0])
    except RecursionError:
        raise CodecError("a value that is nested too deeply") from None
    where = frame.fields["arrays"]
    if where == "inline":
        return Called(value, decode(frame.parts[1]))
    if where == "file":
        manifest = _manifest_in(frame)
        # Read, not mapped: the worker could still cut the file, and a map would then kill this process.
        content = b"" if out is None else out.read_bytes()
        if len(content) != manifest.size:
            raise CodecError("arrays whose size is not their file's")
        return Called(value, decode(content), manifest)
    return Called(value)


def _manifest_in(frame: Frame) -> Manifest:
    size = frame.fields["size"]
    if type(size) is not int:
        raise CodecError("a size that is no whole number")
    return Manifest(size, frame.parts[1])


def failure_in(frame: Frame) -> HanseError:
    """What a worker says went wrong, as one of our errors; its kind is taken for nothing it is not."""
    kind, message = frame.fields.get("kind"), str(frame.fields.get("message"))[:2000]
    named = {"ConfigError": ConfigError, "StorageError": StorageError, "PolicyError": errors.PolicyError}
    if kind in named:
        return named[kind](message)
    if kind in ("raised", "exited", "bad_reply", "refused"):
        return TaskError(kind, message)
    return TaskError("bad_reply", message)


def exit_cause(status: int) -> TaskError:
    """The end of a worker nobody asked for, in words. `status`: an exit code, or a signal's number below zero."""
    if status >= 0:
        return TaskError("exited", f"the worker ended in mid-task with exit code {status}")
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
    return TaskError("killed", f"the worker was killed by {name}{hint}")
