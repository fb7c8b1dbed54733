"""`hanse federation init`: makes the authority, the server's identity, and invitations for the first members.

DIR/server.yaml      settings
DIR/authority/       the certificate authority; move authority.key offline when nobody is to join for a while
DIR/server/          the server's own keys and certificate
DIR/store/           ledger and blobs
DIR/NAME/            the first person, an admin: keys and federation.yaml
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from hanse.backends.local import LocalStore
from hanse.core.errors import ConfigError, TrustError
from hanse.core.ids import check_name
from hanse.server.config import FILE, ServerConfig, yaml_text
from hanse.server.members import ROLES, Members, directory_of
from hanse.trust.authority import Authority, Issued
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership

SERVER_DAYS = 365.0
RESERVED = ("server", "authority", "store", "apps", "edge")
"""Folders of the server's own; the first person's lies beside them."""


@dataclass(frozen=True, slots=True)
class NewFederation:
    """What `init_federation` has made. `tokens`: join token by site name."""

    directory: Path
    config: ServerConfig
    person_directory: Path
    tokens: dict[str, str]


def init_federation(
    directory: Path, config: ServerConfig, *, person: str = "admin", sites: Sequence[str] = (), token_hours: float = 24
) -> NewFederation:
    """Make a federation in a new or empty directory.

    Raises:
        ConfigError: there is one already, or a name cannot be.
    """
    for name in (person, *sites):
        check_name(name)
    if person in RESERVED:
        raise ConfigError(f"person: expected another name than {', '.join(RESERVED)}, found {person!r}")
    if (directory / FILE).exists():
        raise ConfigError(f"{directory}: there is a federation already; choose another directory")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = Authority.create(config.federation).save(directory_of(directory))
    server, _ = certify(
        authority, config.federation, config.address, "server", "server", hosts=config.hosts, days=SERVER_DAYS
    )
    for place in ("server", person):
        (directory / place).mkdir(mode=0o700)
    server.save(directory / "server")
    member, issued = certify(authority, config.federation, config.address, "person", person, roles=ROLES)
    member.save(directory / person)
    tokens = asyncio.run(_invite(directory, config, authority, issued, sites, token_hours))
    write_federation_file(directory / person, config.federation, config.address)
    config.save(directory)
    return NewFederation(directory, config, directory / person, tokens)


def server_membership(directory: Path, authority: Authority, *, address: str, hosts: Sequence[str]) -> Membership:
    """The server's own keys and certificate; a new certificate where the old one is near its end or names other hosts.

    Args:
        directory: the federation's; the keys lie in its folder `server`.
        address: where members reach the server; empty where there is none.
        hosts: names and addresses that the certificate is for.

    Raises:
        TrustError, StorageError: the keys or the authority cannot be read.
    """
    place = directory / "server"
    try:
        membership = Membership.load(place)
        current = time.time_ns() // 1_000_000 < membership.identity.renew_at_ms
        if current and hosts_of(membership.certificate_pem) == frozenset(hosts):
            return membership
    except TrustError:
        pass  # it has expired
    keys = MemberKeys.load(place / "keys")
    membership, _ = certify(
        authority,
        authority.federation,
        address,
        "server",
        "server",
        hosts=hosts,
        days=SERVER_DAYS,
        keys=keys,
    )
    membership.save(place)
    return membership


def hosts_of(certificate_pem: bytes) -> frozenset[str]:
    """Under which names and addresses a certificate lets a server be reached."""
    extension = x509.load_pem_x509_certificate(certificate_pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    names = extension.value.get_values_for_type(x509.DNSName)
    return frozenset([*names, *(str(ip) for ip in extension.value.get_values_for_type(x509.IPAddress))])


def write_federation_file(directory: Path, federation: str, address: str) -> Path:
    """`federation.yaml`: what `hs.run(app, federation=…)` and the commands of a person are given."""
    path = directory / "federation.yaml"
    path.write_text(
        f"# How you reach federation {federation}. Your keys lie beside this file; keep them to yourself.\n"
        f"federation: {yaml_text(federation)}\n"
        f"address: {address}\n"
        "identity: .\n"
    )
    return path


def certify(
    authority: Authority,
    federation: str,
    address: str,
    kind: str,
    name: str,
    *,
    hosts: Sequence[str] = (),
    days: float = 30.0,
    keys: MemberKeys | None = None,
    roles: Sequence[str] | None = None,
) -> tuple[Membership, Issued]:
    """A member certified by whoever holds the authority's key: its membership, with keys made here unless given."""
    keys = keys or MemberKeys.generate()
    request = SigningRequest.request(keys, federation=federation, kind=kind, name=name)
    issued = authority.issue(request, kind=kind, name=name, hosts=hosts, days=days, roles=roles)
    membership = Membership.check(
        keys,
        certificate_pem=issued.certificate_pem,
        authority_pem=authority.certificate_pem,
        signed_record=issued.record,
        address=address,
    )
    return membership, issued


async def _invite(
    directory: Path, config: ServerConfig, authority: Authority, first: Issued, sites: Sequence[str], hours: float
) -> dict[str, str]:
    with LocalStore.open(directory / "store") as store:
        members = Members(authority, store.ledger, address=config.address)
        await members.enrol(first, ROLES)
        return {
            site: await members.invite("site", site, address=config.enrolment_address, hours=hours) for site in sites
        }
