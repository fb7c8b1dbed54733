"""Removing a job that is over: its records, models, updates and bundle go, the fact that there was one stays.

    jobgone/<id>   {"person", "removed_at_ms"}; without it a signed request could be submitted again

The job's own row goes last but for its end, so that a removal that was interrupted is begun anew by asking again.
"""

import asyncio
import json
import shutil
from pathlib import Path

from hanse.core.errors import NotFoundError
from hanse.core.seams import BlobStore, Ledger


async def remove_job(job: str, person: str, ledger: Ledger, blobs: BlobStore, apps: Path, now_ms: int) -> None:
    """Forget a job. Harmless when it was begun before.

    Args:
        person: whose job it was.
        apps: the folder with a folder for each job whose code ran here.

    Raises:
        StorageError: the disk refuses; ask again.
    """
    await ledger.create(f"jobgone/{job}", json.dumps({"person": person, "removed_at_ms": now_ms}).encode())
    for kind in ("run", "reply", "round", "roles"):
        await ledger.delete(f"{kind}/{job}/")
    await blobs.delete_scope(job)
    await asyncio.to_thread(shutil.rmtree, apps / job, ignore_errors=True)
    # By key, not by prefix: a job's id is chosen by who submits it, and may be how another's begins.
    await ledger.delete_keys([f"job/{job}"])
    await ledger.delete_keys([f"jobend/{job}"])


async def is_gone(job: str, ledger: Ledger) -> bool:
    """Whether there was such a job, and it was removed."""
    try:
        await ledger.get(f"jobgone/{job}")
    except NotFoundError:
        return False
    return True
