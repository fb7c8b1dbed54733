"""What passes between server and site: `Task`, `Reply`, `Envelope`, and the blobs they name.

Values inside are frozen dataclasses; on the wire they are the protobuf messages of `proto/hanse.proto`. Converting
happens here and nowhere else. Reading checks everything that later code relies on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from hanse.core.blobs import INLINE_BYTES, Buffer, Manifest, manifest_of
from hanse.core.errors import CodecError, ConfigError, IntegrityError, TooLargeError
from hanse.core.ids import TaskId, check_name, check_scope
from hanse.core.parted import LARGE, cut, head
from hanse.core.proto import hanse_pb2 as pb

WIRE_VERSION = 1
MAX_BODY_BYTES = 4 * 1024 * 1024
"""A task or reply with everything inline, or any one message of a session."""
MAX_ENTRIES = 1024
MAX_TEXT = 2000

Scalar = bool | int | float | str | bytes
Value = Scalar | list[Scalar]
Config = Mapping[str, Value]
Metrics = Mapping[str, Value]

_Message = TypeVar("_Message", bound=Message)

# Fields that may be large, and so are put in and taken out around protobuf (`parted`).
_CONTENT, _MODEL, _UPDATE, _BODY, _SIG = 3, 9, 7, 11, 13
_INLINE, _SEALED = b"\x20\x01", b"\x60\x01"
"""`Blob.is_inline` and `Envelope.sealed`, where true."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob by its manifest; `content` is there when it travels inline (≤ 64 KiB), `scope` when it is stored."""

    manifest: Manifest
    scope: str = ""
    content: bytes | None = None

    @property
    def id(self) -> str:
        """The blob's id."""
        return self.manifest.id

    @classmethod
    def inline(cls, content: bytes) -> "BlobRef":
        """A blob that travels inside its message.

        Raises:
            TooLargeError: more than 64 KiB.
        """
        if len(content) > INLINE_BYTES:
            raise TooLargeError(f"inline blob: expected at most {INLINE_BYTES} bytes, found {len(content)}")
        return cls(manifest_of(content), content=bytes(content))


@dataclass(frozen=True, slots=True)
class Task:
    """What one site is asked in one phase.

    Args:
        id: the task id, `job/component/round/phase/ordinal`.
        call: which function of the app: `parameters`, `train`, `evaluate`, `query`, or a phase's own.
        app: SHA-256 of the app bundle that the call belongs to.
        model: the arrays to start from; None where the phase has none.
        update_kind: `values` or `delta`: what the strategy wants back.
        seed: the job's seed; streams are derived from (seed, round, phase, site, attempt, purpose).
        payload: a strategy's own bytes for this site.
        deadline_s: seconds that remain when it is sent; 0 for no deadline. Only the server judges it.
    """

    id: TaskId
    site: str
    call: str
    app: str = ""
    attempt: int = 0
    config: Config = field(default_factory=dict)
    model: BlobRef | None = None
    update_kind: str = "values"
    seed: int = 0
    allow_nonfinite: bool = False
    payload: bytes = b""
    bundle: BlobRef | None = None
    deadline_s: float = 0.0

    def pack(self) -> bytes:
        """Serialize."""
        message = pb.Task(
            id=str(self.id),
            site=self.site,
            round=self.id.round,
            phase=self.id.phase,
            attempt=self.attempt,
            app=self.app,
            call=self.call,
        )
        pack_values(self.config, message.config)
        rest = pb.Task(
            update_kind=self.update_kind,
            seed=self.seed,
            allow_nonfinite=self.allow_nonfinite,
            payload=self.payload,
        )
        if self.bundle is not None:
            _fill_blob(rest.bundle, self.bundle)
        model = () if self.model is None else _blob_field(_MODEL, self.model)
        return b"".join((message.SerializeToString(), *model, rest.SerializeToString()))

    @classmethod
    def unpack(cls, body: Buffer, *, deadline_s: float = 0.0, verify: bool = True, lend: bool = False) -> "Task":
        """Read what `pack` wrote.

        Args:
            verify: False where whoever uses inline content verifies it.
            lend: an inline model is a view of `body`, which must not change.

        Raises:
            CodecError: anything else.
        """
        rest, model = cut(body, _MODEL)
        message = _parse(pb.Task, rest, "task")
        task_id = _task_id(message.id)
        if (task_id.round, task_id.phase) != (message.round, message.phase):
            raise CodecError("task: round and phase differ from those in its id")
        return cls(
            id=task_id,
            site=_name(message.site, "task site"),
            call=_name(message.call, "task call"),
            app=message.app,
            attempt=message.attempt,
            config=unpack_values(message.config, "task config"),
            model=_read_blob(message, "model", model, verify=verify, lend=lend),
            update_kind=_one_of(message.update_kind, ("values", "delta"), "task update_kind"),
            seed=message.seed,
            allow_nonfinite=message.allow_nonfinite,
            payload=message.payload,
            bundle=unpack_blob(message.bundle, verify=verify) if message.HasField("bundle") else None,
            deadline_s=deadline_s,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a site answered to one task: an update and metrics, or an error by kind and cause.

    Args:
        error_kind: empty for success, otherwise a `TaskError` kind.
        update: arrays as a blob; None where the phase answers none.
        update_kind: `values` or `delta`.
        base: id of the model that the update was made from.
        seconds: time spent in user code.
        fingerprint: numerics fingerprint of the worker.
    """

    task: TaskId
    site: str
    error_kind: str = ""
    error: str = ""
    num_examples: int = 0
    metrics: Metrics = field(default_factory=dict)
    update: BlobRef | None = None
    update_kind: str = "values"
    base: str = ""
    payload: bytes = b""
    seconds: float = 0.0
    fingerprint: str = ""

    @property
    def ok(self) -> bool:
        """Whether the site did what it was asked."""
        return not self.error_kind

    @classmethod
    def failed(cls, task: TaskId, site: str, kind: str, message: str) -> "Reply":
        """An error as an ordinary reply."""
        return cls(task, site, error_kind=kind, error=message[:MAX_TEXT])

    def pack(self) -> bytes:
        """Serialize."""
        message = pb.Reply(
            task=str(self.task),
            site=self.site,
            error_kind=self.error_kind,
            error=self.error,
            num_examples=self.num_examples,
        )
        pack_values(self.metrics, message.metrics)
        rest = pb.Reply(
            update_kind=self.update_kind,
            base=self.base,
            payload=self.payload,
            seconds=self.seconds,
            fingerprint=self.fingerprint,
        )
        update = () if self.update is None else _blob_field(_UPDATE, self.update)
        return b"".join((message.SerializeToString(), *update, rest.SerializeToString()))

    @classmethod
    def unpack(cls, body: Buffer, *, lend: bool = False) -> "Reply":
        """Read what `pack` wrote.

        Args:
            lend: an inline update is a view of `body`, which must not change.

        Raises:
            CodecError: anything else. IntegrityError: an inline update that does not match its hash.
        """
        rest, update = cut(body, _UPDATE)
        message = _parse(pb.Reply, rest, "reply")
        if not math.isfinite(message.seconds) or message.num_examples >= 2**53:
            raise CodecError("reply: seconds or num_examples out of range")
        return cls(
            task=_task_id(message.task),
            site=_name(message.site, "reply site"),
            error_kind=message.error_kind[:64],
            error=message.error[:MAX_TEXT],
            num_examples=message.num_examples,
            metrics=unpack_values(message.metrics, "reply metrics"),
            update=_read_blob(message, "update", update, lend=lend),
            update_kind=_one_of(message.update_kind, ("values", "delta"), "reply update_kind"),
            base=message.base[:64],
            payload=message.payload,
            seconds=message.seconds,
            fingerprint=message.fingerprint[:128],
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """The outer of every message that crosses a trust border.

    Args:
        id: unique in (sender, recipient): a task id, or a reply's task id.
        seq: counts up per (sender, kind) on channels; 0 elsewhere.
        kind: `task`, `reply`, `release`, or a channel's message name.
        body: a serialized record, by kind; sealed for the recipient if `sealed`.
        sig: Ed25519 by the sender over `signed_bytes()`; empty from the server, which is known by its certificate.
    """

    sender: str
    recipient: str
    id: str
    kind: str
    body: bytes = b""
    federation: str = ""
    job: str = ""
    component: str = ""
    seq: int = 0
    deadline_s: float = 0.0
    sealed: bool = False
    sig: bytes = b""
    v: int = WIRE_VERSION

    def parts(self) -> tuple[Buffer, ...]:
        """What `pack` joins."""
        message = self._before_body()
        message.deadline_s = self.deadline_s
        return (message.SerializeToString(), *self._from_body(), *_field(_SIG, self.sig))

    def pack(self) -> bytes:
        """Serialize."""
        return b"".join(self.parts())

    def signed_parts(self) -> list[Buffer]:
        """What a signature covers: the envelope without `sig` and without `deadline_s`, which changes on resending."""
        return [self._before_body().SerializeToString(), *self._from_body()]

    def signed_bytes(self) -> bytes:
        """`signed_parts`, joined."""
        return b"".join(self.signed_parts())

    def _before_body(self) -> pb.Envelope:
        return pb.Envelope(
            v=self.v,
            federation=self.federation,
            job=self.job,
            component=self.component,
            sender=self.sender,
            recipient=self.recipient,
            id=self.id,
            seq=self.seq,
            kind=self.kind,
        )

    def _from_body(self) -> tuple[Buffer, ...]:
        body = _field(_BODY, self.body)
        return (*body, _SEALED) if self.sealed else body

    @classmethod
    def from_message(cls, message: pb.Envelope, body: bytes | None = None) -> "Envelope":
        """Read a protobuf message.

        Args:
            body: the body, where it is not in the message.

        Raises:
            CodecError: an unknown major version, or a body over the limit.
        """
        if message.v != WIRE_VERSION:
            raise CodecError(f"envelope: expected version {WIRE_VERSION}, found {message.v}; update the older side")
        if body is None:
            body = message.body
        if len(body) > MAX_BODY_BYTES or len(message.id) > 400 or len(message.kind) > 64:
            raise CodecError("envelope: a field is over its limit")
        if not math.isfinite(message.deadline_s):
            raise CodecError("envelope: expected a finite deadline")
        return cls(
            sender=message.sender,
            recipient=message.recipient,
            id=message.id,
            kind=message.kind,
            body=body,
            federation=message.federation,
            job=message.job,
            component=message.component,
            seq=message.seq,
            deadline_s=message.deadline_s,
            sealed=message.sealed,
            sig=message.sig,
            v=message.v,
        )

    @classmethod
    def unpack(cls, content: bytes) -> "Envelope":
        """Read what `pack` wrote.

        Raises:
            CodecError: anything else.
        """
        return cls.from_message(_parse(pb.Envelope, content, "envelope"))

    @classmethod
    def lent(cls, content: Buffer) -> "Envelope":
        """As `unpack`, but that a large body is a view of `content`, which must not change: for tasks and replies."""
        rest, body = cut(content, _BODY)
        # Whoever is lent a body reads it as a buffer; nobody else gets to see it.
        return cls.from_message(_parse(pb.Envelope, rest, "envelope"), body)  # type: ignore[arg-type]


def pack_blob(ref: BlobRef) -> pb.Blob:
    """A blob reference as a protobuf message."""
    message = pb.Blob()
    _fill_blob(message, ref)
    return message


def _fill_blob(message: pb.Blob, ref: BlobRef) -> None:
    message.SetInParent()
    message.manifest.SetInParent()
    message.manifest.size = ref.manifest.size
    message.manifest.hashes = ref.manifest.hashes
    message.scope = ref.scope
    if ref.content is not None:
        message.content, message.is_inline = bytes(ref.content), True


def _blob_field(number: int, ref: BlobRef) -> tuple[Buffer, ...]:
    """A blob reference as a field of a message, in parts."""
    message, content = pb.Blob(), ref.content
    if content is None or len(content) < LARGE:
        _fill_blob(message, ref)
        return _field(number, message.SerializeToString(), always=True)
    _fill_blob(message, BlobRef(ref.manifest, ref.scope))
    before, start = message.SerializeToString(), head(_CONTENT, len(content))
    size = len(before) + len(start) + len(content) + len(_INLINE)
    return head(number, size), before, start, content, _INLINE


def _field(number: int, content: Buffer, *, always: bool = False) -> tuple[Buffer, ...]:
    """A field of bytes, in parts; none where it is empty, as protobuf has it, unless it is a message."""
    return (head(number, len(content)), content) if always or len(content) else ()


def _read_blob(
    message: Message, name: str, parted: memoryview | None, *, verify: bool = True, lend: bool = False
) -> BlobRef | None:
    """A blob reference that is in the field `name` of a message, or was taken out of it."""
    if parted is None:
        return unpack_blob(getattr(message, name), verify=verify) if message.HasField(name) else None
    rest, content = cut(parted, _CONTENT)
    blob = _parse(pb.Blob, rest, name)
    if content is None:
        return unpack_blob(blob, verify=verify)
    return unpack_blob(blob, verify=verify, content=content if lend else bytes(content))


def unpack_blob(message: pb.Blob, *, verify: bool = True, content: Buffer | None = None) -> BlobRef:
    """Read a blob reference; inline content is verified here, or by whoever uses it.

    Args:
        content: the content, where it is not in the message.

    Raises:
        CodecError, IntegrityError.
    """
    manifest = Manifest(message.manifest.size, message.manifest.hashes)
    if message.scope:
        try:
            check_scope(message.scope)
        except ConfigError as error:
            raise CodecError(str(error)) from None
    if not message.is_inline:
        return BlobRef(manifest, message.scope)
    found: Any = message.content if content is None else content
    fits = len(found) == manifest.size <= INLINE_BYTES
    if not fits or (verify and manifest_of(found) != manifest):
        raise IntegrityError("inline blob does not match its manifest")
    return BlobRef(manifest, message.scope, found)


def pack_values(values: Mapping[str, Value], into: Mapping[str, pb.Value]) -> None:
    """Write a config or metrics into a protobuf map.

    Raises:
        CodecError: a value that is neither a scalar nor a list of scalars.
    """
    for key, value in values.items():
        target = into[key]
        if isinstance(value, (list, tuple)):
            target.list.SetInParent()
            for item in value:
                _pack_scalar(key, item, target.list.items.add())
        else:
            _pack_scalar(key, value, target)


def unpack_values(message: Mapping[str, pb.Value], what: str) -> dict[str, Value]:
    """Read a config or metrics, in sorted key order.

    Raises:
        CodecError: too many entries, or a value of an unknown kind.
    """
    if len(message) > MAX_ENTRIES:
        raise CodecError(f"{what}: expected at most {MAX_ENTRIES} entries, found {len(message)}")
    return {key: _unpack_value(message[key], what) for key in sorted(message)}


def _pack_scalar(key: str, value: object, target: pb.Value) -> None:
    if isinstance(value, bool):
        target.bool = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        target.int = value
    elif isinstance(value, float):
        target.float = value
    elif isinstance(value, str):
        target.str = value
    elif isinstance(value, bytes):
        target.bytes = value
    else:
        raise CodecError(
            f"{key[:60]!r}: expected bool, int, float, str, bytes or a list of these; found {type(value).__name__}"
        )


def _unpack_value(message: pb.Value, what: str) -> Value:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise CodecError(f"{what}: a value of unknown kind")
    if kind == "list":
        return [_unpack_scalar(item, what) for item in message.list.items]
    return _unpack_scalar(message, what)


def _unpack_scalar(message: pb.Value, what: str) -> Scalar:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "list":
        raise CodecError(f"{what}: a list inside a list, or a value of unknown kind")
    value: Scalar = getattr(message, kind)
    return value


def _parse(kind: type[_Message], content: bytes, what: str) -> _Message:
    if len(content) > MAX_BODY_BYTES + 65536:
        raise CodecError(f"{what}: expected at most {MAX_BODY_BYTES} bytes, found {len(content)}")
    try:
        return kind.FromString(content)
    except DecodeError:
        raise CodecError(f"{what}: {len(content)} bytes that are not a {what}") from None


def _task_id(text: str) -> TaskId:
    try:
        return TaskId.parse(text)
    except ConfigError as error:
        raise CodecError(str(error)) from None


def _name(text: str, what: str) -> str:
    try:
        return check_name(text, what)
    except ConfigError as error:
        raise CodecError(str(error)) from None


def _one_of(text: str, allowed: tuple[str, ...], what: str) -> str:
    if text not in allowed:
        raise CodecError(f"{what}: expected one of {', '.join(allowed)}; found {text[:40]!r}")
    return text
