from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Value(_message.Message):
    __slots__ = ("int", "float", "bool", "str", "bytes", "list")
    INT_FIELD_NUMBER: _ClassVar[int]
    FLOAT_FIELD_NUMBER: _ClassVar[int]
    BOOL_FIELD_NUMBER: _ClassVar[int]
    STR_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    int: int
    float: float
    bool: bool
    str: str
    bytes: bytes
    list: ValueList
    def __init__(self, int: _Optional[int] = ..., float: _Optional[float] = ..., bool: bool = ..., str: _Optional[str] = ..., bytes: _Optional[bytes] = ..., list: _Optional[_Union[ValueList, _Mapping]] = ...) -> None: ...

class ValueList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, items: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("size", "hashes")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    size: int
    hashes: bytes
    def __init__(self, size: _Optional[int] = ..., hashes: _Optional[bytes] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("scope", "manifest", "content", "is_inline")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IS_INLINE_FIELD_NUMBER: _ClassVar[int]
    scope: str
    manifest: Manifest
    content: bytes
    is_inline: bool
    def __init__(self, scope: _Optional[str] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ..., content: _Optional[bytes] = ..., is_inline: bool = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("v", "federation", "job", "component", "sender", "recipient", "id", "seq", "kind", "deadline_s", "body", "sealed", "sig")
    V_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    v: int
    federation: str
    job: str
    component: str
    sender: str
    recipient: str
    id: str
    seq: int
    kind: str
    deadline_s: float
    body: bytes
    sealed: bool
    sig: bytes
    def __init__(self, v: _Optional[int] = ..., federation: _Optional[str] = ..., job: _Optional[str] = ..., component: _Optional[str] = ..., sender: _Optional[str] = ..., recipient: _Optional[str] = ..., id: _Optional[str] = ..., seq: _Optional[int] = ..., kind: _Optional[str] = ..., deadline_s: _Optional[float] = ..., body: _Optional[bytes] = ..., sealed: bool = ..., sig: _Optional[bytes] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("id", "site", "round", "phase", "attempt", "app", "call", "config", "model", "update_kind", "seed", "allow_nonfinite", "payload", "job_name", "bundle")
    class ConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_KIND_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ALLOW_NONFINITE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    site: str
    round: int
    phase: str
    attempt: int
    app: str
    call: str
    config: _containers.MessageMap[str, Value]
    model: Blob
    update_kind: str
    seed: int
    allow_nonfinite: bool
    payload: bytes
    job_name: str
    bundle: Blob
    def __init__(self, id: _Optional[str] = ..., site: _Optional[str] = ..., round: _Optional[int] = ..., phase: _Optional[str] = ..., attempt: _Optional[int] = ..., app: _Optional[str] = ..., call: _Optional[str] = ..., config: _Optional[_Mapping[str, Value]] = ..., model: _Optional[_Union[Blob, _Mapping]] = ..., update_kind: _Optional[str] = ..., seed: _Optional[int] = ..., allow_nonfinite: bool = ..., payload: _Optional[bytes] = ..., job_name: _Optional[str] = ..., bundle: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("task", "site", "error_kind", "error", "num_examples", "metrics", "update", "update_kind", "base", "payload", "seconds", "fingerprint")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    ERROR_KIND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_KIND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    task: str
    site: str
    error_kind: str
    error: str
    num_examples: int
    metrics: _containers.MessageMap[str, Value]
    update: Blob
    update_kind: str
    base: str
    payload: bytes
    seconds: float
    fingerprint: str
    def __init__(self, task: _Optional[str] = ..., site: _Optional[str] = ..., error_kind: _Optional[str] = ..., error: _Optional[str] = ..., num_examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, Value]] = ..., update: _Optional[_Union[Blob, _Mapping]] = ..., update_kind: _Optional[str] = ..., base: _Optional[str] = ..., payload: _Optional[bytes] = ..., seconds: _Optional[float] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class SiteFrame(_message.Message):
    __slots__ = ("hello", "envelope", "report", "heartbeat", "done")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    envelope: Envelope
    report: TaskReport
    heartbeat: Heartbeat
    done: str
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., envelope: _Optional[_Union[Envelope, _Mapping]] = ..., report: _Optional[_Union[TaskReport, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., done: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("v", "software", "holding", "facts")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    V_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    v: int
    software: str
    holding: _containers.RepeatedScalarFieldContainer[str]
    facts: _containers.ScalarMap[str, str]
    def __init__(self, v: _Optional[int] = ..., software: _Optional[str] = ..., holding: _Optional[_Iterable[str]] = ..., facts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TaskReport(_message.Message):
    __slots__ = ("task", "stage", "fraction")
    TASK_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    task: str
    stage: str
    fraction: float
    def __init__(self, task: _Optional[str] = ..., stage: _Optional[str] = ..., fraction: _Optional[float] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("n",)
    N_FIELD_NUMBER: _ClassVar[int]
    n: int
    def __init__(self, n: _Optional[int] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("welcome", "delivery", "accepted", "heartbeat")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    delivery: Delivery
    accepted: Accepted
    heartbeat: Heartbeat
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., delivery: _Optional[_Union[Delivery, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("v", "software", "lease_s")
    V_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    v: int
    software: str
    lease_s: float
    def __init__(self, v: _Optional[int] = ..., software: _Optional[str] = ..., lease_s: _Optional[float] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("receipt", "envelope", "count", "accepted")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    receipt: str
    envelope: Envelope
    count: int
    accepted: _containers.RepeatedCompositeFieldContainer[Accepted]
    def __init__(self, receipt: _Optional[str] = ..., envelope: _Optional[_Union[Envelope, _Mapping]] = ..., count: _Optional[int] = ..., accepted: _Optional[_Iterable[_Union[Accepted, _Mapping]]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("id", "outcome", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    outcome: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("scope", "id", "chunks")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    scope: str
    id: str
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, scope: _Optional[str] = ..., id: _Optional[str] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class UploadOffer(_message.Message):
    __slots__ = ("scope", "task", "manifest")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    scope: str
    task: str
    manifest: Manifest
    def __init__(self, scope: _Optional[str] = ..., task: _Optional[str] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ...) -> None: ...

class UploadTicket(_message.Message):
    __slots__ = ("missing", "ticket")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    ticket: str
    def __init__(self, missing: _Optional[_Iterable[int]] = ..., ticket: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token_secret", "kind", "name", "signing_request")
    TOKEN_SECRET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    token_secret: bytes
    kind: str
    name: str
    signing_request: bytes
    def __init__(self, token_secret: _Optional[bytes] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., signing_request: _Optional[bytes] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("certificate", "authority", "member_record", "address", "federation")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    MEMBER_RECORD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    certificate: str
    authority: str
    member_record: bytes
    address: str
    federation: str
    def __init__(self, certificate: _Optional[str] = ..., authority: _Optional[str] = ..., member_record: _Optional[bytes] = ..., address: _Optional[str] = ..., federation: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("signing_request",)
    SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    signing_request: bytes
    def __init__(self, signing_request: _Optional[bytes] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("v", "body", "content", "sig")
    V_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    v: int
    body: bytes
    content: bytes
    sig: bytes
    def __init__(self, v: _Optional[int] = ..., body: _Optional[bytes] = ..., content: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("v", "body", "content")
    V_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    v: int
    body: bytes
    content: bytes
    def __init__(self, v: _Optional[int] = ..., body: _Optional[bytes] = ..., content: _Optional[bytes] = ...) -> None: ...
