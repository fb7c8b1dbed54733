"""What passes between server and site: `Task`, `Reply`, `Envelope`, and the blobs they name.

Values inside are frozen dataclasses; on the wire they are the protobuf messages of `proto/hanse.proto`. Converting
happens here and nowhere else. Reading checks everything that later code relies on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from hanse.core.blobs import INLINE_BYTES, Manifest, manifest_of
from hanse.core.errors import CodecError, ConfigError, IntegrityError, TooLargeError
from hanse.core.ids import TaskId, check_name, check_scope
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
            update_kind=self.update_kind,
            seed=self.seed,
            allow_nonfinite=self.allow_nonfinite,
            payload=self.payload,
        )
        pack_values(self.config, message.config)
        if self.model is not None:
            _fill_blob(message.model, self.model)
        if self.bundle is not None:
            _fill_blob(message.bundle, self.bundle)
        return message.SerializeToString()

    @classmethod
    def unpack(cls, body: bytes, *, deadline_s: float = 0.0, verify: bool = True) -> "Task":
        """Read what `pack` wrote.

        Args:
            verify: False where whoever uses inline content verifies it.

        Raises:
            CodecError: anything else.
        """
        message = _parse(pb.Task, body, "task")
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
            model=unpack_blob(message.model, verify=verify) if message.HasField("model") else None,
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
            update_kind=self.update_kind,
            base=self.base,
            payload=self.payload,
            seconds=self.seconds,
            fingerprint=self.fingerprint,
        )
        pack_values(self.metrics, message.metrics)
        if self.update is not None:
            _fill_blob(message.update, self.update)
        return message.SerializeToString()

    @classmethod
    def unpack(cls, body: bytes) -> "Reply":
        """Read what `pack` wrote.

        Raises:
            CodecError: anything else. IntegrityError: an inline update that does not match its hash.
        """
        message = _parse(pb.Reply, body, "reply")
        if not math.isfinite(message.seconds) or message.num_examples >= 2**53:
            raise CodecError("reply: seconds or num_examples out of range")
        return cls(
            task=_task_id(message.task),
            site=_name(message.site, "reply site"),
            error_kind=message.error_kind[:64],
            error=message.error[:MAX_TEXT],
            num_examples=message.num_examples,
            metrics=unpack_values(message.metrics, "reply metrics"),
            update=unpack_blob(message.update) if message.HasField("update") else None,
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

    def fill(self, message: pb.Envelope) -> None:
        """Write it into a message, where it belongs: a message that is put into another is copied twice."""
        self._fill_signed(message)
        message.deadline_s = self.deadline_s
        message.sig = self.sig

    def _fill_signed(self, message: pb.Envelope) -> None:
        message.v = self.v
        message.federation = self.federation
        message.job = self.job
        message.component = self.component
        message.sender = self.sender
        message.recipient = self.recipient
        message.id = self.id
        message.seq = self.seq
        message.kind = self.kind
        message.body = self.body
        message.sealed = self.sealed

    def pack(self) -> bytes:
        """Serialize."""
        message = pb.Envelope()
        self.fill(message)
        return message.SerializeToString()

    def signed_bytes(self) -> bytes:
        """What a signature covers: the envelope without `sig` and without `deadline_s`, which changes on resending."""
        message = pb.Envelope()
        self._fill_signed(message)
        return message.SerializeToString()

    @classmethod
    def from_message(cls, message: pb.Envelope) -> "Envelope":
        """Read a protobuf message.

        Raises:
            CodecError: an unknown major version, or a body over the limit.
        """
        if message.v != WIRE_VERSION:
            raise CodecError(f"envelope: expected version {WIRE_VERSION}, found {message.v}; update the older side")
        if len(message.body) > MAX_BODY_BYTES or len(message.id) > 400 or len(message.kind) > 64:
            raise CodecError("envelope: a field is over its limit")
        if not math.isfinite(message.deadline_s):
            raise CodecError("envelope: expected a finite deadline")
        return cls(
            sender=message.sender,
            recipient=message.recipient,
            id=message.id,
            kind=message.kind,
            body=message.body,
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
        message.content, message.is_inline = ref.content, True


def unpack_blob(message: pb.Blob, *, verify: bool = True) -> BlobRef:
    """Read a blob reference; inline content is verified here, or by whoever uses it.

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
    fits = len(message.content) == manifest.size <= INLINE_BYTES
    if not fits or (verify and manifest_of(message.content) != manifest):
        raise IntegrityError("inline blob does not match its manifest")
    return BlobRef(manifest, message.scope, message.content)


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
