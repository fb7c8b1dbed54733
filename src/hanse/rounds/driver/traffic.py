"""Bytes that a round has moved, and what compression saved of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hanse.core.records import BlobRef, Reply

SIZES_KEPT = 32


@dataclass(slots=True)
class Traffic:
    """What went to sites and came from them since the last checkpoint.

    Args:
        compressed: whether the run's updates are.
        down, up, saved: bytes; what was saved is counted of those from the sites.
        sizes: bytes of the models that went out lately, by id; kept with the run where updates are compressed.
    """

    compressed: bool
    down: int = 0
    up: int = 0
    saved: int = 0
    sizes: dict[str, int] = field(default_factory=dict)

    def went_down(self, model: BlobRef) -> None:
        """A site was sent a model."""
        size = model.manifest.size
        self.down += size
        if model.id not in self.sizes:
            self.sizes = dict([*self.sizes.items(), (model.id, size)][-SIZES_KEPT:])

    def came_up(self, reply: Reply) -> None:
        """A site has replied."""
        if reply.update is not None:
            size = reply.update.manifest.size
            self.up += size
            self.saved += self.saved_of(reply.base, size)

    def recount(self, replies: Iterable[Reply]) -> None:
        """These alone have come up: whoever looked before has seen the same ones."""
        self.up = self.saved = 0
        for reply in replies:
            self.came_up(reply)

    def saved_of(self, base: str, sent: int) -> int:
        """What an update of `sent` bytes saves: one that is not compressed is as long as its model."""
        size = self.sizes.get(base) if self.compressed else None
        return 0 if size is None else size - sent

    def take(self) -> dict[str, int]:
        """What has moved, as `RoundRecord.bytes`; counting begins anew."""
        moved = {"down": self.down, "up": self.up}
        if self.compressed:
            moved["saved"] = self.saved
        self.down = self.up = self.saved = 0
        return moved
