"""Vertical logistic regression on 100,000 rows of 30 columns at the guest and 300 at the host, batches of 1024.

All roles in one process over local channels, on one thread but for what NumPy does: what is measured is the protocol,
not a channel. Columns are random normal, the label is drawn from a logistic model of them. `setup_s` is from the start
to the first step: scaling aside, everything that is done once. `epoch_s` is the rest, divided by the epochs;
`epoch_cpu_s` is the CPU time of that, which a busy machine does not stretch. `auc_gap` is the
difference between the AUC of the joint model and that of the same training in the clear, both on the rows trained on.
`link_s` is computed, not measured: an epoch's bytes at 100 Mbit/s, and 50 ms for each turn of the guest.

The cases under encryption play one epoch: `arbiter`, where a third party holds the key, and the two without a third.
Own gradients, which parties see with `arbiter`, too, are refused where a batch has fewer than four rows for
each independent column: 300 columns take batches of 1280 there. `engine_share` is the part of the CPU time that the
same epoch takes with a cipher that does nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import Row, at_most, note
from hanse.channels.local import local_channels
from hanse.channels.party import Party, run_role
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.crypto import mock_rlwe, rlwe
from hanse.vertical.glm import dealer, dealer_free, key_holder, plaintext
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
    yield from _dealer(smoke)
    yield from _under_encryption("arbiter", smoke, batch_rows=1280, target_s=None)
    yield from _under_encryption("own-gradient", smoke, batch_rows=1280, target_s=120.0)
    yield from _under_encryption("dealer-free", smoke, batch_rows=1024, target_s=240.0)


def _dealer(smoke: bool) -> Iterator[Row]:
    rows, widths, epochs = (2_000, (3, 8), 2) if smoke else (100_000, (30, 300), 5)
    guest, host, response = _data(rows, *widths)
    training = Training(epochs=epochs, learning_rate=1.0, batch_rows=256 if smoke else 1024)
    programs: dict[str, Program] = {
        "guest": lambda party: dealer.guest(party, guest, response, training),
        "host": lambda party: dealer.host(party, host, training),
        "arbiter": lambda party: dealer.arbiter(party, training),
    }
    run = asyncio.run(_play(dealer.protocol(), programs))
    yield at_most("vertical-lr", "dealer", "epoch_s", run.train_s / epochs, "s", 4.0)
    yield at_most("vertical-lr", "dealer", "setup_s", run.setup_s, "s", 3.0)
    yield at_most("vertical-lr", "dealer", "auc_gap", _gap(guest, host, response, training, run.results), "", 0.001)
    yield from _traffic("dealer", run, epochs)


def _under_encryption(case: str, smoke: bool, *, batch_rows: int, target_s: float | None) -> Iterator[Row]:
    rows, widths = (600, (3, 8)) if smoke else (100_000, (30, 300))
    guest, host, response = _data(rows, *widths)
    training = Training(epochs=1, learning_rate=1.0, batch_rows=200 if smoke else batch_rows)
    own = case == "own-gradient"
    protocol = key_holder.protocol() if case == "arbiter" else dealer_free.protocol(own_gradients=own)

    def programs(cipher: type[rlwe.PrivateKey]) -> dict[str, Program]:
        if case == "arbiter":
            public: Any = {rlwe.PrivateKey: rlwe.PublicKey, mock_rlwe.PrivateKey: mock_rlwe.PublicKey}[cipher]
            return {
                "guest": lambda party: key_holder.guest(party, guest, response, training, cipher=public),
                "host": lambda party: key_holder.host(party, host, training, cipher=public),
                "arbiter": lambda party: key_holder.arbiter(party, training, cipher=cipher),
            }
        options: dict[str, Any] = {"own_gradients": own, "cipher": cipher}
        return {
            "guest": lambda party: dealer_free.guest(party, guest, response, training, **options),
            "host": lambda party: dealer_free.host(party, host, training, **options),
        }

    _warm_up()
    run = asyncio.run(_play(protocol, programs(rlwe.PrivateKey)))
    engine = asyncio.run(_play(protocol, programs(mock_rlwe.PrivateKey)))
    if target_s is None:
        yield note("vertical-lr", case, "epoch_s", run.train_s, "s")
    else:
        yield at_most("vertical-lr", case, "epoch_s", run.train_s, "s", target_s)
    yield note("vertical-lr", case, "setup_s", run.setup_s, "s")
    yield note("vertical-lr", case, "engine_share", engine.train_cpu_s / run.train_cpu_s, "ratio")
    yield at_most("vertical-lr", case, "auc_gap", _gap(guest, host, response, training, run.results), "", 0.001)
    yield from _traffic(case, run, 1)


def _warm_up() -> None:
    """Compile numba's loops, once a process."""
    key = rlwe.PrivateKey()
    key.decrypt_products(key.public.inner_products(np.ones((1, 1), np.int64), key.encrypt_vector([1]), [0]), 1, 1)


def _gap(guest: Columns, host: Columns, response: Response, training: Training, results: dict[str, Any]) -> float:
    table = np.hstack([guest.values, host.values])
    penalised = np.concatenate([guest.penalised, host.penalised])
    label = response.values[:, 0]
    pooled = auc(label, (table @ plaintext.fit(table, response, training, penalised=penalised).weights)[:, 0])
    if not 0.6 < pooled < 0.999:
        raise RuntimeError(f"expected a task that can be learnt and is not trivial, found an AUC of {pooled:.3f}")
    weights = np.vstack([results["guest"].weights, results["host"].weights])
    return abs(auc(label, (table @ weights)[:, 0]) - pooled)


def _traffic(case: str, run: "_Run", epochs: int) -> Iterator[Row]:
    sent = sum(party.counters.sent_bytes for party in run.parties)
    setup = sum(party.setup_bytes for party in run.parties)
    messages = sum(party.counters.sent_messages for party in run.parties)
    turns = run.parties[0].counters.turns
    link_s = (sent - setup) / LINK_BYTES_PER_S + turns * LINK_DELAY_S
    yield note("vertical-lr", case, "epoch_cpu_s", run.train_cpu_s / epochs, "s")
    yield note("vertical-lr", case, "epoch_messages", messages / epochs, "messages")
    yield note("vertical-lr", case, "setup_mb", setup / 1e6, "MB")
    yield note("vertical-lr", case, "epoch_mb", (sent - setup) / epochs / 1e6, "MB")
    yield note("vertical-lr", case, "setup_link_s", setup / LINK_BYTES_PER_S, "s")
    yield note("vertical-lr", case, "link_s", link_s / epochs, "s")


@dataclass(frozen=True, slots=True)
class _Run:
    """Seconds before and after the first step, the parties, and what each returned."""

    setup_s: float
    train_s: float
    train_cpu_s: float
    parties: list[TimedParty]
    results: dict[str, Any]


async def _play(protocol: Protocol, programs: dict[str, Program]) -> _Run:
    channels = local_channels(protocol.roles)
    parties = [TimedParty(role, protocol, channels[role], timeout_s=TIMEOUT_S) for role in protocol.roles]
    begun = time.perf_counter()
    results = await asyncio.gather(*(run_role(party, programs[party.role]) for party in parties))
    ended, ended_cpu = time.perf_counter(), time.process_time()
    first = min((party for party in parties if party.started_s), key=lambda party: party.started_s or 0.0)
    started = first.started_s or begun
    return _Run(
        started - begun,
        ended - started,
        ended_cpu - first.started_cpu_s,
        parties,
        dict(zip(protocol.roles, results, strict=True)),
    )


def _data(rows: int, num_guest: int, num_host: int) -> tuple[Columns, Columns, Response]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((rows, num_guest + num_host))
    z = x @ rng.standard_normal(num_guest + num_host) * 3 / np.sqrt(num_guest + num_host)
    label = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    guest, host = prepare(x[:, :num_guest], intercept=True), prepare(x[:, num_guest:], intercept=False)
    return guest, host, response_of(label, "logistic")
