"""`hanse audit verify`: with whatever key there is, on logs that hold and logs that do not."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hanse.server.init import NewFederation
from hanse.trust.audit import AuditLog
from hanse.trust.membership import Membership
from tests.unit.cli.conftest import Hanse


@pytest.fixture
def log(made: NewFederation, tmp_path: Path) -> Path:
    """Five lines of a server's log, and a head after the fourth."""
    path = tmp_path / "audit.jsonl"
    key = Membership.load(made.directory / "server").keys.signing
    with AuditLog(path, key) as audit:
        for number in range(5):
            audit.append(actor="person/admin", action="job.submit", subject=f"job{number}", outcome="allowed")
            if number == 3:
                (tmp_path / "head.json").write_bytes(audit.export_head() + b"\n")
    public = key.public_key()
    (tmp_path / "key.hex").write_text(public.public_bytes_raw().hex() + "\n")
    (tmp_path / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.mark.parametrize(
    "how", ["--key key.hex", "--key key.pem", "--membership DIR", "--membership DIR/membership.json"]
)
def test_a_log_that_holds(how: str, hanse: Hanse, log: Path, made: NewFederation) -> None:
    option, value = how.replace("DIR", str(made.directory / "server")).split()
    found = hanse("audit", "verify", log, option, value)
    assert found.code == 0
    assert "all 5 lines hold" in found.out
    found = hanse("audit", "verify", log, option, value, "--head", "head.json", "--json")
    told = json.loads(found.out)
    assert (found.code, told["ok"], told["entries"], told["head"]["seq"]) == (0, True, 5, 5)


def test_the_key_beside_the_log_is_found(hanse: Hanse, log: Path, made: NewFederation, tmp_path: Path) -> None:
    (tmp_path / "membership.json").write_bytes((made.directory / "server" / "membership.json").read_bytes())
    assert hanse("audit", "verify", log).code == 0


@pytest.mark.parametrize(
    ("place", "damage"),
    [(2, "unsigned"), (None, "out of order")],
)
def test_a_log_that_was_changed(place: int | None, damage: str, hanse: Hanse, log: Path) -> None:
    lines = log.read_text().splitlines(keepends=True)
    if place is None:
        del lines[1]
    else:
        lines[place] = lines[place].replace("allowed", "refused")
    log.write_text("".join(lines))
    found = hanse("audit", "verify", log, "--key", "key.hex")
    assert found.code == 1
    assert damage in found.out
    assert found.err.startswith(f"error: {log}: ")
    assert found.err.count("\n") == 1
    told = json.loads(hanse("audit", "verify", log, "--key", "key.hex", "--json").out)
    assert not told["ok"]
    assert damage in {problem["damage"] for problem in told["problems"]}


def test_a_log_that_was_cut_off_needs_a_head(hanse: Hanse, log: Path) -> None:
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    assert hanse("audit", "verify", log, "--key", "key.hex").code == 0
    found = hanse("audit", "verify", log, "--key", "key.hex", "--head", "head.json")
    assert found.code == 1
    assert "truncated" in found.out


def test_the_key_of_another_member(hanse: Hanse, log: Path, made: NewFederation) -> None:
    found = hanse("audit", "verify", log, "--membership", made.person_directory)
    assert found.code == 1
    assert "unsigned" in found.out


def test_a_head_of_another_member_is_refused(hanse: Hanse, log: Path, made: NewFederation, tmp_path: Path) -> None:
    other = Membership.load(made.person_directory).keys.signing
    with AuditLog(tmp_path / "other.jsonl", other) as audit:
        (tmp_path / "head.json").write_bytes(audit.export_head())
    found = hanse("audit", "verify", log, "--key", "key.hex", "--head", "head.json")
    assert (found.code, found.err.count("\n")) == (2, 1)
