"""Messages put together around their large field: protobuf's bytes, and protobuf's reading of them."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hanse.core.errors import CodecError, IntegrityError
from hanse.core.ids import TaskId
from hanse.core.parted import LARGE, MOST_FIELDS, cut, head
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import BlobRef, Envelope, Reply, Task, pack_values

SIZES = st.sampled_from([0, 1, 127, LARGE - 40, LARGE, 16_384, 40_000])
ID = TaskId("job", "main", 3, "train", 17)


def of_protobuf(ref: BlobRef, message: pb.Blob) -> None:
    message.SetInParent()
    message.manifest.SetInParent()
    message.manifest.size, message.manifest.hashes, message.scope = ref.manifest.size, ref.manifest.hashes, ref.scope
    if ref.content is not None:
        message.content, message.is_inline = ref.content, True


@given(SIZES, st.booleans(), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=1), SIZES)
def test_a_task_has_protobufs_bytes(size: int, bundled: bool, config: dict[str, int], payload: int) -> None:
    model = BlobRef.inline(b"\x07" * size)
    task = Task(ID, "site", "train", "a" * 64, 2, config, model, "delta", 5, True, b"\xff" * payload)
    task = task if not bundled else Task(**{n: getattr(task, n) for n in task.__slots__} | {"bundle": model})
    message = pb.Task(
        id=str(ID), site="site", round=3, phase="train", attempt=2, app="a" * 64, call="train", update_kind="delta",
        seed=5, allow_nonfinite=True, payload=b"\xff" * payload,
    )  # fmt: skip
    pack_values(config, message.config)
    of_protobuf(model, message.model)
    if bundled:
        of_protobuf(model, message.bundle)
    packed = task.pack()
    assert packed == message.SerializeToString()
    assert Task.unpack(packed) == Task.unpack(packed, lend=True) == task


@given(SIZES, st.dictionaries(st.sampled_from("abc"), st.floats(0, 9), max_size=1))
def test_a_reply_has_protobufs_bytes(size: int, metrics: dict[str, float]) -> None:
    update = BlobRef.inline(b"\x07" * size)
    reply = Reply(ID, "site", "", "", 4, metrics, update, "values", "b" * 64, b"p", 0.5, "f")
    message = pb.Reply(
        task=str(ID), site="site", num_examples=4, update_kind="values", base="b" * 64, payload=b"p", seconds=0.5,
        fingerprint="f",
    )  # fmt: skip
    pack_values(metrics, message.metrics)
    of_protobuf(update, message.update)
    packed = reply.pack()
    assert packed == message.SerializeToString()
    assert Reply.unpack(packed) == Reply.unpack(packed, lend=True) == reply


@given(SIZES, st.booleans(), st.floats(0, 9), st.sampled_from([b"", b"s" * 64]))
def test_an_envelope_has_protobufs_bytes(size: int, sealed: bool, deadline_s: float, sig: bytes) -> None:
    envelope = Envelope("a", "b", "id", "task", b"\x0b" * size, "f", "j", "c", 3, deadline_s, sealed, sig)
    names = ("v", "federation", "job", "component", "sender", "recipient", "id", "seq", "kind", "body", "sealed")
    message = pb.Envelope(**{name: getattr(envelope, name) for name in names})
    assert envelope.signed_bytes() == message.SerializeToString()
    message.deadline_s, message.sig = deadline_s, sig
    assert envelope.pack() == message.SerializeToString()
    assert Envelope.unpack(envelope.pack()) == Envelope.lent(envelope.pack()) == envelope


@given(st.binary(max_size=60), st.integers(0, 2 * LARGE), st.integers(1, 20), st.binary(max_size=60))
def test_what_is_cut_out_is_what_protobuf_reads(before: bytes, size: int, number: int, after: bytes) -> None:
    """Of any bytes around a large field: either it is cut out as protobuf has it, or all is left to protobuf."""
    content = b"".join((before, head(11, size), b"\x0b" * size, after))
    rest, body = cut(content, number)
    if body is None:
        assert rest == content
        return
    assert len(content) >= LARGE
    assert len(rest) < len(content)
    if number == 11:
        try:
            message = pb.Envelope.FromString(content)
        except Exception:
            with pytest.raises(CodecError):
                Envelope.lent(content)
        else:
            assert message.body == body


def test_a_field_that_is_there_twice_is_protobufs_business() -> None:
    field = head(11, LARGE) + bytes(LARGE)
    assert cut(field + field, 11) == (field + field, None)


def test_a_message_of_very_many_fields_is_protobufs_business() -> None:
    """It reads them a hundred times faster: eight megabytes of nothing else kept a server busy for five seconds."""
    field, nothing = head(11, LARGE) + bytes(LARGE), b"\x08\x01"
    few = nothing * (MOST_FIELDS - 1)
    assert cut(few + field, 11) == (few, bytes(LARGE))
    for many in (few + nothing + field, field + nothing * MOST_FIELDS):
        assert cut(many, 11) == (many, None)
        assert Envelope.lent(many).body == bytes(LARGE)


def test_a_length_beyond_the_end_is_protobufs_business() -> None:
    content = head(11, 2 * LARGE) + bytes(LARGE)
    assert cut(content, 11) == (content, None)
    with pytest.raises(CodecError):
        Envelope.lent(content)


def test_what_does_not_match_its_hash_is_refused_also_where_it_is_lent() -> None:
    packed = Reply(ID, "site", update=BlobRef.inline(bytes(8 * LARGE))).pack()
    damaged = packed.replace(bytes(1000), bytes(999) + b"\x01", 1)
    with pytest.raises(IntegrityError):
        Reply.unpack(damaged, lend=True)
