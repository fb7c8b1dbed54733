"""What goes out to sites: a task in its envelope, the word that it is not waited for, and how a model travels.

Nothing is decided here: the machine says which task and until when, the plan says what is asked.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from hanse.core.blobs import INLINE_BYTES
from hanse.core.ids import SERVER, TaskId
from hanse.core.records import BlobRef, Envelope, Task
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.run_state import Slot
from hanse.strategies import Ask


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a task says besides its question. `app`: SHA-256 of the bundle; `bundle`: where the bundle is."""

    federation: str = ""
    app: str = ""
    bundle: BlobRef | None = None


def task_of(
    info: RunInfo, spec: RunSpec, id: TaskId, slot: Slot, ask: Ask, model: BlobRef | None, update_kind: str
) -> Task:
    """The task that asks the slot's site what the plan wants of it."""
    return Task(
        id=id,
        site=slot.site,
        call=ask.call,
        app=info.app,
        attempt=slot.attempt,
        config=ask.config,
        model=model,
        update_kind=update_kind,
        seed=spec.seed,
        allow_nonfinite=spec.allow_nonfinite,
        payload=ask.payload,
        bundle=info.bundle,
    )


def task_envelope(federation: str, task: Task, deadline_s: float) -> Envelope:
    """A task on its way. `deadline_s`: seconds that are left for it."""
    return _envelope(federation, task.id, task.site, "task", task.pack(), deadline_s)


def release_envelope(federation: str, id: TaskId, site: str) -> Envelope:
    """The word that a task is not waited for any more."""
    return _envelope(federation, id, site, "release")


def _envelope(
    federation: str, id: TaskId, site: str, kind: str, body: bytes = b"", deadline_s: float = 0.0
) -> Envelope:
    return Envelope(
        sender=SERVER,
        recipient=site,
        id=str(id),
        kind=kind,
        body=body,
        federation=federation,
        job=id.job,
        component=id.component,
        deadline_s=deadline_s,
    )


class ModelRefs:
    """How models travel: inside their messages while they are small, read once for all sites."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._refs: dict[BlobKey, BlobRef] = {}

    async def ref(self, key: BlobKey, needed: Callable[[], Container[BlobKey]]) -> BlobRef:
        """What a task says of its model.

        Args:
            needed: models that will be asked for again; the others are let go of when a new one is read.
        """
        ref = self._refs.get(key)
        if ref is None:
            manifest = await self._blobs.manifest(*key)
            content = None
            if manifest.size <= INLINE_BYTES:
                content = bytes(self._blobs.read(*key, 0, manifest.size))
            ref = BlobRef(manifest, key[0], content)
            keep = needed()
            self._refs = {kept: r for kept, r in self._refs.items() if kept in keep}
            self._refs[key] = ref
        return ref
