"""The ledger as a DynamoDB table: `p` (string, the federation), `k` (binary, the key), `n` (version), `c` (content).

`t` (string) is the key up to its first slash: the filter of a stream cannot look into binary keys. `x` (number) is when
a row that is of use only while its job lasts may go, in seconds since 1970: `keep_days` after it was last written.

All records of a federation lie in one partition, so that a query by any prefix is one request in order of the key's
bytes. A partition takes 1,000 writes a second: a round of 500 sites takes half a second of it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from hanse.backends.aws.errors import aws_errors, code_of
from hanse.backends.memory import check_record
from hanse.core.errors import NotFoundError

_AT_ONCE = 16
_BATCH = 25
EXPIRING = frozenset({"run", "reply", "round", "roles", "decision", "shard", "wait", "quota"})
"""Kinds of rows that go with their job's objects. That there was a job, and who the members are, stays."""
T = TypeVar("T")


class TableLedger:
    """A `Ledger` in a DynamoDB table; every read is consistent.

    Args:
        client: a boto3 client of DynamoDB.
        table: the table's name.
        federation: whose records these are; one table may serve several.
        keep_days: after which rows of old jobs expire; 0 for never.
    """

    def __init__(self, client: Any, table: str, federation: str, *, keep_days: int = 0) -> None:
        self._client = client
        self._table = table
        self._federation = {"S": federation}
        self._keep_s = keep_days * 24 * 3600
        self._threads = ThreadPoolExecutor(_AT_ONCE, "hanse-ledger")

    async def create(self, key: str, value: bytes) -> bool:
        """Write a record that must be new."""
        check_record(key, value)
        return await self._run(self._create, key, value)

    async def create_many(self, rows: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`create` for each row, side by side; of rows with one key the first counts."""
        for key, value in rows:
            check_record(key, value)
        first: dict[str, int] = {}
        for index, (key, _) in enumerate(rows):
            first.setdefault(key, index)
        new = await asyncio.gather(*(self._run(self._create, *rows[index]) for index in first.values()))
        created = dict(zip(first.values(), new, strict=True))
        return [created.get(index, False) for index in range(len(rows))]

    async def get(self, key: str) -> tuple[bytes, int]:
        """Value and version."""
        return await self._run(self._get, key)

    async def query(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[tuple[str, bytes, int]]:
        """Records by prefix, in order of the key's bytes."""
        return await self._run(self._query, prefix, after, limit) if limit > 0 else []

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        """Write if the version is still `version`."""
        check_record(key, value)
        return await self._run(self._compare_and_set, key, value, version)

    async def delete(self, prefix: str) -> None:
        """Forget every record below `prefix`."""
        await self._run(self._delete, prefix)

    async def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget these records, 25 at a time."""
        for start in range(0, len(keys), _BATCH):
            await self._run(self._delete_keys, list(dict.fromkeys(keys[start : start + _BATCH])))

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args))

    def _create(self, key: str, value: bytes) -> bool:
        return self._conditional(
            self._client.put_item,
            Item=self._item(key, 1, value),
            ConditionExpression="attribute_not_exists(k)",
        )

    def _get(self, key: str) -> tuple[bytes, int]:
        with aws_errors(f"reading table {self._table}"):
            item = self._client.get_item(TableName=self._table, Key=self._key(key), ConsistentRead=True).get("Item")
        if item is None:
            raise NotFoundError(f"ledger: no record {key!r}")
        return bytes(item["c"]["B"]), int(item["n"]["N"])

    def _query(self, prefix: str, after: str | None, limit: int) -> list[tuple[str, bytes, int]]:
        low = prefix.encode()
        if after is not None:
            low = max(low, after.encode() + b"\0")
        if not low.startswith(prefix.encode()) and low > prefix.encode():
            return []
        found: list[tuple[str, bytes, int]] = []
        start: dict[str, Any] = {}
        # No key of UTF-8 holds the byte 0xff, so all keys that begin with the prefix lie below this one.
        bounds = {":p": self._federation, ":low": {"B": low or b"\0"}, ":high": {"B": prefix.encode() + b"\xff"}}
        while True:
            with aws_errors(f"reading table {self._table}"):
                page = self._client.query(
                    TableName=self._table,
                    KeyConditionExpression="p = :p AND k BETWEEN :low AND :high",
                    ExpressionAttributeValues=bounds,
                    ConsistentRead=True,
                    Limit=limit - len(found),
                    **start,
                )
            found += [(bytes(i["k"]["B"]).decode(), bytes(i["c"]["B"]), int(i["n"]["N"])) for i in page["Items"]]
            if "LastEvaluatedKey" not in page or len(found) >= limit:
                return found
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        return self._conditional(
            self._client.put_item,
            Item=self._item(key, version + 1, value),
            ConditionExpression="n = :n",
            ExpressionAttributeValues={":n": {"N": str(version)}},
        )

    def _delete(self, prefix: str) -> None:
        while keys := [key for key, _, _ in self._query(prefix, None, _BATCH)]:
            self._delete_keys(keys)
            if len(keys) < _BATCH:
                return

    def _delete_keys(self, keys: list[str]) -> None:
        left: dict[str, Any] = {self._table: [{"DeleteRequest": {"Key": self._key(key)}} for key in keys]}
        while left:  # a busy table does a part of it
            with aws_errors(f"writing table {self._table}"):
                left = self._client.batch_write_item(RequestItems=left).get("UnprocessedItems", {})

    def _conditional(self, call: Callable[..., Any], **arguments: Any) -> bool:
        import botocore.exceptions

        with aws_errors(f"writing table {self._table}"):
            try:
                call(TableName=self._table, **arguments)
            except botocore.exceptions.ClientError as error:
                if code_of(error) == "ConditionalCheckFailedException":
                    return False
                raise
        return True

    def _item(self, key: str, version: int, value: bytes) -> dict[str, Any]:
        kind = key.partition("/")[0]
        item = {**self._key(key), "t": {"S": kind}, "n": {"N": str(version)}, "c": {"B": value}}
        if self._keep_s and kind in EXPIRING:
            item["x"] = {"N": str(int(time.time()) + self._keep_s)}
        return item

    def _key(self, key: str) -> dict[str, Any]:
        return {"p": self._federation, "k": {"B": key.encode()}}
