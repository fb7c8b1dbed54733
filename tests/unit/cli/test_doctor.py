"""Each thing that can be wrong, made wrong, is found and named, with what to do."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hanse.backends.local.ports import free_ports
from hanse.cli.doctor import Finding, _isolation, _packages, _port, kind_of
from hanse.core.errors import ConfigError
from hanse.server.config import ServerConfig
from hanse.server.init import NewFederation, init_federation
from hanse.trust.authority import Authority
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership
from tests.patience import WAIT_S
from tests.unit.cli.conftest import Hanse

DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
def server(made: NewFederation, tmp_path: Path) -> Path:
    """A copy of a federation, to be broken."""
    return Path(shutil.copytree(made.directory, tmp_path / "hospitals"))


@pytest.fixture
def site(made: NewFederation, tmp_path: Path) -> Path:
    """A site whose server does not run."""
    folder = tmp_path / "luebeck"
    folder.mkdir(mode=0o700)
    _issue(made, folder)
    (folder / "site.yaml").write_text("datasets:\n  patients: {kind: npz, path: patients.npz}\n")
    (folder / "policy.yaml").write_text("apps: any\n")
    (folder / "patients.npz").write_bytes(b"x")
    return folder


def _declare_csv(folder: Path, target: str) -> None:
    (folder / "patients.csv").write_text("age, sick\n40,1\n")
    declared = f"datasets:\n  patients: {{kind: csv, path: patients.csv, target: {target}}}\n"
    (folder / "site.yaml").write_text(declared)


def _issue(made: NewFederation, folder: Path, *, kind: str = "site", now_ms: int | None = None) -> None:
    authority = Authority.load(made.directory / "authority")
    keys = MemberKeys.generate()
    request = SigningRequest.request(keys, federation="hospitals", kind=kind, name="luebeck")
    issued = authority.issue(request, kind=kind, name="luebeck", now_ms=now_ms)
    Membership.check(
        keys,
        certificate_pem=issued.certificate_pem,
        authority_pem=authority.certificate_pem,
        signed_record=issued.record,
        address="127.0.0.1:1",
        now_ms=now_ms,
    ).save(folder)


def checks(hanse: Hanse, folder: Path) -> dict[str, Finding]:
    found = hanse("doctor", "--directory", folder, "--json")
    told = json.loads(found.out)
    assert told["ok"] is (found.code == 0)
    assert found.code == int(any(check["state"] == "wrong" for check in told["checks"]))
    return {check["about"]: Finding(**check) for check in told["checks"]}


def test_a_new_server_is_fine_but_for_ports_that_only_root_may_bind(hanse: Hanse, server: Path) -> None:
    found = checks(hanse, server)
    names = ("python", "packages", "server.yaml", "keys", "certificate", "clock", "authority", "authority.key", "hosts")
    assert {name: found[name].state for name in names} == dict.fromkeys(names, "ok")
    text = hanse("doctor", "--directory", server).out
    assert "is a server's folder" in text
    assert "✓ certificate" in text


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "about", "found", "do"),
    [
        (lambda d: (d / "server.yaml").write_text("federation: x\nport: many\n"), "server.yaml", "port", "correct"),
        (lambda d: (d / "server/keys/tls.key").chmod(0o644), "keys", "others may read", "chmod go-rwx"),
        (lambda d: shutil.rmtree(d / "server/keys"), "keys", "no ", "backup"),
        (lambda d: (d / "server/membership.json").unlink(), "membership", "expected", "certificate"),
        (lambda d: (d / "server/membership.json").write_text("{"), "membership", "membership.json", "certificate"),
        (lambda d: (d / "authority/authority.key").unlink(), "authority.key", "authority.key", "backup"),
        (lambda d: _edit(d / "server.yaml", "localhost", "fl.example.org"), "hosts", "fl.example.org", "--host"),
    ],
)
def test_what_is_wrong_with_a_server(
    damage: Break, about: str, found: str, do: str, hanse: Hanse, server: Path
) -> None:
    damage(server)
    finding = checks(hanse, server)[about]
    assert finding.state == "wrong"
    assert found in finding.found
    assert do in finding.do


def test_another_authority_is_found(hanse: Hanse, server: Path, tmp_path: Path) -> None:
    other = init_federation(tmp_path / "other", ServerConfig("hospitals"))
    shutil.rmtree(server / "authority")
    shutil.copytree(other.directory / "authority", server / "authority")
    assert "not the authority" in checks(hanse, server)["authority.key"].found


def test_a_site_whose_server_is_down(hanse: Hanse, site: Path) -> None:
    found = checks(hanse, site)
    wrong = {name for name, finding in found.items() if finding.state == "wrong"}
    assert wrong == {"server"}
    assert "cannot be reached" in found["server"].found
    assert "hanse server start" in found["server"].do
    assert found["agent"].state == "warning"
    assert found["data set patients"].state == "ok"


@pytest.mark.parametrize(
    ("damage", "about", "found", "do"),
    [
        (lambda d: (d / "site.yaml").write_text("datasets: [1\n"), "site.yaml", "site.yaml", "correct"),
        (lambda d: (d / "site.yaml").write_text("nonsense: 1\n"), "site.yaml", "line 1", "correct"),
        (lambda d: (d / "policy.yaml").write_text("apps: all\n"), "policy.yaml", "line 1", "correct"),
        (lambda d: (d / "patients.npz").unlink(), "data set patients", "no such file", "put the file there"),
        (
            lambda d: (d / "site.yaml").write_text("datasets:\n  patients: {kind: xls, path: a}\n"),
            "data set patients",
            "csv",
            "correct",
        ),
        (
            lambda d: _declare_csv(d, "ill"),
            "data set patients",
            "no column 'ill'; found age, sick",
            "correct site.yaml",
        ),
        (
            lambda d: (d / "site.yaml").write_text("datasets:\n  patients: {kind: csv, path: keys}\n"),
            "data set patients",
            "cannot be read: Is a directory",
            "correct site.yaml",
        ),
        (lambda d: (d / "keys/signing.key").chmod(0o640), "keys", "signing.key", "chmod"),
        (lambda d: (d / "keys/signing.key").write_bytes(b"x"), "membership", "signing.key", "token"),
    ],
)
def test_what_is_wrong_with_a_site(damage: Break, about: str, found: str, do: str, hanse: Hanse, site: Path) -> None:
    damage(site)
    finding = checks(hanse, site)[about]
    assert finding.state == "wrong"
    assert found in finding.found
    assert do in finding.do


def test_columns_that_are_there_are_found(hanse: Hanse, site: Path) -> None:
    _declare_csv(site, "sick")
    found = checks(hanse, site)
    assert found["data set patients"].state == "ok"
    assert found["site.yaml"].found.startswith("1 data set, ")


def test_no_policy_is_a_warning(hanse: Hanse, site: Path) -> None:
    (site / "policy.yaml").unlink()
    assert checks(hanse, site)["policy.yaml"].state == "warning"


@pytest.mark.parametrize("days", [-40, 40])
def test_a_certificate_out_of_its_time(days: int, hanse: Hanse, site: Path, made: NewFederation) -> None:
    import time

    shutil.rmtree(site / "keys")
    (site / "membership.json").unlink()
    _issue(made, site, now_ms=time.time_ns() // 1_000_000 + days * DAY_MS)
    finding = checks(hanse, site)["certificate"]
    assert finding.state == "wrong"
    assert "clock" in finding.do
    assert "token" in finding.do


def test_a_certificate_near_its_end_is_a_warning(hanse: Hanse, site: Path, made: NewFederation) -> None:
    import time

    shutil.rmtree(site / "keys")
    (site / "membership.json").unlink()
    _issue(made, site, now_ms=time.time_ns() // 1_000_000 - 27 * DAY_MS)
    assert checks(hanse, site)["certificate"].state == "warning"


def test_a_person(hanse: Hanse, made: NewFederation) -> None:
    found = checks(hanse, made.person_directory)
    assert found["federation.yaml"].state == "ok"
    assert found["server"].state == "wrong"


def test_something_else_listens_there(hanse: Hanse, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("hanse.cli.doctor._REACH_S", WAIT_S)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            taken, _ = listening.accept()
            taken.recv(100)
            taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            taken.close()

        thread = threading.Thread(target=answer)
        thread.start()
        text = (site / "site.yaml").read_text() + f"server: 127.0.0.1:{listening.getsockname()[1]}\n"
        (site / "site.yaml").write_text(text)
        finding = checks(hanse, site)["server"]
        thread.join()
    assert finding.state == "wrong"
    assert "something else listens there" in finding.do


def test_ports() -> None:
    with socket.socket() as taken:
        (port,) = free_ports(1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert _port("port", "127.0.0.1", port, False).state == "wrong"
        assert _port("port", "127.0.0.1", port, True).state == "ok"
    assert _port("port", "127.0.0.1", port, False).state == "ok"
    assert _port("port", "127.0.0.1", port, True).state == "warning"


def test_packages_and_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _packages().state == "ok"
    assert _isolation("process").state == "ok"
    monkeypatch.setattr("hanse.cli.doctor._PACKAGES", ("numpy", "no-such-package"))
    assert "no-such-package" in _packages().found
    monkeypatch.setattr("hanse.cli.doctor._version", lambda name: "5.29.0" if name == "protobuf" else "1")
    assert "protobuf 5.29.0" in _packages().found


@pytest.mark.skipif(os.geteuid() == 0 or sys.platform == "win32", reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(hanse: Hanse, site: Path) -> None:
    site.chmod(0o500)
    try:
        assert checks(hanse, site)["disk"].state == "wrong"
    finally:
        site.chmod(0o700)


def test_kinds(tmp_path: Path, server: Path, site: Path, made: NewFederation) -> None:
    assert (kind_of(server), kind_of(site), kind_of(made.person_directory)) == ("server", "site", "person")
    (site / "site.yaml").unlink()
    assert kind_of(site) == "site"
    with pytest.raises(ConfigError, match="found none of these"):
        kind_of(tmp_path)


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
