"""Options that several commands share, and questions to the server on behalf of a person."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from hanse.core.errors import ConfigError

FEDERATION_FILE = "federation.yaml"

Federation = Annotated[
    Path,
    typer.Option(
        "--federation",
        "-f",
        envvar="HANSE_FEDERATION",
        help="federation.yaml of the person who asks, or its folder.",
    ),
]
Directory = Annotated[Path, typer.Option("--directory", "-d", help="The member's own folder.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]

HERE = Path()
FEDERATION = Path(FEDERATION_FILE)


def ask(federation: Path, op: str, **body: Any) -> dict[str, Any]:
    """Ask the server one thing.

    Raises:
        HanseError: a file is wrong, the server cannot be reached, or what it answered.
    """
    from hanse.person.federation import Federation as Target

    async def one() -> dict[str, Any]:
        async with target.connect() as session:
            return await session.ask(op, **body)

    target = Target.load(federation)
    return asyncio.run(one())


def token_from(text: str) -> str:
    """A join token as typed, or from standard input for "-", which keeps it out of the list of processes."""
    import sys

    token = sys.stdin.read() if text == "-" else text
    if not token.strip():
        raise ConfigError("join token: expected one, found nothing")
    return token


def existing(directory: Path, file: str, what: str, make: str) -> Path:
    """The folder, if it is of this kind.

    Raises:
        ConfigError: it is not.
    """
    if not (directory / file).exists():
        raise ConfigError(f"{directory}: expected the folder of a {what}, found no {file} in it; {make}")
    return directory
