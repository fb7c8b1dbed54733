"""Files that only their owner may read, written whole or not at all.

Not a key store: who has the owner's account, or the disk, has the keys.
"""

import os
import stat
import tempfile
from pathlib import Path

from hanse.core.errors import ConfigError, StorageError


def write_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put `content` at `path` in one step: a reader or a crash sees the old file or the new one.

    Args:
        path: its directory must exist.
        content: all of it.
        mode: permissions; the default is for private keys.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make renames and new names in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path, *, max_bytes: int = 1 << 20) -> bytes:
    """Read a file of configuration size.

    Raises:
        ConfigError: it is missing, unreadable or longer than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"expected a readable file at {path}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise ConfigError(f"{path}: expected at most {max_bytes} bytes, found more")
    return content


def read_private_file(path: Path) -> bytes:
    """Read a private key's file, and refuse it when others could have read it before.

    Raises:
        ConfigError: missing, unreadable, or open to group or others.
    """
    content = read_file(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{path}: expected permissions 0600 on a private key, found {mode:04o}; "
            f"run `chmod 600 {path}`, and make new keys if others use this machine"
        )
    return content
