"""What a run keeps: the form of each of its records in the ledger, and blobs for what is too long for one.

    run/<job>/<component>                          the run record: state, open asks, checkpoints not yet kept
    reply/<job>/<component>/<round>/<ordinal>      a received reply, under the round in which it came: 8 bytes of
                                                   receipt, then the reply, or where it is kept if it is long
    round/<job>/<component>/<round>                a round's record, JSON

When which of them is written is the driver's matter, and when it goes is that of `leftovers`.
"""

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanse.core.blobs import INLINE_BYTES, Manifest, manifest_of, rechunk
from hanse.core.ids import upload_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.seams import BlobStore, Ledger
from hanse.rounds.hosts.host import plain, unplain
from hanse.rounds.record import RoundRecord
from hanse.strategies import Ask

PAGE = 1000
"""Records asked for at a time: fewer in an answer are the last ones."""
MAX_RECORD_BYTES = 60 * 1024
"""A record above this becomes a blob, and the ledger holds its name."""


class Keeping:
    """The records of one component's run.

    Args:
        key: `job/component`.
    """

    def __init__(self, ledger: Ledger, blobs: BlobStore, key: str) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._key = key

    @property
    def run_key(self) -> str:
        """Where the run record is."""
        return f"run/{self._key}"

    def reply_key(self, round_: int, ordinal: int) -> str:
        """Where a reply is that came in `round_`."""
        return f"reply/{self._key}/{round_:08d}/{ordinal:010d}"

    # ---- the run record ----

    async def spill(self, content: bytes, mark: bytes, revision: int) -> tuple[bytes, str]:
        """The run record as the ledger can take it, and the scope of the blob that it has become, if any."""
        if len(content) <= MAX_RECORD_BYTES:
            return content, ""
        scope = f"{self._key}/record/{revision}"
        manifest = await self._keep_content(scope, content)
        rest = json.dumps({"spilled": [scope, manifest.id, manifest.size]}, separators=(",", ":")).encode()
        return mark + b"," + rest[1:], scope

    # ---- replies ----

    async def reply_row(self, reply: Reply, receipt: int, packed: bytes | None = None) -> tuple[Reply, bytes]:
        """A reply and its row; what would make the row too long is kept as a blob in the site's own scope.

        Args:
            packed: the reply as it came, if it need not be packed again.
        """
        scope, update = upload_scope(reply.task, reply.site), reply.update
        if update is not None and update.content is not None and len(update.content) + 4096 > INLINE_BYTES:
            await self._keep_content(scope, update.content)
            reply, packed = replace(reply, update=BlobRef(update.manifest, scope)), None
        content = reply.pack() if packed is None else packed
        if len(content) > MAX_RECORD_BYTES:
            manifest = await self._keep_content(scope, content)
            content = json.dumps([scope, manifest.id, manifest.size]).encode()
            return reply, b"".join((receipt.to_bytes(8, "big"), b"\x01", content))
        return reply, b"".join((receipt.to_bytes(8, "big"), b"\x00", content))

    def read_reply(self, row: bytes) -> tuple[int, Reply]:
        """The receipt and the reply of a row."""
        body: bytes | memoryview = row[9:]
        if row[8]:
            scope, blob, size = json.loads(row[9:])
            body = self._blobs.read(scope, blob, 0, size)
        return int.from_bytes(row[:8], "big"), Reply.unpack(bytes(body))

    async def reply_rows(self) -> AsyncIterator[tuple[int, int, bytes]]:
        """Every row there is: the round in which it came, the task's ordinal, the row."""
        after: str | None = None
        while rows := await self._ledger.query(f"reply/{self._key}/", after, PAGE):
            for key, value, _ in rows:
                round_, ordinal = (int(part) for part in key.rsplit("/", 2)[1:])
                yield round_, ordinal, value
            after = rows[-1][0]
            if len(rows) < PAGE:
                return

    async def delete_replies(self, round_: int | None) -> None:
        """Forget the replies that came in a round, or all."""
        await self._ledger.delete(f"reply/{self._key}/" + ("" if round_ is None else f"{round_:08d}/"))

    async def delete_seen(self, round_: int, ordinals: Sequence[int]) -> None:
        """Forget these replies of a round, and none that came since."""
        await self._ledger.delete_keys([self.reply_key(round_, ordinal) for ordinal in ordinals])

    # ---- rounds ----

    async def round_row(self, record: dict[str, Any]) -> None:
        """Give a round's record its own row; one that was written before is the same."""
        await self.create_round_row(record["number"], await self.round_content(record))

    async def create_round_row(self, number: int, content: bytes) -> None:
        """The row of a round, of what `round_content` answered."""
        await self._ledger.create(f"round/{self._key}/{number:08d}", content)

    async def round_content(self, record: dict[str, Any]) -> bytes:
        """A round's record as its row; what would make it too long is kept as a blob."""
        content = json.dumps(record, separators=(",", ":")).encode()
        if len(content) > MAX_RECORD_BYTES:  # very many sites: the details go into a blob
            scope = f"{self._key}/rounds/{record['number']}"
            manifest = await self._keep_content(scope, content)
            short = {**record, "by_site": {}, "fates": [], "whole": [scope, manifest.id, manifest.size]}
            content = json.dumps(short, separators=(",", ":")).encode()
            if len(content) > MAX_RECORD_BYTES:
                short |= {"folded": [], "late": [], "failed": {}}
                content = json.dumps(short, separators=(",", ":")).encode()
        return content

    async def _keep_content(self, scope: str, content: bytes) -> Manifest:
        manifest = manifest_of(content)
        await self._blobs.put(scope, manifest, rechunk([content]))
        return manifest


async def run_record(ledger: Ledger, blobs: BlobStore, job: str, component: str) -> tuple[dict[str, Any], int, str]:
    """A run's record, its version, and the scope of the blob that it is in ("" for none).

    Raises:
        NotFoundError: there is none.
    """
    content, version = await ledger.get(f"run/{job}/{component}")
    record: dict[str, Any] = json.loads(content)
    spilled = record.get("spilled")
    if not spilled:
        return record, version, ""
    scope, blob, size = spilled
    whole: dict[str, Any] = json.loads(bytes(blobs.read(scope, blob, 0, size)))
    return whole | record, version, scope


async def round_records(
    ledger: Ledger, job: str, component: str, after: int = 0, blobs: BlobStore | None = None
) -> list[RoundRecord]:
    """A run's rounds after number `after`, in order. `blobs`: where a round of very many sites has its details."""
    records: list[RoundRecord] = []
    last = f"round/{job}/{component}/{after:08d}"
    while rows := await ledger.query(f"round/{job}/{component}/", last, PAGE):
        last = rows[-1][0]
        for _, value, _ in rows:
            record = json.loads(value)
            if blobs is not None and "whole" in record:
                scope, blob, size = record["whole"]
                record = json.loads(bytes(blobs.read(scope, blob, 0, size)))
            records.append(RoundRecord.from_json(record))
        if len(rows) < PAGE:
            break
    return records


def encode_asks(asks: Mapping[int, Ask]) -> list[Any]:
    """Open questions by ordinal, for the run record; a configuration that many share is written once."""
    configs: dict[str, int] = {}
    rows = [
        [
            ordinal,
            ask.site,
            ask.call,
            configs.setdefault(json.dumps(plain(ask.config), separators=(",", ":")), len(configs)),
            base64.b64encode(ask.payload).decode(),
            ask.with_model,
            ask.group,
        ]
        for ordinal, ask in asks.items()
    ]
    return [[json.loads(config) for config in configs], rows]


def decode_asks(value: Any) -> dict[int, Ask]:
    """Read what `encode_asks` wrote."""
    configs, rows = value
    return {
        ordinal: Ask(site, call, unplain(configs[config]), base64.b64decode(payload), with_model, *group)
        for ordinal, site, call, config, payload, with_model, *group in rows
    }
