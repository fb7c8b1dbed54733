"""X25519 eight at a time, against RFC 7748, `cryptography`, and numbers at the bounds of limbs."""

import sys
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import RefusedError
from hanse.crypto import curve25519, gmp
from hanse.crypto.curve25519 import P

pytest.importorskip("numba", reason="numba is not installed")
from hanse.crypto import ladder, montgomery

pytestmark = pytest.mark.skipif(not montgomery.usable(), reason="needs a processor with AVX-512 IFMA")

LOW_ORDER = [0, 1, P - 1, P, P + 1, 325606250916557431795983626356110631294008115727848805560023387167927233504]
EDGES = [*LOW_ORDER, 2, 9, P - 2, P - 9, 2**255 - 1, 2**204 - 1, 2**51 - 1, 2**51, sum(1 << 51 * k for k in range(5))]


def raised(scalar: bytes, points: list[bytes]) -> list[bytes]:
    found = ladder.x25519(scalar, np.frombuffer(b"".join(points), np.uint8).reshape(-1, 32))
    return [each.tobytes() for each in found]


def expected(scalar: bytes, point: bytes) -> bytes:
    """By `cryptography`; zeros where it refuses."""
    try:
        return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        return bytes(32)


def test_the_vectors_of_rfc_7748() -> None:
    """Section 5.2: two products, and a thousand iterations, in which every product is the next scalar."""
    for scalar, point, product in (
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ):
        assert raised(bytes.fromhex(scalar), [bytes.fromhex(point)])[0].hex() == product
    scalar, point = (9).to_bytes(32, "little"), (9).to_bytes(32, "little")
    for _ in range(1000):
        scalar, point = raised(scalar, [point])[0], scalar
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(min_size=32, max_size=32) | st.sampled_from(EDGES).map(lambda u: u.to_bytes(32, "little"))),
)
def test_it_is_x25519_of_every_point(scalar: bytes, points: list[bytes]) -> None:
    """Also of numbers from p on, of the highest bit, which counts for nothing, and of points of low order."""
    assert raised(scalar, points) == [expected(scalar, point) for point in points]


def test_points_at_the_bounds_of_limbs() -> None:
    points = [u.to_bytes(32, "little") for u in EDGES]
    for scalar in (bytes(32), b"\xff" * 32, bytes(range(32))):
        found = raised(scalar, points)
        assert found == [expected(scalar, point) for point in points]
        assert [at for at, each in enumerate(found) if not any(each)] == list(range(len(LOW_ORDER)))


def test_many_points_are_raised_so_and_few_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(scalar: bytes, points: Any) -> Any:
        asked.append(len(points))
        return ladder.x25519(scalar, points)

    monkeypatch.setattr(gmp, "_ladder", lambda: counted)
    secret = curve25519.new_secret()
    points = [np.random.default_rng(at).bytes(32) for at in range(gmp.EIGHTS)]
    one_by_one = [expected(secret.private_bytes_raw(), point) for point in points]
    assert curve25519.multiply(secret, points[:-1]) == one_by_one[:-1]
    assert asked == []
    assert curve25519.multiply(secret, iter(points)) == one_by_one
    assert asked == [gmp.EIGHTS]
    for bad in (bytes(32), bytes(31), (1).to_bytes(32, "little")):
        with pytest.raises(RefusedError, match="of large order"):
            curve25519.multiply(secret, [*points, bad])
    with pytest.raises(RefusedError, match="of large order"):
        curve25519.multiply(secret, [*points[2:], points[0] + b"\0", points[1][1:]])  # of the right length in all

    monkeypatch.delitem(sys.modules, "hanse.crypto.ladder")
    asked.clear()
    assert curve25519.multiply(secret, points) == curve25519.multiply(secret, points, of=gmp.POINTS - 1) == one_by_one
    assert asked == []  # not worth loading it
    assert curve25519.multiply(secret, points, of=gmp.POINTS) == one_by_one
    assert asked == [gmp.EIGHTS]


@pytest.mark.parametrize(("name", "value"), [("CPU_NAME", "generic"), ("CPU_FEATURES", "+sse2")])
def test_it_is_left_where_numba_compiles_for_another_processor(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLVM would end the process."""
    monkeypatch.setattr(montgomery.numba.config, name, value)
    montgomery.usable.cache_clear()
    try:
        assert not montgomery.usable()
    finally:
        monkeypatch.undo()
        montgomery.usable.cache_clear()
