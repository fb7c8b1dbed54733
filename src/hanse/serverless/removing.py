"""A job that is over and is to be forgotten: its rows, objects and documents.

Rows that nobody asks to be removed expire with the objects (`keep_days`), but for the few that say that there was one.
"""

from hanse.core.errors import ConflictError
from hanse.pipeline.removal import remove_job
from hanse.serverless.looking import is_over
from hanse.serverless.place import Place


async def remove(place: Place, job: str, person: str) -> None:
    """Forget a job.

    Args:
        person: whose it was.

    Raises:
        ConflictError: it is at work. StorageError, UnavailableError: ask again.
    """
    if not await is_over(place, job):
        raise ConflictError(f"job {job} is not over; end it first: hanse job cancel {job}")

    async def documents() -> None:
        await place.documents.delete(job)
        place.rows.pop(job, None)

    await remove_job(job, person, place.ledger, place.blobs, place.now_ms(), documents)
