"""Finding an app in its module, as sites do and as people name it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanse.clients.app import App
from hanse.clients.loader import find_app, import_file, load_app, loading, source_of, stop_if_loading
from hanse.core.errors import ConfigError
from tests.patience import WAIT_S

SCRIPT = """
from hanse.clients.app import App
from hanse.clients.loader import stop_if_loading as run
from dataclasses import dataclass

@dataclass
class Held:
    x: int = 1

app = App(rounds=3)

@app.client
def client(site):
    return None

if __name__ == "__main__":
    raise AssertionError("never as __main__")
try:
    run()
except Exception:
    raise AssertionError("stopping is no Exception")
raise AssertionError("importing went on")
"""


def written(folder: Path, content: str = SCRIPT, name: str = "app.py") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_importing_stops_at_the_first_run(tmp_path: Path) -> None:
    written(tmp_path)
    app = load_app(tmp_path, "app.py", "app")
    assert app.spec().rounds == 3
    assert app.name_in_module == "app"
    assert source_of(app) == tmp_path / "app.py"
    assert not loading()
    stop_if_loading()


def test_included_modules_can_be_imported(tmp_path: Path) -> None:
    written(tmp_path, "ROUNDS = 7\n", "helper_of_the_app.py")
    written(
        tmp_path, "from helper_of_the_app import ROUNDS\nfrom hanse.clients.app import App\napp = App(rounds=ROUNDS)\n"
    )
    assert load_app(tmp_path, "app.py", "app")._spec.rounds == 7


def test_a_module_that_fails_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    written(tmp_path, "1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        load_app(tmp_path, "app.py", "app")
    assert not {name for name in set(sys.modules) - before if name.startswith("_hanse_app")}
    assert not loading()


@pytest.mark.parametrize(
    ("entry", "name", "said"),
    [
        ("none.py", "app", "expected a Python file"),
        ("../app.py", "app", "expected a Python file"),
        ("app.py", "other", "found nothing"),
        ("app.py", "Held", "found type"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, entry: str, name: str, said: str) -> None:
    written(tmp_path)
    with pytest.raises(ConfigError, match=said):
        load_app(tmp_path, entry, name)


def test_a_person_names_a_file_a_name_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    assert isinstance(find_app(path), App)
    assert find_app(f"{path}:app").name_in_module == "app"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert isinstance(find_app("app"), App)
    assert isinstance(find_app("app.py"), App)
    for wrong, said in (
        ("nowhere", "neither"),
        ("app.ipynb", "notebook"),
        ("app.py:x", "found nothing"),
        ("x.py", "file"),
    ):
        with pytest.raises(ConfigError, match=said):
            find_app(wrong)


def test_several_apps_must_be_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path, "from hanse.clients.app import App\nfirst = App()\nsecond = App()\nalias = first\n")
    with pytest.raises(ConfigError, match=r"found alias, first, second; choose with .*:NAME"):
        find_app(path)
    only = written(tmp_path, "from hanse.clients.app import App\nfirst = App()\nalias = first\n", "one.py")
    assert isinstance(find_app(only), App)


def test_a_notebook_and_standard_input_are_refused_with_the_fix() -> None:
    code = (
        "from hanse.clients.app import App\nfrom hanse.clients.loader import source_of\n"
        "app = App()\n"
        "try:\n    source_of(app)\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, env=environment, check=True, timeout=WAIT_S
    )
    assert done.stdout.startswith("ConfigError app: expected a module that sites can import")
    assert "%%writefile app.py" in done.stdout
    app = App()
    app.module_globals = {"__file__": __file__, "get_ipython": print}
    with pytest.raises(ConfigError, match="notebook"):
        source_of(app)


def test_a_module_imported_twice_gives_two_apps(tmp_path: Path) -> None:
    written(tmp_path)
    assert import_file(tmp_path, "app.py").app is not import_file(tmp_path, "app.py").app
