"""A host's role: it adds up encrypted derivatives by node and bin, and says which rows go left."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError
from hanse.vertical.boosting.ciphers import KEEPERS, Adder, Layout, Numbers
from hanse.vertical.boosting.columns import MAX_ROWS, BinnedColumns, Groups, groups_of
from hanse.vertical.boosting.forest import Questions
from hanse.vertical.boosting.guest import COLUMNS_A_MESSAGE, unpacked
from hanse.vertical.boosting.levels import Level
from hanse.vertical.boosting.protocol import VERSION
from hanse.vertical.boosting.response import MAX_CLASSES
from hanse.vertical.boosting.selection import final, trainings
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.boosting.training import Asked, sides, with_siblings


async def host(party: Party, columns: BinnedColumns, settings: Settings, progress: Progress = BEGINNING) -> Questions:
    """The program of a party with further columns.

    Args:
        party: in a host's role.
        columns: its own, of aligned rows.
        settings: as at the guest.
        progress: trees that are done, with this host's splits in them.

    Returns:
        Its splits, in the order in which they were made.

    Raises:
        RefusedError: a guest whose rows or settings differ, or that sends something else than the protocol says.
    """
    if settings.cross_validate:
        if not progress.number:
            for each in trainings(settings):
                await _train(party, columns, each, BEGINNING)
        depth, num_trees = (int(each) for each in await party.recv("guest", "selected"))
        if depth not in settings.tried or not 1 <= num_trees <= settings.num_trees:
            raise RefusedError("guest: expected one of the depths that were tried and no more trees, found others")
        settings = final(settings, depth, num_trees)
    return await _train(party, columns, settings, progress)


async def _train(party: Party, columns: BinnedColumns, settings: Settings, progress: Progress) -> Questions:
    """One training, of the model or of a fold."""
    digest = settings.digest()
    await party.send(
        "guest", "hello", np.array([VERSION, columns.num_rows, columns.num_columns, 0, 0, digest], np.int64)
    )
    version, rows, _, g_most, h_most, theirs = (int(each) for each in await party.recv("guest", "hello"))
    if version != VERSION:
        raise RefusedError(f"guest: expected version {VERSION} of the protocol, found {version}")
    if rows != columns.num_rows or not 1 <= rows <= MAX_ROWS:
        raise RefusedError(f"guest: expected {columns.num_rows} rows as here, found {rows}; align the rows first")
    if theirs != digest:
        raise RefusedError("guest: expected the settings of the training as here, found others")
    if not (1 <= g_most < 1 << 40 and 1 <= h_most < 1 << 40):
        raise RefusedError("guest: expected bounds of derivatives from 1 to 2^40, found others")
    adder: Adder = KEEPERS[settings.cipher].adder(await party.recv("guest", "public_key"))
    layout = Layout.of(g_most, h_most, rows, adder.capacity_bits)
    asked, least, most = Asked.resumed(columns, progress), progress.number, settings.num_trees * MAX_CLASSES
    while True:
        tree, num_sampled = (int(each) for each in await party.recv("guest", "tree"))
        if tree < 0:
            return asked.questions()
        if not least <= tree < most:
            raise RefusedError(f"guest: expected a tree from {least} to {most - 1}, found {tree}")
        least = tree + 1
        if tree:
            progress.keep(tree, asked.kept(), since=1)
        asked.tree = party.iteration = tree
        await _Tree(party, columns, settings, adder, layout, asked).grow(num_sampled)


class _Tree:
    """One tree at a host."""

    def __init__(
        self, party: Party, columns: BinnedColumns, settings: Settings, adder: Adder, layout: Layout, asked: Asked
    ) -> None:
        self._party, self._columns, self._settings = party, columns, settings
        self._adder, self._layout, self._asked = adder, layout, asked
        self._num_edges = np.array([len(each) for each in columns.edges])
        self._rows_in_bins: Array = np.empty(0, np.int64)
        self._sums: list[Numbers] = []
        """For each column, its bins' sums, node after node."""

    async def grow(self, num_sampled: int) -> None:
        """All its levels."""
        num_rows = self._columns.num_rows
        sample = np.ones(num_rows, np.bool_)
        if self._settings.samples:
            sample = unpacked(await self._party.recv("guest", "sample"), num_rows, "guest")
        if int(sample.sum()) != num_sampled:
            raise RefusedError(f"guest: expected a sample of {num_sampled} rows, found another number")
        parts: list[Numbers] = []
        received = 0
        while received < num_sampled:
            raw = await self._party.recv("guest", "derivatives")
            received += len(raw)
            if not len(raw) or received > num_sampled:
                raise RefusedError(f"guest: expected derivatives of {num_sampled} rows, found another number")
            parts.append(self._adder.read(raw))
        numbers = self._adder.rows(parts, self._columns.num_columns)
        place_of = np.cumsum(sample) - 1
        level = Level.root(sample)
        for depth in range(self._settings.depth):
            groups = await self._tell(level, numbers, place_of)
            chosen = self._checked(await self._party.recv("guest", "chosen"), groups)
            left = sides(self._columns, self._asked, groups, level, chosen)
            if left is not None:
                mine = np.array([each is not None for each in chosen])
                rows = level.moving[mine[level.place[level.moving]]]
                await self._party.send("guest", "sides", np.packbits(left[rows]))
            if depth + 1 == self._settings.depth:
                return
            grown = unpacked(await self._party.recv("guest", "grown"), level.num_nodes, "guest")
            if not grown.any():
                return
            rows = level.moving[grown[level.place[level.moving]]]
            moved = np.zeros(num_rows, np.bool_)
            moved[rows] = unpacked(await self._party.recv("guest", "moved"), len(rows), "guest")
            level = level.below(grown, moved)

    def _checked(self, chosen: Array, groups: Sequence[Groups]) -> list[tuple[int, int, bool] | None]:
        """For each node column, group and missing_left, or None.

        Raises:
            RefusedError: a split that this host did not offer.
        """
        if len(chosen) != len(groups):
            raise RefusedError(f"guest: expected a choice for each of {len(groups)} nodes, found {len(chosen)}")
        made: list[tuple[int, int, bool] | None] = []
        for (column, group, missing_left), offered in zip(chosen.tolist(), groups, strict=True):
            if column == -1:
                made.append(None)
                continue
            if not 0 <= column < self._columns.num_columns or missing_left not in (0, 1):
                raise RefusedError("guest: expected a split that was offered, found another")
            apart = bool(offered.apart[column])
            last = int(offered.num_groups[column]) - (0 if apart and not missing_left else 1)
            if not 0 <= group < last or (missing_left and not apart):
                raise RefusedError("guest: expected a split that was offered, found another")
            made.append((column, group, bool(missing_left)))
        return made

    async def _tell(self, level: Level, numbers: Any, place_of: Array) -> list[Groups]:
        """Add up a level and send its sums, some columns at a time."""
        nodes, rows, among = level.summed()
        counted = self._counted(rows, among, len(nodes))
        self._rows_in_bins = in_bins = with_siblings(counted, nodes, level, self._rows_in_bins)
        groups = [groups_of(each, self._num_edges, self._settings.min_bin_rows) for each in in_bins[:]]
        counts = np.stack([np.stack([each.told, each.apart & (each.told > 0)], axis=-1) for each in groups])
        await self._party.send("guest", "counts", counts.astype(np.int32))
        above, self._sums = self._sums, []
        for start in range(0, self._columns.num_columns, COLUMNS_A_MESSAGE):
            stop = min(start + COLUMNS_A_MESSAGE, self._columns.num_columns)
            block = self._summed(start, stop, rows, among, len(nodes), numbers, place_of[rows])
            if len(level.parents):
                block = [
                    self._siblings(each, nodes, level, old) for each, old in zip(block, above[start:stop], strict=True)
                ]
            self._sums += block
            told = counts[:, start:stop, 0]
            if told.any():
                await self._party.send("guest", "sums", self._merged(block, groups, start, told))
        return groups

    def _counted(self, rows: Array, among: Array, num_nodes: int) -> Array:
        """Rows of each bin: int64, `(num_nodes, num_columns, max_bins + 1)`."""
        width = self._columns.max_bins + 1
        made = np.empty((num_nodes, self._columns.num_columns, width), np.int64)
        base = among * width
        for at, column in enumerate(self._columns.bins):
            made[:, at] = np.bincount(base + column[rows], minlength=num_nodes * width).reshape(num_nodes, width)
        return made

    def _summed(
        self, start: int, stop: int, rows: Array, among: Array, num_nodes: int, numbers: Any, places: Array
    ) -> list[Numbers]:
        """Sums of these columns' bins in the nodes that are summed, node after node, for each column."""
        widths = self._widths()[start:stop]
        sizes = [widths[first:last] for first, last in pairwise(joint(widths, len(rows) // num_nodes))]
        cells, at = [], start
        for group in sizes:
            cell = among
            for size in group.tolist():
                cell = cell * size + np.minimum(self._columns.bins[at][rows], size - 1)
                at += 1
            cells.append(cell)
        totals = [num_nodes * int(np.prod(group)) for group in sizes]
        made: list[Numbers] = []
        for group, sums in zip(sizes, self._adder.by_cells(numbers, places, cells, totals), strict=True):
            if len(group) == 1:
                made.append(sums)
                continue
            node, *bins = np.unravel_index(np.arange(len(sums)), (num_nodes, *group.tolist()))
            for each, size in zip(bins, group.tolist(), strict=True):
                made.append(self._adder.by_cell(sums, node * size + each, num_nodes * size))
        return made

    def _widths(self) -> Array:
        """Bins of each column, with one for missing values."""
        return self._num_edges + 2

    def _siblings(self, summed: Numbers, nodes: Array, level: Level, above: Numbers) -> Numbers:
        """One column's sums of all nodes, from those of the nodes that were summed and of their parents."""
        width = len(summed) // len(nodes)
        each = np.arange(width)
        rest = self._adder.minus(self._adder.take(above, (level.parents[:, None] * width + each).ravel()), summed)
        order = np.empty(level.num_nodes, np.int64)
        order[nodes] = np.arange(len(nodes))
        order[nodes ^ 1] = np.arange(len(nodes)) + len(nodes)
        return self._adder.take(self._adder.join([summed, rest]), (order[:, None] * width + each).ravel())

    def _merged(self, block: Sequence[Numbers], groups: Sequence[Groups], start: int, told: Array) -> Array:
        """What is sent of these columns: node after node, column after column, group after group."""
        starts = (np.cumsum(told.ravel()) - told.ravel()).reshape(told.shape)
        total = int(told.sum())
        widths = self._widths()
        cells = []
        for at in range(told.shape[1]):
            width = int(widths[start + at])
            for node, each in enumerate(groups):
                group = np.append(each.group[start + at, : width - 1], each.group[start + at, -1])
                cells.append(np.where(told[node, at] > 0, starts[node, at] + group, total))
        joined = self._adder.join(block)
        merged = self._adder.by_cell(joined, np.concatenate(cells), total + 1)
        return self._adder.answers(self._adder.take(merged, np.arange(total)), self._layout)


def joint(widths: Array, rows: int) -> list[int]:
    """Where to cut columns into groups whose joint bins are added up, and then marginalised.

    A group of f columns with C joint bins costs one addition a row and f · C for its margins, instead of f a row.

    Args:
        widths: bins of each column.
        rows: of a node.

    Returns:
        Rising places from 0 to the number of columns.
    """
    cuts, cells, size = [0], 1, 0
    for at, width in enumerate(widths.tolist()):
        cost = (rows + (size + 1) * cells * width) / (size + 1)
        if size and cost >= (rows + size * cells if size > 1 else rows) / size:
            cuts.append(at)
            cells, size = 1, 0
        cells, size = cells * width, size + 1
    return [*cuts, len(widths)]
