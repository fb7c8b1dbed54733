"""The matrix OPRF of M. Chase, P. Miao, "Private Set Intersection in the Internet Setting From Lightweight Oblivious
PRF", CRYPTO 2020: the parameters (section 4 there) and the columns that both sides compute.

The receiver's set Y marks zeros in a matrix D of ones, at rows F_k(y) in every column. By oblivious transfer the sender
gets, column by column, A or A ⊕ D as its secret bit says. Whoever holds an element of Y reads the same bits from both
matrices; for any other element at least 128 of the bits depend on the sender's secret.

F_k(y) is AES_k(H1(y) with the group's number in place of 16 bits), cut into places (see `columns`). H1 is BLAKE2b to
112 bits; H2 is BLAKE2b over the bits that were read.

Guarantee: semi-honest, in the random oracle model (H1, H2), AES-128 a pseudorandom permutation; the failure
probabilities of `choose_parameters` are at most 2^−40 each.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from hanse.core.errors import TooLargeError
from hanse.crypto.aes import BlockFunction, Blocks, prg
from hanse.crypto.columns import Bits, Words, pick_loops

COMPUTATIONAL_BITS = 128
STATISTICAL_BITS = 40
MAX_ITEMS = 1 << 31
_MIN_HEIGHT_BITS = 9
_CHUNK = 1 << 14
_HASH_PERSON = b"hanse psi H1"
_BITS_PERSON = b"hanse psi H2"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What both sides compute from the sizes of the two sets.

    Attributes:
        height_bits: log2 of a column's bits; at least log2 of the receiver's items.
        width: columns, so that every element outside the receiver's set depends on ≥ 128 secret bits.
        digest_bytes: of H2, ≥ 40 + log2 of the number of pairs, in bits.
    """

    height_bits: int
    width: int
    digest_bytes: int

    @property
    def per_lane(self) -> int:
        """Columns cut from one 64-bit lane of an AES block."""
        return min(64 // self.height_bits, 4)

    @property
    def per_group(self) -> int:
        """Columns served by one AES block; at most 8."""
        return 2 * self.per_lane

    @property
    def num_groups(self) -> int:
        """Groups of columns; the last may be shorter."""
        return -(-self.width // self.per_group)

    @property
    def column_bytes(self) -> int:
        """Bytes of one column."""
        return (1 << self.height_bits) // 8

    def columns_of(self, group: int) -> range:
        """The columns of a group."""
        return range(group * self.per_group, min((group + 1) * self.per_group, self.width))


def digest_bytes(num_a: int, num_b: int) -> int:
    """Bytes of digests of which, over all pairs, two agree by chance with probability at most 2^−40."""
    return math.ceil((STATISTICAL_BITS + math.log2(max(1, num_a) * max(1, num_b))) / 8)


@lru_cache(maxsize=128)  # each part of an intersection asks for the same, for about 15 ms
def choose_parameters(num_receiver: int, num_sender: int) -> Parameters:
    """The smallest sound parameters.

    An element outside the receiver's n finds a one in a column with probability p = (1 − 1/m)^n. The width w is the
    least for which num_sender · Pr[Binomial(w, p) < 128] ≤ 2^−40.

    Raises:
        TooLargeError: more than 2^31 items.
    """
    if max(num_receiver, num_sender) > MAX_ITEMS:
        raise TooLargeError(f"ids: expected at most {MAX_ITEMS}, found {max(num_receiver, num_sender)}")
    height_bits = max(_MIN_HEIGHT_BITS, math.ceil(math.log2(max(2, num_receiver))))
    p = math.exp(num_receiver * math.log1p(-(2.0**-height_bits)))
    bound = -(STATISTICAL_BITS * math.log(2)) - math.log(max(1, num_sender))
    width = COMPUTATIONAL_BITS
    while _log_tail(width, p, COMPUTATIONAL_BITS) > bound:
        width += 1
    return Parameters(height_bits, width, digest_bytes(num_receiver, num_sender))


def _log_tail(trials: int, p: float, below: int) -> float:
    """log Pr[Binomial(trials, p) < below]."""
    if p >= 1:
        return 0.0 if trials < below else -math.inf
    terms = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(p) + (trials - k) * math.log1p(-p)
        for k in range(min(below, trials + 1))
    ]  # fmt: skip
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms))


def hash_items(items: Iterable[bytes], num_items: int) -> Blocks:
    """H1 of every item: uint64 `(num_items, 2)`, of which the lowest 16 bits of the second are 0."""
    blake2b = hashlib.blake2b
    hashes = (blake2b(item, digest_size=16, person=_HASH_PERSON).digest() for item in items)
    blocks = np.empty((num_items, 2), np.uint64)
    for start in range(0, num_items, _CHUNK):  # not all at once: each hash is an object of 49 bytes until it is copied
        part = b"".join(islice(hashes, min(_CHUNK, num_items - start)))
        blocks[start : start + _CHUNK] = np.frombuffer(part, "<u8").reshape(-1, 2)
    blocks[:, 1] &= np.uint64(0xFFFF_FFFF_FFFF_0000)
    return blocks


class Matrix:
    """One side's walk over the groups of columns.

    Args:
        parameters: as both sides chose them.
        key: k, 16 bytes.
        hashed: H1 of this side's items, uint64 `(num_items, 2)`.
    """

    def __init__(self, parameters: Parameters, key: bytes, hashed: Blocks) -> None:
        self._parameters = parameters
        self._function = BlockFunction(key)
        self._hashed = hashed
        self._numbered = hashed.copy()
        self._loops = pick_loops(1 << len(hashed).bit_length())
        self._bits: Bits = np.empty((parameters.num_groups, len(hashed)), np.uint8)

    def receiver_group(self, group: int, zeros: list[bytes], ones: list[bytes]) -> npt.NDArray[np.uint8]:
        """The receiver's part for a group: reads A and gives Δ = A ⊕ D ⊕ PRG(second seed), A being PRG(first seed).

        Args:
            group: its number.
            zeros, ones: both seeds of every column of the matrix.

        Returns:
            Δ, uint8 `(num_columns, column_bytes)`.
        """
        p, columns = self._parameters, self._parameters.columns_of(group)
        blocks = self._blocks(group)
        a = np.stack([prg(zeros[column], p.column_bytes) for column in columns])
        d: Words = np.full((len(columns), p.column_bytes // 8), np.uint64(2**64 - 1))
        self._loops.clear(blocks, p.height_bits, p.per_lane, d)
        self._loops.read(blocks, p.height_bits, p.per_lane, a.view("<u8"), self._bits[group])
        delta = d.view(np.uint8)
        delta ^= a
        for row, column in enumerate(columns):
            delta[row] ^= prg(ones[column], p.column_bytes)
        return delta

    def sender_group(self, group: int, columns: npt.NDArray[np.uint8]) -> None:
        """The sender's part for a group: reads C, uint8 `(num_columns, column_bytes)`."""
        p = self._parameters
        self._loops.read(self._blocks(group), p.height_bits, p.per_lane, columns.view("<u8"), self._bits[group])

    def digests(self) -> npt.NDArray[np.uint8]:
        """H2 of every item's bits: uint8 `(num_items, digest_bytes)`. Once all groups are done."""
        size, length = self._parameters.digest_bytes, self._parameters.num_groups
        blake2b, parts = hashlib.blake2b, []
        for start in range(0, self._bits.shape[1], _CHUNK):
            rows = np.ascontiguousarray(self._bits[:, start : start + _CHUNK].T).data.cast("B")
            parts.append(
                b"".join(
                    blake2b(rows[at : at + length], digest_size=size, person=_BITS_PERSON).digest()
                    for at in range(0, len(rows), length)
                )
            )
        return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, size)

    def _blocks(self, group: int) -> Blocks:
        np.bitwise_or(self._hashed[:, 1], np.uint64(group), out=self._numbered[:, 1])
        return self._function(self._numbered)


def chosen_columns(
    seeds: list[bytes], choices: npt.NDArray[np.bool_], delta: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The sender's columns C = PRG(chosen seed), ⊕ Δ where its bit is 1: uint8 `(num_columns, column_bytes)`."""
    columns = np.stack([prg(seed, delta.shape[1]) for seed in seeds])
    columns ^= delta & (np.uint8(255) * choices.astype(np.uint8))[:, None]
    return columns
