"""Deleting what a run has left, when `leftovers` says that it may go. It runs beside the rounds."""

import asyncio

from hanse.core.ids import model_scope
from hanse.rounds.driver.driving import Driving
from hanse.rounds.driver.leftovers import Due


class Cleaning:
    """What is deleted for one driver."""

    def __init__(self, driving: Driving) -> None:
        self._driving = driving
        self._at_work: set[asyncio.Task[None]] = set()
        self._seen: dict[int, list[int]] = {}

    def seen(self, round_: int, ordinal: int) -> None:
        """There is a row of a reply that came in `round_`."""
        self._driving.standing.left.rows.add(round_)
        if not self._driving.alone:
            self._seen.setdefault(round_, []).append(ordinal)

    def round_kept(self, number: int) -> None:
        """A round's record is kept: begin to delete what may go now."""
        standing = self._driving.standing
        if standing.state.spec.keep_updates or standing.state.over:
            return
        due = standing.left.due(standing.state, number, self._needed_scopes())
        task = None if due is None else self._driving.life.spawn(lambda: self._clean(due))
        if task is not None:
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    async def finish(self) -> None:
        """The run is over: nothing is left behind but records and models."""
        if self._at_work:
            await asyncio.wait(list(self._at_work))
        standing = self._driving.standing
        state, left = standing.state, standing.left
        if not self._driving.alone:  # released sites may have uploaded for any round after it was cleaned up
            for round_ in range(state.round + 1):
                left.may_upload(round_)
        if not state.spec.keep_updates:
            here = model_scope(state.job, state.component, state.round)
            await self._clean(left.due_at_the_end(state, self._needed_scopes(), here))

    def _needed_scopes(self) -> set[str]:
        return {scope for scope, _ in self._driving.standing.needed}

    async def _clean(self, due: Due) -> None:
        """Blobs first: while there is a row, another driver knows that there may be blobs."""
        links, left = self._driving.seams.links, self._driving.standing.left
        await asyncio.gather(*(self._forget(scope) for scope in due.models))
        for scope in due.models:
            for site in left.readers.get(scope, ()):
                links.revoke(site, scope_prefix=scope)
        for round_ in due.uploads:
            scope = f"{self._driving.key}/{round_}/up"
            for site in left.uploads.get(round_, ()):
                links.revoke(site, scope_prefix=scope)
            await self._forget(scope)
        insist = self._driving.patience.insist
        rows = (None,) if due.rows is None else due.rows
        await asyncio.gather(*(insist("delete replies", self._delete_rows, round_) for round_ in rows))
        left.gone(due)

    async def _delete_rows(self, round_: int | None) -> None:
        """Where others write, only what was seen: another reply may have come since under the same round.

        But at the end all: nothing that comes then counts any more.
        """
        keeping = self._driving.keeping
        if self._driving.alone or round_ is None:
            await keeping.delete_replies(round_)
        elif seen := self._seen.pop(round_, []):
            await keeping.delete_seen(round_, seen)

    async def _forget(self, scope: str) -> None:
        await self._driving.patience.insist("delete blobs", self._driving.seams.blobs.delete_scope, scope)
