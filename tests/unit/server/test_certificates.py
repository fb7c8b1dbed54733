"""Certificates that run out: the server makes itself a new one, a person gets a new one on its next question."""

import time
from pathlib import Path

import pytest

from hanse.backends.local.ports import free_ports
from hanse.server.config import ServerConfig
from hanse.server.init import hosts_of, init_federation, server_membership
from hanse.server.members import directory_of
from hanse.trust import certificates
from hanse.trust.authority import Authority

YEAR_MS = 366 * 24 * 3600 * 1000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    port, enrolment = free_ports(2)
    init_federation(tmp_path / "f", ServerConfig("lubeck", port=port, enrolment_port=enrolment, http_port=None))
    return tmp_path / "f"


def test_a_certificate_that_holds_is_kept(home: Path) -> None:
    config, authority = ServerConfig.load(home), Authority.load(directory_of(home))
    first = server_membership(home, authority, address=config.address, hosts=config.hosts)
    assert (
        server_membership(home, authority, address=config.address, hosts=config.hosts).identity.serial
        == first.identity.serial
    )


def test_other_hosts_need_another_certificate(home: Path) -> None:
    authority = Authority.load(directory_of(home))
    config = ServerConfig("lubeck", hosts=("hanse.example.org", "127.0.0.1"), http_port=None)
    renewed = server_membership(home, authority, address=config.address, hosts=config.hosts)
    assert hosts_of(renewed.certificate_pem) == {"hanse.example.org", "127.0.0.1"}


def test_an_expired_certificate_is_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, authority = ServerConfig.load(home), Authority.load(directory_of(home))
    first = server_membership(home, authority, address=config.address, hosts=config.hosts)
    later = time.time_ns() + YEAR_MS * 1_000_000
    monkeypatch.setattr(certificates.time, "time_ns", lambda: later)
    renewed = server_membership(home, authority, address=config.address, hosts=config.hosts)
    assert renewed.identity.serial != first.identity.serial
    assert renewed.identity.not_after_ms > later // 1_000_000
