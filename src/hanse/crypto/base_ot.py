"""Oblivious transfer of random seeds: the sender holds two seeds per transfer, the receiver gets the one it chose.

M. Naor, B. Pinkas, "Efficient oblivious transfer protocols", SODA 2001, section 3 (the variant with one sender exponent
for all transfers), on P-256 with seeds from SHA-256. Scalar multiplications are OpenSSL's; only one point addition a
transfer is done here, for either choice, in Python's integers.

Not an extension: for the few hundred transfers that are needed, public-key work takes less than a tenth of a second.

Guarantee: the sender learns nothing of the choices, unconditionally; the receiver learns nothing of the other seed
if computational Diffie–Hellman is hard on P-256, SHA-256 taken as a random oracle. Semi-honest.
Reveals: the number of transfers.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric import ec

from hanse.core.errors import RefusedError

POINT_BYTES = 65
SEED_BYTES = 16

_CURVE = ec.SECP256R1()
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1

Points = npt.NDArray[np.uint8]
_Affine = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SenderState:
    """What the sender keeps between its message and the answer: its secret exponent and what it sent."""

    secret: ec.EllipticCurvePrivateKey
    constant: _Affine
    public: bytes


def start() -> tuple[SenderState, Points]:
    """The sender's message: the constant C and r·G.

    Returns:
        the state, and uint8 `(2, 65)`: two uncompressed points.
    """
    secret = ec.generate_private_key(_CURVE)
    constant = _affine(ec.generate_private_key(_CURVE).public_key())
    public = _pack(_affine(secret.public_key()))
    return SenderState(secret, constant, public), _rows([_pack(constant), public])


def choose(message: Points, choices: npt.NDArray[np.bool_]) -> tuple[list[bytes], Points]:
    """The receiver's answer.

    Args:
        message: what `start` gave, uint8 `(2, 65)`.
        choices: bool, `(n,)`: the second seed where True.

    Returns:
        the chosen seeds, 16 bytes each, and uint8 `(n, 65)`: one point a transfer.

    Raises:
        RefusedError: not two points of the curve.
    """
    constant, public_point = (_load(bytes(row)) for row in message)
    public, (c_x, c_y) = _pack(_affine(public_point)), _affine(constant)
    seeds, answers = [], []
    for index, choice in enumerate(choices):
        own = ec.generate_private_key(_CURVE)
        point = _affine(own.public_key())
        first = (_pack(point), _pack(_subtract((c_x, c_y), point)))[int(choice)]
        seeds.append(_seed(index, int(choice), public, first, own.exchange(ec.ECDH(), public_point)))
        answers.append(first)
    return seeds, _rows(answers)


def finish(state: SenderState, answers: Points) -> tuple[list[bytes], list[bytes]]:
    """Both seeds of every transfer, 16 bytes each.

    Raises:
        RefusedError: not points of the curve, or one that no receiver computes.
    """
    zeros, ones = [], []
    for index, row in enumerate(answers):
        first = bytes(row)
        key = _load(first)
        other = _load(_pack(_subtract(state.constant, _affine(key))))
        zeros.append(_seed(index, 0, state.public, first, state.secret.exchange(ec.ECDH(), key)))
        ones.append(_seed(index, 1, state.public, first, state.secret.exchange(ec.ECDH(), other)))
    return zeros, ones


def _seed(index: int, which: int, public: bytes, first: bytes, shared: bytes) -> bytes:
    label = b"hanse base ot 1" + index.to_bytes(4, "big") + bytes([which])
    return hashlib.sha256(label + public + first + shared).digest()[:SEED_BYTES]


def _subtract(a: _Affine, b: _Affine) -> _Affine:
    """a − b for points with different x."""
    if a[0] == b[0]:
        raise RefusedError("oblivious transfer: expected independent points, found related ones")
    slope = (-b[1] - a[1]) * pow(b[0] - a[0], -1, _P) % _P
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _affine(key: ec.EllipticCurvePublicKey) -> _Affine:
    numbers = key.public_numbers()
    return numbers.x, numbers.y


def _pack(point: _Affine) -> bytes:
    return b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def _load(raw: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if raw[:1] == b"\x04":
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, raw)
    except ValueError:
        pass
    raise RefusedError("oblivious transfer: expected an uncompressed point of P-256, found something else")


def _rows(points: list[bytes]) -> Points:
    return np.frombuffer(b"".join(points), np.uint8).reshape(len(points), POINT_BYTES)
