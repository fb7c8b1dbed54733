"""Files that people write, in YAML. What is wrong with one is said in a line: which file, where, what was expected."""

from pathlib import Path
from typing import Any

import yaml

from hanse.core.errors import ConfigError


def read_yaml(path: Path, advice: str = "") -> Any:
    """What a file says; None where it says nothing.

    Args:
        advice: what to do where the file is not there.

    Raises:
        ConfigError: it is not there, cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: not found{'; ' if advice else ''}{advice}") from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: expected a text file that can be read") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The same of a text that is not in a file yet.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}{line_of(error)}: expected YAML, found something else") from None
    except (ValueError, TypeError, RecursionError):  # a date of no calendar, a list as a key, lists without end
        raise ConfigError(f"{where}: expected YAML, found a value that cannot be read") from None


def line_of(error: yaml.YAMLError) -> str:
    """`:LINE` where the fault is, as far as it is known."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f":{mark.line + 1}"
