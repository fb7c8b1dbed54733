"""No encryption at all, with the messages and sizes of `rlwe`: it tells what a protocol costs without its cipher.

For benchmarks and tests. Vectors and slots lie in the clear in the arrays that would be ciphertexts; answers hold
masked results and otherwise zeros. Nothing here protects anything, and nothing chooses it but an argument of that
name.

Guarantee: none.
Reveals: everything.
"""

from collections.abc import Sequence

import numpy as np

from hanse.crypto import rlwe
from hanse.crypto.ntt import Polynomials
from hanse.crypto.rlwe import ANSWER_PRIMES, NUM_PRIMES, SIZE, SLOT_PRIMES, Answer, Encrypted, Integers, Layout

_LIMB_BITS = 24
_LIMBS = -(-rlwe.WIDE_BITS // _LIMB_BITS)


def _limbs_of(vector: Sequence[int]) -> rlwe.Wire:
    """Where a ciphertext's body would be: `(pieces, num_primes, N)`."""
    layout = Layout(1, len(vector))
    flat = np.zeros((NUM_PRIMES, layout.num_pieces * layout.length), np.uint32)
    values = np.array([each % (1 << rlwe.WIDE_BITS) for each in vector], object)
    for at in range(_LIMBS):
        flat[at, : len(vector)] = (values >> _LIMB_BITS * at) % (1 << _LIMB_BITS)
    body = np.zeros((layout.num_pieces, NUM_PRIMES, SIZE), np.uint32)
    body[..., : layout.length] = flat.reshape(NUM_PRIMES, layout.num_pieces, -1).transpose(1, 0, 2)
    return body


class PublicKey(rlwe.PublicKey):
    """See `rlwe.PublicKey`."""

    def inner_products(self, matrix: Integers, vector: Encrypted, masks: Sequence[int]) -> Answer:
        """See `rlwe.PublicKey.inner_products`."""
        layout = Layout(*matrix.shape)
        limbs = vector.body[:, :_LIMBS, : layout.length].transpose(1, 0, 2).reshape(_LIMBS, -1)[:, : matrix.shape[1]]
        parts = (matrix.astype(np.float64) @ limbs.T.astype(np.float64)).astype(np.int64).astype(object)
        total = sum(parts[:, at] << _LIMB_BITS * at for at in range(_LIMBS)) + np.array(masks, object)
        kept = ANSWER_PRIMES[NUM_PRIMES]
        tails = np.zeros((kept, layout.num_answers * layout.rows_each), np.uint32)
        for at in range(kept):
            tails[at, : len(total)] = (total >> _LIMB_BITS * at) % (1 << _LIMB_BITS)
        heads = np.zeros((layout.num_answers, kept, SIZE), np.uint32)
        return Answer(heads, tails.reshape(kept, layout.num_answers, -1).transpose(1, 0, 2))

    def plus(self, vector: Encrypted, values: Sequence[int]) -> Encrypted:
        """See `rlwe.PublicKey.plus`."""
        layout = Layout(1, len(values))
        limbs = vector.body[:, :_LIMBS, : layout.length].transpose(1, 0, 2).reshape(_LIMBS, -1)[:, : len(values)]
        known = sum(limbs[at].astype(object) << _LIMB_BITS * at for at in range(_LIMBS))
        return Encrypted(_limbs_of((known + np.array(values, object)).tolist()), vector.seeds)

    def slot_products(self, factors: Integers, values: Encrypted, masks: Polynomials) -> Answer:
        """See `rlwe.PublicKey.slot_products`."""
        t = rlwe.slot_transform().primes[:, None]
        known = values.body[:, 0].reshape(-1, 3, SIZE).astype(np.uint64)
        tails = np.zeros((3 * len(factors), ANSWER_PRIMES[SLOT_PRIMES], SIZE), np.uint32)
        tails[:, 0] = ((known * rlwe.slot_transform().reduce(factors) + masks) % t).reshape(-1, SIZE)
        return Answer(np.zeros_like(tails), tails)


class PrivateKey(rlwe.PrivateKey):
    """See `rlwe.PrivateKey`."""

    def __init__(self) -> None:
        nothing = np.zeros((NUM_PRIMES, SIZE), np.uint64)
        self.public = PublicKey(nothing, nothing)

    def encrypt_vector(self, vector: Sequence[int]) -> Encrypted:
        """See `rlwe.PrivateKey.encrypt_vector`."""
        return Encrypted(_limbs_of(vector), np.zeros((Layout(1, len(vector)).num_pieces, 16), np.uint8))

    def decrypt_products(self, answer: Answer, num_rows: int, length: int) -> list[int]:
        """See `rlwe.PrivateKey.decrypt_products`."""
        kept = ANSWER_PRIMES[NUM_PRIMES]
        flat = answer.tails.transpose(1, 0, 2).reshape(kept, -1)[:, :num_rows].astype(object)
        return [rlwe.centred(each) for each in sum(flat[at] << _LIMB_BITS * at for at in range(kept))]

    def encrypt_slots(self, values: Integers) -> Encrypted:
        """See `rlwe.PrivateKey.encrypt_slots`."""
        body = np.zeros((3 * len(values), SLOT_PRIMES, SIZE), np.uint32)
        body[:, 0] = rlwe.slot_transform().reduce(values).reshape(-1, SIZE)
        return Encrypted(body, np.zeros((len(body), 16), np.uint8))

    def decrypt_slots(self, answer: Answer, count: int) -> Polynomials:
        """See `rlwe.PrivateKey.decrypt_slots`."""
        return answer.tails[:, 0].reshape(count, 3, SIZE).astype(np.uint64)
