"""The mean function of scores in two additive shares, under ring-LWE: one exchange for each series (see `slots`).

The **holder** has a key, encrypts what its share makes of the series and adds up masked products; the **other** knows
its own share and draws the masks. Without a dealer these are the host and the guest; where an arbiter holds the key,
they are the arbiter, whose share is minus the masks of the scores, and the guest.

    holder → other    `angles`, `angle_seeds`: cos kh, sin kh, encrypted
    other → holder    `slot_heads`, `slot_tails`: the products with what g makes of the series, masked

A softmax repeats that for each level of its log sums (see `softmax`), and both end with shares of its values.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Message
from hanse.crypto import rlwe
from hanse.crypto.aes import KEY_BYTES
from hanse.crypto.rlwe import Answer, Encrypted, PrivateKey, PublicKey
from hanse.vertical.glm import slots, softmax, wide
from hanse.vertical.glm.families import Table
from hanse.vertical.glm.series import Series
from hanse.vertical.glm.slots import RESIDUAL_BITS, SCORE_BITS
from hanse.vertical.glm.softmax import SeriesMean
from hanse.vertical.glm.wide import Integers


def messages(holder: str, other: str) -> list[Message]:
    """What the two exchange."""
    answer = (None, rlwe.ANSWER_PRIMES[rlwe.SLOT_PRIMES], rlwe.SIZE)
    return [
        Message("angles", holder, other, "uint32", (None, rlwe.SLOT_PRIMES, rlwe.SIZE)),
        Message("angle_seeds", holder, other, "uint8", (None, KEY_BYTES)),
        Message("slot_heads", other, holder, "uint32", answer),
        Message("slot_tails", other, holder, "uint32", answer),
    ]


@dataclass(slots=True)
class Evaluation:
    """One side of it.

    Attributes:
        party: this side.
        peer: the other side's role.
        mean: what is evaluated.
        key: the holder's own key, or at the other the holder's public one.
        awaited: `slots`: how many plaintexts the next exchange takes. The simulators of views read it.
    """

    party: Party
    peer: str
    mean: SeriesMean
    key: PrivateKey | PublicKey
    awaited: dict[str, Any] = field(default_factory=dict)

    async def share(self, z: Integers | Table, scale: Any = 1.0) -> Integers:
        """A share of scale · mean(z), `(rows, outputs)`, with RESIDUAL_BITS.

        Args:
            z: this side's share: float64, or integers modulo 2^112 with SCORE_BITS.
            scale: at the other side a number, or one a row `(rows, 1)`; the holder's does not count.
        """
        bits = SCORE_BITS
        if self.mean.log_sums is not None:
            if z.dtype == np.float64:
                z = wide.from_floats(z, SCORE_BITS)
            z = await softmax.against_rest(z, bits, self.mean.log_sums, self._pairs)
            bits += len(self.mean.log_sums.levels)
        return await self._series(z, bits, self.mean.series, scale)

    async def _pairs(self, level: int, differences: Integers, bits: int) -> Integers:
        """See `softmax.Evaluate`."""
        assert self.mean.pairs is not None
        share = await self._series(differences, bits, self.mean.pairs, 1.0)
        return np.asarray(share * (1 << bits + 1 - RESIDUAL_BITS), object)

    async def _series(self, z: Any, bits: int, series: Series, scale: Any) -> Integers:
        angles = slots.angles_of(z, series, bits)
        if isinstance(self.key, PublicKey):
            return await self._at_other(self.key, angles, series, scale)
        return await self._at_holder(self.key, angles, series)

    async def _at_holder(self, key: PrivateKey, angles: Table, series: Series) -> Integers:
        factors = slots.holders_factors(angles, series)
        padded = slots.padded(factors)
        self.awaited["slots"] = len(padded)
        encrypted = key.encrypt_slots(padded)
        await self.party.send(self.peer, "angles", encrypted.body)
        await self.party.send(self.peer, "angle_seeds", encrypted.seeds)
        heads = await self.party.recv(self.peer, "slot_heads")
        answer = Answer(heads, await self.party.recv(self.peer, "slot_tails"))
        return slots.summed(key.decrypt_slots(answer, len(padded)), factors.shape)

    async def _at_other(self, key: PublicKey, angles: Table, series: Series, scale: Any) -> Integers:
        factors = slots.others_factors(angles, series, scale)
        padded = slots.padded(factors)
        self.awaited["slots"] = len(padded)
        body = await self.party.recv(self.peer, "angles")
        encrypted = Encrypted(body, await self.party.recv(self.peer, "angle_seeds"))
        masks = slots.new_masks(len(padded))
        answer = key.slot_products(padded, encrypted, masks)
        await self.party.send(self.peer, "slot_heads", answer.heads)
        await self.party.send(self.peer, "slot_tails", answer.tails)
        return slots.others_share(masks, factors.shape, series, scale)
