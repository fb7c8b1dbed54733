"""Frames: whole, in pieces, with descriptors, and damaged."""

import contextlib
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError
from hanse.workers import wire
from hanse.workers.wire import Frame, Reader

frames = st.builds(
    Frame,
    st.sampled_from(["execute", "done", "spawn"]),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
    st.lists(st.binary(max_size=200), max_size=4).map(tuple),
)


@given(st.lists(frames, max_size=4), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_any_cut_of_the_stream_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    stream, reader, found = b"".join(map(wire.encode, sent)), Reader(), []
    position = turn = 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        reader.feed(stream[position : position + step])
        position, turn = position + step, turn + 1
        while (frame := reader.next()) is not None:
            found.append(frame)
    assert found == sent


@given(frames, st.data())
def test_damaged_frames_raise_codec_errors_only(frame: Frame, data: st.DataObject) -> None:
    content = bytearray(wire.encode(frame))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    reader = Reader()
    reader.feed(bytes(content))
    with contextlib.suppress(CodecError):
        reader.next()


@given(st.binary(min_size=16, max_size=100))
def test_random_bytes(content: bytes) -> None:
    reader = Reader()
    reader.feed(content)
    with contextlib.suppress(CodecError):
        frame = reader.next()
        assert frame is None or (len(content) > 16 and len(frame.kind) == content[0])


def test_limits_are_checked_before_anything_is_kept() -> None:
    for fields, body in ((2**20 + 1, 0), (10, wire.MAX_BODY_BYTES + 1)):
        reader = Reader()
        reader.feed(struct.pack("<BBHIQ", 4, 0, 0, fields, body))
        with pytest.raises(CodecError, match="at most"):
            reader.next()
    with pytest.raises(CodecError, match="at most"):
        wire.encode(Frame("x", {"long": "y" * (2**20)}))
    for frame in (Frame("x", fds=tuple(range(251))), Frame("x", parts=(b"",) * 2**16), Frame("x" * 256)):
        with pytest.raises(CodecError, match="descriptors"):
            wire.encode(frame)


def test_heads_that_promise_what_is_not_there() -> None:
    kind, lengths = b"done", struct.pack("<2Q", 1, 2)
    for head, rest in (
        (struct.pack("<BBHIQ", 4, 0, 2, 0, 4), kind + lengths + b"abcd"),  # parts of three bytes, a body of four
        (struct.pack("<BBHIQ", 4, 1, 2, 0, 3), kind + lengths + b"abc"),  # a descriptor that did not come
        (struct.pack("<BBHIQ", 4, 0, 0, 2, 0), kind + b"[]"),  # fields that are a list
        (struct.pack("<BBHIQ", 4, 0, 0, 2, 0), kind + b"{x"),
        (struct.pack("<BBHIQ", 1, 0, 0, 0, 0), b"\xff"),
        (struct.pack("<BBHIQ", 0, 0, 0, 0, 0), b""),
    ):
        reader = Reader()
        reader.feed(head + rest)
        with pytest.raises(CodecError, match="frame"):
            reader.next()


def test_descriptors_come_with_their_frames() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ends = [os.pipe() for _ in range(3)]
        wire.send(ours, Frame("one", fds=(ends[0][1], ends[1][1])))
        wire.send(ours, Frame("none"))
        wire.send(ours, Frame("two", {"n": 2}, (b"body",), (ends[2][1],)))
        for _, write in ends:
            os.close(write)
        reader = Reader()
        first, none, second = (wire.receive(theirs, reader) for _ in range(3))
        assert first is not None
        assert none is not None
        assert second is not None
        assert (len(first.fds), none.fds, second.parts) == (2, (), (b"body",))
        for word, fd, (read, _) in zip((b"a", b"b", b"c"), (*first.fds, *second.fds), ends, strict=True):
            assert not os.get_inheritable(fd)
            os.write(fd, word)
            os.close(fd)
            assert os.read(read, 10) == word
            os.close(read)
        ours.close()
        assert wire.receive(theirs, reader) is None
