"""An app over the functions, queues and links of a federation without a server, in this process and without waiting.

The functions, the round machine's visits, signatures and the sites' links are those of a real one; stores are in
memory, time is the loop's, and each site executes its tasks with the runtime that a worker has.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hanse.clients.app import App
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
from tests.faults.explorer.functions import JOB, Case, Site, World


def over_functions(app: App, data: Mapping[str, Mapping[str, Any]]) -> Result:
    """Run an app; sites are called `site-0` and so on."""
    world, before = AppWorld(app, data), num_threads()
    set_threads(app.spec().threads)
    try:
        outcome = world.play()
    finally:
        set_threads(before)
    about, rounds = world.loop.run(world.told(), until_s=world.loop.time() + 10)
    return Result(
        outcome.status,
        decode(outcome.model) if outcome.model else Arrays(),
        rounds=tuple(RoundRecord.from_json(record) for record in rounds),
        error=outcome.error,
        fingerprints=about["fingerprints"],
    )


class AppWorld(World):
    """A federation that runs one app, undisturbed."""

    def __init__(self, app: App, data: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(Case(seed=0, sites=len(data)))
        assert self.sites == list(data)
        self.app, self.data = app, data

    def site(self, name: str) -> Site:
        return AppSite(self, name)

    def initial(self) -> Arrays | None:
        return self.app.initial_arrays

    def spec(self) -> RunSpec:
        return self.app.spec()

    async def told(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What people read."""
        return await self.place.documents.about(JOB), await self.place.documents.rounds(JOB)


class AppSite(Site):
    """A site that executes its tasks."""

    def __init__(self, world: AppWorld, name: str) -> None:
        super().__init__(world, name)
        data = world.data[name]
        self._runtime = Runtime(world.app, site_name=name, load=data.__getitem__, log=sys.stderr.write)
        self._state: bytes | None = None

    async def _answer(self, task: Task) -> tuple[Reply, bytes]:
        model = None if task.model is None else await self._model(task)
        outcome = self._runtime.execute(task, model, self._state)
        self._state = outcome.state
        if outcome.arrays is None:
            return outcome.reply, b""
        content = encode(outcome.arrays)
        inline = content if len(content) <= INLINE_BYTES else None
        ref = BlobRef(manifest_of(content), upload_scope(task.id, self.name), inline)
        if inline is None:
            await self._upload(ref, content, "")
        return replace(outcome.reply, update=ref), content
