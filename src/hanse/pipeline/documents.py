"""What people read of a job, as objects in the bucket: whoever follows it needs no right on the ledger.

documents/JOB/about             status, sites, error, where the model is: JSON
documents/JOB/round/NUMBER      each round's record: JSON, written once
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from hanse.core.errors import NotFoundError

_FOLDER = "documents"


class Shelf(Protocol):
    """What is needed of `backends.objectstore.Objects`."""

    async def get(self, key: str) -> tuple[bytes, str]: ...

    async def put(self, key: str, content: bytes) -> None: ...

    def list(self, folder: str, after: str = "") -> Any: ...

    async def delete(self, *keys: str) -> None: ...


class Documents:
    """The documents of a federation's jobs."""

    def __init__(self, objects: Shelf) -> None:
        self._objects = objects

    async def put_about(self, job: str, about: Mapping[str, Any]) -> None:
        """Write what is true of a job now."""
        await self._objects.put(f"{_FOLDER}/{job}/about", json.dumps(about).encode())

    async def about(self, job: str) -> dict[str, Any]:
        """What was true of a job lately.

        Raises:
            NotFoundError: nothing is known of it.
        """
        try:
            content, _ = await self._objects.get(f"{_FOLDER}/{job}/about")
        except NotFoundError:
            raise NotFoundError(f"there is no job {job[:64]!r}; see: hanse job list") from None
        found: dict[str, Any] = json.loads(content)
        return found

    async def put_round(self, job: str, record: Mapping[str, Any]) -> None:
        """Write a round's record."""
        await self._objects.put(f"{_FOLDER}/{job}/round/{record['number']:08d}", json.dumps(record).encode())

    async def rounds(self, job: str, after: int = 0) -> list[dict[str, Any]]:
        """The records of rounds after number `after`, in order."""
        folder = f"{_FOLDER}/{job}/round"
        keys = [found.key async for found in self._objects.list(folder, after=f"{folder}/{after:08d}")]
        return [json.loads((await self._objects.get(key))[0]) for key in keys]

    async def delete(self, job: str) -> None:
        """Forget what there is of a job; what it is known by goes last."""
        keys = [found.key async for found in self._objects.list(f"{_FOLDER}/{job}")]
        about = f"{_FOLDER}/{job}/about"
        await self._objects.delete(*(key for key in keys if key != about))
        await self._objects.delete(about)

    async def jobs(self) -> list[str]:
        """Every job of which there is something, oldest first."""
        keys = [found.key async for found in self._objects.list(_FOLDER)]
        return [key.split("/")[1] for key in keys if key.endswith("/about")]
