"""Frames of a session whose envelope is large: written and read without a copy for each message that holds another.

Everything else is an ordinary protobuf frame. On the wire there is no difference: these are the bytes that protobuf
would write, but that a delivery's envelope comes last in it.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from hanse.core.errors import CodecError
from hanse.core.parted import cut, head
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope

_Message = TypeVar("_Message", bound=Message)
_SITE_ENVELOPE, _DELIVERY, _DELIVERED = 2, 2, 2
LENT = ("task", "reply")
"""Kinds of messages whose body may be a view of the frame: who reads them expects a buffer."""


@dataclass(slots=True)
class Delivering:
    """A `ServerFrame` with a delivery.

    Args:
        accepted: fates that go with it.
    """

    receipt: str
    envelope: Envelope
    count: int
    accepted: list[pb.Accepted] = field(default_factory=list)

    def pack(self) -> bytes:
        """Serialize."""
        rest = pb.Delivery(receipt=self.receipt, count=self.count, accepted=self.accepted).SerializeToString()
        envelope = self.envelope.parts()
        start = head(_DELIVERED, sum(map(len, envelope)))
        size = len(rest) + len(start) + sum(map(len, envelope))
        return b"".join((head(_DELIVERY, size), rest, start, *envelope))


ServerFrame = pb.ServerFrame | Delivering
SiteFrame = pb.SiteFrame | Envelope


def pack_server_frame(frame: ServerFrame) -> bytes:
    """As gRPC's serializer."""
    return frame.pack() if isinstance(frame, Delivering) else frame.SerializeToString()


def pack_site_frame(frame: SiteFrame) -> bytes:
    """As gRPC's serializer. An envelope is a frame of its own."""
    if isinstance(frame, pb.SiteFrame):
        return frame.SerializeToString()
    envelope = frame.parts()
    return b"".join((head(_SITE_ENVELOPE, sum(map(len, envelope))), *envelope))


def read_server_frame(content: bytes) -> ServerFrame:
    """What a site receives; a delivery that is small, or holds what is no envelope, stays protobuf's.

    Raises:
        CodecError: no frame.
    """
    rest, delivery = cut(content, _DELIVERY)
    if delivery is None or rest:
        return _parsed(pb.ServerFrame, content)
    rest, envelope = cut(delivery, _DELIVERED)
    if envelope is None:
        return _parsed(pb.ServerFrame, content)
    about = _parsed(pb.Delivery, rest)
    try:
        return Delivering(about.receipt, _envelope(envelope), about.count, list(about.accepted))
    except CodecError:  # whoever reads the frame says so
        return _parsed(pb.ServerFrame, content)


def read_site_frame(content: bytes) -> SiteFrame:
    """What the server receives; an envelope that is small stays protobuf's.

    Raises:
        CodecError: no frame.
    """
    rest, envelope = cut(content, _SITE_ENVELOPE)
    if envelope is None or rest:
        return _parsed(pb.SiteFrame, content)
    return _envelope(envelope)


def _envelope(content: memoryview) -> Envelope:
    envelope = Envelope.lent(content)
    return envelope if envelope.kind in LENT else Envelope.unpack(bytes(content))


def _parsed(kind: type[_Message], content: bytes) -> _Message:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise CodecError(f"session: {len(content)} bytes that are not a frame") from None
