"""What only one site knows, for all jobs: random bytes, drawn once and kept where its owner and its workers can reach.

Of use to protocols whose answers must not change when they are asked again. It is no key that anything is encrypted
under, and whoever loses it loses no data.
"""

import contextlib
import os
from pathlib import Path

from hanse.core.errors import StorageError

SECRET_BYTES = 32


def new_secret() -> bytes:
    """Fresh ones."""
    return os.urandom(SECRET_BYTES)


def lasting_secret(path: Path) -> bytes:
    """Those in a file; it is made, durably, when they are first asked for.

    Raises:
        StorageError: the disk refuses, or the file holds something else.
    """
    try:
        if not path.exists():
            _make(path)
        found = path.read_bytes()
    except OSError as error:
        raise StorageError(f"secret: cannot keep it: {error}") from error
    if len(found) != SECRET_BYTES:
        raise StorageError(f"secret: expected {SECRET_BYTES} bytes in {path.name}, found {len(found)}")
    return found


def _make(path: Path) -> None:
    """Whole or not at all, and once where several workers make it at a time."""
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, new_secret())
        os.fsync(file)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.close(file)
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
