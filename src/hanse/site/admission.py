"""Joining a federation that has no server: a request goes to the operator by hand, an admission comes back.

    NAME-request.json      public keys and a name, signed by the keys: nothing in it is secret
    NAME-admission.json    certificate, record, the server's record, and how to reach the queues: nothing secret either

Private keys are made here and stay here. A certificate is renewed in the same way, with the same request.
"""

from pathlib import Path
from typing import Any

from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import SERVER
from hanse.site.join import settle
from hanse.site.over_queues import SERVER_RECORD
from hanse.trust.certificates import SITE
from hanse.trust.identity import SigningRequest
from hanse.trust.member_record import verify_record
from hanse.trust.membership import Membership, member_keys
from hanse.trust.private_files import write_file
from hanse.trust.strict_json import parse_json, read_field

_WHAT = "admission"
_AWS = ("region", "role", "external_id", "endpoint")
_MAX_BYTES = 1 << 20


def request(directory: Path, federation: str, name: str) -> Path:
    """Make keys, if there are none, and a request; the file to hand to the operator.

    Raises:
        ConfigError: a name that cannot be. StorageError: the disk refuses.
    """
    keys = member_keys(directory)
    content = SigningRequest.request(keys, federation=federation, kind=SITE, name=name).content
    path = directory / f"{name}-request.json"
    write_file(path, content, mode=0o644)
    return path


def accept(directory: Path, path: Path) -> Membership:
    """Take what the operator gave back, and write the files that the owner edits. Again, with a newer one, renews.

    **Guarantee.** What is saved is for the keys here and from one authority; a renewal, from the same one as before.
    That the first is the right one, the owner sees by the fingerprint that the operator tells.

    Raises:
        ConfigError: not an admission, or for another member. TrustError: it does not hold, or is of another authority.
    """
    try:
        body = parse_json(path.read_bytes(), what=_WHAT, max_bytes=_MAX_BYTES)
        if read_field(body, "v", int, _WHAT) != 1:
            raise CodecError(f"{_WHAT}: expected version 1; update Hanse")
        texts = {
            key: read_field(body, key, str, _WHAT) for key in ("certificate", "authority", "record", "server_record")
        }
        aws = _reach(read_field(body, "aws", dict, _WHAT))
    except CodecError as error:
        raise ConfigError(f"{path}: {error}") from None
    authority = texts["authority"].encode()
    if _authority_of(directory) not in (None, texts["authority"]):
        raise TrustError(f"{path}: of another authority than the one that this site belongs to")
    membership = Membership.check(
        member_keys(directory),
        certificate_pem=texts["certificate"].encode(),
        authority_pem=authority,
        signed_record=texts["record"].encode(),
        address="",
    )
    if membership.identity.kind != SITE:
        raise ConfigError(f"{path}: expected the admission of a site, found that of {membership.identity}")
    server = verify_record(texts["server_record"].encode(), authority)
    if (server.kind, server.federation) != (SERVER, membership.identity.federation):
        raise TrustError(f"{path}: expected the record of the federation's server")
    membership.save(directory)
    write_file(directory / SERVER_RECORD, texts["server_record"].encode(), mode=0o644)
    settle(directory, membership, aws)
    return membership


def _reach(value: dict[str, Any]) -> dict[str, str]:
    unknown = set(value) - set(_AWS)
    if unknown or "region" not in value or not all(isinstance(item, str) for item in value.values()):
        raise CodecError(f"{_WHAT}: aws: expected texts under {', '.join(_AWS)}")
    return {key: value[key] for key in _AWS if key in value}


def _authority_of(directory: Path) -> str | None:
    """The authority of the federation that this site belongs to already, though its certificate may have expired."""
    path = directory / "membership.json"
    if not path.exists():
        return None
    return read_field(parse_json(path.read_bytes(), what=path.name, max_bytes=_MAX_BYTES), "authority", str, path.name)
