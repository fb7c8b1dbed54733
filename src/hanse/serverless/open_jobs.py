"""How many jobs of one person may be open at a time: submitted and not over, or uploaded to lately.

    openjobs/PERSON     {JOB: at_ms}: a place for each job, and since when

A place is taken by the first upload or by the request, whichever comes first, with one compare-and-set. Places of jobs
that are over are found when there is need of one, so that nobody needs to write when a job ends.
"""

import json
from typing import Final

from hanse.core.errors import NotFoundError, PolicyError, UnavailableError
from hanse.pipeline.offering import job_end, job_row
from hanse.pipeline.removal import is_gone
from hanse.serverless.place import Place

UPLOADED_MS: Final = 24 * 3600 * 1000
"""For so long an upload keeps a place without a request."""
_LOOKS = 20


async def take_place(place: Place, person: str, job: str) -> None:
    """Take one of a person's places for a job. Harmless when it has one.

    Raises:
        PolicyError: all are taken. StorageError, UnavailableError: take it again.
    """
    key = f"openjobs/{person}"
    for _ in range(_LOOKS):
        try:
            content, version = await place.ledger.get(key)
            taken: dict[str, int] = json.loads(content)
        except NotFoundError:
            version, taken = 0, {}
        if job in taken:
            return
        if len(taken) >= place.open_jobs:
            taken = {each: at_ms for each, at_ms in taken.items() if await _is_open(place, each, at_ms)}
        if len(taken) >= place.open_jobs:
            raise PolicyError(
                f"person {person}: expected at most {place.open_jobs} jobs that are not over, found {len(taken)}; wait "
                "for one, or cancel one: hanse job list"
            )
        row = json.dumps({**taken, job: place.now_ms()}).encode()
        if await (place.ledger.compare_and_set(key, row, version) if version else place.ledger.create(key, row)):
            return
    raise UnavailableError(f"open jobs of {person}: written by others {_LOOKS} times in a row")


async def _is_open(place: Place, job: str, at_ms: int) -> bool:
    """Whether a job that took a place then still needs it."""
    if await job_end(job, place.ledger) is not None:
        return False
    try:
        await job_row(job, place.ledger)
    except NotFoundError:
        return place.now_ms() < at_ms + UPLOADED_MS and not await is_gone(job, place.ledger)
    return True
