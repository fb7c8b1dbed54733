"""Keys for one session between two sites, and the pieces sealed under them: what role channels put through the server.

Each side sends a fresh X25519 key; the secret is the three Diffie–Hellman values of the pattern KK (T. Perrin, The
Noise Protocol Framework, revision 34): both fresh keys, and each side's fresh key with the other's lasting one, which
its member record binds to its name. HKDF-SHA256 over who, where and which signed job gives one AES-256-GCM key for each
direction. A piece's nonce is its number: an altered, repeated, lost or reordered one does not open.

    u64 place among this direction's pieces, not sent · ciphertext and 16 bytes tag

Not here: what pieces hold and who carries them (`hanse.site.relay`).
"""

from dataclasses import dataclass, fields

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hanse.core.errors import CodecError, TooLargeError, TrustError

HELLO_BYTES = 32
TAG_BYTES = 16
MAX_PIECES = 1 << 32
"""Under one key: the limit of NIST SP 800-38D for one key, far beyond any session."""
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What both sides must agree on; of two that differ in anything, no piece opens at the other.

    Attributes:
        agreement: SHA-256 of the job request that both sites accepted, and of who plays where not everybody does,
            hexadecimal.
        session: the run of it: never used twice.
    """

    federation: str
    job: str
    component: str
    session: str
    agreement: str


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """One side. `key`: the site's X25519 key from its verified member record, 32 bytes."""

    role: str
    site: str
    key: bytes


class Handshake:
    """One side of one pairing. Send `hello`, then `finish` with the other side's.

    **Guarantee.** Whoever opens a piece holds the private key of the named site's member record, and so does whoever
    sealed it (gap Diffie-Hellman on curve25519, HKDF-SHA256 as a random oracle, AES-256-GCM; malicious server and
    network). Pieces stay secret when lasting keys are stolen after the session, but for those that were sealed before
    the peer's first one had opened, if the carrier swapped the peer's fresh key; who steals a site's lasting key cannot
    pose to that site as another.
    **Reveals.** To who carries them: sizes, times, and which two ends.

    Args:
        context: what both agree on.
        mine, peer: the two ends; their roles differ.
        key: this site's lasting private key.
    """

    def __init__(self, context: SessionContext, mine: SessionEnd, peer: SessionEnd, key: X25519PrivateKey) -> None:
        self._context, self._mine, self._peer = context, mine, peer
        self._lasting = key
        self._fresh: X25519PrivateKey | None = X25519PrivateKey.generate()
        self.hello = self._fresh.public_key().public_bytes_raw()

    def finish(self, hello: bytes) -> "tuple[Sealer, Opener]":
        """Make the keys from the other side's hello. Once.

        Raises:
            CodecError: not 32 bytes. TrustError: a key of small order, or asked for twice.
        """
        if len(hello) != HELLO_BYTES:
            raise CodecError(f"session: expected a hello of {HELLO_BYTES} bytes, found {len(hello)}")
        fresh, self._fresh = self._fresh, None
        if fresh is None:
            raise TrustError(f"session: a second hello from {self._peer.role} {self._peer.site}")
        both = _exchange(fresh, hello)
        my_lasting, their_lasting = _exchange(self._lasting, hello), _exchange(fresh, self._peer.key)
        ends = [(self._mine, self.hello), (self._peer, hello)]
        is_first = self._mine.role < self._peer.role
        secret = both + (my_lasting + their_lasting if is_first else their_lasting + my_lasting)
        info = b"hanse/1\0session\0" + _encoded(self._context, ends if is_first else ends[::-1])
        keys = HKDF(SHA256(), length=2 * _KEY_BYTES, salt=None, info=info).derive(secret)
        first, second = keys[:_KEY_BYTES], keys[_KEY_BYTES:]
        mine, theirs = (first, second) if is_first else (second, first)
        return Sealer(mine), Opener(theirs, f"{self._peer.role} {self._peer.site}")


class Sealer:
    """Seals one direction's pieces, in order."""

    def __init__(self, key: bytes) -> None:
        self._key = AESGCM(key)
        self._next = 0

    def seal(self, piece: bytes | bytearray | memoryview, into: memoryview | None = None) -> bytes:
        """The sealed piece, `TAG_BYTES` longer; or written into `into`, which is exactly so long.

        Raises:
            TooLargeError: `MAX_PIECES` have been sealed.
        """
        nonce = _nonce(self._next)
        self._next += 1
        if into is None:
            return self._key.encrypt(nonce, piece, None)
        self._key.encrypt_into(nonce, piece, None, into)
        return b""


class Opener:
    """Opens one direction's pieces, in order. After the first that does not open, none does.

    Args:
        sender: role and site, for errors.
    """

    def __init__(self, key: bytes, sender: str) -> None:
        self._key: AESGCM | None = AESGCM(key)
        self._next = 0
        self._sender = sender

    def open(self, sealed: bytes | memoryview) -> bytes:
        """The piece.

        Raises:
            TrustError: altered, not the next one, sealed by somebody else or for another job or session.
        """
        key, self._key = self._key, None
        if key is None:
            raise TrustError(f"session: nothing more is taken from {self._sender}")
        try:
            piece = key.decrypt(_nonce(self._next), sealed, None)
        except (InvalidTag, ValueError):
            raise TrustError(
                f"a piece of {self._sender} does not open: altered or repeated on its way, or that site has accepted "
                "another job"
            ) from None
        self._key = key
        self._next += 1
        return piece


def _nonce(number: int) -> bytes:
    if number >= MAX_PIECES:
        raise TooLargeError(f"session: expected at most {MAX_PIECES} pieces")
    return number.to_bytes(12, "little")


def _exchange(key: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise TrustError("session: expected an X25519 public key of 32 bytes, not of small order") from None


def _encoded(context: SessionContext, ends: list[tuple[SessionEnd, bytes]]) -> bytes:
    """Every field with its length before it, so that no two look alike."""
    texts = [getattr(context, field.name).encode() for field in fields(context)]
    for end, hello in ends:
        texts += [end.role.encode(), end.site.encode(), end.key, hello]
    return b"".join(len(text).to_bytes(4, "big") + text for text in texts)
