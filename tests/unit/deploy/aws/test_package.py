"""The functions' package: what the handlers import and no more, small, and the same bytes twice."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from hanse.core.errors import ConfigError, TooLargeError, UnavailableError
from hanse.deploy.aws import package as module
from hanse.deploy.aws.package import DISTRIBUTIONS, MAX_BYTES, libraries_here, package, package_here

pytest.importorskip("boto3", reason="needs the extra `aws`")
pytest.importorskip("obstore", reason="needs the extra `aws`")
LOCK = Path(__file__).resolve().parents[4] / "requirements-dev.lock"

CLOSURE = """
import json, sys
import hanse.serverless.handlers, hanse.serverless.place, hanse.serverless.apps, hanse.serverless.shards
import hanse.backends.aws.machine, hanse.backends.aws.secrets, hanse.backends.aws.topic, hanse.backends.aws.table
import boto3, obstore.store
from obstore.auth.boto3 import Boto3CredentialProvider
session = boto3.Session(region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
for service in ("s3", "sqs", "dynamodb", "secretsmanager", "stepfunctions", "sns", "sts"):
    session.client(service)
files = {name.partition(".")[0]: getattr(m, "__file__", None) or "" for name, m in sys.modules.items()}
print(json.dumps([sorted(name for name, file in files.items() if file), hanse.serverless.handlers.__file__]))
"""


def names(content: bytes) -> list[str]:
    return zipfile.ZipFile(BytesIO(content)).namelist()


@pytest.mark.long
def test_it_holds_what_the_handlers_import_and_nothing_that_listens() -> None:
    ended = subprocess.run([sys.executable, "-c", CLOSURE], capture_output=True, text=True, check=True)
    modules, _ = json.loads(ended.stdout)
    owners = importlib.metadata.packages_distributions()
    loaded: set[str] = set()
    for name in modules:
        found = {owner.lower().replace("_", "-") for owner in owners.get(name, ())}
        loaded |= found & set(DISTRIBUTIONS) or found  # several may share a name, such as google
    mine = {
        "hanse",
        "certifi",
        "setuptools",
        "pip",
        "coverage",
    }  # an environment's own, and what falls back without them
    assert loaded - mine <= set(DISTRIBUTIONS), "add these to DISTRIBUTIONS"
    assert not {"grpcio", "fastapi", "uvicorn", "starlette", "pydantic", "typer", "rich"} & loaded


@pytest.mark.long
def test_it_runs_by_itself_where_nothing_else_is_installed(tmp_path: Path) -> None:
    found = [importlib.metadata.distribution(name) for name in DISTRIBUTIONS]
    files = {str(file): Path(str(d.locate_file(file))) for d in found for file in d.files or []}
    kept = {name: path for name, path in (files | module.own_files()).items() if module._is_kept(name)}
    for name, path in kept.items():
        if ".." not in name and path.is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tmp_path / name)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < MAX_BYTES
    alone = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CLOSURE}"
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", alone], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)[1].startswith(str(tmp_path))


def test_the_same_bytes_twice_and_nothing_that_tells_when() -> None:
    first, second = package_here(), package_here()
    assert first.content == second.content
    assert first.key == second.key
    entries = zipfile.ZipFile(BytesIO(first.content)).infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.external_attr >> 16 for entry in entries} == {0o644}


def test_rooms_that_no_function_enters_stay_out() -> None:
    rooms = {name.split("/")[1] for name in names(package_here().content)}
    assert "serverless" in rooms
    assert not {"cli", "demos", "deploy", "board"} & rooms
    assert not [name for name in names(package_here().content) if "__pycache__" in name]


def test_libraries_lie_where_an_emulator_is_told() -> None:
    places = [Path(place) for place in libraries_here()]
    assert all(any((place / name).is_dir() for place in places) for name in ("numpy", "boto3", "obstore"))


def test_the_lock_names_everything_for_every_target() -> None:
    from hanse.deploy.aws.settings import PYTHONS

    for python in PYTHONS:
        for architecture in ("arm64", "x86_64"):
            lines = module._locked(LOCK, python, architecture).splitlines()
            assert sorted(line.partition("==")[0] for line in lines) == sorted(DISTRIBUTIONS)
            assert all(" --hash=sha256:" in line and ";" not in line for line in lines)
    assert "numpy==2.4" not in module._locked(LOCK, "3.13", "arm64")  # that one is for Python 3.11


def test_a_package_that_grew_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    with pytest.raises(TooLargeError, match="expected at most 1 MiB unzipped"):
        package_here()


def test_a_lock_without_our_libraries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("six==1.17.0 \\\n    --hash=sha256:00\n")
    with pytest.raises(ConfigError, match="expected lines for blake3, boto3"):
        package("3.13", "arm64", lock=tmp_path / "lock")
    with pytest.raises(ConfigError, match="No such file"):
        package("3.13", "arm64", lock=tmp_path / "none")


def test_no_wheels_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null" if name == "PIP_CONFIG_FILE" else "")
    with pytest.raises(UnavailableError, match=r"no wheels for Python 3\.13 on arm64") as caught:
        package("3.13", "arm64")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_the_lock_s_own_wheels_fit(architecture: str) -> None:
    if os.environ.get("HANSE_PACKAGE_INDEX") != "1":
        pytest.skip("asks a package index for 60 MB; set HANSE_PACKAGE_INDEX=1")
    found = package("3.13", architecture, lock=LOCK)  # type: ignore[arg-type]  # one of two words
    assert found.unzipped < MAX_BYTES
    machine = {"arm64": "aarch64", "x86_64": "x86_64"}[architecture]
    libraries = [name for name in names(found.content) if name.endswith(".so") and "cpython" in name]
    assert libraries
    assert all(machine in name for name in libraries)
