"""The owner's commands to a running agent: one line of JSON each way over a Unix socket that only the owner may open.

    {"op": "status"}   {"op": "pending"}   {"op": "approve", "job": …}   {"op": "refuse", "job": …, "reason": …}
    {"op": "stop"}     →  {"ok": true, …}  or  {"ok": false, "kind": "NotFoundError", "error": …}

Imports nothing heavy, so that commands are quick.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hanse.core import errors
from hanse.core.errors import CodecError, HanseError, UnavailableError

FILE = "control.sock"
MAX_LINE_BYTES = 4 * 1024 * 1024
ANSWER_S = 30.0

Handle = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def serve(directory: Path, handle: Handle) -> asyncio.Server:
    """Listen in `directory`. The caller must be the only agent there.

    Args:
        handle: answers one command; raises `HanseError`.
    """
    (directory / FILE).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        # A socket's path is limited to about a hundred bytes; a name in the current folder is short.
        with contextlib.chdir(directory):
            listening.bind(FILE)
    finally:
        os.umask(mask)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.LimitOverrunError, ValueError):
            result = await _answered(await reader.readline(), handle)
            writer.write(json.dumps(result).encode() + b"\n")
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, sock=listening, limit=MAX_LINE_BYTES)


def request(directory: Path, command: dict[str, Any]) -> dict[str, Any]:
    """Ask the agent that runs in `directory`.

    Raises:
        UnavailableError: none runs there. HanseError: what the agent answered.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(ANSWER_S)
        try:
            with contextlib.chdir(directory):
                asking.connect(FILE)
            asking.sendall(json.dumps(command).encode() + b"\n")
            with asking.makefile("rb") as file:
                line = file.readline(MAX_LINE_BYTES)
        except OSError as error:
            raise UnavailableError(f"no agent of this site runs in {directory} ({error.strerror or error})") from None
    try:
        answer = json.loads(line)
    except ValueError:
        raise UnavailableError(f"the agent in {directory} ended before it answered") from None
    if answer.pop("ok", False):
        return dict(answer)
    raise _error(answer)


async def _answered(line: bytes, handle: Handle) -> dict[str, Any]:
    try:
        command = json.loads(line)
        if not isinstance(command, dict) or not isinstance(command.get("op"), str):
            raise CodecError('expected a command such as {"op": "status"}')
        return {"ok": True, **await handle(command)}
    except HanseError as error:
        return {"ok": False, "kind": type(error).__name__, "error": str(error)}
    except ValueError:
        return {"ok": False, "kind": "CodecError", "error": "expected one line of JSON"}


def _error(answer: dict[str, Any]) -> HanseError:
    kind = getattr(errors, str(answer.get("kind")), HanseError)
    usable = isinstance(kind, type) and issubclass(kind, HanseError) and kind.__init__ is HanseError.__init__
    return (kind if usable else HanseError)(str(answer.get("error")))
