"""What people read of a job, as objects in the bucket: whoever follows it needs no right on the ledger.

documents/JOB/about             status, sites, error, where the model is: JSON
documents/JOB/round/NUMBER      each round's record: JSON, written once
documents/JOB/answer/ID         what one person has asked for, such as links to the model: JSON

Where results are their submitter's, documents are sealed (`sealed`).
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse.core.errors import NotFoundError, PolicyError
from hanse.pipeline.sealed import is_sealed, opened, sealed

_FOLDER = "documents"
Reader = tuple[str, X25519PrivateKey]
"""A person, and what opens what is sealed for this person."""
Readers = Mapping[str, str] | None
"""For whom a document is sealed: persons and their sealing keys; None for an open one."""


class Shelf(Protocol):
    """What is needed of `backends.objectstore.Objects`."""

    async def get(self, key: str) -> tuple[bytes, str]: ...

    async def put(self, key: str, content: bytes) -> None: ...

    def list(self, folder: str, after: str = "") -> Any: ...

    async def delete(self, *keys: str) -> None: ...


class Documents:
    """The documents of a federation's jobs.

    Args:
        federation: part of what a seal is bound to.
        reader: who opens sealed ones.
    """

    def __init__(self, objects: Shelf, federation: str = "", *, reader: Reader | None = None) -> None:
        self._objects = objects
        self._federation = federation
        self._reader = reader

    async def put_about(self, job: str, about: Mapping[str, Any], readers: Readers = None) -> None:
        """Write what is true of a job now."""
        await self._put(job, "about", about, readers)

    async def about(self, job: str) -> dict[str, Any]:
        """What was true of a job lately.

        Raises:
            NotFoundError: nothing is known of it.
        """
        try:
            return await self._get(job, "about")
        except NotFoundError:
            raise NotFoundError(f"there is no job {job[:64]!r}; see: hanse job list") from None

    async def put_round(self, job: str, record: Mapping[str, Any], readers: Readers = None) -> None:
        """Write a round's record."""
        await self._put(job, f"round/{record['number']:08d}", record, readers)

    async def put_answer(self, job: str, id: str, answer: Mapping[str, Any], readers: Readers = None) -> None:
        """Write what a person has asked for."""
        await self._put(job, f"answer/{id}", answer, readers)

    async def answer(self, job: str, id: str) -> dict[str, Any]:
        """What was asked for.

        Raises:
            NotFoundError: not yet.
        """
        return await self._get(job, f"answer/{id}")

    async def rounds(self, job: str, after: int = 0) -> list[dict[str, Any]]:
        """The records of rounds after number `after`, in order."""
        return [await self._get(job, f"round/{number:08d}") for number in await self.round_numbers(job, after)]

    async def round_numbers(self, job: str, after: int = 0) -> list[int]:
        """The rounds after number `after` of which there is a record, in order."""
        folder = f"{_FOLDER}/{job}/round"
        keys = [found.key async for found in self._objects.list(folder, after=f"{folder}/{after:08d}")]
        return [int(key.rpartition("/")[2]) for key in keys]

    async def is_sealed(self, job: str) -> bool:
        """Whether what is told of a job is for some people only.

        Raises:
            NotFoundError: nothing is known of it.
        """
        return is_sealed((await self._objects.get(f"{_FOLDER}/{job}/about"))[0])

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

    async def _put(self, job: str, name: str, value: Mapping[str, Any], readers: Readers) -> None:
        content = json.dumps(value).encode()
        if readers is not None:
            content = sealed(content, readers, federation=self._federation, job=job, name=name)
        await self._objects.put(f"{_FOLDER}/{job}/{name}", content)

    async def _get(self, job: str, name: str) -> dict[str, Any]:
        content, _ = await self._objects.get(f"{_FOLDER}/{job}/{name}")
        if is_sealed(content):
            if self._reader is None:
                raise PolicyError(f"job {job[:64]}: its documents are for people")
            content = opened(content, *self._reader, federation=self._federation, job=job, name=name)
        found: dict[str, Any] = json.loads(content)
        return found
