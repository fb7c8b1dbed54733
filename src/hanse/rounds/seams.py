"""The four seams of one place, as whoever drives a run is given them, with what the place promises."""

from dataclasses import dataclass

from hanse.core.seams import BlobStore, Inbox, Ledger, Links


@dataclass(frozen=True, slots=True)
class Seams:
    """The four seams of one place.

    Args:
        private: nobody else can reach them and sending never waits (simulation, the embedded server): nothing is
            gained by sending side by side, and nobody can take over.
        overlap: writes wait for a disk, so a small reply counts while its row is on its way; the run record still
            comes after the row, and so does the acknowledgement.
        unhurried: the same ledger for records that may wait a little for others to be committed with. It promises
            order: what is written through it, or made as a small blob, is durable no later than a write to `ledger`
            that was begun after it, and where it fails, that write is refused. So the run record need not wait for
            what it stands on. None where there is no such promise.
    """

    ledger: Ledger
    blobs: BlobStore
    inbox: Inbox
    links: Links
    private: bool = False
    overlap: bool = False
    unhurried: Ledger | None = None
