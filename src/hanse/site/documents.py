"""The owner's YAML files, read strictly: every key is known, every value of its type, every error has a line.

Only plain YAML (`SafeLoader`). Not a schema language: `policy` and `config` say what each key expects.
"""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

from hanse.core.errors import ConfigError
from hanse.trust.private_files import read_file


class Section:
    """A mapping of a document.

    Args:
        file: name shown in errors.
        node: where it stands; None for one that is absent.
        values: what it holds.
        name: its own key, with a dot, for errors.
    """

    def __init__(self, file: str, node: yaml.MappingNode | None, values: dict[str, Any], name: str = "") -> None:
        self.file = file
        self.values = values
        self._name = name
        self._nodes: dict[str, yaml.Node] = {}
        self._lines: dict[str, int] = {}
        for key, value in [] if node is None else node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{file}, line {line}: {name or 'top'}: expected plain words as keys")
            if key.value in self._lines:
                raise ConfigError(f"{file}, line {line}: {name}{key.value[:60]}: given twice; keep one")
            self._nodes[key.value], self._lines[key.value] = value, line

    def allow(self, known: Collection[str]) -> None:
        """Refuse keys that are not `known`.

        Raises:
            ConfigError: there is one.
        """
        for key, line in self._lines.items():
            if key not in known:
                raise ConfigError(
                    f"{self.file}, line {line}: {self._name}{key[:60]}: unknown; known are {', '.join(known)}"
                )

    def error(self, key: str, expected: str, found: Any = None) -> ConfigError:
        """What is wrong with `key`."""
        value = self.values.get(key) if found is None else found
        return ConfigError(f"{self.where(key)}: expected {expected}, found {repr(value)[:60]}")

    def where(self, key: str) -> str:
        """The place of `key`, as an error begins: file, line and name."""
        line = self._lines.get(key)
        return f"{self.file if line is None else f'{self.file}, line {line}'}: {self._name}{key}"

    def get(self, key: str, default: Any, expected: str, fits: Callable[[Any], bool]) -> Any:
        """A value, or `default` where the key is absent.

        Raises:
            ConfigError: `fits` says no.
        """
        if key not in self._lines:
            return default
        value = self.values[key]
        if not fits(value):
            raise self.error(key, expected)
        return value

    def word(self, key: str, default: str, allowed: Collection[str]) -> str:
        """One of a few words."""
        found: str = self.get(key, default, f"one of {', '.join(allowed)}", lambda v: type(v) is str and v in allowed)
        return found

    def text(self, key: str, default: str) -> str:
        """Text that is not empty."""
        found: str = self.get(key, default, "text", lambda value: type(value) is str and bool(value.strip()))
        return found

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        found: bool = self.get(key, default, "true or false", lambda value: type(value) is bool)
        return found

    def whole(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number in a range."""
        expected = f"a whole number from {low} to {high}"
        found: int | None = self.get(key, default, expected, lambda v: type(v) is int and low <= v <= high)
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where absent."""
        return tuple(self.get(key, (), "a list of texts", _are_texts))

    def numbers(self, key: str) -> dict[str, float]:
        """A mapping from names to numbers above 0; empty where absent."""
        expected = "a mapping from names to numbers above 0"
        return {name: float(value) for name, value in self.get(key, {}, expected, _are_numbers).items()}

    def section(self, key: str, known: Collection[str] | None = None) -> "Section":
        """A mapping below this one; an empty one where absent or empty."""
        values = self.get(key, {}, "a mapping", lambda value: value is None or isinstance(value, dict)) or {}
        node = self._nodes.get(key)
        section = Section(
            self.file, node if isinstance(node, yaml.MappingNode) else None, values, f"{self._name}{key}."
        )
        if known is not None:
            section.allow(known)
        return section


def read_document(path: Path, known: Collection[str]) -> Section | None:
    """A file's top mapping; None where the file is absent or says nothing.

    Raises:
        ConfigError: not YAML, not a mapping, or a key that is not `known`.
    """
    if not path.exists():
        return None
    try:
        loader = yaml.SafeLoader(read_file(path).decode())
        try:
            node = loader.get_single_node()
            values = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        raise ConfigError(f"{path.name}: expected text in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = path.name if mark is None else f"{path.name}, line {mark.line + 1}"
        raise ConfigError(f"{where}: not YAML: {getattr(error, 'problem', None) or 'cannot be read'}") from None
    except (ValueError, TypeError, RecursionError):
        raise ConfigError(f"{path.name}: a value cannot be read") from None
    if values is None:
        return None
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError(f"{path.name}: expected `key: value` lines, found {type(values).__name__}")
    section = Section(path.name, node, values)
    section.allow(known)
    return section


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is str and item for item in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and type(number) in (int, float) and math.isfinite(number) and number > 0
        for name, number in value.items()
    )
