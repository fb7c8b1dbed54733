"""Serialized protobuf messages whose large field is neither copied in nor out.

A message with an inline model was copied four times on its way into a buffer and three times on its way out: by
protobuf, once for each message that holds another. In a process that has just been woken each copy costs tens of
microseconds, for nothing of it is in the processor's caches. The wire form is simple (a tag, a length, the content),
so the one field that is large is put in and taken out here; protobuf reads and writes everything else.

Messages have the bytes that protobuf would give them: fields in the order of their numbers.
"""

from hanse.core.blobs import Buffer

LARGE = 4096
"""Below this many bytes protobuf is as quick."""
MOST_FIELDS = 512
"""That are looked at here: each costs a microsecond, a hundred times what it costs in protobuf, and a sender who means
ill sends millions."""

_BYTES = 2
"""The wire type of what has a length: bytes, strings, messages."""
_MAX_VARINT = 10


def head(number: int, length: int) -> bytes:
    """What stands before the content of a field of bytes: its tag and its length."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def cut(message: Buffer, number: int) -> tuple[bytes, memoryview | None]:
    """Take a field of bytes, or a message, out of a serialized message.

    Returns:
        The message without it, and a view of its content. Where it is not there, or there twice, or the message is
        small or damaged or has very many fields: all of the message and None; protobuf then says what it is.
    """
    if len(message) < LARGE:
        return bytes(message), None
    view = memoryview(message)
    wanted = number << 3 | _BYTES
    found: tuple[int, int, int] | None = None
    at, size, num_fields = 0, len(view), 0
    while at < size:
        began, num_fields = at, num_fields + 1
        if num_fields > MOST_FIELDS:
            return bytes(message), None
        tag, at = _read_varint(view, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _read_varint(view, at)
            if tag == wanted:
                if found is not None:
                    return bytes(message), None
                found = began, at, at + length
            at += length
        elif kind == 0:
            _, at = _read_varint(view, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        else:
            return bytes(message), None
        if tag < 8 or at <= began:
            return bytes(message), None
    if found is None or at != size:
        return bytes(message), None
    began, start, stop = found
    return b"".join((view[:began], view[stop:])), view[start:stop]


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends; 0 and where reading began, if there is none."""
    value = 0
    for index in range(at, min(at + _MAX_VARINT, len(view))):
        byte = view[index]
        value |= (byte & 0x7F) << 7 * (index - at)
        if byte < 0x80:
            return value, index + 1
    return 0, -1
