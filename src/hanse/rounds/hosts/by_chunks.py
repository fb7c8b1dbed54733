"""In which order a reduction reads a store of 8 MiB chunks, so that each is fetched once and few are held.

A walk by small blocks would come back to the same chunk of every update again and again. So the blocks of one chunk are
read together, and a fold takes them from four updates at a time (one group of the canonical order): what it holds is
those four chunks, the next ones on their way, and its sums over one chunk, however many updates there are. A `Select`
needs all updates at once and holds a chunk of each. Updates that were compressed lie otherwise than the model; a few
chunks of each are held.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hanse.aggregation.canonical import GROUP
from hanse.aggregation.ranges import Range
from hanse.aggregation.rules import is_fold
from hanse.aggregation.shares import Share, chunks_of, stretches
from hanse.core.arrays import Layout
from hanse.core.blobs import INLINE_BYTES, Manifest
from hanse.core.records import BlobRef
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.hosts.folding import wide_layout
from hanse.strategies import Strategy

AHEAD = 4
"""Chunks on their way while others are added up."""
_COMPRESSED = 2
"""An update's parts, such as its levels and their scales, lie in so many chunks at a time."""

ChunkName = tuple[str, Manifest, int]
"""Scope, blob and number of a chunk."""


class ChunkStore(BlobStore, Protocol):
    """A store whose reads fetch whole chunks."""

    def hold(self, chunks: int) -> None:
        """Keep so many chunks after reading."""

    def reading_ahead(self, order: Sequence[ChunkName], ahead: int) -> AbstractContextManager[None]:
        """Within this context chunks are read in about this order, by one thread: fetch the next `ahead` of them."""
        ...


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """What is read together, how many chunks are held, and in which order those of updates are needed."""

    stretches: Sequence[Sequence[Range]]
    hold: int
    order: Sequence[ChunkName]


def by_chunks(
    strategy: Strategy, spec: RunSpec, phase: str, layout: Layout, updates: Sequence[BlobRef | None], share: Share
) -> ChunkPlan:
    """Plan a reduction that several may share (`folding.can_share`).

    Args:
        layout: the model's.
        updates: in order of position; None, or one whose content came along, is not fetched.
    """
    num_states = len(strategy.state_names())
    together = stretches([layout, *([wide_layout(layout)] * num_states)], share)
    others = num_states + 1
    if spec.compression:
        return ChunkPlan(together, _COMPRESSED * (len(updates) + others), ())
    fetched = [u for u in updates if u is not None and u.content is None and u.manifest.size > INLINE_BYTES]
    order = [
        (update.scope, update.manifest, index)
        for stretch in together
        for update in fetched
        for index in chunks_of(layout, stretch)
        if index < update.manifest.num_chunks
    ]
    folds = is_fold(strategy.reducer_of(phase, None))
    return ChunkPlan(together, (GROUP if folds else len(updates)) + others, order)
