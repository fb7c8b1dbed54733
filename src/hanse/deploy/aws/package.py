"""The zip of the functions: Hanse, and the few libraries that its handlers import; the same bytes whenever it is made.

No web framework and no gRPC: what the handlers do not import is not in it. Libraries come as wheels for the functions'
Python and architecture, in the versions that are installed here or, with a lock file, in those that it names, checked
against its hashes. An emulator runs functions with this machine's Python: it is told where the installed libraries are.
"""

import hashlib
import importlib.metadata
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import hanse
from hanse.core.errors import ConfigError, MissingExtraError, TooLargeError, UnavailableError
from hanse.deploy.aws.settings import Architecture

DISTRIBUTIONS = (
    "blake3",
    "boto3",
    "botocore",
    "cffi",
    "cryptography",
    "jmespath",
    "ml-dtypes",
    "numpy",
    "obstore",
    "protobuf",
    "python-dateutil",
    "s3transfer",
    "six",
    "structlog",
    "typing-extensions",
    "urllib3",
)
"""What the handlers import, and what that imports; a test compares this with what is loaded."""
MAX_BYTES = 150 * 1024 * 1024
"""Unzipped. AWS allows 250 MB; a function starts the later the more it holds."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16
_NOT_OURS = ("board", "cli", "demos", "deploy")
"""Rooms of Hanse that no function enters."""
_SERVICES = ("dynamodb", "s3", "secretsmanager", "sns", "sqs", "stepfunctions", "sts")
"""The services that are called; botocore describes four hundred."""
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|tests?|testing|_pyinstaller|f2py|include|bin)/|\.(pyc|pyi|pxd|h|a|lib)$|(^|/)(RECORD|INSTALLER|REQUESTED|direct_url\.json)$"
)
_KEPT = re.compile(r"numpy/testing/|^hanse/")
"""NumPy imports its own `testing` where it is asked for versions."""
_BOTOCORE_DATA = re.compile(r"botocore/data/([^/]+)/")


@dataclass(frozen=True, slots=True)
class Package:
    """A zip. `unzipped`: bytes; `libraries`: name → version."""

    content: bytes
    unzipped: int
    libraries: Mapping[str, str]
    runs_on: str

    @property
    def digest(self) -> str:
        """SHA-256 of the zip."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def key(self) -> str:
        """Where it lies in the code bucket: a new name for new content, so that a stack sees a change."""
        return f"hanse/{hanse.__version__}/{self.digest[:32]}.zip"


def package(python: str, architecture: Architecture, *, lock: Path | None = None) -> Package:
    """The package for AWS Lambda.

    Args:
        python: such as "3.13".
        lock: a requirements file with hashes; by default the versions installed here.

    Raises:
        UnavailableError: pip found no wheel. MissingExtraError: a library is not installed here. TooLargeError: more
            than `MAX_BYTES`.
    """
    requirements = _locked(lock, python, architecture) if lock is not None else _installed()
    with tempfile.TemporaryDirectory(prefix="hanse-package-") as name:
        wheels, place = Path(name) / "wheels", Path(name) / "content"
        _fetch(requirements, python, architecture, wheels, hashes=lock is not None)
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place)
        files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
        libraries = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions(path=[str(place)])}
        return _zip(files, libraries, f"python{python}, {architecture}")


def package_here() -> Package:
    """The package for an emulator on this machine: Hanse alone; the libraries are those installed here.

    Raises:
        MissingExtraError: a library is not installed here.
    """
    return _zip({}, {name: _distribution(name).version for name in DISTRIBUTIONS}, "this machine's Python")


def libraries_here() -> list[str]:
    """The folders that hold the libraries on this machine.

    Raises:
        MissingExtraError: a library is not installed here.
    """
    return list(dict.fromkeys(str(_distribution(name).locate_file("")) for name in DISTRIBUTIONS))


def own_files() -> dict[str, Path]:
    """Hanse itself."""
    root = Path(hanse.__file__).parent
    found = {f"hanse/{path.relative_to(root)}": path for path in root.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if PurePosixPath(name).parts[1] not in _NOT_OURS}


def _zip(files: Mapping[str, Path], libraries: Mapping[str, str], runs_on: str) -> Package:
    kept = {name: path for name, path in (*files.items(), *own_files().items()) if _is_kept(name)}
    sizes = {name: path.stat().st_size for name, path in kept.items()}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = ", ".join(f"{name} {size >> 20} MiB" for name, size in sorted(sizes.items(), key=lambda i: -i[1])[:3])
        raise TooLargeError(f"package: expected at most {MAX_BYTES >> 20} MiB unzipped, found {total >> 20}: {largest}")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(kept):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, kept[name].read_bytes())
    return Package(target.getvalue(), total, dict(sorted(libraries.items())), runs_on)


def _is_kept(name: str) -> bool:
    data = _BOTOCORE_DATA.match(name)
    if data is not None and data[1] not in _SERVICES:
        return False
    if name.endswith((".pyc", ".pyi")):
        return False
    return _KEPT.search(name) is not None or _LEFT_OUT.search(name) is None


def _fetch(requirements: str, python: str, architecture: str, wheels: Path, *, hashes: bool) -> None:
    machine = "aarch64" if architecture == "arm64" else architecture
    # Amazon Linux 2023 has glibc 2.34. Older pips do not know that this includes the older ones.
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(34, 16, -1)] + [f"manylinux2014_{machine}"]
    wheels.mkdir()
    listed = wheels.with_suffix(".txt")
    listed.write_text(requirements)
    # Not `pip install --target`: it asks whether a wheel fits this Python, not that of the functions.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(wheels), "--no-deps", "--only-binary", ":all:", "--python-version", python]
    command += ["--implementation", "cp", *(word for each in platforms for word in ("--platform", each))]
    command += [*(["--require-hashes"] if hashes else []), "--requirement", str(listed)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise UnavailableError(
            f"package: no wheels for Python {python} on {architecture}: {lines[-1].removeprefix('ERROR: ')[:300]}; "
            "choose another `python` in federation.yaml, or give a --lock that fits"
        )


def _installed() -> str:
    return "\n".join(f"{name}=={_distribution(name).version}" for name in DISTRIBUTIONS)


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(name, "aws") from None


def _locked(lock: Path, python: str, architecture: str) -> str:
    """The lock's lines for what the package holds, with their hashes."""
    try:
        text = lock.read_text()
    except OSError as error:
        raise ConfigError(f"{lock}: expected a requirements file with hashes: {error.strerror}") from None
    found = dict(_matching(text, python, architecture))
    missing = sorted(set(DISTRIBUTIONS) - set(found))
    if missing:
        raise ConfigError(f"{lock}: expected lines for {', '.join(missing)}, found none; use requirements-dev.lock")
    return "\n".join(found.values())


def _matching(text: str, python: str, architecture: str) -> Iterator[tuple[str, str]]:
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        raise MissingExtraError("packaging", "aws") from None

    machine = "aarch64" if architecture == "arm64" else architecture
    target = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text.replace("\\\n", " ")):
        named, _, hashes = entry.strip().partition(" --hash=")
        try:
            requirement = Requirement(named.strip())
        except InvalidRequirement:
            continue
        name = requirement.name.lower().replace("_", "-")
        if name in DISTRIBUTIONS and (requirement.marker is None or requirement.marker.evaluate(target)):
            requirement.marker = None
            yield name, f"{requirement} --hash={hashes}"
