"""The tree of errors is the one drawn in its module."""

import inspect
import re

import hanse.core.errors as errors
from hanse.core.errors import ConfigError, HanseError, MissingExtraError, TaskError


def test_the_drawing_is_complete_and_right() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    classes = {
        name: cls.__bases__[0].__name__
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, HanseError)
    }
    assert drawn == classes


def test_exit_codes_and_hints() -> None:
    assert (HanseError.exit_code, ConfigError.exit_code) == (1, 2)
    assert "pip install 'hanse[torch]'" in str(MissingExtraError("torch", "torch"))
    assert TaskError("raised", "why").kind == "raised"
