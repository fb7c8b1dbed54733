"""The audit log: JSON lines, each with the hash of the line before it and a signature.

    {"action":…,"actor":…,"at":…,"details":{…},"outcome":…,"prev":"<hex>","seq":7,"sig":"<hex>","subject":…}

Every line is canonical JSON. `prev` is the SHA-256 of the line before without its newline (64 zeros for the first),
`sig` is Ed25519 over the line without `sig`. Whoever has the file and the public key checks it with `verify`.

What it cannot show by itself: a log cut off at its end is a valid shorter log, and the holder of the signing key can
write another one. Both come to light against a `Head` that was signed before and kept elsewhere.
"""

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hanse.core.codec import canonical_json
from hanse.core.errors import (
    CodecError,
    ConfigError,
    ConflictError,
    HanseError,
    IntegrityError,
    StorageError,
    TrustError,
)
from hanse.trust.certificates import current_ms
from hanse.trust.private_files import sync_directory
from hanse.trust.signing import AUDIT_LINE, sign, verify
from hanse.trust.statements import make_statement, read_statement
from hanse.trust.strict_json import parse_json, read_field, read_hex

NO_HASH = "0" * 64
MAX_LINE_BYTES = 16 * 1024
MAX_TEXT = 512
_HEAD = "audit-head"
_FIELDS = {"seq", "at", "actor", "action", "subject", "outcome", "details", "prev", "sig"}

Detail = str | int | float | bool | None
Damage = Literal["altered", "unsigned", "out of order", "torn", "truncated", "replaced"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends: how many lines, and the hash of the last."""

    seq: int = 0
    """Number of the last line, counted from 1; 0 for an empty log."""
    hash: str = NO_HASH

    def sign(self, key: Ed25519PrivateKey, *, now_ms: int | None = None) -> bytes:
        """The head as a statement, to be kept where the log's keeper cannot change it.

        **Guarantee.** A log without these lines, just as they are, fails `verify` against it.
        **Reveals.** How many entries the log has.
        """
        at_ms = current_ms() if now_ms is None else now_ms
        return make_statement(key, _HEAD, {"seq": self.seq, "hash": self.hash, "at_ms": at_ms})


@dataclass(frozen=True, slots=True)
class Problem:
    """One line that does not hold. `line` counts from 1."""

    line: int
    damage: Damage
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found."""

    entries: int
    """Lines read."""
    head: Head
    """Where the file ends now."""
    problems: tuple[Problem, ...]
    """The first few; empty when everything holds."""

    @property
    def ok(self) -> bool:
        """Whether every line holds."""
        return not self.problems


class AuditLog:
    """A log open for appending, by one process; from any of its threads.

    A crash may leave the last line incomplete. Opening the log then repairs it: `repaired` says what was done.

    Args:
        path: the file, made if need be.
        key: signs every line.
        fsync: whether `append` returns only once the line is on disk. False where `sync` is called for many.

    Raises:
        ConflictError: another process has it open. IntegrityError: its last complete line is not this key's.
        StorageError: the disk refuses.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey, *, fsync: bool = True) -> None:
        self.path = path
        self.repaired: str | None = None
        self._key = key
        self._public = key.public_key()
        self._fsync = fsync
        self._lock = threading.Lock()
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open the audit log {path}: {error.strerror}") from error
        try:
            self._claim()
            self._end, self._head = self._recover()
            sync_directory(path.parent)
        except BaseException:
            os.close(self._handle)
            raise

    @property
    def head(self) -> Head:
        """Where the log ends."""
        return self._head

    def append(
        self,
        *,
        actor: str,
        action: str,
        subject: str,
        outcome: str,
        details: Mapping[str, Detail] | None = None,
        now_ms: int | None = None,
    ) -> Head:
        """Add one line. Either all of it is in the log afterwards, or none.

        **Guarantee.** Later changes to it are found by `verify` (SHA-256 collision resistance, Ed25519).
        **Reveals.** All of it, to who reads the file: no data, keys or gradients in any argument.

        Args:
            actor: who, as `kind/name`.
            action: what, as `job.submit`.
            subject: on what, such as a job id.
            outcome: `allowed`, `refused`, `done`, `failed` …
            details: few and short facts; names to single values.
            now_ms: the time; None for now.

        Returns:
            The log's new end.

        Raises:
            ConfigError: an argument too long, or no such value. StorageError: the disk refuses; nothing was added.
        """
        at = _iso(current_ms() if now_ms is None else now_ms)
        body = {"at": at, "actor": actor, "action": action, "subject": subject, "outcome": outcome}
        facts = dict(details or {})
        _check_texts(body, facts)
        with self._lock:
            entry = body | {"seq": self._head.seq + 1, "details": facts, "prev": self._head.hash}
            try:
                entry["sig"] = sign(self._key, AUDIT_LINE, canonical_json(entry)).hex()
                line = canonical_json(entry)
            except (ValueError, TypeError):
                raise ConfigError("audit details: expected strings, finite numbers, booleans or None") from None
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(f"audit entry: expected at most {MAX_LINE_BYTES} bytes, found {len(line)}")
            self._write(line + b"\n")
            self._end += len(line) + 1
            self._head = Head(self._head.seq + 1, hashlib.sha256(line).hexdigest())
            return self._head

    def sync(self) -> None:
        """Return once everything appended so far is on disk."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise StorageError(f"cannot sync the audit log {self.path}: {error.strerror}") from error

    def export_head(self, *, now_ms: int | None = None) -> bytes:
        """The current end, signed; see `Head.sign`."""
        return self._head.sign(self._key, now_ms=now_ms)

    def close(self) -> None:
        """Sync and let go of the file. A second call does nothing."""
        with self._lock:
            if self._handle >= 0:
                handle, self._handle = self._handle, -1
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError(f"the audit log {self.path} is open in another process; stop that one first") from None

    def _write(self, content: bytes) -> None:
        if self._handle < 0:
            raise StorageError(f"the audit log {self.path} is closed")
        try:
            if os.write(self._handle, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._fsync:
                os.fsync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, self._end)  # a half-written line must not precede the next one
            raise StorageError(f"cannot append to the audit log {self.path}: {error.strerror}") from error

    def _recover(self) -> tuple[int, Head]:
        """Find the end, and repair an incomplete last line. Only the file's tail is read."""
        tail, start = self._tail()
        complete, newline, rest = tail.rpartition(b"\n")
        end = start + len(complete) + len(newline)
        if rest and self._repair(rest, end):
            complete, end = rest, end + len(rest) + 1
        if end == 0:
            return 0, Head()
        line = complete.rpartition(b"\n")[2]
        try:
            seq, _ = _read_line(line, self._public)
        except HanseError as error:
            raise IntegrityError(
                f"the last line of the audit log {self.path} does not hold ({error}); keep the file as it is, "
                f"look at it with `hanse audit verify`, and start a new log"
            ) from None
        return end, Head(seq, hashlib.sha256(line).hexdigest())

    def _tail(self) -> tuple[bytes, int]:
        """The end of the file with at least one complete line, and where it begins."""
        size = os.fstat(self._handle).st_size
        length = 2 * (MAX_LINE_BYTES + 1)
        while True:
            start = max(0, size - length)
            tail = os.pread(self._handle, size - start, start)
            if start == 0 or tail.count(b"\n") > 1:
                return tail, start
            length *= 4  # a power cut can leave long runs of zero bytes

    def _repair(self, rest: bytes, end: int) -> bool:
        """Complete the last line if only its newline is missing (True), else remove it (False)."""
        try:
            _read_line(rest, self._public)
        except HanseError:
            os.ftruncate(self._handle, end)
            os.fsync(self._handle)
            self.repaired = f"removed an incomplete last line of {len(rest)} bytes, left by a crash"
            return False
        os.write(self._handle, b"\n")
        os.fsync(self._handle)
        self.repaired = "completed the last line, which a crash had left without its newline"
        return True


def verify_log(
    path: Path,
    public_key: Ed25519PublicKey,
    *,
    head: Head | None = None,
    most_problems: int = 20,
) -> Report:
    """Check a whole log, offline: signatures, hashes, order.

    **Guarantee.** With no problem found, the lines are those that the key's holder signed, in that order, and none
    is missing between two others. Given a `head`, none is missing up to there either.
    **Reveals.** Nothing beyond the file.

    Args:
        path: the file; it is read line by line.
        public_key: of who keeps the log.
        head: an earlier end, from `read_head`.
        most_problems: stop after so many.

    Raises:
        ConfigError: the file cannot be read.
    """
    problems: list[Problem] = []
    last, number, reached = Head(), 0, head is None or head.seq == 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                last = _check_line(line, number, last, public_key, problems)
                if head is not None and number == head.seq:
                    reached = True
                    if last.hash != head.hash:
                        problems.append(Problem(number, "replaced", "differs from the line in the signed head"))
                if len(problems) >= most_problems:
                    return Report(number, last, tuple(problems[:most_problems]))
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {path}: {error.strerror}") from error
    if not reached and head is not None:
        problems.append(Problem(number, "truncated", f"ends after {number} lines; the signed head has {head.seq}"))
    return Report(number, last, tuple(problems))


def read_head(content: bytes, public_key: Ed25519PublicKey) -> Head:
    """Read a head that `Head.sign` wrote.

    Raises:
        TrustError: not signed by this key. CodecError: not a head.
    """
    body = read_statement(public_key, _HEAD, content)
    return Head(read_field(body, "seq", int, _HEAD), read_hex(body.get("hash"), "hash", size=32).hex())


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def _check_line(line: bytes, number: int, last: Head, public_key: Ed25519PublicKey, problems: list[Problem]) -> Head:
    """Append what is wrong with one line; return where the log would go on after it."""
    if not line.endswith(b"\n"):
        problems.append(Problem(number, "torn", "is incomplete: a crash, or cut off"))
    content = line.removesuffix(b"\n")
    after = Head(last.seq + 1, hashlib.sha256(content).hexdigest())
    try:
        seq, prev = _read_line(content, public_key)
    except TrustError:
        problems.append(Problem(number, "unsigned", "has a signature that does not hold"))
        return after
    except HanseError:
        problems.append(Problem(number, "altered", "is not an entry"))
        return after
    if prev != last.hash or seq != last.seq + 1:
        text = f"expected entry {last.seq + 1} after the line before, found {seq} or another past"
        problems.append(Problem(number, "out of order", text))
    return Head(seq, after.hash)


def _read_line(line: bytes, public_key: Ed25519PublicKey) -> tuple[int, str]:
    """Number and previous hash of a line that the key signed."""
    entry = parse_json(line, what="audit entry", max_bytes=MAX_LINE_BYTES)
    if set(entry) != _FIELDS:
        raise CodecError(f"audit entry: expected the fields {', '.join(sorted(_FIELDS))}")
    signature = read_hex(entry.pop("sig"), "sig", size=64)
    verify(public_key, AUDIT_LINE, canonical_json(entry), signature)
    return read_field(entry, "seq", int, "audit entry"), read_field(entry, "prev", str, "audit entry")


def _check_texts(body: Mapping[str, str], details: Mapping[str, Detail]) -> None:
    for name, value in (*body.items(), *details.items()):
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ConfigError(f"audit {name}: expected at most {MAX_TEXT} characters, found {len(value)}")
        if not isinstance(value, str | int | float | bool | None):
            raise ConfigError(f"audit {name}: expected one plain value, found {type(value).__name__}")


def _iso(ms: int) -> str:
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
