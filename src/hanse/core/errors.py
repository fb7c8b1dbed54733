"""The one tree of errors. A caller sees at a glance what to catch.

    HanseError
    ├── ConfigError            a file, argument or declaration is wrong: expected, found, where
    ├── MissingExtraError      an optional dependency is not installed: the command that installs it
    ├── RefusedError           something received was checked and not taken
    │   ├── CodecError         bytes that are not what they claim to be
    │   ├── IntegrityError     content that does not match its hash
    │   ├── TooLargeError      over a stated limit
    │   └── UpdateError        an update that does not fit its base (layout, dtype, non-finite)
    ├── TrustError             identity, certificate, signature, token
    │   └── PolicyError        the data owner's policy says no
    ├── NotFoundError          a job, blob, site or record that does not exist
    ├── ConflictError          a compare-and-set that lost, a name already taken
    ├── UnavailableError       the other side cannot be reached now; trying again may help
    ├── StorageError           the disk or database refuses (full, read-only)
    ├── TaskError              user code failed: kind and cause, no data
    └── JobFailed              a job ended without its result

What crosses a trust border says nothing about data: no row, key, share or gradient in a message.
"""

from typing import Any


class HanseError(Exception):
    """Root of every error that Hanse raises on purpose."""

    exit_code = 1


class ConfigError(HanseError):
    """A configuration file, argument or declaration is wrong."""

    exit_code = 2


class MissingExtraError(HanseError):
    """An optional dependency is not installed."""

    exit_code = 2

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'hanse[{extra}]'")


class RefusedError(HanseError):
    """Something received was checked and not taken."""


class CodecError(RefusedError):
    """Bytes that are not what they claim to be."""


class IntegrityError(RefusedError):
    """Content that does not match its hash."""


class TooLargeError(RefusedError):
    """A message, blob or bundle over its stated limit."""


class UpdateError(RefusedError):
    """An update that does not fit its base: layout, dtype, or values that are not finite."""


class TrustError(HanseError):
    """An identity, certificate, signature or token that does not hold."""


class PolicyError(TrustError):
    """The data owner's policy says no."""


class NotFoundError(HanseError):
    """A job, blob, site or record that does not exist."""


class ConflictError(HanseError):
    """A compare-and-set that lost, or a name already taken."""


class UnavailableError(HanseError):
    """The other side cannot be reached now; trying again may help."""


class StorageError(HanseError):
    """The disk or the database refuses.

    Attributes:
        folder: where, for whoever's disk it is. Not in the message, which may be told to others.
    """

    folder = ""


class TaskError(HanseError):
    """User code failed.

    Args:
        kind: one of the fixed words `raised`, `exited`, `killed`, `timeout`, `bad_reply`, `refused`, `lost`.
        message: what happened, without any data.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class JobFailed(HanseError):
    """A job ended without its result; the message is the cause.

    Args:
        result: the `Result` with the rounds that there were, where it is known.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


def in_folder(error: StorageError, folder: object) -> StorageError:
    """The error, with the folder of the store that refuses."""
    error.folder = str(folder)
    return error


def place_of(error: BaseException) -> dict[str, str]:
    """What a log of the disk's owner says beside an error's message: `folder`, where it is known."""
    folder = getattr(error, "folder", "")
    return {"folder": folder} if folder else {}
