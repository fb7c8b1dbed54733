"""`hanse audit …`: a log is checked without a server, with nothing but the file and a public key."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanse.cli.options import FEDERATION, Federation, Json, ask
from hanse.cli.output import say, show_json
from hanse.core.errors import CodecError, ConfigError, HanseError, NotFoundError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_MEMBERSHIP = "membership.json"


def verify(
    file: Annotated[Path, typer.Argument(help="The log, audit.jsonl of a server or a site.")],
    key: Annotated[
        Path | None, typer.Option(help="File with the keeper's Ed25519 public key: 64 hexadecimal digits or PEM.")
    ] = None,
    membership: Annotated[
        Path | None, typer.Option(help="The keeper's membership.json, or its folder; by default beside the log.")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="A signed head from earlier (hanse audit head).")] = None,
    json: Json = False,
) -> int:
    """Check an audit log offline: every line signed by its keeper, in order, none missing in between.

    A log that was cut off at its end is a valid shorter log: only a head that was kept elsewhere shows that.
    """
    from hanse.trust.audit import read_head, verify_log
    from hanse.trust.private_files import read_file

    if key is not None and membership is not None:
        raise ConfigError("audit verify: expected --key or --membership, found both")
    if not file.is_file():
        raise ConfigError(f"{file}: expected an audit log, found no such file")
    public = _key_in(key) if key is not None else _key_of(_membership(file, membership))
    expected = None
    if head is not None:
        try:
            expected = read_head(read_file(head).strip(), public)
        except HanseError as error:
            raise ConfigError(f"{head}: {error}") from None
    report = verify_log(file, public, head=expected)
    if json:
        show_json(
            {
                "ok": report.ok,
                "entries": report.entries,
                "head": {"seq": report.head.seq, "hash": report.head.hash},
                "problems": [{"line": each.line, "damage": each.damage, "text": each.text} for each in report.problems],
            }
        )
        return 0 if report.ok else 1
    if not report.ok:
        for each in report.problems:
            say(f"line {each.line}: {each.damage}: {each.text}")
        more = "" if len(report.problems) < 20 else " or more"
        raise _Broken(f"{file}: {len(report.problems)}{more} of {report.entries} lines do not hold")
    reach = ", and reaches the signed head" if expected is not None else ""
    say(f"{file}: all {report.entries} lines hold{reach}; it ends with {report.head.hash[:16]}…")
    return 0


def head(federation: Federation = FEDERATION) -> None:
    """Print the signed end of the server's audit log. Keep it where the server's operator cannot change it."""
    say(ask(federation, "audit_head")["head"])


class _Broken(HanseError):
    """A log that does not hold."""


def _membership(file: Path, given: Path | None) -> Path:
    if given is not None:
        path = given / _MEMBERSHIP if given.is_dir() else given
        if not path.is_file():
            raise ConfigError(f"{given}: expected a membership.json, or a folder with one, found neither")
        return path
    for place in (file.parent, file.parent / "server"):
        if (place / _MEMBERSHIP).is_file():
            return place / _MEMBERSHIP
    raise ConfigError(
        f"{file}: no membership.json beside it; name the keeper's with --membership, or its key with --key"
    )


def _key_of(path: Path) -> "Ed25519PublicKey":
    """The signing key in a membership, as the authority in it vouches; also when its time has run out since."""
    from hanse.trust.member_record import verify_record
    from hanse.trust.private_files import read_file
    from hanse.trust.signing import load_signing_key
    from hanse.trust.strict_json import parse_json, read_field

    try:
        body = parse_json(read_file(path), what=_MEMBERSHIP)
        content = read_field(body, "record", str, _MEMBERSHIP).encode()
        stated = read_field(parse_json(content, what="record"), "body", dict, "record")
        issued = read_field(stated, "issued_at_ms", int, "record")
        authority = read_field(body, "authority", str, _MEMBERSHIP).encode()
        return load_signing_key(verify_record(content, authority, now_ms=issued).signing_key)
    except (CodecError, NotFoundError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _key_in(path: Path) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from hanse.trust.private_files import read_file
    from hanse.trust.signing import load_signing_key

    content = read_file(path).strip()
    try:
        if content.startswith(b"-----"):
            found = load_pem_public_key(content)
            if isinstance(found, Ed25519PublicKey):
                return found
        elif len(content) == 64:
            return load_signing_key(bytes.fromhex(content.decode()))
    except (ValueError, UnsupportedAlgorithm, HanseError):
        pass
    raise ConfigError(f"{path}: expected an Ed25519 public key, as 64 hexadecimal digits or PEM; found something else")
