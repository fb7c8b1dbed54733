"""Documents that their readers can open, and nobody else who may read the bucket they lie in.

    {"sealed": {PERSON: base 64 of what `trust.sealing` makes for this person, job and document}}

Anonymous seals: who may write the bucket (the functions) may write a document, as it is with open ones.
"""

import base64
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse.core.errors import CodecError, PolicyError
from hanse.core.ids import SERVER
from hanse.trust.sealing import SealContext, open_sealed, seal

_BEGIN = b'{"sealed":'


def sealed(content: bytes, readers: Mapping[str, str], *, federation: str, job: str, name: str) -> bytes:
    """Seal a document for its readers.

    Args:
        readers: of each person the sealing key, in hexadecimal.
        name: of the document, such as `about`.

    Raises:
        TrustError: a key that is none.
    """
    made: dict[str, str] = {}
    for reader, key in readers.items():
        at = _at(federation, job, reader, name)
        part = seal(content, recipient_key=bytes.fromhex(key), context=at, signing_key=None)
        made[reader] = base64.b64encode(part).decode()
    return _BEGIN + json.dumps(made).encode() + b"}"


def is_sealed(content: bytes) -> bool:
    """Whether this is what `sealed` makes."""
    return content.startswith(_BEGIN)


def opened(content: bytes, reader: str, key: X25519PrivateKey, *, federation: str, job: str, name: str) -> bytes:
    """Open a document.

    Raises:
        PolicyError: it is for others. CodecError: it is none. TrustError: altered, or another's.
    """
    try:
        parts = json.loads(content)["sealed"]
        part = base64.b64decode(parts[reader]) if reader in parts else None
    except (ValueError, TypeError, KeyError):
        raise CodecError("document: expected a sealed one") from None
    if part is None:
        raise PolicyError(f"job {job[:64]} is another person's: who submitted it reads its results, and admins")
    return open_sealed(part, key=key, context=_at(federation, job, reader, name), sender_key=None)


def _at(federation: str, job: str, reader: str, name: str) -> SealContext:
    return SealContext(federation, job, "", SERVER, reader, name, 0)
