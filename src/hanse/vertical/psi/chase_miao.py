"""M. Chase, P. Miao, "Private Set Intersection in the Internet Setting From Lightweight Oblivious PRF", CRYPTO 2020.

Figure 3 of the paper, semi-honest, with the guest as its receiver and the host as its sender; base oblivious transfers
by Naor and Pinkas; the matrix OPRF is `hanse.crypto.oprf`. An inner join: both learn the intersection, in one common
random order. Keys, seeds and masks are drawn afresh in every run and used in it alone.

Beyond half a million identifiers of either side they are intersected part by part (`hanse.vertical.psi.parts`), each
part with seeds and keys of its own. Memory: about width / 6 bytes an identifier of a part.

Not here: malicious parties, more than two parties.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError
from hanse.core.stream import Stream
from hanse.crypto import base_ot
from hanse.crypto.aes import KEY_BYTES
from hanse.crypto.matching import match
from hanse.crypto.oprf import Matrix, Parameters, choose_parameters, chosen_columns
from hanse.vertical.psi.ids import (
    HELLO,
    VERSION,
    Ids,
    Places,
    checked_matches,
    greet,
    kind_of,
    secret_order,
)
from hanse.vertical.psi.parts import Layout, Part, hashed, lay_out, mixed, new_key

PROTOCOL = Protocol(
    name="psi/chase-miao",
    roles=("guest", "host"),
    messages=(
        *HELLO,
        Message("parts_key", "guest", "host", "uint8", (KEY_BYTES,)),
        Message("ot_points", "guest", "host", "uint8", (2, base_ot.POINT_BYTES)),
        Message("ot_choices", "host", "guest", "uint8", (None, base_ot.POINT_BYTES)),
        Message("columns", "guest", "host", "uint8", (None, None)),
        Message("prf_key", "guest", "host", "uint8", (KEY_BYTES,)),
        Message("digests", "host", "guest", "uint8", (None, None)),
        Message("matches", "guest", "host", "int64", (None,)),
    ),
    guarantee=Guarantee(
        adversary="semi-honest",
        corrupted=1,
        computational_bits=128,
        statistical_bits=40,
        assumptions=(
            "computational Diffie-Hellman on P-256",
            "AES-128 is a pseudorandom permutation",
            "SHA-256 and BLAKE2b are random oracles",
        ),
    ),
    reveals=(
        Reveal("guest", "host", "size", "how many identifiers the host holds, and of which kind"),
        Reveal("host", "guest", "size", "how many identifiers the guest holds, and of which kind"),
        Reveal("guest", "host", "intersection", "which of its own identifiers the host holds, too"),
        Reveal("host", "guest", "intersection", "which of its own identifiers the guest holds: who is a customer"),
    ),
)


async def guest(party: Party, ids: Ids | Stream) -> Places:
    """The side that asks.

    Args:
        party: in the role `guest`.
        ids: this side's identifiers, each once.

    Returns:
        int64, `(num_common,)`: places in `ids`; both sides' results name the same identifiers in the same order.
        Empty where nothing is shared.

    Raises:
        ConfigError: repeated identifiers or mixed kinds. RefusedError: the peer does not keep to the protocol.
        UnavailableError: the peer is silent or gone.
    """
    own = hashed(ids)
    num_theirs = await greet(party, "host", own.kind, own.count)
    if not own.count or not num_theirs:
        return np.empty(0, np.int64)
    layout = lay_out(own.count, num_theirs)
    key = new_key()
    if layout.num_parts > 1:
        await party.send("host", "parts_key", np.frombuffer(key, np.uint8))
    found = [await _guest_of_part(party, layout, part) for part in own.parts(layout, "guest", key)]
    return mixed(np.concatenate(found), key) if layout.num_parts > 1 else found[0]


async def _guest_of_part(party: Party, layout: Layout, part: Part) -> Places:
    parameters = parameters_of(layout)
    state, points = base_ot.start()
    await party.send("host", "ot_points", points)
    zeros, ones = base_ot.finish(state, _of_shape(await party.recv("host", "ot_choices"), parameters.width))
    key = os.urandom(KEY_BYTES)
    matrix = Matrix(parameters, key, part.blocks)
    for group in range(parameters.num_groups):
        await party.send("host", "columns", matrix.receiver_group(group, zeros, ones))
    await party.send("host", "prf_key", np.frombuffer(key, np.uint8))
    own = matrix.digests()
    digests = _of_shape(await party.recv("host", "digests"), layout.host, parameters.digest_bytes)
    mine, theirs = match(own, digests)
    order = secret_order(len(mine))
    rows = part.rows_of(mine[order])
    await party.send("host", "matches", theirs[order])
    return rows


async def host(party: Party, ids: Ids | Stream) -> Places:
    """The other side; arguments, result and errors as for `guest`."""
    own = hashed(ids)
    num_theirs = await greet(party, "guest", own.kind, own.count)
    if not own.count or not num_theirs:
        return np.empty(0, np.int64)
    layout = lay_out(num_theirs, own.count)
    key = (await party.recv("guest", "parts_key")).tobytes() if layout.num_parts > 1 else b""
    found = [await _host_of_part(party, layout, part) for part in own.parts(layout, "host", key)]
    return mixed(np.concatenate(found), key) if layout.num_parts > 1 else found[0]


async def _host_of_part(party: Party, layout: Layout, part: Part) -> Places:
    parameters = parameters_of(layout)
    choices = np.frombuffer(os.urandom(parameters.width), np.uint8) & 1 == 1
    seeds, answers = base_ot.choose(await party.recv("guest", "ot_points"), choices)
    await party.send("guest", "ot_choices", answers)
    columns = []
    for group in range(parameters.num_groups):
        members = parameters.columns_of(group)
        delta = _of_shape(await party.recv("guest", "columns"), len(members), parameters.column_bytes)
        chosen = slice(members.start, members.stop)
        columns.append(chosen_columns(seeds[chosen], choices[chosen], delta))
    key = (await party.recv("guest", "prf_key")).tobytes()  # only now, when the columns are fixed
    matrix = Matrix(parameters, key, part.blocks)
    for group, words in enumerate(columns):
        matrix.sender_group(group, words)
    order = secret_order(layout.host)
    await party.send("guest", "digests", matrix.digests()[order])
    return part.rows_of(order[checked_matches(await party.recv("guest", "matches"), layout.host)])


def parameters_of(layout: Layout) -> Parameters:
    """Of each part, so that what may go wrong does so with the stated probability over all of them."""
    return choose_parameters(layout.guest, layout.num_parts * layout.host)


def simulate_view(role: str, ids: Ids, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives in a run, made from its own input and what is revealed to it, and nothing else.

    Args:
        role: `guest` or `host`.
        ids: its identifiers.
        reveals: `size`, the number of the peer's identifiers; `intersection`, the places of the common ones in `ids`;
            `kind` of the peer's identifiers where `ids` is empty and does not tell.

    Returns:
        the messages it receives, in order: name and array.
    """
    size, kind = int(reveals["size"]), int(reveals.get("kind", kind_of(ids)))
    common = np.asarray(reveals["intersection"], np.int64)
    view = [("hello", np.array([VERSION, kind if size else 0, size], np.int64))]
    if not len(ids) or not size:
        return view
    layout = lay_out(len(ids), size) if role == "guest" else lay_out(size, len(ids))
    key = new_key()
    if role == "host" and layout.num_parts > 1:
        view.append(("parts_key", np.frombuffer(key, np.uint8)))
    p = parameters_of(layout)
    for part in hashed(ids).parts(layout, role, key):
        shown = np.flatnonzero(np.isin(part.rows, common))
        if role == "host":
            shapes = [(len(p.columns_of(group)), p.column_bytes) for group in range(p.num_groups)]
            view += [
                ("ot_points", _random_points(2)),
                *(("columns", _random_bytes(*shape)) for shape in shapes),
                ("prf_key", _random_bytes(KEY_BYTES)),
                ("matches", secret_order(layout.host)[: len(shown)]),
            ]
        else:
            digests = _random_bytes(layout.host, p.digest_bytes)
            digests[: len(shown)] = _own_digests(p, part)[shown]
            view += [("ot_choices", _random_points(p.width)), ("digests", digests[secret_order(layout.host)])]
    return view


def _own_digests(parameters: Parameters, part: Part) -> Array:
    seeds = [os.urandom(KEY_BYTES) for _ in range(parameters.width)]
    matrix = Matrix(parameters, os.urandom(KEY_BYTES), part.blocks)
    for group in range(parameters.num_groups):
        matrix.receiver_group(group, seeds, seeds)
    return matrix.digests()


def _random_bytes(*shape: int) -> Array:
    return np.frombuffer(bytearray(os.urandom(int(np.prod(shape)))), np.uint8).reshape(shape)


def _random_points(count: int) -> Array:
    keys = (ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers() for _ in range(count))
    raw = b"".join(b"\x04" + key.x.to_bytes(32, "big") + key.y.to_bytes(32, "big") for key in keys)
    return np.frombuffer(raw, np.uint8).reshape(count, base_ot.POINT_BYTES)


def _of_shape(array: Array, *shape: int) -> Array:
    if array.shape[: len(shape)] != shape:
        raise RefusedError(f"psi: expected an array of {shape}, found {array.shape}")
    return array
