"""Where an app was made: the namespace of its module, the name it has there, and the files that travel with it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hanse.core.errors import ConfigError


def maker_of(*files: str) -> dict[str, Any]:
    """The global names of the first caller outside `files` (the files of an app's own classes)."""
    frame: FrameType = sys._getframe(1)
    while frame.f_code.co_filename in (__file__, *files) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_globals


def file_of(kind: type) -> str:
    """Where one of our own classes is; a user's subclass is the user's module, like what it makes."""
    if not kind.__module__.startswith("hanse."):
        return ""
    return str(getattr(sys.modules.get(kind.__module__), "__file__", ""))


def name_in(module_globals: Mapping[str, Any], app: object, kind: str) -> str:
    """The name under which a module holds `app`.

    Args:
        kind: how the app is made, such as `hs.App`, for the message.

    Raises:
        ConfigError: it holds it under no name.
    """
    for name, value in list(module_globals.items()):
        if value is app:
            return name
    raise ConfigError(
        f"app: expected a name at the top level of its module {module_globals.get('__name__')!r}, found none; "
        f"write app = {kind}(...) outside any function"
    )


def included(include: Sequence[str | Path]) -> tuple[str, ...]:
    """Files beside the module, as POSIX paths below its folder.

    Raises:
        ConfigError: not a list, or a path that leads elsewhere.
    """
    if isinstance(include, str | Path):
        raise ConfigError(
            f"include: expected a list of files, found {str(include)!r}; write include=[{str(include)!r}]"
        )
    paths = tuple(Path(item).as_posix() for item in include)
    for path in paths:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ConfigError(f"include: expected paths below the module's folder, found {path!r}")
    return paths
