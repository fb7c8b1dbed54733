"""The mean function of a sum of two angles, one of them encrypted slot by slot, the other in the clear.

    cos k(g+h) = cos kg cos kh − sin kg sin kh;  sin k(g+h) = sin kg cos kh + cos kg sin kh

So the series of `series` at z = g + h is a sum of 2K products of a factor that depends on h with one that depends on g.
Who holds the key encrypts the factors of h; who knows g multiplies them slot by slot (`rlwe.PublicKey.slot_products`)
and adds masks. The holder's sums of slots and the other's sums of masks are shares of the mean. Pure functions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.crypto import rlwe
from hanse.crypto.aes import prg
from hanse.crypto.sharing import new_seed
from hanse.vertical.glm import wide
from hanse.vertical.glm.families import Table
from hanse.vertical.glm.series import Series
from hanse.vertical.glm.wide import Integers

TABLE_BITS = 12
WEIGHT_BITS = 24
SCORE_BITS = TABLE_BITS + WEIGHT_BITS
RESIDUAL_BITS = 26
FACTOR_BITS = RESIDUAL_BITS // 2
_WORDS = 3
"""Of 64 bits, of which a mask is made: modulo the slots' modulus of 90 bits it is within 2^-102 of uniform."""


def angles_of(z: Any, series: Series, bits: int = SCORE_BITS) -> Table:
    """2πz / P of numbers, or of shares with `bits` fraction bits: float64, of the same shape."""
    period = 2.0**series.range.period_bits
    if z.dtype != np.float64:
        z = (z % (1 << bits + series.range.period_bits)).astype(np.float64) * 2.0**-bits
    angles: Table = 2 * np.pi * (np.mod(z, period) / period)
    return angles


def holders_factors(angles: Table, series: Series) -> npt.NDArray[np.int64]:
    """What the holder of the key encrypts: cos and sin of k times its angles `(…)`, int64 `(…, 2K)`."""
    turns = angles[..., None] * np.arange(1, series.range.terms + 1)
    return np.rint(np.concatenate([np.cos(turns), np.sin(turns)], axis=-1) * 2.0**FACTOR_BITS).astype(np.int64)


def others_factors(angles: Table, series: Series, scale: Any) -> npt.NDArray[np.int64]:
    """What these are multiplied by: from the other's angles and the series, times `scale`, a number or one a row."""
    turns = angles[..., None] * np.arange(1, series.range.terms + 1)
    cosine, sine = np.cos(turns), np.sin(turns)
    a, b = series.cosines, series.sines
    parts = np.concatenate([a * cosine + b * sine, b * cosine - a * sine], axis=-1)
    factors: npt.NDArray[np.int64] = np.rint(
        parts * np.asarray(scale)[..., None] * 2.0 ** (RESIDUAL_BITS - FACTOR_BITS)
    ).astype(np.int64)
    return factors


def others_share(masks: npt.NDArray[np.uint64], shape: tuple[int, ...], series: Series, scale: Any) -> Integers:
    """The other's share of scale · mean, `shape[:-1]`, with RESIDUAL_BITS; the holder's is `summed` of its slots."""
    constant = np.broadcast_to(series.constant * np.asarray(scale), shape[:-1])
    return wide.from_floats(constant, RESIDUAL_BITS) - summed(masks, shape)


def padded(factors: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All factors in rows of N slots."""
    flat = factors.reshape(-1)
    rows = -(-len(flat) // rlwe.SIZE)
    result = np.zeros(rows * rlwe.SIZE, np.int64)
    result[: len(flat)] = flat
    return result.reshape(rows, rlwe.SIZE)


def new_masks(rows: int) -> npt.NDArray[np.uint64]:
    """Uniform integers modulo the slots' modulus, as residues of its primes: `(rows, 3, N)`.

    What is masked is uniform whatever it is. Sums of it and of the masks are taken modulo 2^112 afterwards, and that
    they differ by the sum v of what was masked holds but with probability |v| over the slots' modulus, see `budget`.
    """
    words = prg(new_seed(), 8 * _WORDS * rows * rlwe.SIZE).view(np.uint64).reshape(_WORDS, rows, 1, rlwe.SIZE)
    t = rlwe.slot_transform().primes[:, None]
    shift = np.array([(1 << 64) % int(each) for each in t[:, 0]], np.uint64)[:, None]
    masks: npt.NDArray[np.uint64] = words[0] % t
    for word in words[1:]:
        masks = (masks * shift + word % t) % t
    return masks


def summed(slots: npt.NDArray[np.uint64], shape: tuple[int, ...]) -> Integers:
    """Sums over the last axis of `shape` of what lies in slots `(rows, 3, N)`, as integers."""
    count = int(np.prod(shape))
    t = rlwe.slot_transform().primes
    flat = slots.transpose(1, 0, 2).reshape(3, -1)[:, :count].reshape(3, -1, shape[-1])
    residues = (flat.sum(axis=-1, dtype=np.uint64) % t[:, None]).astype(object)
    whole = rlwe.slot_modulus()
    weights = [whole // int(p) * pow(whole // int(p), -1, int(p)) for p in t]
    total = sum(residue * weight for residue, weight in zip(residues, weights, strict=True)) % whole
    return np.asarray(total, object).reshape(shape[:-1])
