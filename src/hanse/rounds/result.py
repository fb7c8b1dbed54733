"""What a run leaves: `Result`, with the last model and one `RoundRecord` a round.

A result is saved as two files: the model in safetensors, and beside it NAME.json with everything else. Neither holds
code, and reading them runs none.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest, content_hash, manifest_of, rechunk
from hanse.core.codec import decode, encode_parts, encoded_size
from hanse.core.errors import CodecError, IntegrityError, NotFoundError
from hanse.rounds.record import (
    SEVERAL,
    RoundRecord,
    fate_of,
    read_number,
    read_text,
    read_text_map,
    read_texts,
    shown,
    to_plain,
)
from hanse.rounds.report.measures import format_bytes, format_seconds
from hanse.rounds.report.page import render

__all__ = ["Result", "RoundRecord"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Result:
    """What a job ended with.

    Args:
        status: `finished`, `failed` or `cancelled`.
        arrays: the last model; empty if there never was one.
        rounds: one record a round, in order.
        job: the job's id.
        error: why it failed.
        sites: every site that took part, in order of name.
        seconds: from submission to the end; 0 if it was not measured.
        fingerprints: site → numerics fingerprint of its worker; different ones say that repeating the run on the
            same data may differ in the last bits of training.
        about: facts for the report's header, such as app, strategy and person.
    """

    ALL: ClassVar[str] = "all"

    status: str
    arrays: Arrays = field(default_factory=Arrays)
    rounds: tuple[RoundRecord, ...] = ()
    job: str = ""
    error: str = ""
    sites: tuple[str, ...] = ()
    seconds: float = 0.0
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line, whatever the number of sites: a notebook shows it."""
        facts = [
            self.status,
            f"{len(self.rounds)} rounds",
            f"{len(self.sites)} sites",
            f"metrics={shown(self.metrics)}",
        ]
        return f"Result({', '.join([*facts, repr(self.arrays), *([f'error={self.error!r}'] if self.error else [])])})"

    @property
    def ok(self) -> bool:
        """Whether the job did what it was asked."""
        return self.status == "finished"

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last round's metrics; empty before the first."""
        return self.rounds[-1].metrics if self.rounds else {}

    def save(self, path: str | Path) -> Path:
        """Write the model to `path` (canonical safetensors) and everything else to `path` + `.json`.

        Each file is replaced in one step, so nobody ever reads half of it.

        Returns:
            `path`.
        """
        path = Path(path)
        hashes = b"".join(content_hash(chunk) for _, chunk in rechunk(encode_parts(self.arrays)))
        blob = Manifest(encoded_size(self.arrays.layout), hashes).id
        record = {"v": FORMAT_VERSION, "model": blob, **self.to_json()}
        _replace_file(path, encode_parts(self.arrays))
        _replace_file(_beside(path), [json.dumps(record, indent=1, allow_nan=False, sort_keys=True).encode()])
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read what `save` wrote. Nothing in the files is executed.

        Raises:
            NotFoundError: one of the two files is not there.
            CodecError: a file is not what `save` writes.
            IntegrityError: the two files do not belong together.
        """
        path = Path(path)
        try:
            content, text = path.read_bytes(), _beside(path).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"result: expected {path.name} and {_beside(path).name} in {path.parent}; "
                f"{Path(str(error.filename)).name} is not there"
            ) from None
        arrays = decode(content)
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            raise CodecError(f"{_beside(path).name}: expected JSON") from None
        if not isinstance(record, dict) or record.get("v") != FORMAT_VERSION:
            raise CodecError(f"{_beside(path).name}: expected an object with v={FORMAT_VERSION}")
        if record.get("model") != manifest_of(content).id:
            raise IntegrityError(f"{path.name} is not the model that {_beside(path).name} was written with")
        return cls.from_json(record, arrays)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as a JSON object."""
        plain = {spec.name: to_plain(getattr(self, spec.name)) for spec in fields(self) if spec.name != "arrays"}
        return {**plain, "rounds": [record.to_json() for record in self.rounds]}

    @classmethod
    def from_json(cls, value: Any, arrays: Arrays | None = None) -> "Result":
        """Read what `to_json` wrote.

        Raises:
            CodecError: it is something else.
        """
        try:
            return cls(
                status=read_text(value["status"]),
                arrays=Arrays() if arrays is None else arrays,
                rounds=tuple(RoundRecord.from_json(record) for record in value["rounds"]),
                job=read_text(value["job"]),
                error=read_text(value["error"]),
                sites=read_texts(value["sites"]),
                seconds=read_number(value.get("seconds", 0.0)),
                fingerprints=read_text_map(value.get("fingerprints", {})),
                about=read_text_map(value.get("about", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise CodecError("result: expected what to_json wrote") from None

    def report(self, path: str | Path, *, comparison: Iterable[Mapping[str, Any]] = (), title: str = "") -> Path:
        """Write one self-contained HTML page with plots, times, bytes and every round.

        Args:
            comparison: rows for a table, each with `name` and any of `accuracy`, `auc`, `log_loss`.
            title: heading; by default one made from the job.
        """
        path = Path(path)
        page = render(
            self.rounds,
            title=title or f"Federated training {self.job}".strip(),
            status=self.status,
            error=self.error,
            facts=self._facts(),
            comparison=tuple(comparison),
        )
        _replace_file(path, [page.encode()])
        return path

    def _facts(self) -> list[tuple[str, str]]:
        down, up, saved = (sum(r.bytes.get(way, 0) for r in self.rounds) for way in ("down", "up", "saved"))
        moved = f"{format_bytes(down)} to the sites, {format_bytes(up)} from them" if down + up else ""
        if saved:
            moved += f" ({format_bytes(saved)} saved by compression)"
        if within := sum(record.group_bytes for record in self.rounds):
            moved += f"; within the groups {format_bytes(within)}"
        kinds = set(self.fingerprints.values())
        is_one = len(kinds) == 1 and not any(SEVERAL in kind for kind in kinds)
        return [
            *self.about.items(),
            ("Job", self.job),
            ("Sites", str(len(self.sites)) if len(self.sites) > 6 else ", ".join(self.sites)),
            ("Rounds", str(len(self.rounds))),
            ("Duration", format_seconds(self.seconds) if self.seconds else ""),
            ("Moved", moved),
            (
                "Model",
                f"{self.arrays.layout.size:,} numbers, {format_bytes(self.arrays.nbytes)}" if self.arrays else "",
            ),
            ("Numerics", "" if not kinds else "equal at all sites" if is_one else "different between sites"),
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        """Plain rows for a data frame: one for each round and site, and one for each round with `site` = "all".

        Columns: `round`, `level` ("round" or "site"), `site`, `fate` (folded, late, failed or asked; "" for a round),
        `reason`, then metrics by name; rows of a round also have `num_folded`, `seconds`, `seconds_PHASE`,
        `bytes_down` and `bytes_up`, and `bytes_saved` where updates are compressed. A metric with the name of such a
        column becomes `metric_NAME`.
        """
        rows: list[dict[str, Any]] = []
        for record in self.rounds:
            rows.extend(_site_row(record, site) for site in _sites_of(record))
            whole = {
                "round": record.number,
                "level": "round",
                "site": self.ALL,
                "fate": "",
                "reason": "",
                "num_folded": len(record.folded),
                "seconds": record.seconds,
                **{f"seconds_{phase}": seconds for phase, seconds in record.seconds_by_phase.items()},
                **{f"bytes_{way}": count for way, count in record.bytes.items()},
            }
            rows.append(_with_metrics(whole, record.metrics))
        return rows


def _sites_of(record: RoundRecord) -> list[str]:
    return sorted({*record.folded, *record.late, *record.failed, *record.by_site})


def _site_row(record: RoundRecord, site: str) -> dict[str, Any]:
    fate, reason = fate_of(record, site)
    row = {"round": record.number, "level": "site", "site": site, "fate": fate, "reason": reason}
    return _with_metrics(row, record.by_site.get(site, {}))


def _with_metrics(row: dict[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    return row | {(f"metric_{name}" if name in row else name): value for name, value in metrics.items()}


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _replace_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file so that its name always leads to something whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("wb") as file:
            for part in parts:
                file.write(part)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
