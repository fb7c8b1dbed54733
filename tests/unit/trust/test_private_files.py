"""Files written whole, with their permissions."""

import os
from pathlib import Path

import pytest

from hanse.core.errors import ConfigError, StorageError
from hanse.trust.private_files import read_file, read_private_file, write_file


def test_written_whole_and_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_file(tmp_path / "key", b"one")
        write_file(tmp_path / "key", b"two")
    finally:
        os.umask(old)
    assert read_private_file(tmp_path / "key") == b"two"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "key", b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        write_file(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_missing_long_and_open_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_file(tmp_path / "missing")
    with pytest.raises(StorageError):
        write_file(tmp_path / "no" / "directory", b"")
    write_file(tmp_path / "long", b"x" * 11)
    with pytest.raises(ConfigError, match="at most 10 bytes"):
        read_file(tmp_path / "long", max_bytes=10)
    (tmp_path / "long").chmod(0o604)
    with pytest.raises(ConfigError, match="found 0604"):
        read_private_file(tmp_path / "long")
