"""What a party sees of a training with a dealer, made from its own input and what is revealed: the proof of `dealer`.

The role program runs against peers that are made up: all that is masked is drawn uniformly, and what is opened is
made to add up to what is revealed. That real views look like this is what the tests check.
"""

from collections.abc import Coroutine, Mapping
from typing import Any

import numpy as np

from hanse.channels.checkpoints import BEGINNING
from hanse.channels.frames import CheckHead, Frame
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.crypto import fixed_point, sharing
from hanse.crypto.sharing import Ring
from hanse.vertical.glm import dealer
from hanse.vertical.glm.columns import Columns
from hanse.vertical.glm.families import Response, Table
from hanse.vertical.glm.plaintext import relative_weights
from hanse.vertical.glm.precision import SAMPLE_WEIGHT_BITS, WEIGHT_BITS
from hanse.vertical.glm.training import Training, batches


def simulate_view(
    role: str,
    columns: Columns,
    training: Training,
    reveals: Mapping[str, Any],
    *,
    response: Response | None = None,
    sample_weights: Table | None = None,
) -> list[tuple[str, Array]]:
    """What `role` receives in a run, in the order in which it asks for it.

    Args:
        role: the guest, or a host.
        columns: its own.
        training: as in the run.
        reveals: `hellos`, what each other data party said at the start (sizes and the digest of the settings);
            `weights`, those of its own columns at the end, float64; with a tolerance `changes`, one for each epoch.
        response, sample_weights: the guest's.
    """
    hellos: Mapping[str, list[int]] = reveals["hellos"]
    declared = dealer.protocol(len(hellos), early_stop=training.tolerance > 0)
    party = _Imagined(role, declared, training, len(columns.values), hellos, list(reveals.get("changes", ())))
    u = None
    if sample_weights is not None:
        u = fixed_point.encode(relative_weights(sample_weights, len(columns.values))[:, None], SAMPLE_WEIGHT_BITS)
    outputs = (0, False) if response is None else (response.num_outputs, u is not None)
    values = None if response is None else response.values
    side = run_alone(dealer._begin(party, columns, training, outputs, u, values, None))
    party.side = side
    share, _, _ = run_alone(dealer._steps(side, BEGINNING))
    rest = fixed_point.encode(reveals["weights"], WEIGHT_BITS) - share[side.plan.parts()[side.place]]
    return [*party.view, *(("weights", each) for each in _summands(rest, len(hellos)))]


def run_alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a program that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the program waits")


def _summands(total: Ring, count: int) -> list[Ring]:
    uniform = [sharing.expand(sharing.new_seed(), total.shape)[0] for _ in range(count - 1)]
    return [*uniform, total - sum(uniform, np.zeros_like(total))]


class Nowhere:
    """A channel that is not used."""

    def expect(self, check: CheckHead) -> None:
        """Nothing comes."""

    async def send(self, frame: Frame, wait_s: float) -> bool:
        raise NotImplementedError

    async def receive(self, wait_s: float) -> Frame | None:
        raise NotImplementedError

    def now(self) -> float:
        return 0.0


class _Imagined(Party):
    """A party with made-up peers."""

    def __init__(
        self,
        role: str,
        declared: Protocol,
        training: Training,
        rows: int,
        hellos: Mapping[str, list[int]],
        changes: list[float],
    ) -> None:
        super().__init__(role, declared, Nowhere())
        self.view: list[tuple[str, Array]] = []
        self.side: dealer._Side | None = None
        self._rows = rows
        self._hellos = hellos
        self._changes = changes
        self._blocks: dict[str, int] = {}
        self._last: dict[str, Ring] = {}
        self._pending: list[Ring] = []
        self._batches = batches(rows, training)
        self._tolerance = training.tolerance

    async def send(self, to: str, name: str, value: Array) -> None:
        """See `Party.send`: nobody hears it."""
        self._last[name] = value

    async def recv(self, sender: str, name: str) -> Array:
        """See `Party.recv`: made up, and noted in the view."""
        value = self._made_up(sender, name)
        self.view.append((name, value))
        return value

    def _made_up(self, sender: str, name: str) -> Array:
        if name == "hello":
            return np.array(self._hellos[sender], np.int64)
        if name == "seed":
            return np.frombuffer(sharing.new_seed(), np.uint8)
        if name == "masked_table":
            start = self._blocks.get(sender, 0)
            self._blocks[sender] = start + dealer.BLOCK_ROWS
            return _uniform(min(dealer.BLOCK_ROWS, self._rows - start), self._hellos[sender][2])
        if name == "masked_sample_weights":
            return _uniform(self._rows, 1)
        if name == "correction":
            assert self.side is not None
            batch = next(self._batches)
            closes = batch.ends_epoch and self._tolerance > 0
            return _uniform(self.side.plan.shapes(batch.num_rows, closes=closes).num_derived)
        if name == "change":
            if not self._pending:
                opened = fixed_point.encode(np.array([[self._changes.pop(0) ** 2]]), 2 * WEIGHT_BITS)
                self._pending = _summands(opened - self._last[name], len(self._hellos))
            return self._pending.pop()
        return _uniform(*self._last[name].shape)


def _uniform(*shape: int) -> Ring:
    return sharing.expand(sharing.new_seed(), shape)[0]
