"""What travels between parties, and the seam that carries it.

A channel moves frames. It may repeat and reorder them; `Party` puts them in order, drops repetitions and checks them.
A channel neither reads the content nor judges deadlines of its own.

**A channel vouches for the sender.** A frame that says `sender="host"` was sent by the host: because both run in one
process, because only one peer holds the other end of a stream, or because it was opened with a key that only the host's
site has. A channel that cannot tell must not carry frames: `Party` believes what it says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

STOPPED = "!stopped"
"""Not a declared message: its sender has stopped and says no more."""
LOST = "!lost"
"""Not a declared message: the channel has lost its sender, and nothing of it comes any more."""
ALIVE = "!alive"
"""Not a declared message: the sender's site was heard, though its program says nothing."""
WHY = "!why"
"""Not a declared message: its sender has waited for the recipient in vain, and asks whom that one waits for."""
WAITS = "!waits"
"""Not a declared message: the answer, `seq` being the place of a role among the protocol's."""
SIGNS = (STOPPED, LOST, ALIVE, WHY, WAITS)
PASSED_ON = (STOPPED, WHY, WAITS)
"""Signs that a party itself sends; the others are the channel's."""

CheckHead = Callable[[str, str, str, int], None]
"""Called with sender, recipient, name and the content's length in bytes; raises `RefusedError` not to take it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on its way.

    Attributes:
        sender: the role it comes from.
        recipient: the role it goes to.
        name: the message's name, or one of `SIGNS`.
        seq: counts from 0 for each (sender, recipient, name).
        content: one array in canonical safetensors, or nothing for one of `SIGNS`.
    """

    sender: str
    recipient: str
    name: str
    seq: int
    content: bytes | memoryview


class Channel(Protocol):
    """One party's end: carries its frames away and brings those meant for it, each with its true sender."""

    def expect(self, check: CheckHead) -> None:
        """Ask `check` before a content is read, where heads come before contents. `Party` calls this first."""

    async def send(self, frame: Frame, wait_s: float) -> bool:
        """Take a frame, or say False: there was no room for it for `wait_s` seconds (back-pressure).

        A channel that holds back a sender keeps reading for it, so that two parties that send at once do not wait for
        each other.

        Raises:
            UnavailableError: the other end is gone.
        """

    async def receive(self, wait_s: float) -> Frame | None:
        """The next frame for this party, in whatever order they arrive; None if none came for `wait_s` seconds.

        Raises:
            UnavailableError: the other end is gone and there is nothing left to receive.
        """

    def now(self) -> float:
        """Seconds on the clock by which this channel waits."""
