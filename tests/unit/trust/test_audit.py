"""The audit log: every kind of damage is found, a crash is repaired, nothing else is."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError, ConflictError, HanseError, IntegrityError, StorageError, TrustError
from hanse.trust.audit import AuditLog, Head, read_head, verify_log
from hanse.trust.signing import AUDIT_LINE, sign

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
NOW_MS = 1_800_000_000_123


def write(path: Path, count: int = 5, key: Ed25519PrivateKey = KEY) -> Head:
    with AuditLog(path, key, fsync=False) as log:
        for number in range(count):
            add(log, f"job{number}")
        return log.head


def add(log: AuditLog, subject: str = "job", **details: Any) -> Head:
    return log.append(
        actor="person/anna", action="job.submit", subject=subject, outcome="allowed", details=details, now_ms=NOW_MS
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_written_read_and_verified(path: Path) -> None:
    with AuditLog(path, KEY) as log:
        add(log, "job1", rounds=3, epsilon=0.5, secure=True, note=None, model="größe")
        head = add(log, "job2")
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [entry["seq"] for entry in entries] == [1, 2]
    assert entries[0]["prev"] == "0" * 64
    assert entries[0]["details"] == {"rounds": 3, "epsilon": 0.5, "secure": True, "note": None, "model": "größe"}
    assert entries[0]["at"] == "2027-01-15T08:00:00.123Z"
    assert datetime.fromisoformat(entries[0]["at"]).timestamp() * 1000 == pytest.approx(NOW_MS)
    report = verify_log(path, PUBLIC, head=head)
    assert (report.ok, report.entries, report.head) == (True, 2, head)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_goes_on_where_it_ended(path: Path) -> None:
    first = write(path)
    with AuditLog(path, KEY, fsync=False) as log:
        assert log.head == first
        assert log.repaired is None
        assert add(log).seq == 6
    assert verify_log(path, PUBLIC, head=first).ok


def _signed(entry: dict[str, Any]) -> bytes:
    entry.pop("sig", None)
    return canonical_json(entry | {"sig": sign(KEY, AUDIT_LINE, canonical_json(entry)).hex()}) + b"\n"


def test_lines_spliced_in_from_another_log_of_the_same_key_are_found(path: Path) -> None:
    write(path)
    other = path.with_name("other")
    with AuditLog(other, KEY, fsync=False) as log:
        for _ in range(5):
            add(log, "elsewhere")
    mine, others = (file.read_bytes().splitlines(keepends=True) for file in (path, other))
    path.write_bytes(b"".join([*mine[:2], *others[2:]]))
    report = verify_log(path, PUBLIC)
    assert [(problem.line, problem.damage) for problem in report.problems] == [(3, "out of order")]


def test_numbers_must_count_up_even_where_the_hashes_fit(path: Path) -> None:
    write(path, 2)
    last = path.read_bytes().splitlines()[-1]
    entry = json.loads(last) | {"seq": 9, "prev": hashlib.sha256(last).hexdigest()}
    path.write_bytes(path.read_bytes() + _signed(entry))
    assert [problem.line for problem in verify_log(path, PUBLIC).problems] == [3]


def test_an_empty_log_holds(path: Path) -> None:
    head = write(path, 0)
    assert head == Head()
    assert verify_log(path, PUBLIC).ok
    assert verify_log(path, PUBLIC, head=head).ok


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], (3, "out of order")),
        (lambda lines: lines[1:], (1, "out of order")),
        (_swap, (2, "out of order")),
        (lambda lines: [lines[0], lines[0], *lines[1:]], (2, "out of order")),
        (lambda lines: [lines[0], lines[1].replace(b"anna", b"evil"), *lines[2:]], (2, "unsigned")),
        (lambda lines: [lines[0], b"{}\n", *lines[1:]], (2, "altered")),
        (lambda lines: [lines[0], b"\n", *lines[1:]], (2, "altered")),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], (5, "torn")),
        (lambda lines: [*lines[:-1], lines[-1][:50]], (5, "torn")),
        (lambda lines: [lines[0][:-1] + b" \n", *lines[1:]], (1, "altered")),
    ],
)
def test_damage_is_found(path: Path, damage: Callable[[list[bytes]], list[bytes]], found: tuple[int, str]) -> None:
    write(path)
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    report = verify_log(path, PUBLIC)
    assert not report.ok
    assert (report.problems[0].line, report.problems[0].damage) == found


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bit_can_be_flipped(path: Path, data: st.DataObject) -> None:
    if not path.exists():
        write(path, 3)
        path.with_suffix(".good").write_bytes(path.read_bytes())
    content = bytearray(path.with_suffix(".good").read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert not verify_log(path, PUBLIC).ok


def test_a_shorter_log_holds_by_itself_but_not_against_its_head(path: Path) -> None:
    head = write(path)
    with AuditLog(path, KEY, fsync=False) as log:
        exported = log.export_head(now_ms=NOW_MS)
    assert read_head(exported, PUBLIC) == head
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert verify_log(path, PUBLIC).ok
    report = verify_log(path, PUBLIC, head=read_head(exported, PUBLIC))
    assert [problem.damage for problem in report.problems] == ["truncated"]
    path.unlink()
    path.touch()
    assert not verify_log(path, PUBLIC, head=head).ok


def test_a_log_written_anew_by_the_keys_holder_fails_against_the_head(path: Path) -> None:
    head = write(path)
    path.unlink()
    with AuditLog(path, KEY, fsync=False) as log:
        for _ in range(7):
            add(log, "another story")
    assert verify_log(path, PUBLIC).ok
    assert [problem.damage for problem in verify_log(path, PUBLIC, head=head).problems] == ["replaced"]


def test_heads_are_signed() -> None:
    with pytest.raises(TrustError):
        read_head(Head(3, "ab" * 32).sign(Ed25519PrivateKey.generate()), PUBLIC)
    with pytest.raises(HanseError):
        read_head(b"{}", PUBLIC)


def test_another_key_does_not_verify(path: Path) -> None:
    write(path)
    report = verify_log(path, Ed25519PrivateKey.generate().public_key(), most_problems=3)
    assert len(report.problems) == 3
    assert report.problems[0].damage == "unsigned"


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_crash_anywhere_in_the_last_line_is_repaired(path: Path, data: st.DataObject) -> None:
    path.unlink(missing_ok=True)
    write(path, 3)
    content = path.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    cut = data.draw(st.integers(last, len(content) - 1))
    path.write_bytes(content[:cut])
    with AuditLog(path, KEY, fsync=False) as log:
        complete = cut == len(content) - 1
        assert (log.repaired is None) == (cut == last)
        assert log.head.seq == (3 if complete else 2)
        add(log)
    report = verify_log(path, PUBLIC)
    assert (report.ok, report.entries) == (True, 4 if complete else 3)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("size", [10, 4096, 200_000])
def test_zeros_after_a_power_cut_are_removed(path: Path, count: int, size: int) -> None:
    head = write(path, count)
    path.write_bytes(path.read_bytes() + bytes(size))
    with AuditLog(path, KEY, fsync=False) as log:
        assert log.head == head
        assert log.repaired == f"removed an incomplete last line of {size} bytes, left by a crash"
    assert verify_log(path, PUBLIC, head=head).ok


def test_a_complete_line_that_does_not_hold_is_never_removed(path: Path) -> None:
    write(path)
    content = path.read_bytes().replace(b"job4", b"evil")
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="audit verify"):
        AuditLog(path, KEY)
    assert path.read_bytes() == content
    write(other := path.with_name("other"))
    with pytest.raises(IntegrityError):
        AuditLog(other, Ed25519PrivateKey.generate())


def test_one_process_has_it_open(path: Path) -> None:
    with AuditLog(path, KEY), pytest.raises(ConflictError, match="another process"):
        AuditLog(path, KEY)
    AuditLog(path, KEY).close()


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path, KEY, fsync=False)
    head = add(log)
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: real(handle, content[:20]))
    with pytest.raises(StorageError, match="No space left"):
        add(log)
    assert log.head == head

    def refuse(handle: int, content: bytes) -> int:
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StorageError, match="quota"):
        add(log)
    monkeypatch.setattr(os, "write", real)
    add(log)
    log.close()
    log.close()
    assert verify_log(path, PUBLIC).entries == 2
    assert verify_log(path, PUBLIC).ok
    with pytest.raises(StorageError, match="closed"):
        add(log)


def test_fsync_is_done_when_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path, KEY, fsync=True)
    lazy = AuditLog(path.with_name("lazy"), KEY, fsync=False)
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    add(log)
    assert len(calls) == 1
    add(lazy)
    assert len(calls) == 1
    lazy.sync()
    assert len(calls) == 2


@pytest.mark.parametrize(
    "details",
    [{"x": [1]}, {"x": {"y": 1}}, {"x": b"raw"}, {"x": float("nan")}, {"x": "y" * 513}, {"x": "\ud800"}],
)
def test_details_are_few_plain_values(path: Path, details: dict[str, Any]) -> None:
    with AuditLog(path, KEY, fsync=False) as log:
        with pytest.raises(ConfigError, match="audit"):
            add(log, **details)
        with pytest.raises(ConfigError, match="at most"):
            add(log, **{f"key{number}": "y" * 500 for number in range(100)})
        assert add(log).seq == 1


def test_killed_while_writing_it_holds_what_it_had_said(path: Path, tmp_path: Path) -> None:
    """A process that prints each entry's number after `append`, killed without warning."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n"
        "from hanse.trust.audit import AuditLog\n"
        "key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sys.argv[2]))\n"
        "log = AuditLog(Path(sys.argv[1]), key, fsync=False)\n"
        "while True: print(log.append(actor='a', action='b', subject='c', outcome='d').seq, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(path), KEY.private_bytes_raw().hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(50):
            said = int(process.stdout.readline())
        process.kill()
        said = max([said, *(int(line) for line in process.stdout.read().splitlines() if line.isdecimal())])
    with AuditLog(path, KEY) as log:
        assert log.head.seq >= said
    assert verify_log(path, PUBLIC).ok


def test_a_missing_file_is_reported(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        verify_log(path, PUBLIC)
    with pytest.raises(StorageError, match="cannot open"):
        AuditLog(path / "nowhere", KEY)


def test_the_signed_bytes_are_those_documented(path: Path) -> None:
    write(path, 1)
    entry = json.loads(path.read_bytes())
    signature = entry.pop("sig")
    assert sign(KEY, AUDIT_LINE, canonical_json(entry)).hex() == signature
