"""`Party`: what a role program holds. `await party.send("host", "masked_ids", x)`, `x = await party.recv("guest", …)`.

Every message is checked against the protocol's declaration when it is sent and when it arrives, whatever the program is
waiting for at that moment; frames are put in order and repetitions dropped by (sender, name, number); every wait has a
deadline and a cause. One party runs one program: it is not for use from several tasks at a time.
"""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hanse.channels.frames import LOST, SIGNS, STOPPED, WAITS, WHY, Channel, Frame
from hanse.channels.protocol import HEADER_BYTES, Message, Protocol
from hanse.core.arrays import Array, Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError, ConfigError, RefusedError, TooLargeError, UnavailableError

TIMEOUT_S = 30.0
WHY_S = 1.0
"""Seconds for hearing whom a silent peer waits for."""
STOP_S = 1.0
"""Seconds for telling all others that a party stops."""
MAX_WAITING_FRAMES = 1024
"""Frames of one (sender, name) that may wait before the program asks for them."""
MAX_WAITING_BYTES = 1 << 30
"""Bytes of all frames that may wait so."""

_GONE = {STOPPED: "stopped", LOST: "was lost"}


@dataclass(slots=True)
class Counters:
    """What a party sent and received. Bytes are those of the frames' content.

    `turns` counts how often a received message followed a sent one: each costs a round trip's half on a slow link.
    """

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    turns: int = 0


class Party:
    """One role's side of a protocol.

    Args:
        role: which of the protocol's roles this is.
        protocol: the declaration that all parties share.
        channel: carries the frames.
        names: the site behind each role, for messages to people; a role without one is called by its role.
        timeout_s: seconds that a wait for one message may last, > 0.
        absent: roles without which the others have begun: sending to them and receiving from them fails at once.

    Raises:
        ConfigError: a role that the protocol does not have, a timeout that is not above 0.
    """

    def __init__(
        self,
        role: str,
        protocol: Protocol,
        channel: Channel,
        *,
        names: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        absent: Collection[str] = (),
    ) -> None:
        if role not in protocol.roles:
            raise ConfigError(f"protocol {protocol.name}: expected a role of {protocol.roles}, found {role!r}")
        if not timeout_s > 0:
            raise ConfigError(f"protocol {protocol.name}: expected timeout_s > 0, found {timeout_s}")
        self.role = role
        self.protocol = protocol
        self._messages = {(each.sender, each.recipient, each.name): each for each in protocol.messages}
        self.absent = frozenset(absent)
        self.counters = Counters()
        self.iteration: int | None = None
        """Which iteration the program is in; a program sets it, causes name it."""
        self._channel = channel
        self._names = dict(names or {})
        self._timeout_s = timeout_s
        self._next_sent: dict[tuple[str, str], int] = {}
        self._next_received: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], dict[int, Array]] = {}
        self._heard: dict[str, float] = {}
        self._waiting_bytes = 0
        self._gone = dict.fromkeys(self.absent, "is away")
        self._last_was_sent = False
        self._asked: set[str] = set()
        self._waits_for: dict[str, str] = {}
        self._limits: dict[tuple[str, str], int] = {}
        channel.expect(self._check_head)

    async def send(self, to: str, name: str, value: Array) -> None:
        """Send one array.

        Args:
            to: the recipient's role.
            name: a message declared from this role to that one.
            value: of the declared dtype and shape. It may be changed as soon as this returns.

        Raises:
            ConfigError: not a declared message, or not of its dtype and shape.
            UnavailableError: the other side is gone, or the deadline passed before there was room.
        """
        message = self._messages.get((self.role, to, name))
        if message is None:
            raise ConfigError(f"protocol {self.protocol.name}: {self.role} sends no message {name!r} to {to!r}")
        difference = message.difference(value.dtype, value.shape)
        if difference is not None:
            raise ConfigError(f"protocol {self.protocol.name}: message {name}: {difference}")
        if to in self.absent:
            raise UnavailableError(f"{self._who(to)} is away, and {self._which(message)} cannot be sent")
        content = encode(Arrays({name: value}))
        seq = self._next_sent.get((to, name), 0)
        self._next_sent[to, name] = seq + 1
        self._heard.setdefault(to, self._channel.now())
        if not await self._channel.send(Frame(self.role, to, name, seq, content), self._timeout_s):
            raise UnavailableError(
                f"{self._who(to)} has not taken {self._which(message)} for {self._timeout_s:g} s; {self._silence(to)}"
            )
        self.counters.sent_messages += 1
        self.counters.sent_bytes += len(content)
        self._last_was_sent = True

    def limit(self, sender: str, name: str, max_bytes: int) -> None:
        """From now on take arrays of that name from that role up to so many bytes; larger ones are refused by `recv`.

        Where a channel says how long a message is, it is refused before its content is read. Without a limit, what a
        declaration leaves open is bounded by the channel alone.
        """
        self._limits[sender, name] = max_bytes + HEADER_BYTES

    async def recv(self, sender: str, name: str) -> Array:
        """The next array of that name from that role, read-only.

        Raises:
            ConfigError: not a declared message from that role to this one.
            RefusedError: some peer sent what is not declared, or bytes that are not an array.
            UnavailableError: the deadline passed, or the sender stopped or was lost.
        """
        message = self._messages.get((sender, self.role, name))
        if message is None:
            raise ConfigError(
                f"protocol {self.protocol.name}: {self.role} receives no message {name!r} from {sender!r}"
            )
        key = (sender, name)
        started = self._channel.now()
        self._heard.setdefault(sender, started)
        while (seq := self._next_received.get(key, 0)) not in self._waiting.get(key, {}):
            if sender in self._gone:
                raise UnavailableError(
                    f"{self._who(sender)} {self._gone[sender]} before it sent {self._which(message)}"
                )
            left_s = started + self._timeout_s - self._channel.now()
            frame = await self._take_next(left_s, sender) if left_s > 0 else None
            if frame is None and self._channel.now() - started >= self._timeout_s:
                silence = self._silence(sender)
                raise UnavailableError(
                    f"{self._who(sender)} has not sent {self._which(message)} for {self._timeout_s:g} s; "
                    f"{await self._why(sender) or silence}"
                )
        self._next_received[key] = seq + 1
        self.counters.turns += self._last_was_sent
        self._last_was_sent = False
        value = self._waiting[key].pop(seq)
        self._waiting_bytes -= value.nbytes
        self._check_limit(sender, name, value.nbytes)  # it may have come before there was one, or in one piece
        return value

    async def _take_next(self, wait_s: float, sender: str) -> Frame | None:
        """Take the next frame that comes, if one does, and answer whoever asks whom this party waits for."""
        frame = await self._channel.receive(wait_s)
        if frame is not None:
            self._take(frame)
        while self._asked:
            await self._sign(self._asked.pop(), WAITS, self.protocol.roles.index(sender))
        return frame

    async def _why(self, silent: str) -> str:
        """Whom a silent peer waits for itself, in words; empty if it does not say, since it computes or is stuck."""
        self._waits_for.pop(silent, None)
        await self._sign(silent, WHY, 0)
        ends = self._channel.now() + WHY_S
        while silent not in self._waits_for and silent not in self._gone and (left_s := ends - self._channel.now()) > 0:
            await self._take_next(left_s, silent)
        found = self._waits_for.get(silent)
        return "" if found is None else f"it waits for {'this side' if found == self.role else self._who(found)} itself"

    async def _sign(self, to: str, name: str, seq: int) -> None:
        """Send a sign, if that can be done now."""
        with contextlib.suppress(UnavailableError):
            await self._channel.send(Frame(self.role, to, name, seq, b""), WHY_S)

    def part(self, key: str, names: Mapping[str, str] | None = None) -> "Part":
        """This party within one part of a joined protocol (`Protocol.joined`), for that part's role program.

        Args:
            key: the part's.
            names: of roles, as in `Protocol.recast`, where the part was joined under other names than its program says:
                `{"host": "host-2"}`.
        """
        return Part(self, key, names)

    async def stop(self) -> None:
        """Tell every other role that this one says no more; one that cannot be reached is left to its deadline.

        It takes `STOP_S` in all and never fails: what a program ended with goes first.
        """
        ends = self._channel.now() + STOP_S
        for role in self.protocol.roles:
            if role != self.role and role not in self.absent:
                with contextlib.suppress(Exception):
                    await self._channel.send(Frame(self.role, role, STOPPED, 0, b""), ends - self._channel.now())

    def _take(self, frame: Frame) -> None:
        """Check a frame that arrived, and keep its array until the program asks for it."""
        message = self._declared(frame.sender, frame.recipient, frame.name)
        if frame.name != LOST:
            self._heard[frame.sender] = self._channel.now()
        if message is None:
            if frame.name in _GONE:
                self._gone.setdefault(frame.sender, _GONE[frame.name])
            elif frame.name == WHY:
                self._asked.add(frame.sender)
            elif frame.name == WAITS and frame.seq < len(self.protocol.roles):
                self._waits_for[frame.sender] = self.protocol.roles[frame.seq]
            return
        key = (frame.sender, frame.name)
        waiting = self._waiting.setdefault(key, {})
        next_seq = self._next_received.get(key, 0)
        if frame.seq < next_seq or frame.seq in waiting:
            return
        if frame.seq >= next_seq + MAX_WAITING_FRAMES:
            raise TooLargeError(
                f"{self._who(frame.sender)} is more than {MAX_WAITING_FRAMES} messages {message.name} ahead"
            )
        array = self._array_in(frame, message)
        if self._waiting_bytes and self._waiting_bytes + array.nbytes > MAX_WAITING_BYTES:
            raise TooLargeError(
                f"more than {MAX_WAITING_BYTES} bytes wait for {self.role}, last of them {message.name}"
            )
        self._waiting_bytes += array.nbytes
        waiting[frame.seq] = array
        self.counters.received_messages += 1
        self.counters.received_bytes += len(frame.content)

    def _check_head(self, sender: str, recipient: str, name: str, size: int) -> None:
        """What can be said of a frame before its content is read; see `Channel.expect`."""
        message = self._declared(sender, recipient, name)
        limit = 0 if message is None else message.max_bytes()
        if limit is not None and size > limit:
            raise TooLargeError(f"{self._who(sender)} sent more bytes than its message holds: {size} of {limit}")
        self._check_limit(sender, name, size)

    def _check_limit(self, sender: str, name: str, size: int) -> None:
        most = self._limits.get((sender, name))
        if most is not None and size > most:
            raise TooLargeError(f"{self._who(sender)} sent more of {name} than is taken here: {size} bytes of {most}")

    def _declared(self, sender: str, recipient: str, name: str) -> Message | None:
        """The declared message, or None for a sign.

        Raises:
            RefusedError: neither, or of a role that is not in this channel.
        """
        if recipient != self.role or sender == self.role or sender not in self.protocol.roles:
            raise RefusedError(f"protocol {self.protocol.name}: a frame from or to a role that is not in this channel")
        message = self._messages.get((sender, self.role, name))
        if message is None and name not in SIGNS:
            raise RefusedError(f"{self._who(sender)} sent a message that {self.protocol.name} does not declare")
        return message

    def _array_in(self, frame: Frame, message: Message) -> Array:
        try:
            arrays = decode(frame.content)
        except CodecError:  # it may quote what the peer wrote
            raise RefusedError(f"{self._who(frame.sender)} sent {message.name}: not canonical arrays") from None
        if list(arrays) != [message.name]:
            raise RefusedError(f"{self._who(frame.sender)} sent {message.name}: expected one array of that name")
        array = arrays[message.name]
        difference = message.difference(array.dtype, array.shape)
        if difference is not None:
            raise RefusedError(f"{self._who(frame.sender)} sent {message.name}: {difference}")
        array.flags.writeable = False
        return array

    def site_of(self, role: str) -> str:
        """The site behind a role, or the role where sites have no names."""
        return self._names.get(role, role)

    def _who(self, role: str) -> str:
        name = self._names.get(role)
        return role if name is None else f"{role} {name}"

    def _silence(self, role: str) -> str:
        return f"last heard {self._channel.now() - self._heard[role]:.0f} s ago"

    def _which(self, message: Message) -> str:
        if self.iteration is not None:
            return f"`{message.name}` of iteration {self.iteration}"
        return f"`{message.name}`"


class Part(Party):
    """A party as one part's program sees it: names of messages and roles are the part's own, the rest is shared."""

    def __init__(self, whole: Party, key: str, names: Mapping[str, str] | None = None) -> None:
        self._there = dict(names or {})
        here = {there: role for role, there in self._there.items()}
        self.role = here.get(whole.role, whole.role)
        self.protocol = whole.protocol.part(key).recast(here)
        self.absent = frozenset(here.get(role, role) for role in whole.absent)
        self.counters = whole.counters
        self._whole, self._start = whole, f"{key}/"

    @property
    def iteration(self) -> int | None:
        """See `Party.iteration`."""
        return self._whole.iteration

    @iteration.setter
    def iteration(self, value: int | None) -> None:
        self._whole.iteration = value

    async def send(self, to: str, name: str, value: Array) -> None:
        """See `Party.send`."""
        await self._whole.send(self._there.get(to, to), self._start + name, value)

    def limit(self, sender: str, name: str, max_bytes: int) -> None:
        """See `Party.limit`."""
        self._whole.limit(self._there.get(sender, sender), self._start + name, max_bytes)

    async def recv(self, sender: str, name: str) -> Array:
        """See `Party.recv`."""
        return await self._whole.recv(self._there.get(sender, sender), self._start + name)

    def site_of(self, role: str) -> str:
        """See `Party.site_of`."""
        return self._whole.site_of(self._there.get(role, role))

    async def stop(self) -> None:
        """See `Party.stop`."""
        await self._whole.stop()


async def run_role(party: Party, program: Callable[[Party], Awaitable[Any]]) -> Any:
    """Run a role program; if it fails, the other roles are told before its error goes on."""
    try:
        return await program(party)
    except BaseException:
        await party.stop()
        raise
