"""`hanse …`: finds the command, prints help, turns every error into one line.

Help is printed from the table in `commands`, so that it costs no more than starting Python; typer is imported with the
command that is called, everything heavier by the command itself when it needs it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hanse.cli.commands import COMMANDS, GROUPS, Command
from hanse.cli.interrupts import dropped_interrupts_come_again

INTERRUPTED = 130
HELP = ("--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        The exit code: 0; 2 for wrong arguments and files; 1 for other errors; 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with dropped_interrupts_come_again():
            code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `hanse job list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # the top of the process
        if os.environ.get("HANSE_DEBUG") == "1":
            raise
        text, code = describe(error)
        print(f"error: {text}", file=sys.stderr)
        return code


def describe(error: Exception) -> tuple[str, int]:
    """An error as a person should read it, and the exit code."""
    from hanse.cli.output import clean
    from hanse.core.errors import HanseError, place_of

    if isinstance(error, HanseError):
        folder = place_of(error).get("folder")
        return clean(f"{error} (in {folder})" if folder else str(error)), error.exit_code
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's, of whatever version
        return _usage(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return clean(f"{where}{error.strerror or error}"), 1
    return clean(f"{type(error).__name__}: {error} (a fault in Hanse; HANSE_DEBUG=1 shows where)"), 1


def _usage(error: Any) -> tuple[str, int]:
    from hanse.cli.output import clean

    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "hanse")
    text = clean(" ".join(error.format_message().split())).rstrip(".")
    return f"{text}; see: {path} --help", int(error.exit_code) or 2


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in (*HELP, "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from hanse import __version__

        print(f"hanse {__version__}")
        return 0
    asked = words[:-1] if words[-1] in HELP else words
    if any(command.words.startswith(f"{' '.join(asked)} ") for command in COMMANDS):
        print(_group(" ".join(asked)))
        return 0
    known = {command.words: command for command in COMMANDS}
    for length in (3, 2, 1):  # as in `deploy aws diff`, `site list`, `run`
        command = known.get(" ".join(words[:length]))
        if command is not None and len(words) >= length:
            return call(command, words[length:])
    return _unknown(words)


def call(command: Command, arguments: Sequence[str]) -> int:
    """Call one command with its own arguments; the exit code."""
    from importlib import import_module

    import typer

    if os.environ.get("HANSE_DEBUG") != "1":
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong becomes one of our own errors

    module, _, function = command.function.partition(":")
    target: Callable[..., Any] = getattr(import_module(f"hanse.cli.{module}"), function)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help=_long_help(command, target.__doc__ or ""), context_settings={"help_option_names": list(HELP)})(
        target
    )
    try:
        outcome = app(args=list(arguments), prog_name=f"hanse {command.words}", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as ending:
        return int(ending.exit_code)
    return outcome if isinstance(outcome, int) else 0


def _long_help(command: Command, text: str) -> str:
    """The docstring, and examples that are not wrapped."""
    from inspect import cleandoc

    told = cleandoc(text)
    examples = "\n".join(f"  hanse {example}" for example in command.examples)
    head = "Example" if len(command.examples) == 1 else "Examples"
    return f"{told or command.summary}\n\n\b\n{head}:\n{examples}"


def _unknown(words: list[str]) -> int:
    from difflib import get_close_matches

    group = next((g for n in (2, 1) if (g := " ".join(words[:n])) and len(words) > n and _below(g)), "")
    if group:
        known = list(dict.fromkeys(command.split()[0] for command in _below(group)))
        shown, found = f"hanse {group}", words[len(group.split())]
    else:
        known = [*GROUPS, *(command.words for command in COMMANDS if " " not in command.words)]
        shown, found = "hanse", words[0]
    near = get_close_matches(found, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"see: {shown} --help"
    print(f"error: {shown}: expected one of {', '.join(known)}; found {found[:60]!r}; {hint}", file=sys.stderr)
    return 2


def _below(group: str) -> list[str]:
    """What may be typed behind a group."""
    return [command.words[len(group) + 1 :] for command in COMMANDS if command.words.startswith(f"{group} ")]


def _overview() -> str:
    lines = [
        "usage: hanse COMMAND [ARGUMENTS]",
        "",
        "Federated learning for organisations that may not pool their data.",
        "",
    ]
    single = [command for command in COMMANDS if " " not in command.words]
    lines += [f"  {command.words:<18} {command.summary}" for command in single]
    for group, about in GROUPS.items():
        lines += ["", about]
        lines += [f"  {c.words:<18} {c.summary}" for c in COMMANDS if c.words.startswith(f"{group} ")]
    lines += [
        "",
        "Examples:",
        "  hanse demo",
        "  hanse federation init hospitals --site luebeck --site bergen",
        "  hanse run app.py --federation hospitals/admin/federation.yaml",
        "",
        "hanse COMMAND --help tells more. Errors are one line; HANSE_DEBUG=1 shows where they come from.",
    ]
    return "\n".join(lines)


def _group(group: str) -> str:
    commands = [command for command in COMMANDS if command.words.startswith(f"{group} ")]
    lines = [f"usage: hanse {group} COMMAND [ARGUMENTS]", "", GROUPS[group.split()[0]], ""]
    lines += [f"  {command.words[len(group) + 1 :]:<12} {command.summary}" for command in commands]
    lines += ["", "Examples:"]
    lines += [f"  hanse {command.examples[0]}" for command in commands]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
