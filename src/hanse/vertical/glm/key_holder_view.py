"""What a party sees of a training with an arbiter that holds the key, made from its own input and what is revealed.

See `dealer_view`. What comes encrypted to a data party is made up as encryptions of nothing; what the arbiter decrypts
is made up as uniform masks, and nothing of anybody's data goes into that.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.channels.checkpoints import BEGINNING
from hanse.channels.party import Party
from hanse.core.arrays import Array
from hanse.crypto import rlwe, sharing
from hanse.crypto.rlwe import PrivateKey
from hanse.vertical.glm import key_holder, slots, wide
from hanse.vertical.glm.columns import Columns
from hanse.vertical.glm.dealer_view import Nowhere, run_alone
from hanse.vertical.glm.families import Response, Table
from hanse.vertical.glm.plaintext import relative_weights
from hanse.vertical.glm.training import Training, batches
from hanse.vertical.parties import ARBITER, GUEST


def simulate_view(
    role: str,
    columns: Columns | None,
    training: Training,
    reveals: Mapping[str, Any],
    *,
    response: Response | None = None,
    sample_weights: Table | None = None,
) -> list[tuple[str, Array]]:
    """What `role` receives in a run, in the order in which it asks for it.

    Args:
        role: `guest`, a host or `arbiter`.
        columns: its own; None at the arbiter.
        training: as in the run.
        reveals: `hellos`, what each other data party said at the start. Of data parties `gradients`, one for each step,
            as summed in fixed point, object `(num_columns, num_outputs)`. With a tolerance `changes`: of each epoch
            the sum of all squared moves; at the arbiter each party's, one after another.
        response, sample_weights: the guest's.
    """
    hellos: Mapping[str, list[int]] = reveals["hellos"]
    num_hosts = len(hellos) - (role == ARBITER)
    party = _Imagined(role, num_hosts, training, reveals)
    if columns is None:
        run_alone(key_holder.arbiter(party, training, cipher=party.remembered))
        return party.view
    outputs = 0 if response is None else response.num_outputs
    side = run_alone(key_holder._begin(party, columns, training, outputs, None, BEGINNING, rlwe.PublicKey))
    if role != GUEST:
        side.seed = run_alone(party.recv(ARBITER, "seed")).tobytes()
    if response is not None:
        side.response = response.values
        side.sample_weights = None if sample_weights is None else relative_weights(sample_weights, len(columns.values))
    party.side = side
    run_alone(key_holder._train(side, BEGINNING))
    return party.view


class _Imagined(Party):
    """A party with made-up peers."""

    def __init__(self, role: str, num_hosts: int, training: Training, reveals: Mapping[str, Any]) -> None:
        declared = key_holder.protocol(num_hosts, early_stop=training.tolerance > 0)
        super().__init__(role, declared, Nowhere())
        self.view: list[tuple[str, Array]] = []
        self.side: key_holder._Side | None = None
        self._reveals = reveals
        self._key = PrivateKey()
        self._gradients = iter(reveals.get("gradients", ()))
        self._changes = iter(reveals.get("changes", ()))
        rows = next(iter(reveals["hellos"].values()))[1]
        self._rows = [batch.num_rows for batch in batches(rows, training)]
        self._coming: dict[str, Array] = {}
        self._last: dict[str, Array] = {}

    def remembered(self) -> PrivateKey:
        """The key of this view: the arbiter's own."""
        return self._key

    async def send(self, to: str, name: str, value: Array) -> None:
        """See `Party.send`: nobody hears it."""
        self._last[name] = value

    async def recv(self, sender: str, name: str) -> Array:
        """See `Party.recv`: made up, and noted in the view."""
        value = self._coming.pop(name) if name in self._coming else self._made_up(sender, name)
        self.view.append((name, value))
        return value

    def _made_up(self, sender: str, name: str) -> Array:
        if name == "hello":
            return np.array(self._reveals["hellos"][sender], np.int64)
        if name == "seed":
            return np.frombuffer(sharing.new_seed(), np.uint8)
        if name == "public_key":
            return np.stack([self._key.public.body, self._key.public.other]).astype(np.uint32)
        if name in ("change", "all_changes"):
            return np.array([next(self._changes)])
        if name == "slot_heads":
            return self._slots(len(self._last["angles"]) // 3)
        if name == "heads":
            return self._products(self._reveals["hellos"][sender][2])
        side = self.side
        assert side is not None
        if name == "masked_scores":
            (words,) = sharing.expand(sharing.new_seed(), (*side.awaited["scores"], 2))
            return wide.to_words(wide.from_words(words))
        if name == "masked_gradient":
            return wide.to_words(next(self._gradients) + side.awaited["masks"])
        if name == "angles":
            encrypted = self._key.encrypt_slots(np.zeros((side.awaited["slots"], rlwe.SIZE), np.int64))
            self._coming["angle_seeds"] = encrypted.seeds
            return encrypted.body
        encrypted = self._key.encrypt_vector([0] * side.awaited["vector"])  # `mean` to the guest, `residual` to a host
        self._coming[f"{name}_seeds"] = encrypted.seeds
        return encrypted.body

    def _products(self, width: int) -> Array:
        """An answer that holds uniform masks alone."""
        assert self.iteration is not None
        rows = self._rows[self.iteration]
        zero = self._key.encrypt_vector([0] * rows)
        masks = [int.from_bytes(sharing.new_seed()[: rlwe.WIDE_BITS // 8], "little") for _ in range(width)]
        answer = self._key.public.inner_products(np.zeros((width, rows), np.int64), zero, masks)
        self._coming["tails"] = answer.tails
        return answer.heads

    def _slots(self, rows: int) -> Array:
        nothing = np.zeros((rows, rlwe.SIZE), np.int64)
        answer = self._key.public.slot_products(nothing, self._key.encrypt_slots(nothing), slots.new_masks(rows))
        self._coming["slot_tails"] = answer.tails
        return answer.heads
