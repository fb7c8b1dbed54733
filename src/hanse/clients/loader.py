"""Find an app in its module: import the module under a private name, and stop at its first `hs.run`.

A script may end in `hs.run(app)` without a guard: the same file is imported at the site, and there importing stops
at that line, since by then the app is complete. Nothing is imported here that the site's policy has not approved;
that is the caller's duty.
"""

import hashlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hanse.channels.app import RolePlay
from hanse.clients.app import App
from hanse.core.errors import ConfigError

AnyApp = App | RolePlay

_state = threading.local()


class StopImport(BaseException):
    """Raised by `hs.run`, `hs.simulate` and `hs.submit` in a module that is only being looked at."""


def loading() -> bool:
    """Whether this thread is importing an app's module."""
    return getattr(_state, "depth", 0) > 0


def stop_if_loading() -> None:
    """End the import of the module that calls `hs.run`, if that is what is going on.

    Raises:
        StopImport: it is.
    """
    if loading():
        raise StopImport


def load_app(directory: Path, entry: str, name: str) -> AnyApp:
    """Import an app from an unpacked bundle.

    Args:
        directory: the bundle's root; it is put first on `sys.path`, so that included modules can be imported.
        entry: the module's file below it, such as `app.py`.
        name: the app's name in that module.

    Raises:
        ConfigError: no such file, or nothing or something else under that name.
        Exception: whatever the module itself raises.
    """
    return app_in(import_file(directory, entry), name, entry)


def check_exists(target: str) -> None:
    """Return if there is a module where a person says that an app is; nothing is imported.

    Raises:
        ConfigError: there is none.
    """
    path, _ = _parted(target)
    if not path.is_file():
        raise _no_file(path)


def find_app(target: str | Path) -> AnyApp:
    """Find an app as a person names it: `app.py`, `app.py:name`, or a module that can be imported, `package.module`.

    Raises:
        ConfigError: no such module, no app in it, or several and none chosen.
    """
    text = str(target)
    path, name = _parted(text)
    module = import_file(path.parent, path.name)
    if name is not None:
        return app_in(module, name, text)
    apps = {key: value for key, value in vars(module).items() if isinstance(value, AnyApp)}
    distinct = {id(value): key for key, value in apps.items()}
    if isinstance(apps.get("app"), AnyApp):
        return apps["app"]
    if len(distinct) != 1:
        found = ", ".join(sorted(apps)) or "none"
        raise ConfigError(f"{text}: expected one hs.App or one called 'app', found {found}; choose with {text}:NAME")
    return next(iter(apps.values()))


def app_in(module: ModuleType, name: str, shown: str) -> AnyApp:
    """The app called `name` in a module.

    Raises:
        ConfigError: nothing or something else under that name.
    """
    found = vars(module).get(name)
    if not isinstance(found, AnyApp):
        what = "nothing" if found is None else type(found).__name__
        raise ConfigError(f"{shown}: expected an hs.App called {name[:60]!r}, found {what}")
    return found


def source_of(app: AnyApp) -> Path:
    """The module file that holds `app`.

    Raises:
        ConfigError: it was made in a notebook, at a prompt or from standard input.
    """
    file = app.module_globals.get("__file__")
    path = Path(file).resolve() if isinstance(file, str) else None
    notebook = any(name in app.module_globals for name in ("__vsc_ipynb_file__", "__IPYTHON__", "get_ipython"))
    if path is None or path.suffix != ".py" or not path.is_file() or notebook:
        where = "a notebook" if notebook or (path is not None and path.suffix == ".ipynb") else "no module file"
        raise ConfigError(
            f"app: expected a module that sites can import, found {where}; put the app into a file such as app.py "
            "(in a notebook: a cell that begins with %%writefile app.py), then `from app import app`"
        )
    return path


def import_file(directory: Path, entry: str) -> ModuleType:
    """Import one file under a private name (so never as `__main__`), stopping at its first `hs.run`.

    Raises:
        ConfigError: no such file. Exception: whatever the module itself raises.
    """
    root = directory.resolve()
    path = (root / entry).resolve()
    if not path.is_relative_to(root) or not path.is_file() or path.suffix != ".py":
        raise _no_file(root / entry)
    name = f"_hanse_app_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # pragma: no cover - a .py file always has a loader
        raise ConfigError(f"{entry[:200]}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    sys.modules[name] = module
    try:
        with _marked():
            spec.loader.exec_module(module)
    except StopImport:
        pass
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _marked() -> Iterator[None]:
    depth: Any = getattr(_state, "depth", 0)
    _state.depth = depth + 1
    try:
        yield
    finally:
        _state.depth = depth


def _no_file(path: Path) -> ConfigError:
    return ConfigError(f"{path.name[:200]}: expected a Python file in {path.parent.resolve()}, found none")


def _parted(text: str) -> tuple[Path, str | None]:
    """The module's file, and the app's name in it where that is given."""
    module, colon, name = text.rpartition(":") if ":" in text[2:] else (text, "", "")
    return _path_of(module if colon else text), name if colon else None


def _path_of(text: str) -> Path:
    path = Path(text)
    if path.suffix == ".py" or "/" in text:
        return path
    if path.suffix == ".ipynb":
        raise ConfigError(f"{text}: expected a module, found a notebook; write the app into a file such as app.py")
    try:
        found = importlib.util.find_spec(text)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise ConfigError(f"{text}: expected a Python file or a module that can be imported, found neither")
    return Path(found.origin)
