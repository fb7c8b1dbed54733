"""Frames with a large envelope: what protobuf reads of them, and what is left to it."""

import pytest

from hanse.backends.grpc.frames import (
    Delivering,
    pack_server_frame,
    pack_site_frame,
    read_server_frame,
    read_site_frame,
)
from hanse.core.errors import CodecError
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope


def envelope(size: int, kind: str = "task") -> Envelope:
    return Envelope("a", "b", "id", kind, b"\x0b" * size, "f", "j", "c", sig=b"s" * 64)


@pytest.mark.parametrize("size", [0, 100, 40_000])
def test_a_delivery_as_protobuf_reads_it(size: int) -> None:
    accepted = [pb.Accepted(id="x", outcome="received"), pb.Accepted(id="y", outcome="refused", reason="why")]
    frame = Delivering("task:id", envelope(size), 2, accepted)
    read = pb.ServerFrame.FromString(pack_server_frame(frame))
    assert (read.delivery.receipt, read.delivery.count, list(read.delivery.accepted)) == ("task:id", 2, accepted)
    assert Envelope.from_message(read.delivery.envelope) == frame.envelope
    ours = read_server_frame(pack_server_frame(frame))
    assert ours == (frame if size > 1000 else read)


def test_a_delivery_that_protobuf_has_written() -> None:
    message = pb.ServerFrame()
    message.delivery.receipt = "r"
    message.delivery.envelope.MergeFromString(envelope(40_000).pack())
    message.delivery.accepted.add(id="x")
    assert read_server_frame(message.SerializeToString()) == Delivering("r", envelope(40_000), 0, [pb.Accepted(id="x")])


@pytest.mark.parametrize("size", [0, 40_000])
def test_a_sites_envelope(size: int) -> None:
    packed = pack_site_frame(envelope(size, "reply"))
    read = pb.SiteFrame.FromString(packed)
    assert Envelope.from_message(read.envelope) == envelope(size, "reply")
    assert read_site_frame(packed) == (envelope(size, "reply") if size else read)


def test_only_tasks_and_replies_are_lent() -> None:
    found = read_site_frame(pack_site_frame(envelope(40_000, "decision")))
    assert isinstance(found, Envelope)
    assert isinstance(found.body, bytes)


def test_an_envelope_of_another_version_is_left_to_whoever_reads_it() -> None:
    frame = pb.ServerFrame()
    frame.delivery.envelope.v, frame.delivery.envelope.body = 2, bytes(40_000)
    assert read_server_frame(frame.SerializeToString()) == frame
    site = pb.SiteFrame()
    site.envelope.CopyFrom(frame.delivery.envelope)
    with pytest.raises(CodecError):
        read_site_frame(site.SerializeToString())


def test_what_is_no_frame() -> None:
    for read in (read_site_frame, read_server_frame):
        with pytest.raises(CodecError):
            read(b"\xff" * 10_000)
