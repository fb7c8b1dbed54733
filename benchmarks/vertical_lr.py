"""Vertical logistic regression on 100,000 rows of 30 columns at the guest and 300 at the host, batches of 1024.

All roles in one process over local channels, on one thread but for what NumPy does: what is measured is the protocol,
not a channel. Columns are random normal, the label is drawn from a logistic model of them. `setup_s` is from the start
to the first step: scaling aside, everything that is done once. `epoch_s` is the rest, divided by the epochs;
`epoch_cpu_s` is the CPU time of that, which a busy machine does not stretch. `auc_gap` is the
difference between the AUC of the joint model and that of the same training in the clear, both on the rows trained on.
`link_s` is computed, not measured: an epoch's bytes at 100 Mbit/s, and 50 ms for each turn of the guest.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.harness import Row, at_most, note
from hanse.channels.local import local_channels
from hanse.channels.party import Party, run_role
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.vertical.glm import dealer, plaintext
from hanse.vertical.glm.columns import Columns, prepare
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.training import Training
from hanse.vertical.metrics import auc

LINK_BYTES_PER_S = 100e6 / 8
LINK_DELAY_S = 0.05
TIMEOUT_S = 600.0
Program = Callable[[Party], Awaitable[Any]]


class TimedParty(Party):
    """A party that notes when its first step began, and what it had sent by then."""

    started_s: float | None = None
    started_cpu_s = 0.0
    setup_bytes = 0

    async def send(self, to: str, name: str, value: Array) -> None:
        if self.started_s is None and self.iteration is not None:
            self.started_s, self.started_cpu_s = time.perf_counter(), time.process_time()
            self.setup_bytes = self.counters.sent_bytes
        await super().send(to, name, value)


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    rows, widths, epochs = (2_000, (3, 8), 2) if smoke else (100_000, (30, 300), 5)
    guest, host, response = _data(rows, *widths)
    training = Training(epochs=epochs, learning_rate=1.0, batch_rows=1024 if not smoke else 256)
    table = np.hstack([guest.values, host.values])
    penalised = np.concatenate([guest.penalised, host.penalised])
    pooled = auc(
        response.values[:, 0], (table @ plaintext.fit(table, response, training, penalised=penalised).weights)[:, 0]
    )
    programs: dict[str, Program] = {
        "guest": lambda party: dealer.guest(party, guest, response, training),
        "host": lambda party: dealer.host(party, host, training),
        "arbiter": lambda party: dealer.arbiter(party, training),
    }
    setup_s, train_s, parties, results = asyncio.run(_play(dealer.protocol(), programs))
    scores = guest.values @ results["guest"].weights + host.values @ results["host"].weights
    gap = abs(auc(response.values[:, 0], scores[:, 0]) - pooled)
    if not 0.6 < pooled < 0.999:
        raise RuntimeError(
            f"dealer: expected a task that can be learnt and is not trivial, found an AUC of {pooled:.3f}"
        )
    yield at_most("vertical-lr", "dealer", "epoch_s", train_s / epochs, "s", 4.0)
    yield at_most("vertical-lr", "dealer", "setup_s", setup_s, "s", 3.0)
    yield at_most("vertical-lr", "dealer", "auc_gap", gap, "", 0.001)
    yield from _traffic("dealer", parties, epochs)


def _traffic(case: str, parties: list[TimedParty], epochs: int) -> Iterator[Row]:
    sent = sum(party.counters.sent_bytes for party in parties)
    setup = sum(party.setup_bytes for party in parties)
    turns = parties[0].counters.turns
    yield note("vertical-lr", case, "messages", sum(party.counters.sent_messages for party in parties), "messages")
    yield note("vertical-lr", case, "setup_mb", setup / 1e6, "MB")
    yield note("vertical-lr", case, "epoch_mb", (sent - setup) / epochs / 1e6, "MB")
    yield note("vertical-lr", case, "setup_link_s", setup / LINK_BYTES_PER_S, "s")
    link_s = (sent - setup) / LINK_BYTES_PER_S + turns * LINK_DELAY_S
    yield note("vertical-lr", case, "link_s", link_s / epochs, "s")


async def _play(
    protocol: Protocol, programs: dict[str, Program]
) -> tuple[float, float, list[TimedParty], dict[str, Any]]:
    """Seconds before and after the first step, the parties, and what each returned."""
    channels = local_channels(protocol.roles)
    parties = [TimedParty(role, protocol, channels[role], timeout_s=TIMEOUT_S) for role in protocol.roles]
    begun = time.perf_counter()
    results = await asyncio.gather(*(run_role(party, programs[party.role]) for party in parties))
    ended = time.perf_counter()
    first = min(party.started_s if party.started_s is not None else math.inf for party in parties)
    return first - begun, ended - first, parties, dict(zip(protocol.roles, results, strict=True))


def _data(rows: int, num_guest: int, num_host: int) -> tuple[Columns, Columns, Response]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((rows, num_guest + num_host))
    z = x @ rng.standard_normal(num_guest + num_host) * 3 / np.sqrt(num_guest + num_host)
    label = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    guest, host = prepare(x[:, :num_guest], intercept=True), prepare(x[:, num_guest:], intercept=False)
    return guest, host, response_of(label, "logistic")
