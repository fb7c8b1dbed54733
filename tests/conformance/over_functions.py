"""An app over the functions of a federation without a server, in one process and in no time.

Functions, state machine and the sites' links are the real ones, as the explorer's schedules drive them; queues, ledger
and bucket lie in memory; a site's agent and worker are replaced by the runtime that a worker has. Apps with code of
their own at the server are not for it.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import hanse as hs
from hanse.clients.execute import Runtime
from hanse.clients.threads import num_threads, set_threads
from hanse.core.arrays import Arrays
from hanse.core.blobs import INLINE_BYTES, manifest_of
from hanse.core.codec import decode, encode
from hanse.core.ids import upload_scope
from hanse.core.records import BlobRef, Reply, Task
from hanse.core.spec import RunSpec
from hanse.rounds.record import RoundRecord
from hanse.rounds.result import Result
from tests.faults.explorer.enrolled import JOB
from tests.faults.explorer.function_cases import Case
from tests.faults.explorer.function_sites import Site
from tests.faults.explorer.functions import World

DISTURBED = Case(seed=1, kill=0.05, repeat=0.3, late=0.3, crash=0.1, watched=True, batch=2)
"""Functions are killed, messages come late, twice and in another order, sites crash before they train."""


def over_functions(app: hs.App, data: Mapping[str, Mapping[str, Any]]) -> Result:
    """Run an app at sites called site-0, site-1, …; what the explorer checks of every schedule is checked here too."""
    world = _AppWorld(app, data, DISTURBED)
    assert list(data) == world.sites
    before = num_threads()
    set_threads(1)
    try:
        world.play()
    finally:
        set_threads(before)
    assert world.result is not None
    return world.result


class _AppWorld(World):
    def __init__(self, app: hs.App, data: Mapping[str, Mapping[str, Any]], case: Case) -> None:
        self.app, self.data = app, data
        self.result: Result | None = None
        super().__init__(replace(case, sites=len(data)))

    def make_job(self) -> tuple[RunSpec, Arrays | None]:
        spec = self.app.spec()  # every reply is waited for: who comes late here does not in a simulation
        return replace(spec, quorum=None if spec.quorum is None else len(self.data)), self.app.initial_arrays

    def make_site(self, name: str) -> Site:
        return _AppSite(self, name)

    async def _outcome(self) -> Any:
        told = await super()._outcome()
        about = await self.place.documents.about(JOB)
        rounds = [RoundRecord.from_json(record) for record in await self.place.documents.rounds(JOB)]
        arrays = decode(told.model) if told.model else Arrays()
        self.result = Result(told.status, arrays, tuple(rounds), JOB, told.error, fingerprints=about["fingerprints"])
        return told


class _AppSite(Site):
    """A site with an app. Its state survives crashes as the journal does, and is written together with it."""

    def __init__(self, world: _AppWorld, name: str) -> None:
        super().__init__(world, name)
        sets = world.data[name]
        self._runtime = Runtime(world.app, site_name=name, load=sets.__getitem__, log=sys.stderr.write)
        self._state: bytes | None = None

    async def _answer(self, task: Task) -> tuple[Reply, bytes]:
        model = None if task.model is None else await self._model(task)
        outcome = self._runtime.execute(task, model, self._state)
        reply, arrays, self._state = outcome.reply, outcome.arrays, outcome.state
        if arrays is None:
            return reply, b""
        content = encode(arrays)
        inline = content if len(content) <= INLINE_BYTES else None
        ref = BlobRef(manifest_of(content), upload_scope(task.id, self.name), inline)
        if inline is None:
            await self._upload(ref, content, "")
        return replace(reply, update=ref), content
