"""Lanes over a carrier that loses, repeats and reorders: every message once, in order, whatever the schedule."""

import contextlib
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels import packets
from hanse.channels.packets import WINDOW, Lane, Packet, Parcel
from hanse.core.blobs import manifest_of
from hanse.core.errors import CodecError


@dataclass
class Carrier:
    """Two lanes and what is between them; a seed decides what becomes of each packet."""

    random: Random
    loses: float
    repeats: float
    now: float = 0.0
    ends: tuple[Lane, Lane] = field(default_factory=lambda: (Lane(), Lane()))
    between: list[tuple[int, Packet]] = field(default_factory=list)
    found: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))
    most: int = 0

    def carry(self) -> None:
        """One thing happens: something is sent, comes, or time passes."""
        sent = False
        for end, lane in enumerate(self.ends):
            while (parcel := lane.next(self.now)) is not None:
                sent = True
                self.between += [(1 - end, packet_of(parcel))] * self._copies()
        self.most = max(self.most, *(len(lane._flying) for lane in self.ends))
        if self.between:
            to, packet = self.between.pop(self.random.randrange(len(self.between)))
            self.found[to].extend(self.ends[to].came(packet, self.now))
        elif not sent:
            self.now = min((due for lane in self.ends if (due := lane.due_s()) is not None), default=self.now)

    def _copies(self) -> int:
        if self.random.random() < self.loses:
            return 0
        return 2 if self.random.random() < self.repeats else 1


def packet_of(parcel: Parcel) -> Packet:
    """As it comes at the other end: through bytes."""
    return Packet.unpack(Packet("j/main/1", "a", "b", parcel.seq, parcel.ack, parcel.content).pack())


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.floats(0, 0.6),
    st.floats(0, 0.6),
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_every_message_comes_once_and_in_order(
    seed: int, loses: float, repeats: float, counts: tuple[int, int]
) -> None:
    random = Random(seed)
    carrier = Carrier(random, loses, repeats)
    pushed = tuple([b"%d" % n * random.randrange(1, 4) for n in range(count)] for count in counts)
    left = [list(each) for each in pushed]
    for _ in range(20_000):
        for end, waiting in enumerate(left):
            if waiting and random.random() < 0.3:
                carrier.ends[end].push(waiting.pop(0))
        carrier.carry()
        if not any(left) and all(lane.is_flushed for lane in carrier.ends):
            break
    assert carrier.found == (pushed[1], pushed[0])
    assert carrier.most <= WINDOW


def test_no_more_than_the_window_is_on_its_way() -> None:
    lane = Lane()
    for _ in range(3):
        for _ in range(WINDOW):
            lane.push(b"x" * (packets.MAX_PACKET_BYTES // 2))  # two and their lengths are more than a packet
    assert [parcel.seq for parcel in iter(lambda: lane.next(0.0), None)] == list(range(WINDOW))
    lane.came(Packet("s", "b", "a", None, 3), 0.0)
    assert [parcel.seq for parcel in iter(lambda: lane.next(0.0), None)] == [WINDOW, WINDOW + 1, WINDOW + 2]


def test_messages_that_wait_together_go_together() -> None:
    lane = Lane()
    for each in (b"a", b"", b"ccc"):
        lane.push(each)
    parcel = lane.next(0.0)
    assert parcel is not None
    assert list(packets.split(parcel.content)) == [b"a", b"", b"ccc"]
    assert lane.next(0.0) is None


def test_what_is_lost_goes_again_less_and_less_often() -> None:
    lane = Lane(resend_s=20.0)
    lane.push(b"x")
    assert lane.next(0.0) is not None
    times = []
    while len(times) < 5:
        due = lane.due_s()
        assert due is not None
        assert lane.next(due - 0.001) is None
        again = lane.next(due)
        assert again is not None
        assert (again.seq, again.is_new) == (0, False)
        times.append(due)
    assert times == [20.0, 60.0, 140.0, 260.0, 380.0]


def test_who_is_over_takes_all_and_is_owed_nothing() -> None:
    over, other = Lane(), Lane()
    other.push(b"late")
    parcel = other.next(0.0)
    assert parcel is not None
    over.take_all(packet_of(parcel), 0.0)
    word = over.next(0.0)
    assert word is not None
    other.came(packet_of(word), 0.0)
    assert other.is_flushed
    other.push(b"more")
    other.end()
    assert other.is_flushed
    assert other.next(1000.0) is None


def test_what_comes_too_early_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MAX_EARLY_BYTES", 100)
    lane = Lane()
    content = (60).to_bytes(4, "little") + b"x" * 60
    assert lane.came(Packet("s", "b", "a", 1, 0, content), 0.0) == []
    assert lane.came(Packet("s", "b", "a", 2, 0, content), 0.0) == []
    assert not lane.wants(1)
    assert lane.wants(2)
    assert not lane.wants(WINDOW)
    assert len(lane.came(Packet("s", "b", "a", 0, 0, content), 0.0)) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\x02\0\0\0{}",
        b"\x04\0\0\0null",
        Packet("s", "a", "b", 0, 0).pack().replace(b'"seq":0', b'"seq":-1'),
        Packet("s", "a", "b", 0, 0).pack().replace(b'"ack":0', b'"ack":true'.ljust(7)),
        Packet("s", "a", "b", 0, 0).pack().replace(b'"v":1', b'"v":2'),
        Packet("s", "a", "b", 0, 0, b"x", manifest_of(b"y")).pack(),
        Packet("s", "a", "b", 0, 0, b"", None, tuple(range(WINDOW + 1))).pack(),
    ],
)
def test_what_is_no_packet_is_refused(raw: bytes) -> None:
    with pytest.raises(CodecError):
        Packet.unpack(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_refused(raw: bytes) -> None:
    with contextlib.suppress(CodecError):
        assert b"".join(len(each).to_bytes(4, "little") + each for each in packets.split(raw)) == raw


def test_a_word_for_what_was_never_sent_is_refused() -> None:
    with pytest.raises(CodecError):
        Lane().came(Packet("s", "b", "a", None, 1), 0.0)


def test_a_packet_keeps_all_of_itself() -> None:
    packet = Packet("j/main/1", "a", "b", 7, 3, b"", manifest_of(b"y" * 9), (1, 2), (("https://x", (("A", "b"),)),))
    assert Packet.unpack(packet.pack()) == packet


def test_a_word_travels_with_an_answer_and_alone_where_there_is_none() -> None:
    """Each packet costs calls of two queues and a function: a ping-pong is two packets a turn, and no more."""
    one, other = Lane(), Lane()
    for _ in range(20):
        for sender, receiver in ((one, other), (other, one)):
            sender.push(b"x")
            parcel = sender.next(0.0)
            assert parcel is not None
            receiver.came(packet_of(parcel), 0.0)
            assert sender.next(0.0) is None
    assert one.is_flushed
    for number in range(WINDOW // 4):
        one.push(b"x")
        parcel = one.next(0.0)
        assert parcel is not None
        other.came(packet_of(parcel), 0.0)
        assert (other.next(0.0) is None) == (number < WINDOW // 4 - 1)
    one.push(b"x")
    parcel = one.next(0.0)
    assert parcel is not None
    other.came(packet_of(parcel), 0.0)
    assert other.due_s() == packets.ANSWER_S
