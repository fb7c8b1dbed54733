"""What a failure of user code may tell the server: the kind, the exception's type and the line of the app, no text.

An exception's text may quote a row of data; it stays in the site's own log, with the traceback.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import hanse
from hanse.core.errors import HanseError, TaskError
from hanse.core.ids import TaskId

MAX_CAUSE = 400
PACKAGE = Path(hanse.__file__).parent
SITES_LOG = "the site's log has the rest"
SERVERS_LOG = "the server's log has the rest"
SHOWN = "the traceback is on standard error"
"""Where the person who submits and the site's owner are one: in a simulation."""


class Failure(NamedTuple):
    """What user code raised, for those who may see all of it.

    Args:
        where: round and phase, in words.
        message: what the reply says of it.
        text: the whole traceback.
    """

    site: str
    where: str
    message: str
    text: str


OnFailure = Callable[[Failure], None]


def failure_of(error: BaseException, directory: Path | None, *, rest: str = SITES_LOG) -> tuple[str, str]:
    """Kind and message for a reply.

    Args:
        error: what user code raised. Errors of our own tree keep their text where it is ours, which carries no data;
            one that the app itself raised is as any other exception of its.
        directory: where the app's files are; the deepest line in one of them is named.
        rest: where the traceback is, in words.
    """
    where = _line_in_app(error.__traceback__, directory)
    ours = is_ours(error)
    if isinstance(error, TaskError) and ours:
        return error.kind, str(error)
    if ours:
        return "raised", f"{type(error).__name__}{where}: {str(error)[:MAX_CAUSE]}"
    if isinstance(error, SystemExit):
        return "exited", f"the app called exit{where}; return from the function instead"
    return "raised", f"{_type_name(error)}{where}; {rest}"


def text_of(error: BaseException) -> str:
    """The whole traceback, for the site's own log."""
    return "".join(traceback.format_exception(error))


def note_failure(
    error: BaseException, task: TaskId, site: str, message: str, log: Callable[[str], None], failed: OnFailure | None
) -> None:
    """Keep what a task's code raised: in the site's log, or with whoever may be told."""
    if failed is None:
        log(f"task {task}: {text_of(error)}")
    else:
        failed(Failure(site, f"round {task.round}, {task.phase}", message, text_of(error)))


def is_ours(error: BaseException) -> bool:
    """Whether an error is of our own tree and was raised by a line of ours, so that its text is ours."""
    if not isinstance(error, HanseError):
        return False
    deepest = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        deepest = frame
    return deepest is None or Path(deepest.f_code.co_filename).is_relative_to(PACKAGE)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    return name[:100]


def _line_in_app(trace: TracebackType | None, directory: Path | None) -> str:
    if directory is None:
        return ""
    found = ""
    for frame, line in traceback.walk_tb(trace):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(directory) and "site-packages" not in path.parts:
            found = f" at {path.relative_to(directory)}:{line} in {frame.f_code.co_name}"
    return found
