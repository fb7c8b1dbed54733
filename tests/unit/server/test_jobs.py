"""How jobs end and are taken up at a server: over memory, with runs that the test drives."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hanse.backends.memory import MemoryInbox, MemoryStore
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.errors import StorageError
from hanse.core.ids import bundle_scope, new_job_id
from hanse.core.records import Envelope
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.rounds.seams import Seams
from hanse.server.job import Job
from hanse.server.jobs import Jobs
from hanse.trust.bundle import make_bundle

BUNDLE = make_bundle({"app.py": b"import hanse as hs\n\napp = hs.App(rounds=1)\n"}, module="app", object_name="app")
SITES = ("a", "b", "c")


class Full(MemoryInbox):
    """There is no place for one site's messages of one kind."""

    full = ("", "")

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        if (to, envelope.kind) == self.full:
            raise StorageError("disk full")
        if envelope.kind == "end":
            self.ends.append(to)
        await super().send(to, envelope, durable=durable)


class Drive:
    """A run, and its host, that do nothing; how it ends is the test's."""

    def __init__(self) -> None:
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.observers: list[Any] = []
        self.state = SimpleNamespace(error="", over=False, round=7)
        self.fingerprints: dict[str, str] = {}
        self.closed: list[str] = []
        self.fails = False
        self.host = SimpleNamespace(close=self.close_host)

    async def sites_changed(self, *about: Any) -> None: ...

    async def close(self) -> None:
        self.closed.append("run")
        if self.fails:
            raise StorageError("disk full")

    async def close_host(self) -> None:
        self.closed.append("host")


class Runs:
    """Makes them."""

    leader = None

    def __init__(self) -> None:
        self.made: list[tuple[str, Drive]] = []

    async def make(self, job: Job) -> Any:
        drive = Drive()
        self.made.append((job.request.job, drive))
        job.run, job.host = drive, drive.host  # type: ignore[assignment]
        return drive

    async def go(self, job: Job, there: frozenset[str]) -> None: ...


class Place:
    """A server's jobs."""

    def __init__(self) -> None:
        self.store, self.inbox, self.runs = MemoryStore.open(), Full(), Runs()
        self.jobs = Jobs(
            Seams(self.store.ledger, self.store.blobs, self.inbox, self.store.links),
            self.runs,  # type: ignore[arg-type]
            Path(),
            federation="city",
            models_to_sites=True,
            there=lambda: frozenset(SITES),
            expect=lambda sites: None,
            enrolled=lambda: SITES,
            record_of=lambda person: b"record",
            on_event=lambda event: None,
        )

    async def begin(self) -> tuple[Job, Drive]:
        request = JobRequest(
            new_job_id("anna"),
            "app",
            "city",
            "anna",
            1,
            BUNDLE.id,
            manifest_of(BUNDLE.content),
            "-",
            "app.py",
            "app",
            RunSpec(initial="none"),
        )
        await self.store.blobs.put(bundle_scope(request.job), request.bundle, rechunk([BUNDLE.content]))
        await self.jobs.submit(request, b"signature")
        return self.jobs.active[request.job], self.runs.made[-1][1]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_site_that_cannot_be_told_of_the_end_keeps_it_from_no_other(fails: bool) -> None:
    place = Place()
    job, drive = await place.begin()
    place.inbox.full, drive.fails = ("a", "end"), fails
    drive.finished.set_result("finished")
    await job.left.wait()
    assert place.inbox.ends == ["b", "c"]
    assert drive.closed == ["run", "host"]
    about = await place.jobs.reading.describe(job.request.job)
    assert (about["status"], about["round"]) == ("finished", 7)
    await place.jobs.close()


async def test_one_job_is_taken_up_and_no_other() -> None:
    place = Place()
    stopped = [await place.begin() for _ in range(2)]
    for job, drive in stopped:
        drive.finished.set_exception(StorageError("disk full"))
        await job.left.wait()
    (first, _), (second, _) = stopped
    await place.jobs.take_up(second.request.job)
    await place.jobs.take_up("another")
    assert list(place.jobs.active) == [second.request.job]
    assert [job for job, _ in place.runs.made] == [first.request.job, second.request.job, second.request.job]
    assert (await place.jobs.reading.describe(first.request.job))["status"] == "stopped"
    await place.jobs.take_up()
    assert set(place.jobs.active) == {first.request.job, second.request.job}
    await asyncio.sleep(0)  # both are awaited
    await place.jobs.close()


async def test_a_job_without_a_driver_is_ended_for_every_site_that_can_be_told() -> None:
    place = Place()
    job, drive = await place.begin()
    drive.finished.set_exception(StorageError("disk full"))
    await job.left.wait()
    place.inbox.full = ("a", "end")
    await place.jobs.cancel(job.request.job, "anna")
    assert place.inbox.ends == ["b", "c"]
    assert (await place.jobs.reading.describe(job.request.job))["status"] == "cancelled"
    await place.jobs.close()
