"""`site.state` of one job at this site: small ones in the journal, large ones in a file that the journal names.

A large state (SCAFFOLD's control variate, what top-k left out, a model of the site's own) is as long as the model. Two
files for each component take turns: a worker reads one and writes the other, which counts when the journal's commit has
named it, together with the answer. Until then, and after a crash, the one before it counts.
"""

import asyncio
import os
from pathlib import Path

from hanse.core.blobs import CHUNK_BYTES
from hanse.core.errors import IntegrityError, StorageError
from hanse.site.journal import Journal, KeptState
from hanse.trust.private_files import sync_directory
from hanse.workers.assignment import State, StateFile


class States:
    """The states of one job's components.

    Args:
        directory: the job's own.
        is_synced: whether a state must survive the loss of power.
    """

    def __init__(self, journal: Journal, job: str, directory: Path, *, is_synced: bool) -> None:
        self._journal = journal
        self._job = job
        self._directory = directory
        self._is_synced = is_synced
        self._known: dict[str, State] = {}

    async def load(self, component: str) -> State:
        """The state that the next task starts from.

        Raises:
            StorageError: the journal's file is not there, or not what was written.
        """
        if component not in self._known:
            kept = self._journal.state(self._job, component)
            if isinstance(kept, KeptState):
                kept_file = StateFile(self._directory / kept.file, kept.manifest)
                await asyncio.to_thread(_verify, kept_file)
                self._known[component] = kept_file
            else:
                self._known[component] = kept
        return self._known[component]

    def before(self, component: str) -> State:
        """As `load`, of what was loaded; None otherwise."""
        return self._known.get(component)

    def file_after(self, component: str) -> Path:
        """Where a task may write the state that follows."""
        known = self._known.get(component)
        names = [f"state-{component}-{number}" for number in (0, 1)]
        taken = known.path.name if isinstance(known, StateFile) else ""
        return self._directory / names[taken == names[0]]

    def is_change(self, component: str, state: State) -> bool:
        """Whether it is another state than the one before."""
        return state is not None and _content(state) != _content(self._known.get(component))

    async def sync(self, state: State) -> bytes | KeptState | None:
        """What the journal keeps of it, once its file survives what it must survive.

        Raises:
            StorageError: the disk refuses.
        """
        if not isinstance(state, StateFile):
            return state
        if self._is_synced:
            await asyncio.to_thread(_sync, state.path)
        return KeptState(state.path.name, state.manifest)

    def committed(self, component: str, state: State) -> None:
        """The journal has it."""
        self._known[component] = state


def _content(state: State) -> object:
    return state.manifest if isinstance(state, StateFile) else state


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write the site's state {path.name}: {os.strerror(error.errno or 0)}") from None


def _verify(state: StateFile) -> None:
    try:
        with state.path.open("rb") as file:
            for index in range(state.manifest.num_chunks):
                state.manifest.verify(index, file.read(CHUNK_BYTES))
            if file.read(1):
                raise IntegrityError("longer than it was")
    except (OSError, IntegrityError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise StorageError(f"site.state: {state.path.name} is not what was written there: {reason}") from None
