"""How a run stands: the state of its machine and what its driver must know besides. The run record says this."""

import json
from dataclasses import dataclass, field
from typing import Any

from hanse.core.records import Reply
from hanse.rounds import run_state
from hanse.rounds.driver.leftovers import Leftovers
from hanse.rounds.driver.traffic import Traffic
from hanse.rounds.events import BlobKey
from hanse.rounds.keeping import decode_asks, encode_asks
from hanse.rounds.run_state import RunState
from hanse.strategies import Ask


@dataclass(slots=True)
class Standing:
    """One run, in memory. Everything but `replies`, which have rows of their own, is in the run record.

    Args:
        state: the machine's; it is stepped in turns only.
        left: what lies in the ledger and the blob store, and must go some day.
        traffic: bytes moved in the round.
        asks: ordinal → what is asked, for tasks that are open.
        unkept: records of rounds that have no row yet.
        fingerprints: site → numerics fingerprint of its worker, as far as it has answered.
        update_kind: what the strategy wants updates to be.
        replies: ordinal → a reply that was received and has no fate yet.
    """

    state: RunState
    left: Leftovers
    traffic: Traffic
    asks: dict[int, Ask] = field(default_factory=dict)
    unkept: list[dict[str, Any]] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    update_kind: str = "values"
    replies: dict[int, Reply] = field(default_factory=dict)

    @classmethod
    def of(cls, state: RunState) -> "Standing":
        """A run that begins."""
        left = Leftovers([] if state.model is None else [state.model[0]])
        return cls(state, left, Traffic(bool(state.spec.compression)))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Standing":
        """Read a run record.

        Raises:
            CodecError: it cannot be read by this version.
        """
        state = run_state.decode(record["state"])
        down, up, saved = record["moved"]
        return cls(
            state,
            Leftovers(record["models"], uploads={round_: set() for round_ in record["uploads"]}),
            Traffic(bool(state.spec.compression), down, up, saved, dict(record.get("sizes", {}))),
            decode_asks(record["asks"]),
            record["checkpoints"],
            record["fingerprints"],
            record["update_kind"],
        )

    def encode(self, mark: bytes) -> bytes:
        """The run record, behind the mark of whoever writes it: `{` and fields of its own."""
        wanted = {ordinal for ordinal, slot in self.state.open.items() if not slot.answer}
        self.asks = {ordinal: ask for ordinal, ask in self.asks.items() if ordinal in wanted}
        traffic = self.traffic
        record = {
            "state": run_state.encode(self.state),
            "asks": encode_asks(self.asks),
            "checkpoints": self.unkept,
            "models": self.left.models,
            "uploads": sorted(self.left.uploads),
            "fingerprints": self.fingerprints,
            "update_kind": self.update_kind,
            "moved": [traffic.down, traffic.up, traffic.saved],
            "sizes": traffic.sizes if traffic.compressed else {},
        }
        return mark + b"," + json.dumps(record, separators=(",", ":")).encode()[1:]

    @property
    def needed(self) -> set[BlobKey]:
        """Models and strategy states that somebody still reads."""
        slots = (*self.state.open.values(), *self.state.carried.values())
        keys = {slot.model for slot in slots if slot.model is not None} | set(self.state.state)
        return keys | ({self.state.model} if self.state.model is not None else set())
