"""Runs as files: a folder for each, with one JSON line a record. Needs nothing, and every tool reads it.

FOLDER/PREFIX/RUN.jsonl     {"what": "begin", "run", "job", "who", "at_ms", "params"}
                            {"what": "metrics", "at_ms", "params", "metrics": [[name, value, step], …]}
                            {"what": "end", "at_ms", "status"}
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse.tracking.places import InFolder, file_name
from hanse.tracking.records import Record, joined


@dataclass(frozen=True, slots=True)
class File(InFolder):
    """Tracking into files.

    Args:
        folder: where; made if it is not there.
        prefix: the folder below it, and the beginning of every run's name.
        params: further parameters of every run.
    """

    folder: str = "runs"

    @property
    def place(self) -> str:
        """See `Tracker`."""
        return f"file:{self.path}"

    def open(self) -> "FileSink":
        """See `Tracker`."""
        return FileSink(self.path)


class FileSink:
    """Appends to the runs' files; a record whose key is there already is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: dict[str, set[str]] = {}

    def deliver(self, records: Sequence[Record]) -> None:
        """See `Sink`."""
        for run, rows in joined(records):
            path = self._folder / file_name(run.prefix) / f"{file_name(run.name)}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            known = self._keys.setdefault(run.name, set()) or self._read(path)
            self._keys[run.name] = known
            lines = [row.to_json() + "\n" for row in rows if row.key not in known]
            if lines:
                with path.open("a") as file:
                    file.writelines(lines)
                    file.flush()
                    os.fsync(file.fileno())
            known.update(row.key for row in rows)

    def close(self) -> None:
        """See `Sink`."""

    def _read(self, path: Path) -> set[str]:
        """Keys in the file; what a crash has left unfinished at its end is cut off."""
        if not path.exists():
            return set()
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        return {json.loads(line)["key"] for line in whole.splitlines()}
