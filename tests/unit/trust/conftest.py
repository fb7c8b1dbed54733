"""One authority and one member of each kind; tests that change something make their own."""

from dataclasses import dataclass

import pytest

from hanse.trust.authority import Authority, Issued
from hanse.trust.identity import MemberKeys, SigningRequest

NOW_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Member:
    keys: MemberKeys
    issued: Issued


def enrol(authority: Authority, kind: str, name: str, **options: object) -> Member:
    keys = MemberKeys.generate()
    request = SigningRequest.request(keys, federation=authority.federation, kind=kind, name=name)
    options = {"now_ms": NOW_MS, "hosts": ("localhost", "127.0.0.1") if kind == "server" else (), **options}
    return Member(keys, authority.issue(request, kind=kind, name=name, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create("lubeck", now_ms=NOW_MS)


@pytest.fixture(scope="session")
def site(authority: Authority) -> Member:
    return enrol(authority, "site", "hospital-a")


@pytest.fixture(scope="session")
def person(authority: Authority) -> Member:
    return enrol(authority, "person", "anna")


@pytest.fixture(scope="session")
def server(authority: Authority) -> Member:
    return enrol(authority, "server", "server")
