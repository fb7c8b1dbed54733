"""Private set intersection by Diffie–Hellman: C. Meadows, "A more efficient cryptographic matchmaking protocol", IEEE
S&P 1986; B. Huberman, M. Franklin, T. Hogg, "Enhancing privacy and trust in electronic communities", EC 1999.

Each side raises H(id) to a secret of its own; raised by both, equal identifiers meet. On curve25519, H by RFC 9380.
Both sides work batch by batch at the same time. `guest` and `host` join; `count_guest` and `count_host` give the guest
the number alone, since the host returns the guest's points in an order of its own. Secrets are fresh in every run.

Needs gmpy2 (the extra `vertical`). Not here: malicious parties. `x = H(id)` without an encoding is never used: half of
such points lie on the twist.
"""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError
from hanse.crypto.curve25519 import POINT_BYTES, Encoder, multiply, new_secret
from hanse.crypto.matching import match
from hanse.crypto.oprf import digest_bytes, hash_items
from hanse.vertical.psi.ids import (
    HELLO,
    VERSION,
    Ids,
    Places,
    checked_matches,
    encoded,
    greet,
    kind_of,
    secret_order,
)
from hanse.vertical.psi.parts import refuse_repeated

TAG = b"hanse-psi-v1-curve25519_XMD:SHA-512_ELL2_NU_"
MIN_BATCH = 4096
MAX_BATCHES = 500
_PERSON = b"hanse psi dh"

_GUARANTEE = Guarantee(
    adversary="semi-honest",
    corrupted=1,
    computational_bits=126,
    statistical_bits=40,
    assumptions=("decisional Diffie-Hellman on curve25519", "SHA-512 and BLAKE2b are random oracles"),
)
_SIZES = (
    Reveal("guest", "host", "size", "how many identifiers the host holds, and of which kind"),
    Reveal("host", "guest", "size", "how many identifiers the guest holds, and of which kind"),
)
_MESSAGES = (
    *HELLO,
    Message("points", "guest", "host", "uint8", (None, POINT_BYTES)),
    Message("points", "host", "guest", "uint8", (None, POINT_BYTES)),
    Message("digests", "host", "guest", "uint8", (None, None)),
)

PROTOCOL = Protocol(
    name="psi/diffie-hellman",
    roles=("guest", "host"),
    messages=(*_MESSAGES, Message("matches", "guest", "host", "int64", (None,))),
    guarantee=_GUARANTEE,
    reveals=(
        *_SIZES,
        Reveal("guest", "host", "intersection", "which of its own identifiers the host holds, too"),
        Reveal("host", "guest", "intersection", "which of its own identifiers the guest holds: who is a customer"),
    ),
)
COUNTING = Protocol(
    name="psi/diffie-hellman-cardinality",
    roles=("guest", "host"),
    messages=_MESSAGES,
    guarantee=_GUARANTEE,
    reveals=(*_SIZES, Reveal("guest", "host", "cardinality", "how many identifiers both hold")),
)


async def guest(party: Party, ids: Ids) -> Places:
    """The side that asks; arguments, result and errors as for `chase_miao.guest`.

    Raises:
        MissingExtraError: gmpy2 is not installed.
    """
    order, own, theirs = await _meet_as_guest(party, ids, held_back=False)
    mine, places = match(own, theirs)
    shuffle = secret_order(len(mine))
    if len(order) and len(theirs):
        await party.send("host", "matches", places[shuffle])
    return order[mine[shuffle]]


async def host(party: Party, ids: Ids) -> Places:
    """The other side; see `guest`."""
    order, num_theirs = await _meet_as_host(party, ids, shuffled=False)
    if not len(order) or not num_theirs:
        return np.empty(0, np.int64)
    return order[checked_matches(await party.recv("guest", "matches"), len(order))]


async def count_guest(party: Party, ids: Ids) -> int:
    """How many identifiers both hold; errors as for `guest`."""
    _, own, theirs = await _meet_as_guest(party, ids, held_back=True)
    return len(match(own, theirs)[0])


async def count_host(party: Party, ids: Ids) -> None:
    """The other side of `count_guest`; learns the guest's number of identifiers and nothing else."""
    await _meet_as_host(party, ids, shuffled=True)


async def _meet_as_guest(party: Party, ids: Ids, *, held_back: bool) -> tuple[Places, Array, Array]:
    """The order in which this side sent its points, and digests of both sides' twice raised points.

    Args:
        held_back: the host sends digests when it has all points. Otherwise each batch's are taken as soon as the next
            batch is on its way, so that they do not pile up.
    """
    kind, order, points = _prepare(ids)
    num_theirs = await greet(party, "host", kind, len(ids))
    size = digest_bytes(len(ids), num_theirs)
    none = np.empty((0, size), np.uint8)
    if not len(ids) or not num_theirs:
        return order, none, none
    secret, raised = new_secret(), len(ids) + num_theirs
    theirs: list[bytes] = []
    own: list[Array] = []
    due = 0
    for mine_now, theirs_now in _batches(len(ids), num_theirs):
        if mine_now:
            await party.send(
                "host", "points", _rows(multiply(secret, islice(points, mine_now), of=raised), POINT_BYTES)
            )
        if theirs_now:
            received = await party.recv("host", "points")
            theirs += _digests(multiply(secret, _points_in(received, theirs_now), of=raised), size)
        if due and not held_back:
            own.append(await party.recv("host", "digests"))
            due -= 1
        due += bool(mine_now)
    own += [await party.recv("host", "digests") for _ in range(due)]
    joined = np.concatenate([none, *own]) if all(each.shape[1] == size for each in own) else none
    if joined.shape != (len(ids), size):
        raise RefusedError(f"host: expected digests of {(len(ids), size)}, found others")
    return order, joined, _rows(theirs, size)


async def _meet_as_host(party: Party, ids: Ids, *, shuffled: bool) -> tuple[Places, int]:
    """The order in which this side sent its points, and how many the guest has.

    Args:
        shuffled: hold the guest's digests back until all are there and send them in a secret order.
    """
    kind, order, points = _prepare(ids)
    num_theirs = await greet(party, "guest", kind, len(ids))
    if not len(ids) or not num_theirs:
        return order, num_theirs
    size = digest_bytes(len(ids), num_theirs)
    secret, raised = new_secret(), len(ids) + num_theirs
    held: list[bytes] = []
    for theirs_now, mine_now in _batches(num_theirs, len(ids)):
        if mine_now:
            await party.send(
                "guest", "points", _rows(multiply(secret, islice(points, mine_now), of=raised), POINT_BYTES)
            )
        if theirs_now:
            received = await party.recv("guest", "points")
            held += _digests(multiply(secret, _points_in(received, theirs_now), of=raised), size)
            if not shuffled:
                await party.send("guest", "digests", _rows(held, size))
                held = []
    if shuffled:
        digests = _rows(held, size)[secret_order(num_theirs)]
        for part in np.array_split(digests, _num_digest_messages(num_theirs, len(ids))):
            await party.send("guest", "digests", part)
    return order, num_theirs


def simulate_view(role: str, ids: Ids, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives in a run of the join; see `chase_miao.simulate_view`. Messages sorted by name."""
    size, kind = int(reveals["size"]), int(reveals.get("kind", kind_of(ids)))
    common = np.asarray(reveals["intersection"], np.int64)
    view: list[tuple[str, Array]] = [("hello", np.array([VERSION, kind if size else 0, size], np.int64))]
    if not len(ids) or not size:
        return view
    encode, secret = Encoder(TAG), new_secret()
    fresh = [encode(np.random.default_rng().bytes(32)) for _ in range(max(size, len(ids)))]
    masked = multiply(secret, fresh)  # points of the curve, independent of all identifiers
    pairs = _batches(len(ids), size) if role == "guest" else _batches(size, len(ids))
    places = iter(masked)
    for one, other in pairs:
        count = other if role == "guest" else one
        if count:
            view.append(("points", _rows(list(islice(places, count)), POINT_BYTES)))
    if role == "host":
        return [*view, ("matches", secret_order(len(ids))[: len(common)])]
    length = digest_bytes(len(ids), size)
    again = _digests(multiply(secret, masked), length)
    shown = [again[at] for at in range(len(common))]  # those that meet a point above
    others = _digests(multiply(new_secret(), fresh[: len(ids)]), length)[len(common) :]
    digests = _rows(shown + others, length)[secret_order(len(ids))]
    start = 0
    for mine_now, _ in _batches(len(ids), size):
        if mine_now:
            view.append(("digests", digests[start : start + mine_now]))
            start += mine_now
    return view


def _prepare(ids: Ids) -> tuple[int, Places, Iterator[bytes]]:
    """Kind, a secret order, and the encoded points in that order, made as they are asked for."""
    kind = kind_of(ids)
    refuse_repeated(hash_items(encoded(ids, kind), len(ids)))
    order = secret_order(len(ids))
    shuffled: Any = ids[order] if isinstance(ids, np.ndarray) else [ids[at] for at in order]
    return kind, order, map(Encoder(TAG), encoded(shuffled, kind))


def _batches(num_guest: int, num_host: int) -> Iterator[tuple[int, int]]:
    """How many points each side sends in turn; either may have sent all of its own before."""
    size = max(MIN_BATCH, -(-max(num_guest, num_host) // MAX_BATCHES))
    for start in range(0, max(num_guest, num_host), size):
        yield tuple(max(0, min(size, count - start)) for count in (num_guest, num_host))  # type: ignore[misc]


def _num_digest_messages(num_guest: int, num_host: int) -> int:
    return sum(1 for mine, _ in _batches(num_guest, num_host) if mine)


def _points_in(array: Array, count: int) -> list[bytes]:
    if len(array) != count:
        raise RefusedError(f"psi: expected a batch of {count} points, found {len(array)}")
    raw = array.tobytes()
    return [raw[at : at + POINT_BYTES] for at in range(0, len(raw), POINT_BYTES)]


def _digests(points: list[bytes], size: int) -> list[bytes]:
    blake2b = hashlib.blake2b
    return [blake2b(point, digest_size=size, person=_PERSON).digest() for point in points]


def _rows(parts: list[bytes], size: int) -> Array:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), size)
