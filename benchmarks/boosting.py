"""One SecureBoost tree on 100,000 rows of 30 columns at the guest and 300 at the host: 32 bins, depth 3, 2048-bit keys.

Both roles run in one process over local channels: what is measured is the protocol, not a channel. Columns are random
normal, the label is drawn from a logistic model of them. `tree_s` is the time from a tree's first message to the end of
its last level; binning and keys are `setup_s`. `tree_cpu_s` is the CPU time of that, which a busy machine does not
stretch. `engine_share` is the part of the CPU time that the same tree takes with a cipher that does nothing. `link_s`
is computed, not measured: a tree's bytes at 100 Mbit/s, and 50 ms for each turn of the guest.

The trees must be those of the pooled booster of the specification: their SHA-256 is compared. The smoke run compares
with the slow oracle, too, which shares no code with either.
"""

import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.harness import Row, at_most, note
from hanse.channels.local import local_channels
from hanse.channels.party import Party, run_role
from hanse.core.arrays import Array
from hanse.vertical.boosting import guest, host
from hanse.vertical.boosting.columns import BinnedColumns, binned
from hanse.vertical.boosting.pooled import pooled
from hanse.vertical.boosting.protocol import protocol
from hanse.vertical.boosting.response import Response, response_of
from hanse.vertical.boosting.settings import Settings

LINK_BYTES_PER_S = 100e6 / 8
LINK_DELAY_S = 0.05
TIMEOUT_S = 600.0


class TimedParty(Party):
    """A party that notes when its first tree began, and what it had sent by then."""

    started_s: float | None = None
    started_cpu_s = 0.0
    setup_bytes = 0

    async def send(self, to: str, name: str, value: Array) -> None:
        """See `Party.send`."""
        if self.started_s is None and name == "tree":
            self.started_s, self.started_cpu_s = time.perf_counter(), time.process_time()
            self.setup_bytes = self.counters.sent_bytes
        await super().send(to, name, value)


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    rows, widths = (1_500, (3, 9)) if smoke else (100_000, (30, 300))
    columns, response = _data(rows, *widths)
    settings = Settings(num_trees=1, depth=3, max_bins=32)
    _warm_up()
    for cipher in ("mock", settings.cipher):
        _play(columns, response, replace(settings, cipher=cipher), rows=300)
    goss = replace(settings, top_rate=0.2, other_rate=0.1)
    for case, mine, target_s in (("full", settings, 45.0), ("goss", goss, 20.0)):
        real = _play(columns, response, mine)
        engine = _play(columns, response, replace(mine, cipher="mock"))
        expected = pooled(columns, response, mine).digest
        if not real.digest == engine.digest == expected:
            raise RuntimeError(f"expected the trees of the pooled booster in {case}, found others")
        yield at_most("boosting", case, "tree_s", real.tree_s, "s", target_s)
        yield at_most("boosting", case, "engine_share", engine.tree_cpu_s / real.tree_cpu_s, "ratio", 0.2)
        yield note("boosting", case, "tree_cpu_s", real.tree_cpu_s, "s")
        yield note("boosting", case, "engine_cpu_s", engine.tree_cpu_s, "s")
        yield note("boosting", case, "setup_s", real.setup_s, "s")
        yield note("boosting", case, "tree_messages", real.messages, "messages")
        yield note("boosting", case, "tree_mb", real.sent_bytes / 1e6, "MB")
        yield note("boosting", case, "link_s", real.sent_bytes / LINK_BYTES_PER_S + real.turns * LINK_DELAY_S, "s")


def _warm_up() -> None:
    """Compile what is compiled once."""
    if importlib.util.find_spec("numba") is None:
        return
    from hanse.crypto import montgomery

    if montgomery.usable():
        one = montgomery.Montgomery((1 << 207) - 1)
        nothing = np.zeros((8, 1), np.int32)
        one.multiply_into(one.tables(1), nothing, one.read([1]), np.zeros(1, np.int64))
        one.multiply_chosen(one.read([1])[None], nothing)


@dataclass(frozen=True, slots=True)
class _Run:
    setup_s: float
    tree_s: float
    tree_cpu_s: float
    messages: int
    sent_bytes: int
    turns: int
    digest: str


def _play(columns: list[BinnedColumns], response: Response, settings: Settings, rows: int | None = None) -> _Run:
    if rows is not None:
        columns = [replace(each, bins=np.ascontiguousarray(each.bins[:, :rows])) for each in columns]
        response = replace(response, target=response.target[:rows])
    return asyncio.run(_played(columns, response, settings))


async def _played(columns: list[BinnedColumns], response: Response, settings: Settings) -> _Run:
    declared = protocol(1, settings)
    channels = local_channels(declared.roles)
    parties = [TimedParty(role, declared, channels[role], timeout_s=TIMEOUT_S) for role in declared.roles]
    programs: list[Callable[[Party], Awaitable[Any]]] = [
        lambda party: guest.guest(party, columns[0], response, settings),
        lambda party: host.host(party, columns[1], settings),
    ]
    begun = time.perf_counter()
    found = await asyncio.gather(*(run_role(*each) for each in zip(parties, programs, strict=True)))
    ended, ended_cpu = time.perf_counter(), time.process_time()
    first = parties[0]
    started = first.started_s or begun
    return _Run(
        started - begun,
        ended - started,
        ended_cpu - first.started_cpu_s,
        sum(party.counters.sent_messages for party in parties),
        sum(party.counters.sent_bytes - party.setup_bytes for party in parties),
        first.counters.turns,
        found[0].grown.forest.digest([found[0].questions, found[1]]),
    )


def _data(rows: int, num_guest: int, num_host: int) -> tuple[list[BinnedColumns], Response]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((rows, num_guest + num_host))
    z = x @ rng.standard_normal(num_guest + num_host) * 3 / np.sqrt(num_guest + num_host)
    label = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    tables = x[:, :num_guest], x[:, num_guest:]
    columns = [binned(table, [f"x{at}" for at in range(table.shape[1])], 32) for table in tables]
    return columns, response_of(label, "classification")
