"""`Assignment`: one task with all that its executor is given for it, and the forms in which that comes."""

import socket
from dataclasses import dataclass
from pathlib import Path

from hanse.core.blobs import Manifest
from hanse.core.records import Task

Model = bytes | Path | None


@dataclass(frozen=True, slots=True)
class StateFile:
    """A site's state that is too large for a message: all of a file that nobody else writes."""

    path: Path
    manifest: Manifest


State = bytes | StateFile | None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What `Executor.execute` takes.

    Args:
        task: what is to be done.
        packed: the task as it was received, where it need not be packed again.
        model: the task's model, verified: the file that holds exactly its bytes, or the bytes; None where it is inline
            in the task. The file must not change meanwhile; user code never changes it.
        state: the site's state before the task.
        after: where a state over 64 KiB goes, another file than that of `state`; without it 128 MiB are the most.
        out: where an update over 64 KiB goes; made, or overwritten and cut. A file that is used again must stay within
            one job: user code could keep it open.
        channel: one end of a socket pair, for a task that plays a role; the executor's from then on.
        timeout_s: seconds after which it is given up.
    """

    task: Task
    packed: bytes | None = None
    model: Model = None
    state: State = None
    after: Path | None = None
    out: Path | None = None
    channel: socket.socket | None = None
    timeout_s: float | None = None
