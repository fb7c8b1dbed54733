"""Tasks, replies and envelopes: round trips, and whatever else may come over the wire."""

import contextlib
import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.blobs import INLINE_BYTES, Manifest, manifest_of
from hanse.core.errors import CodecError, IntegrityError, RefusedError, TooLargeError
from hanse.core.ids import NAME_PATTERN, TaskId
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import MAX_BODY_BYTES, MAX_ENTRIES, MAX_TEXT, BlobRef, Envelope, Reply, Task

names = st.from_regex(NAME_PATTERN, fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
task_ids = st.builds(TaskId, names, names, st.integers(0, 2**32 - 1), names, st.integers(0, 10**9))
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts | st.binary(max_size=9)
values = st.dictionaries(texts, scalars | st.lists(scalars, max_size=4), max_size=5)
inline = st.binary(max_size=50).map(BlobRef.inline)
stored = st.builds(
    lambda content, scope: BlobRef(manifest_of(content), scope), st.binary(max_size=9), names | st.just("")
)
blob_refs = st.none() | inline | stored
kinds = st.sampled_from(["values", "delta"])

tasks = st.builds(
    Task,
    id=task_ids,
    site=names,
    call=names,
    app=texts,
    attempt=st.integers(0, 2**32 - 1),
    config=values,
    model=blob_refs,
    update_kind=kinds,
    seed=st.integers(0, 2**64 - 1),
    allow_nonfinite=st.booleans(),
    payload=st.binary(max_size=20),
    bundle=blob_refs,
    deadline_s=st.floats(0, 1e9),
)
replies = st.builds(
    Reply,
    task=task_ids,
    site=names,
    error_kind=texts,
    error=texts,
    num_examples=st.integers(0, 2**53 - 1),
    metrics=values,
    update=blob_refs,
    update_kind=kinds,
    base=texts,
    payload=st.binary(max_size=20),
    seconds=st.floats(0, 1e9),
    fingerprint=texts,
)
envelopes = st.builds(
    Envelope,
    sender=texts,
    recipient=texts,
    id=texts,
    kind=texts,
    body=st.binary(max_size=50),
    federation=texts,
    job=texts,
    component=texts,
    seq=st.integers(0, 2**64 - 1),
    deadline_s=st.floats(0, 1e9),
    sealed=st.booleans(),
    sig=st.binary(max_size=64),
)
TASK = Task(TaskId("j", "c", 1, "train", 0), "a", "train", config={"lr": 0.1}, model=BlobRef.inline(b"model"))
REPLY = Reply(TASK.id, "a", num_examples=10, metrics={"loss": 0.5}, update=BlobRef.inline(b"update"))


@given(tasks)
def test_a_task_is_read_as_it_was_written(task: Task) -> None:
    read = Task.unpack(task.pack(), deadline_s=task.deadline_s)
    assert read == task
    assert {key: type(value) for key, value in read.config.items()} == {k: type(v) for k, v in task.config.items()}


@given(replies)
def test_a_reply_is_read_as_it_was_written(reply: Reply) -> None:
    assert Reply.unpack(reply.pack()) == reply


@given(envelopes)
def test_an_envelope_is_read_as_it_was_written(envelope: Envelope) -> None:
    assert Envelope.unpack(envelope.pack()) == envelope


@given(envelopes, st.binary(min_size=1, max_size=64))
def test_a_signature_covers_all_but_itself_and_the_deadline(envelope: Envelope, sig: bytes) -> None:
    signed = envelope.signed_bytes()
    assert dataclasses.replace(envelope, sig=sig, deadline_s=99.0).signed_bytes() == signed
    for field in dataclasses.fields(Envelope):
        if field.name not in ("sig", "deadline_s", "v"):
            value = getattr(envelope, field.name)
            other: Any = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2
            if isinstance(other, (str, bytes)) and not other:
                other = "x" if isinstance(other, str) else b"x"
            if field.name == "seq":
                other = (envelope.seq + 1) % 2**64
            assert dataclasses.replace(envelope, **{field.name: other}).signed_bytes() != signed


def test_failed_is_an_ordinary_reply_with_bounded_text() -> None:
    reply = Reply.failed(TASK.id, "a", "raised", "x" * 10_000)
    assert not reply.ok
    assert REPLY.ok
    assert len(reply.error) == MAX_TEXT
    assert Reply.unpack(reply.pack()) == reply


def test_inline_blobs_have_a_limit() -> None:
    assert BlobRef.inline(bytes(INLINE_BYTES)).id == manifest_of(bytes(INLINE_BYTES)).id
    with pytest.raises(TooLargeError):
        BlobRef.inline(bytes(INLINE_BYTES + 1))


@pytest.mark.parametrize("record", [Task, Reply, Envelope])
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(record: type[Task] | type[Reply] | type[Envelope], content: bytes) -> None:
    with contextlib.suppress(RefusedError):
        record.unpack(content)


@given(st.sampled_from([TASK, REPLY, Envelope("a", "b", "i", "k", b"body")]), st.data())
def test_truncated_and_flipped(record: Task | Reply | Envelope, data: st.DataObject) -> None:
    content = bytearray(record.pack())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(RefusedError):
        type(record).unpack(bytes(content))


def changed_task(**changes: Any) -> bytes:
    return changed(pb.Task, TASK.pack(), changes)


def changed_reply(**changes: Any) -> bytes:
    return changed(pb.Reply, REPLY.pack(), changes)


def changed(kind: type[pb.Task] | type[pb.Reply], content: bytes, changes: dict[str, Any]) -> bytes:
    message = kind.FromString(content)
    for name, value in changes.items():
        setattr(message, name, value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        changed_task(id="nonsense"),
        changed_task(id="j/c/" + "9" * 5000 + "/train/0"),
        changed_task(round=2),
        changed_task(phase="other"),
        changed_task(site="../a"),
        changed_task(call="__import__"),
        changed_task(update_kind="other"),
    ],
)
def test_tasks_that_contradict_themselves_are_refused(content: bytes) -> None:
    with pytest.raises(CodecError):
        Task.unpack(content)


@pytest.mark.parametrize(
    "content",
    [
        changed_reply(task="nonsense"),
        changed_reply(site=""),
        changed_reply(update_kind=""),
        changed_reply(seconds=math.nan),
        changed_reply(seconds=math.inf),
        changed_reply(num_examples=2**53),
        changed_reply(num_examples=2**64 - 1),
    ],
)
def test_replies_that_cannot_be_are_refused(content: bytes) -> None:
    with pytest.raises(CodecError):
        Reply.unpack(content)


def test_long_texts_of_a_reply_are_cut() -> None:
    long = "x" * 10_000
    reply = Reply.unpack(changed_reply(error_kind=long, error=long, base=long, fingerprint=long))
    assert [len(text) for text in (reply.error_kind, reply.error, reply.base, reply.fingerprint)] == [
        64,
        MAX_TEXT,
        64,
        128,
    ]


def with_update(blob: pb.Blob) -> bytes:
    message = pb.Reply.FromString(REPLY.pack())
    message.update.CopyFrom(blob)
    return message.SerializeToString()


@pytest.mark.parametrize("scope", ["..", "a/../b", "/etc", "A", "a" * 64])
def test_unsafe_scopes_are_refused(scope: str) -> None:
    with pytest.raises(CodecError):
        Reply.unpack(with_update(pb.Blob(scope=scope)))


def test_inline_content_is_verified() -> None:
    manifest = manifest_of(b"right")
    blob = pb.Blob(manifest=pb.Manifest(size=5, hashes=manifest.hashes), content=b"wrong", is_inline=True)
    with pytest.raises(IntegrityError):
        Reply.unpack(with_update(blob))
    large = bytes(INLINE_BYTES + 1)
    blob = pb.Blob(
        manifest=pb.Manifest(size=len(large), hashes=manifest_of(large).hashes), content=large, is_inline=True
    )
    with pytest.raises(IntegrityError):
        Reply.unpack(with_update(blob))


@pytest.mark.parametrize(("size", "hashes"), [(2**64 - 1, b""), (1, b""), (0, bytes(32)), (1, bytes(31))])
def test_impossible_manifests_are_refused(size: int, hashes: bytes) -> None:
    with pytest.raises(CodecError):
        Reply.unpack(with_update(pb.Blob(manifest=pb.Manifest(size=size, hashes=hashes))))


def test_an_empty_inline_blob_is_not_an_absent_one() -> None:
    reply = dataclasses.replace(REPLY, update=BlobRef.inline(b""))
    assert Reply.unpack(reply.pack()).update == BlobRef(Manifest(0, b""), content=b"")


def test_too_many_metrics_are_refused() -> None:
    most = {str(n): n for n in range(MAX_ENTRIES)}
    assert len(Reply.unpack(dataclasses.replace(REPLY, metrics=most).pack()).metrics) == MAX_ENTRIES
    with pytest.raises(CodecError, match="entries"):
        Reply.unpack(dataclasses.replace(REPLY, metrics={**most, "more": 1}).pack())


def test_nested_lists_and_unknown_kinds_are_refused() -> None:
    for value in (
        pb.Value(),
        pb.Value(list=pb.ValueList(items=[pb.Value(list=pb.ValueList())])),
        pb.Value(list=pb.ValueList(items=[pb.Value()])),
    ):
        message = pb.Reply.FromString(REPLY.pack())
        message.metrics["bad"].CopyFrom(value)
        with pytest.raises(CodecError):
            Reply.unpack(message.SerializeToString())


@pytest.mark.parametrize("value", [None, {"a": 1}, 2**63, -(2**63) - 1, 1j, [[1]], [None], object()])
def test_values_of_other_kinds_are_not_written(value: Any) -> None:
    with pytest.raises(CodecError):
        dataclasses.replace(TASK, config={"key": value}).pack()


def test_a_list_may_be_empty_and_mixed() -> None:
    metrics: dict[str, Any] = {"empty": [], "mixed": [True, 1, 1.0, "1", b"1"], "no": False, "zero": 0, "text": ""}
    read = Reply.unpack(dataclasses.replace(REPLY, metrics=metrics).pack()).metrics
    assert read == metrics
    assert [type(item) for item in read["mixed"]] == [bool, int, float, str, bytes]  # type: ignore[union-attr]
    assert type(read["no"]) is bool


def test_an_unknown_version_is_refused_and_says_what_to_do() -> None:
    for version in (0, 2):
        content = pb.Envelope(v=version, id="1", kind="task").SerializeToString()
        with pytest.raises(CodecError, match="update the older side"):
            Envelope.unpack(content)


def test_unknown_fields_are_no_error() -> None:
    """A newer minor version may have added fields: number 1000, a varint."""
    assert Task.unpack(TASK.pack() + b"\xc0\x3e\x01") == TASK


@pytest.mark.parametrize("deadline_s", [math.nan, math.inf, -math.inf])
def test_impossible_deadlines_are_refused(deadline_s: float) -> None:
    with pytest.raises(CodecError):
        Envelope.unpack(Envelope("a", "b", "i", "k", deadline_s=deadline_s).pack())


def test_limits_of_an_envelope() -> None:
    for over in (
        Envelope("a", "b", "i", "k", bytes(MAX_BODY_BYTES + 1)),
        Envelope("a", "b", "i" * 401, "k"),
        Envelope("a", "b", "i", "k" * 65),
    ):
        with pytest.raises(CodecError, match="limit"):
            Envelope.unpack(over.pack())
    largest = Envelope("a", "b", "i", "k", bytes(MAX_BODY_BYTES))
    assert Envelope.unpack(largest.pack()) == largest
    with pytest.raises(CodecError, match="at most"):
        Task.unpack(bytes(MAX_BODY_BYTES + 65537))
