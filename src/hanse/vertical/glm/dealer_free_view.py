"""What a party sees of a training without a dealer, made from its own input and what is revealed; see `dealer_view`.

Ciphertexts of the other are made up as encryptions of nothing under a key that is drawn for it, answers as
encryptions of uniform masks under the party's own key.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.channels.checkpoints import BEGINNING
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.crypto import rlwe
from hanse.crypto.rlwe import PrivateKey
from hanse.vertical.glm import dealer_free, slots, wide
from hanse.vertical.glm.columns import Columns
from hanse.vertical.glm.dealer_view import Nowhere, run_alone
from hanse.vertical.glm.families import Response, Table
from hanse.vertical.glm.plaintext import relative_weights
from hanse.vertical.glm.training import Training


def simulate_view(
    role: str,
    columns: Columns,
    training: Training,
    reveals: Mapping[str, Any],
    *,
    own_gradients: bool,
    response: Response | None = None,
    sample_weights: Table | None = None,
) -> list[tuple[str, Array]]:
    """What `role` receives in a run, in the order in which it asks for it.

    Args:
        role: `guest` or `host`.
        columns: its own.
        training: as in the run.
        reveals: `hello`, what the other said at the start. With own gradients `gradients`, one for each step, as summed
            in fixed point, object `(num_columns, num_outputs)`, and with a tolerance `changes`, the other's squared
            moves. With shared weights `weights`, those of its own columns at the end, float64.
        response, sample_weights: the guest's.
    """
    declared = dealer_free.protocol(own_gradients=own_gradients, early_stop=training.tolerance > 0)
    party = _Imagined(role, declared, reveals)
    u = None if sample_weights is None else relative_weights(sample_weights, len(columns.values))
    values, outputs = (None, 0) if response is None else (response.values, response.num_outputs)
    side = run_alone(dealer_free._begin(party, columns, training, own_gradients, outputs, values, u))
    party.side = side
    run_alone(dealer_free._train(side, None, BEGINNING))
    return party.view


class _Imagined(Party):
    """A party with a made-up peer."""

    def __init__(self, role: str, declared: Protocol, reveals: Mapping[str, Any]) -> None:
        super().__init__(role, declared, Nowhere())
        self.view: list[tuple[str, Array]] = []
        self.side: dealer_free._Side | None = None
        self._reveals = reveals
        self._key = PrivateKey()
        self._steps = 0
        self._epochs = 0
        self._last: dict[str, Array] = {}
        self._coming: dict[str, Array] = {}

    async def send(self, to: str, name: str, value: Array) -> None:
        """See `Party.send`: nobody hears it."""
        self._last[name] = value

    async def recv(self, sender: str, name: str) -> Array:
        """See `Party.recv`: made up, and noted in the view."""
        value = self._coming.pop(name) if name in self._coming else self._made_up(name)
        self.view.append((name, value))
        return value

    def _made_up(self, name: str) -> Array:
        if name == "hello":
            return np.array(self._reveals["hello"], np.int64)
        if name == "public_key":
            return np.stack([self._key.public.body, self._key.public.other]).astype(np.uint32)
        side = self.side
        assert side is not None
        if name == "change":
            self._epochs += 1
            return np.array([self._reveals["changes"][self._epochs - 1]])
        if name in ("masked_gradient", "weights"):
            own = side.awaited["sum"]
            if name == "weights":
                return wide.to_words(wide.from_floats(self._reveals["weights"], slots.WEIGHT_BITS) - own)
            self._steps += 1
            return wide.to_words(self._reveals["gradients"][self._steps - 1] - own)
        if name == "vector":
            encrypted = self._key.encrypt_vector([0] * side.awaited["vector"])
            self._coming["vector_seeds"] = encrypted.seeds
            return encrypted.body
        if name == "angles":
            encrypted = self._key.encrypt_slots(np.zeros((side.awaited["slots"], rlwe.SIZE), np.int64))
            self._coming["angle_seeds"] = encrypted.seeds
            return encrypted.body
        if name == "heads":
            return self._answer(side.key)
        return self._slots(side.key)

    def _answer(self, key: PrivateKey) -> Array:
        assert self.side is not None
        rows, length = self.side.awaited["product"]
        masks = [int.from_bytes(np.random.default_rng().bytes(14), "little") for _ in range(rows)]
        zero = key.encrypt_vector([0] * length)
        answer = key.public.inner_products(np.zeros((rows, length), np.int64), zero, masks)
        self._coming["tails"] = answer.tails
        return answer.heads

    def _slots(self, key: PrivateKey) -> Array:
        assert self.side is not None
        rows = self.side.awaited["slots"]
        nothing = np.zeros((rows, rlwe.SIZE), np.int64)
        answer = key.public.slot_products(nothing, key.encrypt_slots(nothing), slots.new_masks(rows))
        self._coming["slot_tails"] = answer.tails
        return answer.heads
