"""Runs for TensorBoard: event files, written here, so that nothing need be installed at a site.

The form is TensorBoard's own (`event.proto`, `summary.proto`, and TFRecord framing with masked CRC-32C, as
tensorflow/core/lib/io/record_writer.h has it): records of `length, crc(length), content, crc(content)`. Every delivery
of a run is one file whose name holds the first record's key, written beside and renamed: delivered again, it is
replaced and not repeated.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse.tracking.places import InFolder, file_name
from hanse.tracking.records import Record, Run, joined


@dataclass(frozen=True, slots=True)
class TensorBoard(InFolder):
    """Tracking for `tensorboard --logdir FOLDER`.

    Args:
        folder: where; each run is a folder below `folder/prefix`.
        prefix: see above.
        params: further parameters of every run; parameters are shown as a text.
    """

    folder: str = "tensorboard"

    @property
    def place(self) -> str:
        """See `Tracker`."""
        return f"tensorboard:{self.path}"

    def open(self) -> "TensorBoardSink":
        """See `Tracker`."""
        return TensorBoardSink(self.path)


class TensorBoardSink:
    """Writes one event file for each delivery of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def deliver(self, records: Sequence[Record]) -> None:
        """See `Sink`."""
        for run, rows in joined(records):
            self._write(run, rows)

    def close(self) -> None:
        """See `Sink`."""

    def _write(self, run: Run, rows: Sequence[Record]) -> None:
        folder = self._folder / file_name(run.prefix) / file_name(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        first = rows[0]
        mark = hashlib.sha256(first.key.encode()).hexdigest()[:12]
        # TensorBoard reads a folder's files by name: the time of the first record keeps them in order.
        path = folder / f"events.out.tfevents.{first.at_ms:013d}.{mark}"
        draft = folder / f".{path.name}"
        with draft.open("wb") as file:
            file.write(framed(_version_event(first.at_ms / 1000)))
            for row in rows:
                file.writelines(framed(event) for event in _events(row))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


def _events(row: Record) -> Iterable[bytes]:
    seconds = row.at_ms / 1000
    if row.params:
        table = "| parameter | value |\n|---|---|\n" + "".join(f"| {n} | {v} |\n" for n, v in row.params.items())
        yield _event(seconds, 0, _text_value("parameters" if row.kind == "begin" else f"parameters/{row.key}", table))
    for metric in row.metrics:
        yield _event(seconds, metric.step, _scalar_value(metric.name, metric.value))
    if row.kind == "end":
        yield _event(seconds, 0, _text_value("status", row.status))


# ---- protobuf, the six messages that are needed; field numbers from event.proto, summary.proto and tensor.proto ----


def _varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _event(seconds: float, step: int, value: bytes) -> bytes:
    head = b"\x09" + struct.pack("<d", seconds) + b"\x10" + _varint(step)
    return head + _bytes_field(5, _bytes_field(1, value))


def _version_event(seconds: float) -> bytes:
    return b"\x09" + struct.pack("<d", seconds) + _bytes_field(3, b"brain.Event:2")


def _scalar_value(tag: str, value: float) -> bytes:
    single = min(max(value, -3.4028234663852886e38), 3.4028234663852886e38) if value == value else value
    return _bytes_field(1, tag.encode()) + b"\x15" + struct.pack("<f", single)


def _text_value(tag: str, text: str) -> bytes:
    plugin = _bytes_field(9, _bytes_field(1, _bytes_field(1, b"text")))
    tensor = b"\x08\x07" + _bytes_field(2, _bytes_field(2, b"\x08\x01")) + _bytes_field(8, text.encode())
    return _bytes_field(1, tag.encode()) + plugin + _bytes_field(8, tensor)


# ---- TFRecord ----


def framed(content: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", _masked(length)) + content + struct.pack("<I", _masked(content))


def _masked(content: bytes) -> int:
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli), reflected, as RFC 3720 appendix B.4 has it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()
