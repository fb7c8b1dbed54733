"""Session keys: only the two named sites, only the job both accepted, only in order, once."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import CodecError, TooLargeError, TrustError
from hanse.trust import sessions
from hanse.trust.sessions import Handshake, Opener, Sealer, SessionContext, SessionEnd

BANK, SHOP, EVE = (X25519PrivateKey.generate() for _ in range(3))
CONTEXT = SessionContext("lubeck", "job1", "main", "job1/main/1", "ab" * 32)


def end(role: str, site: str, key: X25519PrivateKey) -> SessionEnd:
    return SessionEnd(role, site, key.public_key().public_bytes_raw())


GUEST, HOST = end("guest", "bank", BANK), end("host", "shop", SHOP)


def pair(
    context: SessionContext = CONTEXT, host: SessionEnd = HOST, key: X25519PrivateKey = SHOP
) -> tuple[tuple[Sealer, Opener], tuple[Sealer, Opener]]:
    guest, other = Handshake(CONTEXT, GUEST, HOST, BANK), Handshake(context, host, GUEST, key)
    return guest.finish(other.hello), other.finish(guest.hello)


@given(st.lists(st.binary(max_size=300), max_size=5), st.lists(st.binary(max_size=300), max_size=5))
@settings(max_examples=20)
def test_both_directions(there: list[bytes], back: list[bytes]) -> None:
    (guest_seals, guest_opens), (host_seals, host_opens) = pair()
    for piece in there:
        assert host_opens.open(guest_seals.seal(piece)) == piece
    for piece in back:
        into = bytearray(len(piece) + sessions.TAG_BYTES)
        host_seals.seal(piece, memoryview(into))
        assert guest_opens.open(into) == piece


def test_it_is_noise_s_secret_by_hand() -> None:
    """HKDF by RFC 5869 and the three exchanges, written out again."""

    guest, host = Handshake(CONTEXT, GUEST, HOST, BANK), Handshake(CONTEXT, HOST, GUEST, SHOP)
    fresh = guest._fresh
    assert fresh is not None
    sealer, _ = guest.finish(host.hello)
    theirs = X25519PublicKey.from_public_bytes(host.hello)
    secret = fresh.exchange(theirs) + BANK.exchange(theirs) + fresh.exchange(SHOP.public_key())
    names = [b"lubeck", b"job1", b"main", b"job1/main/1", b"ab" * 32]
    names += [b"guest", b"bank", GUEST.key, guest.hello, b"host", b"shop", HOST.key, host.hello]
    info = b"hanse/1\0session\0" + b"".join(len(each).to_bytes(4, "big") + each for each in names)
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    key = hmac.digest(extracted, info + b"\1", hashlib.sha256)
    assert sealer.seal(b"x") == AESGCM(key).encrypt(bytes(12), b"x", None)
    assert sealer.seal(b"x") == AESGCM(key).encrypt(b"\1" + bytes(11), b"x", None)


@pytest.mark.parametrize("field", ["federation", "job", "component", "session", "agreement"])
def test_who_has_accepted_something_else_is_not_understood(field: str) -> None:
    (_, guest_opens), (host_seals, _) = pair(replace(CONTEXT, **{field: "other"}))
    with pytest.raises(TrustError, match="host shop does not open"):
        guest_opens.open(host_seals.seal(b"x"))


@pytest.mark.parametrize(
    ("host", "key"), [(HOST, EVE), (end("host", "shop", EVE), EVE), (end("host", "eve", EVE), EVE)]
)
def test_nobody_else_is_the_host(host: SessionEnd, key: X25519PrivateKey) -> None:
    (_, guest_opens), (host_seals, _) = pair(host=host, key=key)
    with pytest.raises(TrustError, match="does not open"):
        guest_opens.open(host_seals.seal(b"x"))


def test_who_steals_a_site_s_key_cannot_pose_to_it_as_another() -> None:
    """Eve holds the bank's lasting key and stands between: without the shop's, no secret with the bank."""
    guest = Handshake(CONTEXT, GUEST, HOST, BANK)
    eve = Handshake(CONTEXT, HOST, GUEST, BANK)  # the bank's key is all she has
    eve_seals, _ = eve.finish(guest.hello)
    _, guest_opens = guest.finish(eve.hello)
    with pytest.raises(TrustError):
        guest_opens.open(eve_seals.seal(b"x"))


def test_repeated_reordered_lost_altered_or_returned_pieces_do_not_open() -> None:
    def wrong(play: str) -> None:
        (guest_seals, guest_opens), (_, host_opens) = pair()
        first, second = guest_seals.seal(b"first"), guest_seals.seal(b"second")
        if play == "repeated":
            host_opens.open(first)
            host_opens.open(first)
        elif play == "lost":
            host_opens.open(second)
        elif play == "altered":
            host_opens.open(bytes([first[0] ^ 1]) + first[1:])
        elif play == "cut":
            host_opens.open(first[:10])
        else:
            guest_opens.open(first)

    for play in ("repeated", "lost", "altered", "cut", "returned"):
        with pytest.raises(TrustError):
            wrong(play)


def test_after_one_that_does_not_open_none_does() -> None:
    (guest_seals, _), (_, host_opens) = pair()
    first = guest_seals.seal(b"first")
    with pytest.raises(TrustError):
        host_opens.open(first + b"\0")
    with pytest.raises(TrustError, match="nothing more"):
        host_opens.open(first)


def test_sessions_share_no_key() -> None:
    assert pair()[0][0].seal(b"x") != pair()[0][0].seal(b"x")


def test_bad_hellos() -> None:
    with pytest.raises(CodecError):
        Handshake(CONTEXT, GUEST, HOST, BANK).finish(b"short")
    with pytest.raises(TrustError, match="small order"):
        Handshake(CONTEXT, GUEST, HOST, BANK).finish(bytes(32))
    handshake = Handshake(CONTEXT, GUEST, HOST, BANK)
    hello = Handshake(CONTEXT, HOST, GUEST, SHOP).hello
    handshake.finish(hello)
    with pytest.raises(TrustError, match="second hello"):
        handshake.finish(hello)


def test_no_nonce_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_PIECES", 2)
    sealer = Sealer(bytes(32))
    assert sealer.seal(b"") != sealer.seal(b"")
    with pytest.raises(TooLargeError):
        sealer.seal(b"")
