"""An app as one file: the module that holds it, the files it includes, and a manifest. Never a whole directory.

    8 bytes "HANSEAPP" · 4 bytes length · manifest, canonical JSON · the files' contents in the manifest's order

    {"v":1,"module":"app","object":"app","hanse":"0.1.0","files":[{"path":…,"size":…,"sha256":…},…]}

The id is the SHA-256 of the manifest, which names the SHA-256 of every file. Equal content gives equal bytes. Not a
zip: what this format cannot say (links, modes, absolute times, two files of one name, compression that unfolds to
terabytes) needs no check. Nothing here imports or runs what is inside.
"""

import ast
import hashlib
import importlib.metadata
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, IntegrityError, RefusedError, StorageError, TooLargeError
from hanse.trust.strict_json import parse_json, read_field, read_hex

MAGIC = b"HANSEAPP"
_WHAT = "bundle manifest"
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_MAX_PATH = 240
_MAX_DEPTH = 16
_SKIPPED = {"__pycache__", "node_modules", "venv", "env", "site-packages"}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_NOTEBOOK_FIX = (
    "move the app and what it needs into a file such as app.py (`jupyter nbconvert --to script` makes a start), "
    "then submit that file"
)


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """What is taken at most. Sizes in bytes."""

    total_bytes: int = 64 * 1024 * 1024
    file_bytes: int = 64 * 1024 * 1024
    num_files: int = 4096


DEFAULT_LIMITS = BundleLimits()


@dataclass(frozen=True, slots=True)
class BundledFile:
    """A file in a bundle. `sha256` in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says about itself."""

    module: str
    """To import, dotted."""
    object: str
    """Name of the `App` in it."""
    hanse: str
    """Version that made it."""
    files: tuple[BundledFile, ...]
    """Sorted by path."""

    def encode(self) -> bytes:
        """Canonical JSON; its SHA-256 is the bundle's id."""
        files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files]
        return canonical_json(
            {"v": 1, "module": self.module, "object": self.object, "hanse": self.hanse, "files": files}
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: made by `build_bundle` or `make_bundle`, or read by `read_bundle`."""

    id: str
    """SHA-256 of the manifest, hexadecimal: what a site's policy approves."""
    manifest: Manifest
    content: bytes = field(repr=False)
    """The whole file."""

    def files(self) -> Iterator[tuple[str, memoryview]]:
        """Path and content of each file, in order; nothing is copied."""
        start = len(self.content) - sum(file.size for file in self.manifest.files)
        view = memoryview(self.content)
        for file in self.manifest.files:
            yield file.path, view[start : start + file.size]
            start += file.size


def build_bundle(
    entry: Path | str | None,
    include: Iterable[Path | str] = (),
    root: Path | None = None,
    *,
    object_name: str = "app",
    limits: BundleLimits = DEFAULT_LIMITS,
) -> Bundle:
    """Bundle the module `entry` and the files of `include`.

    Directories in `include` are walked; hidden files, virtual environments and caches in them are skipped. A file
    named itself is taken, hidden or not. The module is parsed, not run.

    Args:
        entry: the module that holds the app; None where there is no file.
        include: files and directories below `root`; relative ones are relative to `root`.
        root: where imports start; None for the directory of `entry`.
        object_name: the name of the `App` in the module.
        limits: sizes and counts.

    Raises:
        ConfigError: a notebook, an interactive session, a missing file, one outside `root`, a module with a syntax
            error. TooLargeError: over `limits`.
    """
    module = _entry_file(entry)
    base = (module.parent if root is None else root).resolve()
    found = {_below(module, base): module}
    for item in include:
        for path in _walk(Path(item) if Path(item).is_absolute() else base / item):
            found[_below(path, base)] = path
    contents: dict[str, bytes] = {}
    total = 0
    for name, path in found.items():
        contents[name] = _read_within(path, min(limits.file_bytes, limits.total_bytes - total), limits)
        total += len(contents[name])
    entry_name = _below(module, base)
    _check_source(contents[entry_name], module)
    return make_bundle(contents, module=_module_name(entry_name), object_name=object_name, limits=limits)


def make_bundle(
    files: Mapping[str, bytes],
    *,
    module: str,
    object_name: str = "app",
    hanse_version: str | None = None,
    limits: BundleLimits = DEFAULT_LIMITS,
) -> Bundle:
    """Bundle files given as relative path with '/' to content.

    **Guarantee.** The id stands for exactly these contents and names (SHA-256 collision resistance).
    **Reveals.** The contents, to everyone who gets the bundle: the server and the sites.

    Args:
        files: at least the module's own.
        module: dotted name of the module that holds the app.
        object_name: the name of the `App` in it.
        hanse_version: None for the installed one.
        limits: sizes and counts.

    Raises:
        ConfigError: a path or name that cannot be. TooLargeError: over `limits`.
    """
    version = _hanse_version() if hanse_version is None else hanse_version
    entries = tuple(
        BundledFile(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in sorted(files.items())
    )
    manifest = Manifest(module, object_name, version, entries)
    try:
        _check_manifest(manifest, limits)
    except TooLargeError:
        raise
    except RefusedError as error:
        raise ConfigError(str(error)) from None
    encoded = manifest.encode()
    parts = [MAGIC, len(encoded).to_bytes(4, "big"), encoded, *(files[file.path] for file in entries)]
    return Bundle(hashlib.sha256(encoded).hexdigest(), manifest, b"".join(parts))


def read_bundle(content: bytes, *, expected_id: str | None = None, limits: BundleLimits = DEFAULT_LIMITS) -> Bundle:
    """Check a received bundle: form, paths, sizes, and the hash of every file.

    **Guarantee.** What the returned bundle holds is what its id stands for; its paths stay inside any directory.
    That its code is harmless is not said: that is the approval's part.
    **Reveals.** Nothing.

    Args:
        content: what came.
        expected_id: the id that was announced or approved; None to take any.
        limits: sizes and counts, checked before anything is kept.

    Raises:
        CodecError: not a bundle. TooLargeError: over `limits`. IntegrityError: a hash differs.
        RefusedError: a path that might lead outside, or two that are one on some systems.
    """
    if len(content) > limits.total_bytes + _MAX_MANIFEST_BYTES + 12:
        raise TooLargeError(f"bundle: expected at most {limits.total_bytes} bytes, found {len(content)}")
    if len(content) < 12 or content[:8] != MAGIC:
        raise CodecError("expected an app bundle, found other bytes")
    size = int.from_bytes(content[8:12], "big")
    encoded = content[12 : 12 + size]
    if len(encoded) != size:
        raise CodecError(f"{_WHAT}: expected {size} bytes, found {len(encoded)}; the bundle was cut short")
    manifest = _parse_manifest(encoded)
    _check_manifest(manifest, limits)
    bundle = Bundle(hashlib.sha256(encoded).hexdigest(), manifest, bytes(content))
    if expected_id is not None and bundle.id != expected_id:
        raise IntegrityError(f"expected the app {expected_id[:16]}…, found {bundle.id[:16]}…")
    expected = 12 + size + sum(file.size for file in manifest.files)
    if len(content) != expected:
        raise CodecError(f"bundle: expected {expected} bytes, found {len(content)}")
    for file, (path, view) in zip(manifest.files, bundle.files(), strict=True):
        if hashlib.sha256(view).hexdigest() != file.sha256:
            raise IntegrityError(f"the content of {path} does not match the bundle's manifest")
    return bundle


def unpack_bundle(bundle: Bundle, directory: Path) -> Path:
    """Write a checked bundle's files into a new directory, all of them or none.

    Args:
        bundle: from `read_bundle`, which checked every path and hash.
        directory: must not exist yet; its parent must. A name such as the bundle's id makes a cache.

    Returns:
        `directory`.

    Raises:
        ConfigError: it exists. StorageError: the disk refuses.
    """
    if directory.exists() or directory.is_symlink():
        raise ConfigError(f"{directory} exists already; expected a new directory to unpack into")
    try:
        draft = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name[:32]}."))
        try:
            for path, view in bundle.files():
                target = draft.joinpath(*path.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_new(target, view)
            draft.chmod(0o755)
            os.rename(draft, directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot unpack an app into {directory}: {error.strerror}") from error
    return directory


def check_path(path: str) -> str:
    """Return `path` if it names a file below a directory on every system, and no other file.

    Raises:
        RefusedError: absolute, with '..' or a drive, with characters or names some system treats specially, not in
            Unicode's form NFC, or too long.
    """
    parts = path.split("/")
    if (
        not path
        or len(path.encode("utf-8", "replace")) > _MAX_PATH
        or len(parts) > _MAX_DEPTH
        or _FORBIDDEN.search(path)
        or not path.isprintable()
        or unicodedata.normalize("NFC", path) != path
        or any(part in ("", ".", "..") or part[-1] in ". " or _DEVICE.fullmatch(part) for part in parts)
    ):
        raise RefusedError(f"expected a plain relative path with '/', at most {_MAX_PATH} bytes, found {path[:80]!r}")
    return path


def _parse_manifest(encoded: bytes) -> Manifest:
    body = parse_json(encoded, what=_WHAT, max_bytes=_MAX_MANIFEST_BYTES)
    if read_field(body, "v", int, _WHAT) != 1 or set(body) != {"v", "module", "object", "hanse", "files"}:
        raise CodecError(f"{_WHAT}: expected version 1 and its fields; update the older of the two programs")
    module, name, version = (read_field(body, key, str, _WHAT) for key in ("module", "object", "hanse"))
    files = read_field(body, "files", list, _WHAT)
    return Manifest(module, name, version, tuple(_parse_file(entry) for entry in files))


def _parse_file(entry: Any) -> BundledFile:
    if not isinstance(entry, dict) or set(entry) != {"path", "size", "sha256"}:
        raise CodecError(f"{_WHAT}: expected path, size and sha256 for every file")
    size = read_field(entry, "size", int, _WHAT)
    if size < 0:
        raise CodecError(f"{_WHAT}: expected sizes of 0 or more")
    path = read_field(entry, "path", str, _WHAT)
    return BundledFile(path, size, read_hex(entry["sha256"], "sha256", size=32).hex())


def _check_manifest(manifest: Manifest, limits: BundleLimits) -> None:
    paths = [file.path for file in manifest.files]
    if len(paths) > limits.num_files:
        raise TooLargeError(f"bundle: expected at most {limits.num_files} files, found {len(paths)}")
    for file in manifest.files:
        check_path(file.path)
        if file.size > limits.file_bytes:
            raise TooLargeError(f"{file.path}: expected at most {limits.file_bytes} bytes, found {file.size}")
    total = sum(file.size for file in manifest.files)
    if total > limits.total_bytes:
        raise TooLargeError(f"bundle: expected at most {limits.total_bytes} bytes of files, found {total}")
    if paths != sorted(set(paths)):
        raise RefusedError("bundle: expected every path once, in sorted order")
    _check_collisions(paths)
    parts = manifest.module.split(".")
    if not all(part.isidentifier() and part.isascii() for part in (*parts, manifest.object)):
        raise RefusedError(f"bundle: expected names of a module and an object, found {manifest.module[:80]!r}")
    if "/".join(parts) + ".py" not in paths:
        raise RefusedError(f"bundle: expected the file of module {manifest.module} in it")
    if len(manifest.hanse) > 64:
        raise RefusedError("bundle: expected a version of at most 64 characters")


def _check_collisions(paths: Sequence[str]) -> None:
    """Refuse what would be one file on a system that ignores case, a file that is a directory too, and our name."""
    files = {unicodedata.normalize("NFKC", path).casefold() for path in paths}
    if len(files) != len(paths):
        raise RefusedError("bundle: two paths differ in case only; rename one of them")
    directories: dict[str, str] = {}
    for path in paths:
        for parent in list(PurePosixPath(path).parents)[:-1]:
            folded = unicodedata.normalize("NFKC", str(parent)).casefold()
            if folded in files or directories.setdefault(folded, str(parent)) != str(parent):
                raise RefusedError(f"bundle: {str(parent)!r} is named in two ways, or as a file and a directory")
        if path.split("/")[0].casefold() in ("hanse", "hanse.py"):
            raise RefusedError("bundle: a file or directory named hanse would hide the library; rename it")


def _entry_file(entry: Path | str | None) -> Path:
    if entry is None or str(entry).startswith("<"):
        raise ConfigError(f"expected an app in a file, found an interactive session; {_NOTEBOOK_FIX}")
    path = Path(entry)
    if path.suffix == ".ipynb" or any(part.startswith("ipykernel") for part in path.parts):
        raise ConfigError(f"expected an app in a Python file, found a notebook; {_NOTEBOOK_FIX}")
    if path.suffix != ".py":
        raise ConfigError(f"expected an app in a .py file, found {str(path)!r}")
    if not path.is_file():
        raise ConfigError(f"expected an app in {str(path)!r}, found no such file")
    return path.resolve()


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise ConfigError(f"include: expected a file or directory, found nothing at {str(path)!r}")
    for folder, folders, names in os.walk(path, onerror=_refuse_walk):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not _is_skipped(here / name))
        yield from (here / name for name in sorted(names) if not _is_skipped(here / name))


def _refuse_walk(error: OSError) -> None:
    raise ConfigError(f"include: cannot read {str(error.filename)!r}: {error.strerror}") from error


def _is_skipped(path: Path) -> bool:
    name = path.name
    if path.is_dir():
        return name.startswith(".") or name.endswith(".egg-info") or name in _SKIPPED or (path / "pyvenv.cfg").exists()
    return name.startswith(".") or path.suffix in (".pyc", ".pyo") or not path.is_file()


def _below(path: Path, base: Path) -> str:
    """The path inside the bundle. Links are followed first, so that none leads outside unnoticed."""
    if not path.resolve().is_relative_to(base):
        raise ConfigError(f"include: expected files below {str(base)!r}, found {str(path)!r}; copy it there")
    absolute = Path(os.path.abspath(path))
    relative = absolute if absolute.is_relative_to(base) else path.resolve()
    return relative.relative_to(base).as_posix()


def _read_within(path: Path, most: int, limits: BundleLimits) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"include: cannot read {str(path)!r}: {error.strerror}") from error
    if len(content) > most:
        raise TooLargeError(
            f"bundle: expected at most {limits.total_bytes} bytes of files, found more at {str(path)!r}; "
            f"data sets do not belong in an app: the site's owner declares them"
        )
    return content


def _check_source(source: bytes, path: Path) -> None:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(f"{path.name}: expected Python, found a syntax error in line {line}") from None


def _module_name(path: str) -> str:
    name = path.removesuffix(".py").replace("/", ".")
    if not all(part.isidentifier() and part.isascii() for part in name.split(".")):
        raise ConfigError(f"expected a file name that can be imported (letters, digits, '_'), found {path!r}")
    return name


def _write_new(path: Path, content: memoryview) -> None:
    with path.open("xb") as file:
        file.write(content)


def _hanse_version() -> str:
    try:
        return importlib.metadata.version("hanse")
    except importlib.metadata.PackageNotFoundError:
        return "0"
