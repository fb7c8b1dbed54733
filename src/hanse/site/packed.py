"""A site's identity as one text, for a store of secrets: so a machine that comes and goes is the same site each time.

    {v, federation, site, keys: {tls, signing, sealing}, membership, server_record, aws}

It holds the private keys. Whoever reads it is the site; it belongs into a secret of the site's own organisation.
"""

import json
from pathlib import Path
from typing import Any

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.site.config import FILE, read_config
from hanse.site.over_queues import SERVER_RECORD
from hanse.trust.certificates import SITE
from hanse.trust.membership import Membership
from hanse.trust.private_files import read_file, read_private_file, write_file
from hanse.trust.strict_json import parse_json, read_field

KEYS = ("tls", "signing", "sealing")
_WHAT = "site's identity"
_ACCESS = ("region", "role", "external_id", "endpoint")
"""What of a site's `aws` is the federation's to say; a profile is one machine's."""
_MAX_BYTES = 64 * 1024


def pack(directory: Path) -> str:
    """The text for the site in `directory`, which has joined a federation without a server. Secret.

    Raises:
        ConfigError: no site, or one of a federation with a server.
    """
    aws = read_config(directory / FILE).aws
    if aws is None or not (directory / SERVER_RECORD).exists():
        raise ConfigError(
            f"{directory}: expected a site of a federation without a server (hanse site join ADMISSION), found none"
        )
    identity = Membership.load(directory, kind=SITE).identity
    value = {
        "v": 1,
        "federation": identity.federation,
        "site": identity.name,
        "keys": {name: read_private_file(directory / "keys" / f"{name}.key").decode() for name in KEYS},
        "membership": read_file(directory / "membership.json").decode(),
        "server_record": read_file(directory / SERVER_RECORD).decode(),
        "aws": {name: text for name in _ACCESS if (text := getattr(aws, name))},
    }
    return canonical_json(value).decode()


def unpack(directory: Path, text: str, *, federation: str, site: str) -> Membership:
    """Make `directory` that site's. What the owner's `site.yaml` says of `aws` already is kept.

    Raises:
        ConfigError: it is another text. TrustError: it is another site's, or does not hold now.
    """
    try:
        value = parse_json(text.strip().encode(), what=_WHAT, max_bytes=_MAX_BYTES)
        if read_field(value, "v", int, _WHAT) != 1:
            raise CodecError(f"{_WHAT}: expected version 1; update the older of the two programs")
        found = (read_field(value, "federation", str, _WHAT), read_field(value, "site", str, _WHAT))
        keys = read_field(value, "keys", dict, _WHAT)
        private = {name: read_field(keys, name, str, _WHAT) for name in KEYS}
        membership = read_field(value, "membership", str, _WHAT)
        server_record = read_field(value, "server_record", str, _WHAT)
        aws = _access(read_field(value, "aws", dict, _WHAT))
    except CodecError as error:
        raise ConfigError(f"{error}; make it with: hanse site pack --directory FOLDER") from None
    if found != (federation, site):
        raise TrustError(f"{_WHAT}: expected site {site} of {federation}, found site {found[1]} of {found[0]}")
    (directory / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in private.items():
        write_file(directory / "keys" / f"{name}.key", content.encode())
    write_file(directory / "membership.json", membership.encode(), mode=0o644)
    write_file(directory / SERVER_RECORD, server_record.encode(), mode=0o644)
    joined = Membership.load(directory)
    if (joined.identity.kind, joined.identity.federation, joined.identity.name) != ("site", federation, site):
        raise TrustError(f"{_WHAT}: expected the keys of site {site} of {federation}, found those of {joined.identity}")
    if read_config(directory / FILE).aws is None:
        lines = "".join(f"  {name}: {json.dumps(each)}\n" for name, each in aws.items())
        with (directory / FILE).open("a") as file:
            file.write(f"\naws:\n{lines}")
    return joined


def _access(value: dict[str, Any]) -> dict[str, str]:
    if not set(value) <= set(_ACCESS) or "region" not in value or not all(isinstance(v, str) for v in value.values()):
        raise CodecError(f"{_WHAT}: aws: expected region, and perhaps {', '.join(_ACCESS[1:])}")
    return value
