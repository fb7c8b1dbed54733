"""Removing a job that is over: its records, models, updates and bundle go, the fact that there was one stays.

    jobgone/<id>   {"person", "removed_at_ms"}; without it a signed request could be submitted again

The job's own row goes last but for its end, so that a removal that was interrupted is begun anew by asking again.
"""

import json
from collections.abc import Awaitable, Callable

from hanse.core.errors import NotFoundError
from hanse.core.seams import BlobStore, Ledger

KINDS = ("run", "reply", "round", "roles", "decision", "shard", "quota")
"""Records of which a job has several, `KIND/JOB/…`."""


async def remove_job(
    job: str, person: str, ledger: Ledger, blobs: BlobStore, now_ms: int, more: Callable[[], Awaitable[None]]
) -> None:
    """Forget a job. Harmless when it was begun before.

    Args:
        person: whose job it was.
        more: forgets what the place where the job ran has kept besides.

    Raises:
        StorageError: the store refuses; ask again.
    """
    await ledger.create(f"jobgone/{job}", json.dumps({"person": person, "removed_at_ms": now_ms}).encode())
    for kind in KINDS:
        await ledger.delete(f"{kind}/{job}/")
    await blobs.delete_scope(job)
    await more()
    # By key, not by prefix: a job's id is chosen by who submits it, and may be how another's begins.
    await ledger.delete_keys([f"wait/{job}"])
    await ledger.delete_keys([f"job/{job}"])
    await ledger.delete_keys([f"jobend/{job}"])


async def is_gone(job: str, ledger: Ledger) -> bool:
    """Whether there was such a job, and it was removed."""
    try:
        await ledger.get(f"jobgone/{job}")
    except NotFoundError:
        return False
    return True
