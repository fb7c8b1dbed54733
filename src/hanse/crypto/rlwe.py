"""Homomorphic encryption from ring learning with errors: products of an encrypted vector with a matrix in clear.

The scheme is that of J. Fan, F. Vercauteren, "Somewhat Practical Fully Homomorphic Encryption", 2012 (eprint 2012/144),
used for one product with a plaintext and nothing deeper. N = 8192, a ternary secret, errors of a centred binomial
distribution (deviation 3.2), q of at most seven primes of 30 bits: 210 bits, where the Homomorphic Encryption Standard
(2018) allows 218 for 128-bit security.

Two encodings. **Inner products** (Z. Huang, W. Lu, C. Hong, J. Ding, "Cheetah", USENIX Security 2022, section 3): the
vector is a polynomial's coefficients, the rows of the matrix stand reversed one behind the other, and the coefficient
at the end of each block of the product is an inner product, modulo 2^112; no rotations. **Slots**: plaintexts modulo
three primes, in which products are element by element.

What the evaluator returns tells the holder of the key the masked results and nothing else: fresh encryptions of zero
are added, and noise that drowns the product's (flooding by 2^60 and more). It then goes to a smaller modulus, which
only shortens it.

Guarantee: semantically secure under ring-LWE at 128 bits; results are masked uniformly (inner products) or
statistically (slots; the caller chooses masks). Semi-honest: a holder of the key who sends no ciphertext but
something else may learn more, and nobody may see decryptions of ciphertexts that were not computed as agreed.
Reveals: numbers of ciphertexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto.aes import prg
from hanse.crypto.ntt import Polynomials, Transform, find_primes
from hanse.crypto.sharing import new_seed

SIZE = 8192
NUM_PRIMES = 7
ASSUMPTIONS = ("ring learning with errors for n = 8192, log q = 210", "AES-128 is a pseudorandom permutation")
"""What a protocol takes for granted that relies on it."""
SLOT_PRIMES = 5
"""Of the seven, those that slots are computed with."""
WIDE_BITS = 112
"""Inner products are modulo 2^112."""
_WIDE = 1 << WIDE_BITS
ANSWER_PRIMES = {NUM_PRIMES: 5, SLOT_PRIMES: 2}
"""Of those that were computed with, how many an answer keeps: both halves are divided by the product of the others."""
_FLOOD_BITS = {NUM_PRIMES: 95, SLOT_PRIMES: 115}
_SEED_BYTES = 16

Integers = npt.NDArray[np.int64]
Wire = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Modulus:
    """q: the first `count` primes.

    Attributes:
        transform: over these primes.
        q: their product.
    """

    transform: Transform
    q: int

    @property
    def column(self) -> Polynomials:
        """The primes, `(count, 1)`."""
        return self.transform.primes[:, None]


@cache
def modulus(count: int) -> Modulus:
    """The modulus of the first `count` of the seven primes."""
    primes = find_primes(NUM_PRIMES, SIZE)[:count]
    product = 1
    for p in primes:
        product *= p
    return Modulus(Transform(primes, SIZE), product)


@cache
def slot_transform() -> Transform:
    """Between plaintexts modulo the three slot primes and their slots."""
    return Transform(find_primes(3, SIZE, skip=find_primes(NUM_PRIMES, SIZE)), SIZE)


def slot_modulus() -> int:
    """The product of the slot primes: slots hold integers modulo it, about 2^90."""
    return int(np.prod([int(p) for p in slot_transform().primes], dtype=object))


# ---- sampling ----


def _uniform(seed: bytes, where: Modulus) -> Polynomials:
    shape = (len(where.transform.primes), SIZE)
    return prg(seed, 8 * shape[0] * shape[1]).view(np.uint64).reshape(shape) % where.column


def _ternary(count: int) -> Integers:
    """−1, 0, 1, each with probability ⅓."""
    raw = prg(new_seed(), count + count // 16 + 1024)
    kept = raw[raw < 255][:count]
    if len(kept) < count:  # by far less likely than 2^-128
        raise ConfigError("rlwe: the random source is broken")
    return (kept % 3).astype(np.int64) - 1


def _errors(*shape: int) -> Integers:
    """Centred binomial of 42 coins: variance 10.5."""
    words = prg(new_seed(), 8 * int(np.prod(shape))).view(np.uint64).reshape(shape)
    half = np.uint64((1 << 21) - 1)
    errors: Integers = np.bitwise_count(words & half).astype(np.int64)
    errors -= np.bitwise_count((words >> np.uint64(21)) & half)
    return errors


def _flood(where: Modulus, *shape: int) -> Polynomials:
    """Uniform integers of so many bits, centred, modulo every prime: `(*shape[:-1], num_primes, shape[-1])`."""
    bits = _FLOOD_BITS[len(where.transform.primes)]
    total = np.zeros((*shape[:-1], len(where.transform.primes), shape[-1]), np.uint64)
    for start in range(0, bits, 40):
        width = min(40, bits - start)
        words = prg(new_seed(), 8 * int(np.prod(shape))).view(np.uint64).reshape(shape) >> np.uint64(64 - width)
        power = np.array([pow(2, start, int(p)) for p in where.transform.primes], np.uint64)[:, None]
        total += words[..., None, :] % where.column * power % where.column
    centre = np.array([pow(2, bits - 1, int(p)) for p in where.transform.primes], np.uint64)[:, None]
    return (total + where.column - centre) % where.column


# ---- scaling between plaintexts and the ciphertexts' range ----


def _residues(values: Sequence[int], where: Modulus) -> Polynomials:
    """Python integers modulo every prime: `(num_primes, n)`."""
    return np.array([[value % int(p) for value in values] for p in where.transform.primes], np.uint64)


def _lifted_wide(values: Sequence[int], where: Modulus) -> Polynomials:
    """⌈q·m / 2^112⌋ modulo every prime, for m modulo 2^112: `(num_primes, n)`."""
    half = 1 << WIDE_BITS - 1
    return _residues([(where.q * (value % _WIDE) + half) >> WIDE_BITS for value in values], where)


def _lowered_wide(phases: Polynomials, where: Modulus) -> list[int]:
    """The message modulo 2^112, centred, of phases `(num_primes, n)`."""
    q = where.q
    weights = [q // int(p) * pow(q // int(p), -1, int(p)) for p in where.transform.primes]
    messages = []
    for phase in zip(*phases.tolist(), strict=True):
        x = sum(residue * weight for residue, weight in zip(phase, weights, strict=True)) % q
        messages.append(centred(((x << WIDE_BITS) + q // 2) // q))
    return messages


def _lifted(values: Polynomials, t: int, where: Modulus) -> Polynomials:
    """⌈q·m / t⌋ modulo every prime, for m below a slot prime t: `(…, N)` to `(…, num_primes, N)`.

    q·m is 0 modulo every prime, so that the quotient there is (⌊t/2⌋ − (q·m + ⌊t/2⌋ mod t)) / t.
    """
    rest = (np.uint64(where.q % t) * values + np.uint64(t // 2)) % np.uint64(t)
    inverse = np.array([pow(t, -1, int(p)) for p in where.transform.primes], np.uint64)[:, None]
    return where.transform.reduce(t // 2 - rest.astype(np.int64)) * inverse % where.column


def _lowered(phases: Polynomials, t: int, where: Modulus) -> Polynomials:
    """The message modulo a slot prime of phases `(…, num_primes, N)`; S. Halevi, Y. Polyakov, V. Shoup, CT-RSA 2019."""
    inverse = np.array([pow(where.q // int(p), -1, int(p)) for p in where.transform.primes], np.uint64)[:, None]
    scaled = phases * inverse % where.column * np.uint64(t)
    whole = (scaled // where.column).sum(axis=-2, dtype=np.uint64)
    part = ((scaled % where.column).astype(np.float64) / where.column.astype(np.float64)).sum(axis=-2)
    message: Polynomials = (whole + np.rint(part).astype(np.uint64)) % np.uint64(t)
    return message


def _switched(values: Polynomials, where: Modulus, kept: int) -> Polynomials:
    """Coefficients `(…, num_primes, n)` divided by all primes but the first `kept`, rounded, modulo these."""
    primes = where.transform.primes
    for last in range(len(primes) - 1, kept - 1, -1):
        p, column = int(primes[last]), primes[:last, None]
        rest = values[..., last : last + 1, :]
        # the rest of smallest absolute value: c − rest is divisible by p
        lowered = np.where(rest > np.uint64(p // 2), rest + column * np.uint64(2) - np.uint64(p), rest) % column
        inverse = np.array([pow(p, -1, int(each)) for each in primes[:last]], np.uint64)[:, None]
        values = (values[..., :last, :] + column - lowered) % column * inverse % column
    return values


def centred(value: int) -> int:
    """An integer modulo 2^112 as the one of smallest absolute value."""
    value %= _WIDE
    return value - _WIDE if value >= _WIDE // 2 else value


def _coefficients(vector: Sequence[int]) -> Polynomials:
    """A vector modulo 2^112 as polynomials of its pieces, in the ciphertexts' range: `(pieces, num_primes, N)`."""
    layout = Layout(1, len(vector))
    lifted = np.zeros((NUM_PRIMES, layout.num_pieces * layout.length), np.uint64)
    lifted[:, : len(vector)] = _lifted_wide(vector, modulus(NUM_PRIMES))
    messages = np.zeros((layout.num_pieces, NUM_PRIMES, SIZE), np.uint64)
    messages[..., : layout.length] = lifted.reshape(NUM_PRIMES, layout.num_pieces, layout.length).transpose(1, 0, 2)
    return messages


# ---- keys and ciphertexts ----


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What the holder of the key sends: `body`, uint32 `(n, num_primes, N)`, and for each a seed of its other half."""

    body: Wire
    seeds: npt.NDArray[np.uint8]

    def halves(self, count: int) -> tuple[Polynomials, Polynomials]:
        """Both halves, each `(n, count, N)`.

        Raises:
            RefusedError: not ciphertexts of `count` primes.
        """
        where = modulus(count)
        if self.body.shape[1:] != (count, SIZE) or self.seeds.shape != (len(self.body), _SEED_BYTES):
            raise RefusedError("rlwe: expected ciphertexts of the agreed modulus, found others")
        body = self.body.astype(np.uint64)
        if (body >= where.column).any():
            raise RefusedError("rlwe: expected coefficients below their primes, found larger ones")
        return body, np.stack([_uniform(seed.tobytes(), where) for seed in self.seeds])


@dataclass(frozen=True, slots=True)
class Answer:
    """What the evaluator returns: uint32 `heads` `(n, kept, N)` and `tails` `(n, kept, num_results)`, coefficients.

    `kept` primes of `ANSWER_PRIMES`.
    """

    heads: Wire
    tails: Wire


@dataclass(frozen=True, slots=True)
class PublicKey:
    """(−(a·s + e), a), transformed: uint64 `(7, N)` each.

    Raises:
        RefusedError: not such arrays.
    """

    body: Polynomials
    other: Polynomials

    def __post_init__(self) -> None:
        where = modulus(NUM_PRIMES)
        for each in (self.body, self.other):
            if each.shape != (NUM_PRIMES, SIZE) or each.dtype != np.uint64 or (each >= where.column).any():
                raise RefusedError("rlwe: expected a public key of the agreed modulus, found something else")

    def _answer(
        self, first: Polynomials, second: Polynomials, where: Modulus, places: npt.NDArray[np.int64], masks: Polynomials
    ) -> Answer:
        """A product, transformed `(n, num_primes, N)` each half, as an answer: rerandomised, flooded, masked."""
        transform, count = where.transform, len(where.transform.primes)
        n = len(first)
        u = transform.forward(transform.reduce(_ternary(n * SIZE).reshape(n, SIZE)))
        heads = transform.inverse((second + transform.multiply(u, self.other[:count])) % where.column)
        heads = (heads + transform.reduce(_errors(n, SIZE))) % where.column
        tails = transform.inverse((first + transform.multiply(u, self.body[:count])) % where.column)[..., places]
        tails = (tails + _flood(where, n, len(places)) + masks) % where.column
        kept = ANSWER_PRIMES[count]
        return Answer(_switched(heads, where, kept).astype(np.uint32), _switched(tails, where, kept).astype(np.uint32))

    def inner_products(self, matrix: Integers, vector: Encrypted, masks: Sequence[int]) -> Answer:
        """matrix @ vector + masks modulo 2^112.

        Args:
            matrix: int64 `(n, length)`; of each row the sum of absolute values is below 2^32.
            vector: of `PrivateKey.encrypt_vector`, of that length.
            masks: n integers, uniform modulo 2^112.
        """
        where = modulus(NUM_PRIMES)
        layout = Layout(*matrix.shape)
        body, other = vector.halves(NUM_PRIMES)
        if len(body) != layout.num_pieces:
            raise RefusedError(f"rlwe: expected {layout.num_pieces} ciphertexts for the vector, found {len(body)}")
        first = np.zeros((layout.num_answers, NUM_PRIMES, SIZE), np.uint64)
        second = np.zeros_like(first)
        for piece in range(layout.num_pieces):
            rows = where.transform.forward(where.transform.reduce(layout.polynomials(matrix, piece)))
            first = (first + where.transform.multiply(rows, body[piece])) % where.column
            second = (second + where.transform.multiply(rows, other[piece])) % where.column
        padded = [*masks, *([0] * (layout.num_answers * layout.rows_each - len(masks)))]
        lifted = _lifted_wide(padded, where).reshape(NUM_PRIMES, layout.num_answers, layout.rows_each)
        return self._answer(first, second, where, layout.places, lifted.transpose(1, 0, 2))

    def plus(self, vector: Encrypted, values: Sequence[int]) -> Encrypted:
        """vector + values modulo 2^112, under the same key. It hides both from whoever does not hold the key.

        Args:
            vector: of `PrivateKey.encrypt_vector`.
            values: in the clear, as many.
        """
        where = modulus(NUM_PRIMES)
        messages = _coefficients(values)
        body, _ = vector.halves(NUM_PRIMES)
        if len(body) != len(messages):
            raise RefusedError(f"rlwe: expected {len(messages)} ciphertexts for the vector, found {len(body)}")
        total = (body + where.transform.forward(messages)) % where.column
        return Encrypted(total.astype(np.uint32), vector.seeds)

    def slot_products(self, factors: Integers, values: Encrypted, masks: Polynomials) -> Answer:
        """factors · values + masks in every slot, modulo the three slot primes.

        Args:
            factors: int64 `(n, N)`.
            values: of `PrivateKey.encrypt_slots`, 3n ciphertexts.
            masks: uint64 `(n, 3, N)`, modulo each slot prime.
        """
        where, slots = modulus(SLOT_PRIMES), slot_transform()
        body, other = values.halves(SLOT_PRIMES)
        if len(body) != 3 * len(factors):
            raise RefusedError(f"rlwe: expected {3 * len(factors)} ciphertexts of slots, found {len(body)}")
        plain = slots.inverse(slots.reduce(factors)).astype(np.int64)
        t = slots.primes.astype(np.int64)[:, None]
        plain = np.where(2 * plain > t, plain - t, plain).reshape(-1, SIZE)
        rows = where.transform.forward(where.transform.reduce(plain))
        coefficients = slots.inverse(masks)
        lifted = np.stack([_lifted(coefficients[:, at], int(p), where) for at, p in enumerate(slots.primes)], axis=1)
        first, second = (where.transform.multiply(rows, each) for each in (body, other))
        return self._answer(first, second, where, np.arange(SIZE), lifted.reshape(-1, SLOT_PRIMES, SIZE))


class PrivateKey:
    """What encrypts and decrypts. For one run; what it decrypts belongs to its protocol and to nobody else."""

    def __init__(self) -> None:
        where = modulus(NUM_PRIMES)
        transform = where.transform
        self._secret = transform.forward(transform.reduce(_ternary(SIZE)))
        other = _uniform(new_seed(), where)
        error = transform.forward(transform.reduce(_errors(SIZE)))
        body = (where.column - (transform.multiply(other, self._secret) + error) % where.column) % where.column
        self.public = PublicKey(body, other)

    def encrypt_vector(self, vector: Sequence[int]) -> Encrypted:
        """Integers modulo 2^112, for `PublicKey.inner_products`."""
        return self._encrypt(_coefficients(vector), modulus(NUM_PRIMES))

    def decrypt_products(self, answer: Answer, num_rows: int, length: int) -> list[int]:
        """The n results of `PublicKey.inner_products`, masked, centred modulo 2^112.

        Raises:
            RefusedError: not an answer to such a question.
        """
        layout = Layout(num_rows, length)
        phases = self._phases(answer, layout.num_answers, NUM_PRIMES, layout.places)
        kept = ANSWER_PRIMES[NUM_PRIMES]
        flat = phases.transpose(1, 0, 2).reshape(kept, -1)[:, :num_rows]
        return _lowered_wide(flat, modulus(kept))

    def encrypt_slots(self, values: Integers) -> Encrypted:
        """Integers int64 `(n, N)`, taken modulo each slot prime, for `PublicKey.slot_products`."""
        where, slots = modulus(SLOT_PRIMES), slot_transform()
        plain = slots.inverse(slots.reduce(values))
        lifted = np.stack([_lifted(plain[:, at], int(p), where) for at, p in enumerate(slots.primes)], axis=1)
        return self._encrypt(lifted.reshape(-1, SLOT_PRIMES, SIZE), where)

    def decrypt_slots(self, answer: Answer, count: int) -> Polynomials:
        """The slots of `PublicKey.slot_products`, masked: uint64 `(count, 3, N)`, modulo each slot prime.

        Raises:
            RefusedError: not an answer to such a question.
        """
        where, slots = modulus(ANSWER_PRIMES[SLOT_PRIMES]), slot_transform()
        phases = self._phases(answer, 3 * count, SLOT_PRIMES, np.arange(SIZE)).reshape(count, 3, -1, SIZE)
        plain = np.stack([_lowered(phases[:, at], int(p), where) for at, p in enumerate(slots.primes)], axis=1)
        return slots.forward(plain)

    def _encrypt(self, messages: Polynomials, where: Modulus) -> Encrypted:
        transform, count = where.transform, len(where.transform.primes)
        n = len(messages)
        seeds = np.frombuffer(b"".join(new_seed() for _ in range(n)), np.uint8).reshape(n, _SEED_BYTES)
        other = np.stack([_uniform(seed.tobytes(), where) for seed in seeds])
        masked = transform.forward((messages + transform.reduce(_errors(n, SIZE))) % where.column)
        body = (masked + where.column - transform.multiply(other, self._secret[:count])) % where.column
        return Encrypted(body.astype(np.uint32), seeds)

    def _phases(self, answer: Answer, n: int, computed: int, places: npt.NDArray[np.int64]) -> Polynomials:
        count = ANSWER_PRIMES[computed]
        where = modulus(count)
        if answer.heads.shape != (n, count, SIZE) or answer.tails.shape != (n, count, len(places)):
            raise RefusedError("rlwe: expected an answer of the agreed size, found another")
        heads, tails = answer.heads.astype(np.uint64), answer.tails.astype(np.uint64)
        if (heads >= where.column).any() or (tails >= where.column).any():
            raise RefusedError("rlwe: expected coefficients below their primes, found larger ones")
        heads = where.transform.forward(heads)
        product = where.transform.inverse(where.transform.multiply(heads, self._secret[:count]))
        return (tails + product[..., places]) % where.column


@dataclass(frozen=True, slots=True)
class Layout:
    """How a matrix of n rows and a vector of that length lie in polynomials.

    Vectors longer than N / 2 are cut into pieces of equal length, whose products are added up.
    """

    num_rows: int
    num_columns: int

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.num_columns < 1:
            raise ConfigError("rlwe: expected at least one row and one column")

    @property
    def num_pieces(self) -> int:
        """Ciphertexts of the vector."""
        return -(-self.num_columns // (SIZE // 2))

    @property
    def length(self) -> int:
        """Elements of the vector in a piece."""
        return -(-self.num_columns // self.num_pieces)

    @property
    def rows_each(self) -> int:
        """Rows of the matrix in an answer."""
        return SIZE // self.length

    @property
    def num_answers(self) -> int:
        """Ciphertexts of the results."""
        return -(-self.num_rows // self.rows_each)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Coefficients that hold results."""
        return np.arange(1, self.rows_each + 1) * self.length - 1

    def polynomials(self, matrix: Integers, piece: int) -> Integers:
        """Rows of one piece of the matrix, reversed, block behind block: int64 `(num_answers, N)`."""
        cut = matrix[:, piece * self.length : (piece + 1) * self.length]
        blocks = np.zeros((self.num_answers * self.rows_each, self.length), np.int64)
        blocks[: len(cut), self.length - cut.shape[1] :] = cut[:, ::-1]
        result = np.zeros((self.num_answers, SIZE), np.int64)
        result[:, : self.rows_each * self.length] = blocks.reshape(self.num_answers, -1)
        return result
