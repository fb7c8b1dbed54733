"""The table of commands, help, and errors as one line."""

import os
import subprocess
import sys

import pytest

from hanse.cli.commands import COMMANDS, GROUPS, Command
from hanse.cli.main import describe, main
from hanse.core.errors import ConfigError, JobFailed, MissingExtraError, TrustError
from tests.unit.cli.conftest import Hanse

HEAVY = ("numpy", "grpc", "pydantic", "structlog", "cryptography", "rich", "typer", "yaml", "fastapi", "sklearn")


def test_help_names_every_command_and_has_an_example(hanse: Hanse) -> None:
    found = hanse("--help")
    assert found.code == 0
    assert found.err == ""
    for command in COMMANDS:
        assert f"  {command.words} " in found.out
        assert command.summary in found.out
    assert "Examples:\n  hanse demo" in found.out
    assert all(len(line) <= 120 for line in found.out.splitlines())


def test_without_arguments_help_is_shown(hanse: Hanse) -> None:
    assert hanse() == hanse("--help") == hanse("help")


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group(group: str, hanse: Hanse) -> None:
    found = hanse(group, "--help")
    assert found.code == 0
    assert found == hanse(group)
    mine = [command for command in COMMANDS if command.words.startswith(f"{group} ")]
    assert mine
    for command in mine:
        assert f"hanse {command.examples[0]}" in found.out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_help_of_a_command_has_its_examples(command: Command, hanse: Hanse) -> None:
    found = hanse(*command.words.split(), "--help")
    assert found.code == 0
    assert found.out.startswith(f"Usage: hanse {command.words} ")
    assert "Example" in found.out
    for example in command.examples:
        assert example.startswith(command.words)
        assert f"  hanse {example}\n" in found.out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words.endswith(("list", "show", "status"))])
def test_every_listing_has_json(command: Command, hanse: Hanse) -> None:
    assert "--json" in hanse(*command.words.split(), "--help").out


def test_version(hanse: Hanse) -> None:
    assert hanse("--version").out == "hanse 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["jobs"], "did you mean job?"),
        (["site", "lst"], "did you mean list?"),
        (["zzz"], "see: hanse --help"),
        (["--nonsense"], "see: hanse --help"),
    ],
)
def test_an_unknown_command_is_one_line(words: list[str], hint: str, hanse: Hanse) -> None:
    found = hanse(*words)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith("error: hanse")
    assert found.err.count("\n") == 1
    assert hint in found.err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from hanse.cli.main import main; main(['--help']); main(['site']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (ConfigError("site.yaml, line 3: wrong"), "site.yaml, line 3: wrong", 2),
        (MissingExtraError("torch", "torch"), "torch is not installed; install it with: pip install 'hanse[torch]'", 2),
        (TrustError("no"), "no", 1),
        (JobFailed("quorum"), "quorum", 1),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file or directory", 1),
        (ConfigError("a\x1b[31mb\x07"), "a·[31mb·", 2),
    ],
)
def test_errors_in_words(error: Exception, text: str, code: int) -> None:
    assert describe(error) == (text, code)


def test_a_fault_is_one_line_and_says_how_to_see_more(hanse: Hanse, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("hanse.cli.main._dispatch", broken)
    found = hanse("job", "list")
    assert found.code == 1
    assert found.err == "error: ZeroDivisionError: division by zero (a fault in Hanse; HANSE_DEBUG=1 shows where)\n"
    monkeypatch.setenv("HANSE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["job", "list"])


def test_ctrl_c_has_its_exit_code(hanse: Hanse, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hanse.cli.main._dispatch", interrupted)
    assert hanse("demo").code == 130


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hanse.cli.main", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
