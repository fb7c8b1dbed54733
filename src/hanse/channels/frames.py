"""What travels between parties, and the seam that carries it.

A channel moves frames. It may repeat and reorder them; `Party` puts them in order, drops repetitions and checks them.
A channel neither reads the content nor judges deadlines of its own.
"""

from dataclasses import dataclass
from typing import Protocol

STOPPED = "!stopped"
"""The one frame that is no declared message: its sender has stopped and says no more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on its way.

    Attributes:
        sender: the role it comes from.
        recipient: the role it goes to.
        name: the message's name, or `STOPPED`.
        seq: counts from 0 for each (sender, recipient, name).
        content: one array in canonical safetensors, or nothing for `STOPPED`.
    """

    sender: str
    recipient: str
    name: str
    seq: int
    content: bytes | memoryview


class Channel(Protocol):
    """One party's end: carries its frames away and brings those meant for it."""

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
