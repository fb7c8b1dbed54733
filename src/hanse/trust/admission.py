"""Joining a federation that has no server: a request goes to the operator by hand, an admission comes back.

    NAME-request.json      public keys and a name, signed by the keys: nothing in it is secret
    NAME-admission.json    certificate, record, the server's record, how to reach the federation: nothing secret either

Private keys are made here and stay here. A certificate is renewed in the same way, with the same request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import SERVER
from hanse.trust.identity import SigningRequest
from hanse.trust.member_record import verify_record
from hanse.trust.membership import Membership, member_keys
from hanse.trust.private_files import write_file
from hanse.trust.strict_json import parse_json, read_field

_WHAT = "admission"
_TEXTS = ("certificate", "authority", "record", "server_record")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Admitted:
    """A member that was let in; `reach`: how to get to the federation, as its operator wrote it."""

    membership: Membership
    server_record: bytes
    reach: dict[str, str]


def request(directory: Path, federation: str, name: str, *, kind: str) -> Path:
    """Make keys, if there are none, and a request; the file to hand to the operator.

    Raises:
        ConfigError: a name that cannot be. StorageError: the disk refuses.
    """
    keys = member_keys(directory)
    content = SigningRequest.request(keys, federation=federation, kind=kind, name=name).content
    path = directory / f"{name}-request.json"
    write_file(path, content, mode=0o644)
    return path


def accept(directory: Path, path: Path, *, kind: str, reach: Sequence[str]) -> Admitted:
    """Take what the operator gave back. Again, with a newer one, renews.

    **Guarantee.** What is saved is for the keys here and from one authority; a renewal, from the same one as before.
    That the first is the right one, the member sees by the fingerprint that the operator tells.

    Args:
        kind: `site` or `person`: what the caller expects to become.
        reach: the keys that may stand in its section on how to reach the federation; the first is needed.

    Raises:
        ConfigError: not an admission, or for another kind. TrustError: it does not hold, or is of another authority.
    """
    try:
        body = parse_json(path.read_bytes(), what=_WHAT, max_bytes=_MAX_BYTES)
        if read_field(body, "v", int, _WHAT) != 1:
            raise CodecError(f"{_WHAT}: expected version 1; update Hanse")
        texts = {key: read_field(body, key, str, _WHAT) for key in _TEXTS}
        found = _reach(read_field(body, "aws", dict, _WHAT), reach)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected the admission that the operator gave back") from None
    except CodecError as error:
        raise ConfigError(f"{path}: {error}") from None
    if _authority_of(directory) not in (None, texts["authority"]):
        raise TrustError(f"{path}: of another authority than the one that {directory} belongs to")
    authority = texts["authority"].encode()
    membership = Membership.check(
        member_keys(directory),
        certificate_pem=texts["certificate"].encode(),
        authority_pem=authority,
        signed_record=texts["record"].encode(),
        address="",
    )
    if membership.identity.kind != kind:
        raise ConfigError(f"{path}: expected the admission of a {kind}, found that of {membership.identity}")
    server_record = texts["server_record"].encode()
    server = verify_record(server_record, authority)
    if (server.kind, server.federation) != (SERVER, membership.identity.federation):
        raise TrustError(f"{path}: expected the record of the federation's server")
    membership.save(directory)
    return Admitted(membership, server_record, found)


def _reach(value: dict[str, Any], known: Sequence[str]) -> dict[str, str]:
    if set(value) - set(known) or known[0] not in value or not all(isinstance(item, str) for item in value.values()):
        raise CodecError(f"{_WHAT}: aws: expected texts under {', '.join(known)}")
    return {key: value[key] for key in known if key in value}


def _authority_of(directory: Path) -> str | None:
    """The authority of the federation that this member belongs to already, though its certificate may have expired."""
    path = directory / "membership.json"
    if not path.exists():
        return None
    return read_field(parse_json(path.read_bytes(), what=path.name, max_bytes=_MAX_BYTES), "authority", str, path.name)
