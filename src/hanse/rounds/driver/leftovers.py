"""What a run has left in the ledger and the blob store, and when it may go. It decides; it deletes nothing.

Rows of replies go once every reply among them has its fate, uploads once the next checkpoint is durable and no task
refers to them, models but for the last two and those that a task refers to.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hanse.rounds.run_state import RunState

ROUNDS_TO_CLEAN = 8
"""After so many rounds without stored updates their rows and small models are deleted, together."""


@dataclass(frozen=True, slots=True)
class Due:
    """What may go: rounds whose rows of replies, rounds whose uploads, and scopes of models. `rows` None: all."""

    rows: tuple[int, ...] | None
    uploads: tuple[int, ...]
    models: tuple[str, ...]


@dataclass(slots=True)
class Leftovers:
    """What is there.

    Args:
        models: scopes of models and strategy states, oldest first.
        rows: rounds in which replies came whose rows are there.
        unsettled: ordinal → the round in which its reply came, for replies without a fate.
        uploads: round → sites that may have uploaded for it.
        readers: model scope → sites that may read it.
    """

    models: list[str] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)
    unsettled: dict[int, int] = field(default_factory=dict)
    uploads: dict[int, set[str]] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)

    def replied(self, ordinal: int, round_: int) -> None:
        """A reply came in `round_`, or is about to have its row."""
        self.rows.add(round_)
        self.unsettled[ordinal] = round_

    def settled(self, ordinals: Iterable[int]) -> None:
        """These replies have their fate, or no row after all."""
        for ordinal in ordinals:
            self.unsettled.pop(ordinal, None)

    def may_upload(self, round_: int, sites: Iterable[str] = ()) -> None:
        """Sites were asked in `round_`."""
        self.uploads.setdefault(round_, set()).update(sites)

    def made(self, scope: str) -> None:
        """A model lies in `scope`."""
        if scope not in self.models:
            self.models.append(scope)

    def due(self, state: RunState, number: int, needed: set[str]) -> Due | None:
        """What may go now that round `number` is kept; None where small things had better wait to go together.

        Args:
            needed: scopes of models that somebody still reads.
        """
        open_rows = set(self.unsettled.values())
        rows = [n for n in sorted(self.rows) if n <= number and n not in open_rows]
        slots = [*state.open.values(), *state.carried.values()]
        if state.late_rule == "carry":
            slots.extend(slot for slot in state.released.values() if slot.folds)
        open_uploads = {slot.round for slot in slots}
        uploads = [n for n in sorted(self.uploads) if n <= number and n not in open_uploads]
        models = self._old_models(needed)
        if not uploads and len(rows) < ROUNDS_TO_CLEAN and len(models) < ROUNDS_TO_CLEAN:
            return None
        return Due(tuple(rows), tuple(uploads), tuple(models))

    def due_at_the_end(self, state: RunState, needed: set[str], here: str) -> Due:
        """Everything but records and models.

        Args:
            here: the scope of the last round's model; an orphan if no checkpoint has named it.
        """
        uploads = sorted(set(self.uploads) | {slot.round for slot in state.released.values()})
        orphans = [] if here in self.models else [here]
        return Due(None, tuple(uploads), (*self._old_models(needed), *orphans))

    def gone(self, due: Due) -> None:
        """It was deleted."""
        self.models = [scope for scope in self.models if scope not in due.models]
        for scope in due.models:
            self.readers.pop(scope, None)
        for round_ in due.uploads:
            self.uploads.pop(round_, None)
        self.rows = set() if due.rows is None else self.rows - set(due.rows)

    def _old_models(self, needed: set[str]) -> Sequence[str]:
        return [scope for scope in self.models[:-2] if scope not in needed]
