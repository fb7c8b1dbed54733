"""The guest's role: it holds the label and the key, and grows trees with hosts that add up what they cannot read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical.boosting.ciphers import KEEPERS, Keeper, Layout
from hanse.vertical.boosting.columns import MAX_COLUMNS, BinnedColumns
from hanse.vertical.boosting.forest import Questions
from hanse.vertical.boosting.levels import Level
from hanse.vertical.boosting.protocol import VERSION
from hanse.vertical.boosting.response import Response
from hanse.vertical.boosting.selection import Selection, final, selected, trainings
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.boosting.splits import Derivatives, Split, Told, largest
from hanse.vertical.boosting.training import Grown, OwnColumns, boost

Mask = npt.NDArray[np.bool_]
ROWS_A_MESSAGE = 4096
COLUMNS_A_MESSAGE = 32


@dataclass(frozen=True, slots=True)
class GuestTrained:
    """What the guest ends with.

    Attributes:
        grown: the trees, as far as the guest knows them, and margins of its rows.
        questions: its own splits.
        selection: of cross-validation, if there was one.
    """

    grown: Grown
    questions: Questions
    selection: Selection | None = None


async def guest(
    party: Party, columns: BinnedColumns, response: Response, settings: Settings, progress: Progress = BEGINNING
) -> GuestTrained:
    """The program of the party with the label.

    Args:
        party: in the role `guest`.
        columns: its own, of aligned rows.
        response: its label.
        settings: as at every host.
        progress: trees that are done, with what `boost` keeps after them.

    Raises:
        ConfigError: a label that does not fit the table. RefusedError: a host whose rows or settings differ, or that
            answers something else than the protocol says.
    """
    if len(response.target) != columns.num_rows:
        raise ConfigError(f"label: expected {columns.num_rows} rows as in the table, found {len(response.target)}")
    if not settings.cross_validate:
        return await _train(party, columns, response, settings, progress)
    if progress.number:
        found = Selection.resumed(progress.state)
    else:
        ends = [(await _train(party, columns, response, each)).grown for each in trainings(settings)]
        found = selected(settings, ends)
    for host in party.protocol.roles[1:]:
        await party.send(host, "selected", np.array([found.depth, found.num_trees], np.int64))
    last = final(settings, found.depth, found.num_trees)
    trained = await _train(party, columns, response, last, progress, found.kept())
    return GuestTrained(trained.grown, trained.questions, found)


async def _train(
    party: Party,
    columns: BinnedColumns,
    response: Response,
    settings: Settings,
    progress: Progress = BEGINNING,
    kept: Arrays | None = None,
) -> GuestTrained:
    """One training, of the model or of a fold."""
    hosts = party.protocol.roles[1:]
    bounds = largest(response.objective, settings)
    keeper: Keeper = KEEPERS[settings.cipher]()
    layout = Layout.of(*bounds, columns.num_rows, keeper.capacity_bits)
    hello = [VERSION, columns.num_rows, columns.num_columns, *bounds, settings.digest()]
    for host in hosts:
        await party.send(host, "hello", np.array(hello, np.int64))
        await party.send(host, "public_key", keeper.public())
    calls = _Calls(party, hosts, keeper, layout, settings)
    own = OwnColumns(columns, settings, progress)
    others = [await _met(calls, host, hello) for host in hosts]
    grown = await boost([own, *others], response.objective, response.target, response.start(), settings, progress, kept)
    for host in hosts:
        await party.send(host, "tree", np.array([-1, 0], np.int64))
    return GuestTrained(grown, own.asked.questions())


async def _met(calls: "_Calls", host: str, hello: Sequence[int]) -> "HostColumns":
    version, rows, num_columns, *_, digest = (int(each) for each in await calls.party.recv(host, "hello"))
    if version != VERSION:
        raise RefusedError(f"{host}: expected version {VERSION} of the protocol, found {version}")
    if rows != hello[1]:
        raise RefusedError(f"{host}: expected {hello[1]} rows as here, found {rows}; align the rows first")
    if digest != hello[-1]:
        raise RefusedError(f"{host}: expected the settings of the training as here, found others")
    if not 1 <= num_columns <= MAX_COLUMNS:
        raise RefusedError(f"{host}: expected 1 to {MAX_COLUMNS} columns, found {num_columns}")
    return HostColumns(calls, host, num_columns)


@dataclass(slots=True)
class _Calls:
    """What the guest has in common with all hosts."""

    party: Party
    hosts: Sequence[str]
    keeper: Keeper
    layout: Layout
    settings: Settings
    tree: int = -1

    async def begin(self, tree: int, found: Derivatives) -> None:
        """Send a tree's derivatives to all hosts, chunk by chunk, once."""
        if tree == self.tree:
            return
        self.tree = self.party.iteration = tree
        rows = np.flatnonzero(found.sample)
        for host in self.hosts:
            await self.party.send(host, "tree", np.array([tree, len(rows)], np.int64))
            if self.settings.samples:
                await self.party.send(host, "sample", np.packbits(found.sample))
        for start in range(0, len(rows), ROWS_A_MESSAGE):
            chosen = rows[start : start + ROWS_A_MESSAGE]
            sealed = self.keeper.encrypt(self.layout.messages(found.g[chosen], found.h[chosen]), self.layout)
            for host in self.hosts:
                await self.party.send(host, "derivatives", sealed)


class HostColumns:
    """A `Source` of columns that are at a host."""

    def __init__(self, calls: _Calls, host: str, num_columns: int) -> None:
        self._calls, self._host, self._num_columns = calls, host, num_columns
        self._found: Derivatives | None = None

    async def begin(self, tree: int, found: Derivatives) -> None:
        """See `Source.begin`."""
        self._found = found
        await self._calls.begin(tree, found)

    async def told(self, level: Level) -> list[Told]:
        """See `Source.told`."""
        party, settings = self._calls.party, self._calls.settings
        counts = (await party.recv(self._host, "counts")).astype(np.int64)
        told, apart = counts[..., 0], counts[..., 1]
        shape = (level.num_nodes, self._num_columns)
        in_range = counts.shape[:2] == shape and ((told >= 0) & (told <= settings.max_bins + 1) & (told != 1)).all()
        if not in_range or not np.isin(apart, (0, 1)).all() or (apart > told).any():
            raise RefusedError(f"{self._host}: expected numbers of sums for {shape} nodes and columns, found others")
        parts = [
            await self._sums(told[:, start : start + COLUMNS_A_MESSAGE])
            for start in range(0, self._num_columns, COLUMNS_A_MESSAGE)
        ]
        made = []
        for node, total in enumerate(self._totals(level)):
            g, h = (np.concatenate([part[node][which] for part in parts]) for which in (0, 1))
            found = Told(g, h, told[node], apart[node] == 1)
            self._check(found, total)
            made.append(found)
        return made

    async def _sums(self, told: Array) -> list[tuple[Array, Array]]:
        """Σg and Σh of each node for some columns, of which `told` says how many sums they have."""
        num_cells = int(told.sum())
        if not num_cells:
            return [(np.empty(0, np.int64), np.empty(0, np.int64)) for _ in told]
        answers = await self._calls.party.recv(self._host, "sums")
        layout = self._calls.layout
        if len(answers) != layout.num_answers(num_cells):
            raise RefusedError(f"{self._host}: expected sums for {num_cells} cells, found another number")
        g, h = layout.cells(self._calls.keeper.decrypt(answers, layout), num_cells)
        cuts = np.cumsum(told.sum(axis=1))[:-1]
        return list(zip(np.split(g, cuts), np.split(h, cuts), strict=True))

    def _totals(self, level: Level) -> list[tuple[int, int]]:
        found = self._found
        assert found is not None
        rows = level.moving
        place = level.place[rows]
        sums = [np.bincount(place, weights=each[rows], minlength=level.num_nodes) for each in (found.g, found.h)]
        return [(int(g), int(h)) for g, h in zip(*sums, strict=True)]  # exact below 2^53

    def _check(self, found: Told, total: tuple[int, int]) -> None:
        """Every column's sums add up to those of the node, which the guest knows."""
        column = np.repeat(np.arange(self._num_columns), found.counts)
        for each, whole in zip((found.g, found.h), total, strict=True):
            sums = np.bincount(column, weights=each, minlength=self._num_columns)
            if (sums[found.counts > 0] != whole).any():
                raise RefusedError(f"{self._host}: expected sums that add up to those of the node, found others")

    async def split(self, level: Level, chosen: Sequence[Split | None], party: int) -> Mask | None:
        """See `Source.split`."""
        channel = self._calls.party
        rows = np.full((len(chosen), 3), -1, np.int64)
        mine = np.zeros(len(chosen), np.bool_)
        for node, each in enumerate(chosen):
            if each is not None and each.party == party:
                rows[node] = each.column, each.group, each.missing_left
                mine[node] = True
        await channel.send(self._host, "chosen", rows)
        if not mine.any():
            return None
        asked = level.moving[mine[level.place[level.moving]]]
        left = np.zeros(len(level.place), np.bool_)
        left[asked] = unpacked(await channel.recv(self._host, "sides"), len(asked), self._host)
        return left

    async def moved(self, grown: Mask, left: Mask, below: Level) -> None:
        """See `Source.moved`."""
        await self._calls.party.send(self._host, "grown", np.packbits(grown))
        if grown.any():
            await self._calls.party.send(self._host, "moved", np.packbits(left[below.moving]))


def unpacked(raw: Array, count: int, who: str) -> Mask:
    """Bits as `np.packbits` wrote them.

    Raises:
        RefusedError: another number of them.
    """
    if len(raw) != -(-count // 8):
        raise RefusedError(f"{who}: expected one bit for each of {count} rows or nodes, found {len(raw)} bytes")
    bits: Mask = np.unpackbits(raw, count=count).astype(np.bool_)
    return bits
