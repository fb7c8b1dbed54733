"""AES, curve25519, oblivious transfer, the matrix OPRF and matching: published vectors and slow independent
programs."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import RefusedError, TooLargeError
from hanse.crypto import base_ot, curve25519, oprf
from hanse.crypto.aes import BlockFunction, prg
from hanse.crypto.columns import NumpyLoops, pick_loops
from hanse.crypto.matching import match, num_repeated

# ---- AES ----


def test_aes_is_that_of_fips_197() -> None:
    block = np.frombuffer(bytes.fromhex("00112233445566778899aabbccddeeff") * 3, np.uint64).reshape(3, 2)
    out = BlockFunction(bytes(range(16)))(block)
    assert out.tobytes() == bytes.fromhex("69c4e0d86a7b0430d8cdb78070b4c55a") * 3


def test_the_generator_is_aes_of_a_counter() -> None:
    seed = bytes(range(16))
    counters = np.frombuffer(b"".join(i.to_bytes(16, "big") for i in range(5)), np.uint64).reshape(5, 2)
    assert prg(seed, 70).tobytes() == BlockFunction(seed)(counters).tobytes()[:70]


# ---- curve25519 ----

MESSAGES = ["", "abc", "abcdef0123456789", "q128_" + "q" * 128, "a512_" + "a" * 512]
NU_TAG = b"QUUX-V01-CS02-with-curve25519_XMD:SHA-512_ELL2_NU_"
# RFC 9380, appendix J.4.2: u[0], Q.x, P.x
NU = [
    (
        "608d892b641f0328523802a6603427c26e55e6f27e71a91a478148d45b5093cd",
        "51125222da5e763d97f3c10fcc92ea6860b9ccbbd2eb1285728f566721c1e65b",
        "1bb913f0c9daefa0b3375378ffa534bda5526c97391952a7789eb976edfe4d08",
    ),
    (
        "46f5b22494bfeaa7f232cc8d054be68561af50230234d7d1d63d1d9abeca8da5",
        "7d56d1e08cb0ccb92baf069c18c49bb5a0dcd927eff8dcf75ca921ef7f3e6eeb",
        "7c22950b7d900fa866334262fcaea47a441a578df43b894b4625c9b450f9a026",
    ),
    (
        "235fe40c443766ce7e18111c33862d66c3b33267efa50d50f9e8e5d252a40aaa",
        "3fbe66b9c9883d79e8407150e7c2a1c8680bee496c62fabe4619a72b3cabe90f",
        "31ad08a8b0deeb2a4d8b0206ca25f567ab4e042746f792f4b7973f3ae2096c52",
    ),
    (
        "001e92a544463bda9bd04ddbe3d6eed248f82de32f522669efc5ddce95f46f5b",
        "227e0bb89de700385d19ec40e857db6e6a3e634b1c32962f370d26f84ff19683",
        "027877759d155b1997d0d84683a313eb78bdb493271d935b622900459d52ceaa",
    ),
    (
        "1a68a1af9f663592291af987203393f707305c7bac9c8d63d6a729bdc553dc19",
        "3bcd651ee54d5f7b6013898aab251ee8ecc0688166fce6e9548d38472f6bd196",
        "5fd892c0958d1a75f54c3182a18d286efab784e774d1e017ba2fb252998b5dc1",
    ),
]
P, A = curve25519.P, curve25519.A


def ladder(scalar: int, x: int) -> int:
    """RFC 7748's formulas in Python's integers, for any scalar."""
    x2, z2, x3, z3 = 1, 0, x, 1
    for bit in bin(scalar)[2:]:
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = pow(d * a + c * b, 2, P), x * pow(d * a - c * b, 2, P) % P
        e = a * a - b * b
        x2, z2 = a * a * b * b % P, e * (a * a + (A - 2) // 4 * e) % P
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, P - 2, P) % P


@pytest.mark.parametrize(("message", "vector"), list(zip(MESSAGES, NU, strict=True)), ids=lambda each: str(each)[:8])
def test_encoding_is_that_of_rfc_9380(message: str, vector: tuple[str, str, str]) -> None:
    pytest.importorskip("gmpy2")
    encode = curve25519.Encoder(NU_TAG)
    u, q, p = (int(each, 16) for each in vector)
    assert encode.field_element(message.encode()) == u
    assert int.from_bytes(encode(message.encode()), "little") == q
    assert ladder(8, q) == p  # clear_cofactor


def test_x25519_is_that_of_rfc_7748() -> None:
    secret = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    )
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert curve25519.multiply(secret, [point, point]) == [expected, expected]


def test_points_are_on_the_curve_and_secrets_commute() -> None:
    pytest.importorskip("gmpy2")
    encode = curve25519.Encoder(b"hanse test of the encoding")
    points = [encode(bytes([i])) for i in range(64)]
    for point in points:
        x = int.from_bytes(point, "little")
        assert pow(x * (x * x + A * x + 1), (P - 1) // 2, P) == 1
    a, b = curve25519.new_secret(), curve25519.new_secret()
    multiply = curve25519.multiply
    assert multiply(a, multiply(b, points)) == multiply(b, multiply(a, points))
    assert len(set(points)) == 64


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        (1).to_bytes(32, "little"),
        (P - 1).to_bytes(32, "little"),
        P.to_bytes(32, "little"),
        (P + 1).to_bytes(32, "little"),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        bytes(31),
    ],
    ids=range(8),
)
def test_points_of_low_order_are_refused(point: bytes) -> None:
    with pytest.raises(RefusedError, match="large order"):
        curve25519.multiply(curve25519.new_secret(), [(9).to_bytes(32, "little"), point])


def test_a_tag_has_a_length() -> None:
    with pytest.raises(ValueError, match="16 to 255"):
        curve25519.Encoder(b"short")


# ---- oblivious transfer ----


def test_the_receiver_gets_what_it_chose_and_not_the_other() -> None:
    choices = np.random.default_rng(5).random(60) < 0.5
    state, message = base_ot.start()
    chosen, answers = base_ot.choose(message, choices)
    zeros, ones = base_ot.finish(state, answers)
    for i, choice in enumerate(choices):
        assert chosen[i] == (ones if choice else zeros)[i]
        assert chosen[i] != (zeros if choice else ones)[i]
    assert len({*zeros, *ones}) == 120


def test_both_keys_of_a_transfer_sum_to_the_constant() -> None:
    """Checked by OpenSSL's own arithmetic: x(r·(C − K)) agrees with the seed of the other choice."""
    state, _ = base_ot.start()
    own = ec.derive_private_key(12345, ec.SECP256R1())
    numbers = own.public_key().public_numbers()
    difference = base_ot._subtract(state.constant, (numbers.x, numbers.y))
    back = base_ot._subtract(state.constant, difference)
    assert back == (numbers.x, numbers.y)
    assert base_ot._load(base_ot._pack(difference))  # OpenSSL finds it on the curve


@pytest.mark.parametrize("raw", [bytes(65), b"\x04" + bytes(64), b"\x02" + b"\x01" * 64, b"\x04" + b"\xff" * 64])
def test_what_is_no_point_is_refused(raw: bytes) -> None:
    state, message = base_ot.start()
    bad = np.frombuffer(raw, np.uint8)
    with pytest.raises(RefusedError, match=r"P-256"):
        base_ot.finish(state, bad[None, :])
    with pytest.raises(RefusedError, match=r"P-256"):
        base_ot.choose(np.stack([message[0], bad]), np.array([True]))


def test_the_constant_itself_is_refused_as_a_key() -> None:
    state, message = base_ot.start()
    with pytest.raises(RefusedError, match="independent"):
        base_ot.finish(state, message[:1])


# ---- columns ----


@settings(max_examples=25, deadline=None)
@given(st.integers(9, 32), st.integers(1, 200), st.integers(0, 2**32))
def test_loops_are_what_they_say(bits: int, num_items: int, seed: int) -> None:
    bits = min(bits, 18)
    rng = np.random.default_rng(seed)
    per_lane = min(64 // bits, 4)
    num_columns = int(rng.integers(1, 2 * per_lane + 1))
    blocks = rng.integers(0, 2**64, (num_items, 2), np.uint64)
    start = rng.integers(0, 2**64, (num_columns, 2**bits // 64), np.uint64)
    for loops in (NumpyLoops(), pick_loops()):
        columns, out = start.copy(), np.full(num_items, 255, np.uint8)
        loops.read(blocks, bits, per_lane, columns, out)
        loops.clear(blocks, bits, per_lane, columns)
        for c in range(num_columns):
            before = int.from_bytes(start[c].tobytes(), "little")
            after = int.from_bytes(columns[c].tobytes(), "little")
            cleared = 0
            for item in range(num_items):
                lane = int(blocks[item, c // per_lane])
                place = (lane >> (c % per_lane * bits)) & (2**bits - 1)
                assert (int(out[item]) >> c) & 1 == (before >> place) & 1
                cleared |= 1 << place
            assert after == before & ~cleared
        assert not (out >> num_columns).any() or num_columns == 8


# ---- the OPRF ----


@pytest.mark.parametrize(("trials", "p", "below"), [(20, 0.3, 5), (300, 0.4, 60), (64, 0.5, 10)])
def test_the_tail_is_the_exact_one(trials: int, p: float, below: int) -> None:
    f = Fraction(p)
    exact = sum(math.comb(trials, k) * f**k * (1 - f) ** (trials - k) for k in range(below))
    assert oprf._log_tail(trials, p, below) == pytest.approx(math.log(exact), rel=1e-9)


@pytest.mark.parametrize(
    ("log_n", "width"), [(10, 591), (12, 597), (14, 603), (16, 609), (18, 615), (20, 621), (24, 633)]
)
def test_parameters_are_those_of_the_paper(log_n: int, width: int) -> None:
    """Table 1 of Chase and Miao: m = n, σ = 40, λ = 128."""
    parameters = oprf.choose_parameters(1 << log_n, 1 << log_n)
    assert (parameters.height_bits, parameters.width) == (log_n, width)
    assert parameters.digest_bytes == math.ceil((40 + 2 * log_n) / 8)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_parameters_are_sound_and_no_wider_than_needed(num_receiver: int, num_sender: int) -> None:
    found = oprf.choose_parameters(num_receiver, num_sender)
    p = (1 - 2.0**-found.height_bits) ** num_receiver
    for width, fits in ((found.width, True), (found.width - 1, False)):
        tail = math.exp(oprf._log_tail(width, p, 128)) * num_sender
        assert (tail <= 2.0**-40 * 1.0001) == fits or width < 128
    assert 8 * found.digest_bytes >= 40 + math.log2(num_receiver * num_sender)
    assert num_receiver <= 1 << found.height_bits
    assert found.per_group * found.num_groups >= found.width
    assert [c for g in range(found.num_groups) for c in found.columns_of(g)] == list(range(found.width))


def test_too_many_items() -> None:
    with pytest.raises(TooLargeError, match="at most"):
        oprf.choose_parameters(oprf.MAX_ITEMS + 1, 1)


@pytest.mark.parametrize("sizes", [(1, 1), (700, 300), (300, 700)])
def test_both_sides_agree_on_members_and_on_nothing_else(sizes: tuple[int, int]) -> None:
    """Against a slow program that builds whole matrices of bits, for the members; digests of others all differ."""
    mine = [b"m%d" % i for i in range(sizes[0])]
    theirs = [b"m%d" % (i * 2) for i in range(sizes[1])]
    p = oprf.choose_parameters(len(mine), len(theirs))
    rng = np.random.default_rng(1)
    zeros, ones = ([rng.bytes(16) for _ in range(p.width)] for _ in range(2))
    choices = rng.random(p.width) < 0.5
    chosen = [ones[i] if choices[i] else zeros[i] for i in range(p.width)]
    key = rng.bytes(16)
    receiver = oprf.Matrix(p, key, oprf.hash_items(mine, len(mine)))
    sender = oprf.Matrix(p, key, oprf.hash_items(theirs, len(theirs)))
    deltas = []
    for group in range(p.num_groups):
        columns = p.columns_of(group)
        delta = receiver.receiver_group(group, zeros, ones)
        deltas.append(delta)
        part = slice(columns.start, columns.stop)
        sender.sender_group(group, oprf.chosen_columns(chosen[part], choices[part], delta))
    a, b = receiver.digests(), sender.digests()
    seen = {bytes(row): mine[i] for i, row in enumerate(a)}
    common = {theirs[i] for i, row in enumerate(b) if seen.get(bytes(row)) == theirs[i]}
    assert common == set(mine) & set(theirs)
    assert len({*map(bytes, a), *map(bytes, b)}) == len({*mine, *theirs})
    # The slow program: D from the definition, then what the receiver must have sent.
    delta = np.concatenate(deltas)
    for column in (0, p.width // 2, p.width - 1):
        group, within = divmod(column, p.per_group)
        d = (1 << (1 << p.height_bits)) - 1
        for item in mine:
            h = bytearray(hashlib.blake2b(item, digest_size=16, person=b"hanse psi H1").digest())
            h[8:10] = group.to_bytes(2, "little")
            block = BlockFunction(key)(np.frombuffer(bytes(h), np.uint64).reshape(1, 2)).tobytes()
            lane = int.from_bytes(block[8 * (within // p.per_lane) :][:8], "little")
            d &= ~(1 << ((lane >> (within % p.per_lane * p.height_bits)) % (1 << p.height_bits)))
        masks = (int.from_bytes(prg(s[column], p.column_bytes).tobytes(), "little") for s in (zeros, ones))
        first, second = masks
        assert int.from_bytes(delta[column].tobytes(), "little") == first ^ d ^ second


# ---- matching ----


@given(st.lists(st.integers(0, 50), unique=True), st.lists(st.integers(0, 50), unique=True))
def test_matching_is_that_of_a_dictionary(mine: list[int], theirs: list[int]) -> None:
    """Values share their first eight bytes in groups of five, so that those alone do not decide."""

    def rows(values: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        raw = b"".join(bytes([v // 5] * 8) + bytes([v % 5, 7]) for v in values)
        return np.frombuffer(raw, np.uint8).reshape(len(values), 10)

    a, b = match(rows(mine), rows(theirs))
    place = {value: i for i, value in enumerate(theirs)}
    assert list(zip(a, b, strict=True)) == [(i, place[v]) for i, v in enumerate(mine) if v in place]


@pytest.mark.parametrize("last", [7, 8])
def test_lists_that_all_begin_alike_are_refused(last: int) -> None:
    """A peer that repeats its digests would make the search quadratic."""
    theirs = np.zeros((20_000, 10), np.uint8)
    theirs[:, 0] = last
    mine = theirs.copy()
    with pytest.raises(RefusedError, match="begin alike"):
        match(mine, theirs)
    assert len(match(mine, theirs[:8])[0]) == len(mine)  # the peer chooses `mine` as well where it returns them


def test_every_encoded_identifier_has_four_preimages() -> None:
    """As docs/decisions says of the simulator; and 0 goes to the torsion point 0."""
    p, big_a = curve25519.P, curve25519.A
    encode = curve25519.Encoder(b"four preimages of it")

    def roots(square: int) -> set[int]:
        root = pow(square, (p + 3) // 8, p)
        found = [each for each in (root, root * pow(2, (p - 1) // 4, p) % p) if each * each % p == square % p]
        return {each * sign % p for each in found for sign in (1, -1)}

    for number in range(50):
        element = encode.field_element(b"%d" % number)
        x = int(encode.map(element))
        preimages = roots(-x * pow(2 * (x + big_a), -1, p) % p) | roots(-(x + big_a) * pow(2 * x, -1, p) % p)
        assert len(preimages) == 4
        assert int(element) in preimages
        assert {int(encode.map(encode._mpz(each))) for each in preimages} == {x}
    assert int(encode.map(encode._mpz(0))) == 0


def test_repeated_rows_are_counted() -> None:
    rows = np.array([[1, 2], [3, 4], [1, 2], [1, 3], [1, 2]], np.uint64)
    assert num_repeated(rows) == 2
    assert num_repeated(rows[:2]) == num_repeated(rows[:0]) == 0
