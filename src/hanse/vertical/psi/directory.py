"""Unbalanced intersection with a cached side: a new customer against ten million in milliseconds.

An oblivious pseudorandom function (OPRF) by Diffie–Hellman: S. Jarecki, X. Liu, "Fast Secure Computation of Set
Intersection", SCN 2010; the cached side as in D. Kales, C. Rechberger, T. Schneider, M. Senker, C. Weinert, "Mobile
Private Contact Discovery at Scale", USENIX Security 2019.

    F_k(id) = BLAKE2b(k · H(id)), H to curve25519 by RFC 9380, k the host's secret for this directory

Once, `publish` and `fetch`: the host computes F_k of all its identifiers and sends what a directory needs of them:
shortened, sorted values, which are random for whoever does not hold k. Later, any number of times, `ask` and `answer`:
the guest sends blinded points r · H(id), the host multiplies by k, the guest takes r away and looks the value up. The
host sees uniform points; so it learns how many are asked for, and not which, and not what was found.

Whoever asks often enough finds the host's set out, and nothing but the number of answers limits that. So the host
counts them, durably, before an answer leaves, and refuses by name when the guest's budget is used up.

A directory: an identifier's bucket is named by the first bits of its value, and the bucket holds the next bytes; in
total 40 + log2(identifiers · budget) bits, so that all answers together are wrong with probability at most 2^−40.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import CodecError, ConfigError, RefusedError, TooLargeError
from hanse.core.stream import Stream
from hanse.crypto.curve25519 import POINT_BYTES, Blinding, Encoder, multiply, new_secret
from hanse.crypto.oprf import MAX_ITEMS, STATISTICAL_BITS
from hanse.vertical.psi.ids import Ids, encoded, kind_in_words, kind_of

VERSION = 1
TAG = b"hanse-psi-directory-v1-curve25519_XMD:SHA-512_ELL2_NU_"
MAX_BUDGET = 1 << 20
"""Answers under one secret. Each helps to compute the secret: of 126 bits there remain 126 − log2(answers) / 2 (J. H.
Cheon, "Security Analysis of the Strong Diffie-Hellman Problem", EUROCRYPT 2006)."""
USUAL_IDS = 1 << 25
"""Identifiers of a directory that a guest takes unless more are asked for: about 0.3 GB."""
BATCH = 4096
"""Points in one message."""
_VALUE_BYTES = 16
_MAX_KEPT_BYTES = _VALUE_BYTES - 4
_PER_BUCKET_BITS = 4
_ROWS_A_MESSAGE = 1 << 20
_PERSON = b"hanse psi lookup"

_GUARANTEE = Guarantee(
    adversary="semi-honest",
    corrupted=1,
    computational_bits=116,
    statistical_bits=40,
    assumptions=("one-more gap Diffie-Hellman on curve25519", "SHA-512 and BLAKE2b are random oracles"),
)
PUBLISHING = Protocol(
    name="psi/directory",
    roles=("guest", "host"),
    messages=(
        Message("terms", "host", "guest", "int64", (4,)),
        Message("starts", "host", "guest", "uint32", (None,)),
        Message("values", "host", "guest", "uint8", (None, None)),
    ),
    guarantee=_GUARANTEE,
    reveals=(Reveal("guest", "host", "size", "how many identifiers the host holds, and of which kind"),),
)
ASKING = Protocol(
    name="psi/lookup",
    roles=("guest", "host"),
    messages=(
        Message("blinded", "guest", "host", "uint8", (None, POINT_BYTES)),
        Message("evaluated", "host", "guest", "uint8", (None, POINT_BYTES)),
    ),
    guarantee=_GUARANTEE,
    reveals=(
        Reveal("guest", "host", "membership", "which of the identifiers it asks for the host holds, within its budget"),
        Reveal("host", "guest", "queries", "how many identifiers the guest asks for, and not which"),
    ),
)


@dataclass(frozen=True, slots=True)
class Directory:
    """What the guest keeps of the host's set.

    Attributes:
        kind: of the identifiers, see `hanse.vertical.psi.ids.kind_of`.
        budget: how many queries it was made for.
        starts: uint32 `(2^bits + 1,)`: where each bucket begins in `values`.
        values: uint8 `(num_ids, size)`, sorted.
    """

    kind: int
    budget: int
    starts: npt.NDArray[np.uint32]
    values: npt.NDArray[np.uint8]

    def has(self, functions: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Which values of the function are there.

        Args:
            functions: uint8 `(n, 16)`.
        """
        buckets, wanted = _cut(functions, _bucket_bits(len(self.values)), self.values.shape[1])
        first, last = self.starts[buckets], self.starts[buckets + 1]
        return np.array(
            [
                bool((self.values[a:b] == value).all(axis=1).any())
                for a, b, value in zip(first.tolist(), last.tolist(), wanted, strict=True)
            ],
            np.bool_,
        )

    def to_arrays(self) -> Arrays:
        """As arrays, to be kept."""
        terms = np.array([VERSION, self.kind, len(self.values), self.budget], np.int64)
        arrays: dict[str, Array] = {"terms": terms, "starts": self.starts, "values": self.values}
        return Arrays(arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Directory":
        """What `to_arrays` gave.

        Raises:
            CodecError: something else.
        """
        try:
            version, kind, count, budget = (int(each) for each in arrays["terms"])
            found = cls(kind, budget, arrays["starts"], arrays["values"])
            _check(version, kind, count, budget)
            _check_contents(found, count)
        except (KeyError, ValueError, RefusedError):
            raise CodecError("directory: expected terms, starts and values that fit each other") from None
        return found


@dataclass(frozen=True, slots=True)
class Secret:
    """What the host keeps of a directory.

    Attributes:
        key: k.
        budget: how many queries each guest may make of it.
    """

    key: X25519PrivateKey
    budget: int

    def to_arrays(self) -> Arrays:
        """As arrays, to be kept; whoever has them can try identifiers without being counted."""
        key = np.frombuffer(self.key.private_bytes_raw(), np.uint8)
        arrays: dict[str, Array] = {"key": key, "terms": np.array([VERSION, self.budget], np.int64)}
        return Arrays(arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Secret":
        """What `to_arrays` gave.

        Raises:
            CodecError: something else.
        """
        try:
            version, budget = (int(each) for each in arrays["terms"])
            key = X25519PrivateKey.from_private_bytes(arrays["key"].tobytes())
        except (KeyError, ValueError):
            raise CodecError("directory: expected the host's key and terms, found others") from None
        if version != VERSION or not 1 <= budget <= MAX_BUDGET:
            raise CodecError(f"directory: expected version {VERSION} and a budget up to {MAX_BUDGET}")
        return cls(key, budget)


def check_budget(budget: int) -> int:
    """Return it if it may be.

    Raises:
        ConfigError: no whole number from 1 to `MAX_BUDGET`.
    """
    if type(budget) is not int or not 1 <= budget <= MAX_BUDGET:
        raise ConfigError(f"budget: expected a whole number from 1 to {MAX_BUDGET}, found {budget!r:.40}")
    return budget


def build(secret: Secret, ids: Ids | Stream) -> Directory:
    """The directory of these identifiers: about 50 µs for each, 15 where points go eight at a time.

    An identifier that occurs twice is there once.

    Raises:
        ConfigError: mixed kinds. MissingExtraError: gmpy2 is not installed.
    """
    encode = Encoder(TAG)
    kind = 0
    found = [np.empty((0, _VALUE_BYTES), np.uint8)]
    for piece in ids.pieces() if isinstance(ids, Stream) else iter([ids]):
        if len(piece):
            if kind not in (0, kind_of(piece)):
                raise ConfigError("ids: expected one kind in all pieces of a stream, found two")
            kind = kind_of(piece)
            points = map(encode, encoded(piece, kind))
            while some := multiply(secret.key, islice(points, BATCH), of=len(piece)):
                found.append(values_of(some))
    return directory_of(np.concatenate(found), kind, secret.budget)


def directory_of(functions: npt.NDArray[np.uint8], kind: int, budget: int) -> Directory:
    """The directory of values of the function, uint8 `(n, 16)`; of equal ones, which would tell of repetitions, one."""
    halves = functions.view(">u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    halves = halves[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    functions = functions[order[new]]
    bits = _bucket_bits(len(functions))
    size = math.ceil((STATISTICAL_BITS + math.log2(max(1, len(functions)) * budget) - bits) / 8)
    buckets, values = _cut(functions, bits, size)
    starts = np.searchsorted(buckets, np.arange((1 << bits) + 1)).astype(np.uint32)
    return Directory(kind, budget, starts, values)


def values_of(points: list[bytes]) -> npt.NDArray[np.uint8]:
    """F_k of identifiers, from k · H(id): uint8 `(n, 16)`."""
    blake2b = hashlib.blake2b
    joined = b"".join(blake2b(point, digest_size=_VALUE_BYTES, person=_PERSON).digest() for point in points)
    return np.frombuffer(joined, np.uint8).reshape(-1, _VALUE_BYTES)


async def publish(party: Party, ids: Ids | Stream, budget: int) -> Secret:
    """The host's side of making a directory, under a new secret.

    Args:
        party: in the role `host` of `PUBLISHING`.
        ids: its identifiers.
        budget: how many queries the guest will have.

    Raises:
        ConfigError: mixed kinds, a budget out of range. UnavailableError: the guest is gone.
    """
    secret = Secret(new_secret(), check_budget(budget))
    made = build(secret, ids)
    await party.send("guest", "terms", made.to_arrays()["terms"])
    await party.send("guest", "starts", made.starts)
    for start in range(0, max(1, len(made.values)), _ROWS_A_MESSAGE):
        await party.send("guest", "values", made.values[start : start + _ROWS_A_MESSAGE])
    return secret


async def fetch(party: Party, max_ids: int = USUAL_IDS) -> Directory:
    """The guest's side.

    Args:
        party: in the role `guest` of `PUBLISHING`.
        max_ids: the size of a directory is the host's word; a larger one is refused before there is memory for it.

    Raises:
        RefusedError: what the host sends is no directory. TooLargeError: it is too large. UnavailableError: the host is
        silent or gone.
    """
    party.limit("host", "starts", 4 * ((1 << _bucket_bits(max_ids)) + 1))
    party.limit("host", "values", _MAX_KEPT_BYTES * min(max_ids, _ROWS_A_MESSAGE))
    version, kind, count, budget = (int(each) for each in await party.recv("host", "terms"))
    _check(version, kind, count, budget)
    if count > max_ids:
        raise TooLargeError(f"host: expected a directory of at most {max_ids} identifiers (max_ids), found {count}")
    starts = await party.recv("host", "starts")
    piece = await party.recv("host", "values")
    values, filled = np.empty((count, min(piece.shape[1], _MAX_KEPT_BYTES)), np.uint8), 0
    while True:
        if filled + len(piece) > count or piece.shape[1] != values.shape[1] or not values.shape[1]:
            raise RefusedError("host: expected as many values as it said, of one short length, found others")
        values[filled : filled + len(piece)] = piece
        filled += len(piece)
        if filled == count or not len(piece):
            break
        piece = await party.recv("host", "values")
    found = Directory(kind, budget, starts, values[:filled])
    _check_contents(found, count)
    return found


async def ask(party: Party, directory: Directory, ids: Ids) -> npt.NDArray[np.bool_]:
    """Ask which identifiers the host holds. Each is counted; whoever asks twice pays twice.

    Args:
        party: in the role `guest` of `ASKING`.
        directory: of this host.
        ids: to ask for.

    Returns:
        bool `(len(ids),)`.

    Raises:
        ConfigError: identifiers of another kind. RefusedError: the host does not keep to the protocol.
        UnavailableError: it is silent or gone, also since the budget is used up, which it says itself.
    """
    if not len(ids):
        return np.empty(0, np.bool_)
    kind = kind_of(ids)
    if directory.kind and kind != directory.kind:
        asked, held = kind_in_words(kind), kind_in_words(directory.kind)
        raise ConfigError(f"ids: expected one kind, found {asked} to ask for and {held} in the directory")
    points = map(Encoder(TAG), encoded(ids, kind))
    found = []
    while (blinding := Blinding(islice(points, BATCH))).points:
        await party.send("host", "blinded", _rows(blinding.points))
        answers = _points(await party.recv("host", "evaluated"))
        if len(answers) != len(blinding.points):
            raise RefusedError(f"host: expected {len(blinding.points)} points, found {len(answers)}")
        found.append(directory.has(values_of(blinding.remove(answers))))
    return np.concatenate(found)


async def leave(party: Party) -> None:
    """Tell the host that nothing more is asked."""
    await party.send("host", "blinded", np.empty((0, POINT_BYTES), np.uint8))


async def answer(party: Party, secret: Secret, count: Callable[[int], object]) -> int:
    """Answer until the guest leaves.

    Args:
        party: in the role `host` of `ASKING`.
        secret: of the guest's directory.
        count: called with a number of queries before they are answered; raises where that is too many. What it has
            counted must outlive this process.

    Returns:
        How many were answered.

    Raises:
        RefusedError: a point of low order. Whatever `count` raises. UnavailableError: the guest is silent or gone.
    """
    answered = 0
    while len(received := await party.recv("guest", "blinded")):
        count(len(received))
        await party.send("guest", "evaluated", _rows(multiply(secret.key, _points(received))))
        answered += len(received)
    return answered


def simulate_view(role: str, ids: Ids, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives when a directory is made and then asked, made from what is revealed to it and nothing else.

    Args:
        role: `guest` or `host`.
        ids: the guest's identifiers to ask for; the host's do not matter.
        reveals: to the guest `size`, `budget` and `membership`, bool for each of `ids`; to the host `queries`.
    """
    if role == "host":
        points = Blinding(map(Encoder(TAG), _fresh(int(reveals["queries"])))).points
        return [
            *(("blinded", _rows(points[at : at + BATCH])) for at in range(0, len(points), BATCH)),
            ("blinded", np.empty((0, POINT_BYTES), np.uint8)),
        ]
    size, kind, found = int(reveals["size"]), kind_of(ids), np.asarray(reveals["membership"], np.bool_)
    secret = Secret(new_secret(), int(reveals["budget"]))
    own = values_of(multiply(secret.key, map(Encoder(TAG), encoded(ids, kind))))
    rest = np.frombuffer(b"".join(_fresh(size - int(found.sum()))), np.uint8).reshape(-1, 32)[:, :_VALUE_BYTES]
    made = directory_of(np.concatenate([own[found], rest]), kind, secret.budget)
    answers = multiply(secret.key, map(Encoder(TAG), _fresh(len(ids))))
    return [
        ("terms", made.to_arrays()["terms"]),
        ("starts", made.starts),
        *(("values", made.values[at : at + _ROWS_A_MESSAGE]) for at in range(0, max(1, size), _ROWS_A_MESSAGE)),
        *(("evaluated", _rows(answers[at : at + BATCH])) for at in range(0, len(answers), BATCH)),
    ]


def _fresh(count: int) -> Iterator[bytes]:
    return (new_secret().private_bytes_raw() for _ in range(count))


def _bucket_bits(count: int) -> int:
    """So that buckets hold 16 values or a few more."""
    return max(0, max(1, count).bit_length() - 1 - _PER_BUCKET_BITS)


def _cut(functions: npt.NDArray[np.uint8], bits: int, size: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """The first `bits` bits of each value as a number, and the `size` bytes after them."""
    halves = np.ascontiguousarray(functions).view(">u8").astype(np.uint64)
    high, low = halves[:, 0], halves[:, 1]
    if not bits:
        return np.zeros(len(functions), np.int64), np.ascontiguousarray(functions[:, :size])
    shift, back = np.uint64(bits), np.uint64(64 - bits)
    moved = np.column_stack([(high << shift) | (low >> back), low << shift]).astype(">u8")
    return (high >> back).astype(np.int64), np.ascontiguousarray(moved.view(np.uint8)[:, :size])


def _check(version: int, kind: int, count: int, budget: int) -> None:
    if version != VERSION:
        raise RefusedError(f"directory: expected version {VERSION}, found {version}")
    known = kind_in_words(kind) is not None if count else kind == 0
    if not 0 <= count <= MAX_ITEMS or not known or not 1 <= budget <= MAX_BUDGET:
        raise RefusedError("directory: expected a kind of ids, their number and a budget, found others")


def _check_contents(found: Directory, count: int) -> None:
    starts, bits = found.starts, _bucket_bits(count)
    fits = starts.dtype == np.uint32 and starts.shape == ((1 << bits) + 1,)
    fits = fits and found.values.dtype == np.uint8 and found.values.ndim == 2
    fits = fits and len(found.values) == count and 1 <= found.values.shape[1] <= _MAX_KEPT_BYTES
    if not fits or starts[0] or starts[-1] != count or (starts[1:] < starts[:-1]).any():
        raise RefusedError("directory: expected buckets of all its values, found others")


def _points(array: Array) -> list[bytes]:
    raw = array.tobytes()
    return [raw[at : at + POINT_BYTES] for at in range(0, len(raw), POINT_BYTES)]


def _rows(points: list[bytes]) -> Array:
    return np.frombuffer(b"".join(points), np.uint8).reshape(-1, POINT_BYTES)
