"""`hs.submit`, `hs.run`, `hs.job`: the app becomes a signed bundle, the job is followed, the result fetched."""

import asyncio
import json
import queue
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanse.backends.memory import MemoryBlobs
from hanse.channels.app import RolePlay
from hanse.channels.spec import RoleSpec
from hanse.clients.app import App
from hanse.clients.loader import AnyApp, source_of, stop_if_loading
from hanse.clients.peers import Peers
from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest, manifest_of, rechunk
from hanse.core.codec import decode, encode_parts
from hanse.core.errors import ConfigError, ConflictError, JobFailed, NotFoundError, PolicyError, UnavailableError
from hanse.core.ids import bundle_scope, check_job_owner, check_name, model_scope, new_job_id
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import unpack_blob
from hanse.person.federation import AnySession, Federation
from hanse.person.loop import begin, wait_for
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.rounds.result import Result
from hanse.tracking import Tracker, Tracking
from hanse.tracking.events import follower
from hanse.tracking.tracker import BUFFER
from hanse.trust.bundle import Bundle, build_bundle
from hanse.trust.bundle_signature import sign_bundle

COMPONENT = "main"
RETRY_S = 0.5
ABOUT = ("name", "person", "app", "strategy", "rounds")
"""What the server says of a job that its tracked run begins with."""
Event = dict[str, Any]
Roles = Mapping[str, str | Sequence[str]]
"""The site or sites of each role."""


class Job:
    """A job at a federation, from anywhere: attach again with `hs.job(id)`."""

    def __init__(self, id: str, federation: Federation, tracker: Tracker | None = None) -> None:
        self.id = id
        self._federation = federation
        self._trackers = [each for each in (tracker, federation.tracking) if each is not None]

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def follow(self) -> Iterator[Event]:
        """Events as they happen, until the end; a lost connection is opened again."""
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

        async def collect() -> None:
            try:
                async for event in self.follow_async():
                    events.put(event)
                events.put(None)
            except BaseException as error:
                events.put(error)
                raise

        begin(collect())
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    async def follow_async(self) -> AsyncIterator[Event]:
        """As `follow`, on a running event loop. It is tracked where the app or `federation.yaml` says so."""
        if not self._trackers:
            async for event in self._events():
                yield event
            return
        about = await _ask(self._federation, "job", job=self.id)
        named: dict[str, Any] = {
            name: about[name] for name in ("name", "person", "app", "strategy", "rounds") if name in about
        }
        buffer = None if self._federation.directory is None else self._federation.directory / BUFFER
        tracking = [Tracking(tracker, buffer, say=_say) for tracker in self._trackers]
        followers = [follower(each, named) for each in tracking]
        try:
            async for event in self._events():
                for follow in followers:
                    follow(event)
                yield event
        finally:
            for each in tracking:
                await asyncio.to_thread(each.close)

    async def _events(self) -> AsyncIterator[Event]:
        seen_round = 0
        while True:
            try:
                async with self._federation.connect() as session:
                    async for event in session.watch(self.id):
                        if event["what"] == "round":
                            if event["record"]["number"] <= seen_round:
                                continue
                            seen_round = event["record"]["number"]
                        if event["what"] == "stopped":
                            break
                        yield event
                        if event["what"] == "finished":
                            return
            except UnavailableError as error:
                yield {"what": "waiting", "job": self.id, "reason": str(error)}
            await asyncio.sleep(RETRY_S)  # back-off between connections, not on any path that works

    def result(self, *, on_event: Callable[[Event], None] | None = None) -> Result:
        """Wait for the end; the result.

        Raises:
            JobFailed: the job failed; its `result` holds the rounds that there were.
        """
        for event in self.follow():
            if on_event is not None:
                on_event(event)
        result = self.snapshot()
        if result.status == "failed":
            raise JobFailed(result.error, result)
        return result

    def snapshot(self) -> Result:
        """The result so far, without waiting."""
        return wait_for(self._fetch())

    def status(self) -> dict[str, Any]:
        """What the server says of the job now."""
        return wait_for(_ask(self._federation, "job", job=self.id))

    def cancel(self) -> None:
        """End it."""
        wait_for(_ask(self._federation, "cancel", job=self.id))

    async def _fetch(self) -> Result:
        async with self._federation.connect() as session:
            answer = await session.ask_raw("result", job=self.id)
            arrays = Arrays()
            if answer.content:
                ref = unpack_blob(pb.Blob.FromString(answer.content))
                if ref.content is not None:
                    arrays = decode(ref.content)
                else:
                    store = MemoryBlobs()
                    await session.connection.download(store, ref.scope, ref.manifest)
                    arrays = decode(store.read(ref.scope, ref.id, 0, ref.manifest.size))
            return Result.from_json(json.loads(answer.body), arrays)


def submit(
    app: AnyApp,
    federation: str | Path | Federation = "federation.yaml",
    *,
    name: str = "",
    sites: Sequence[str] | None = None,
    roles: Roles | None = None,
    id: str = "",
) -> Job:
    """Send an app to a federation.

    Args:
        app: an app in a module of its own (a file, not a notebook).
        federation: `federation.yaml`, or one that was loaded.
        name: shown in listings; by default the module's name.
        sites: only these sites are asked; None for all.
        roles: for an app of roles, the site or sites of each: `{"guest": "bank", "host": ["shop"]}`.
        id: the job's, made before by `new_job_id` for this person and noted, so that a program that was killed
            meanwhile submits no second job.

    Raises:
        ConfigError: the app or a file is wrong. ConflictError: the id was submitted before. TrustError,
        UnavailableError, HanseError: what the server said.
    """
    stop_if_loading()
    target = federation if isinstance(federation, Federation) else Federation.load(federation)
    job = wait_for(_submit(app, target, name, sites, roles, id))
    return Job(job, target, app.tracking if isinstance(app, App) else None)


def run(
    app: AnyApp,
    federation: str | Path | Federation = "federation.yaml",
    *,
    name: str = "",
    sites: Sequence[str] | None = None,
    roles: Roles | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Send an app to a federation and wait for the result: `submit(…).result()`."""
    return submit(app, federation, name=name, sites=sites, roles=roles).result(on_event=on_event)


def job(id: str, federation: str | Path | Federation = "federation.yaml") -> Job:
    """Attach to a job again."""
    target = federation if isinstance(federation, Federation) else Federation.load(federation)
    return Job(id, target)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


async def _submit(
    app: AnyApp, federation: Federation, name: str, sites: Sequence[str] | None, roles: Roles | None, id: str
) -> str:
    played = _played(app, sites, roles)
    module = source_of(app)
    object_name = app.name_in_module
    bundle = build_bundle(module, app.include, object_name=object_name)
    spec = run_spec_of(played) if played is not None else _led(app).spec()
    member = federation.membership
    job_id = id or new_job_id(member.identity.name)
    check_job_owner(check_name(job_id, "job"), member.identity.name)
    store = MemoryBlobs()
    bundle_manifest = await _keep(store, bundle_scope(job_id), bundle.content)
    initial = None
    if app.initial_arrays is not None:
        content = b"".join(encode_parts(app.initial_arrays))
        initial = await _keep(store, model_scope(job_id, COMPONENT, 0), content)
    person = member.identity.name
    request = JobRequest(
        job=job_id,
        name=name or module.stem,
        federation=federation.name,
        person=person,
        submitted_at_ms=time.time_ns() // 1_000_000,
        app=bundle.id,
        bundle=bundle_manifest,
        bundle_signature=sign_bundle(
            member.keys.signing, bundle_id=bundle.id, federation=federation.name, person=person
        ).decode(),
        entry=entry_of(bundle),
        object=object_name,
        spec=spec,
        component=COMPONENT,
        initial=initial,
        sites=played.sites if played is not None else None if sites is None else tuple(sites),
        roles=played,
    )
    async with federation.connect() as session:
        try:
            await _send(session, store, bundle_scope(job_id), bundle_manifest)
            if initial is not None:
                await _send(session, store, model_scope(job_id, COMPONENT, 0), initial)
            await session.ask("submit", sig=request.sign(member.keys.signing), request=request.to_json())
        except PolicyError:  # a server takes nothing more for a job that it knows
            if id and await _is_there(session, id):
                raise ConflictError(f"job {id} was submitted before") from None
            raise
    return job_id


async def _is_there(session: AnySession, job: str) -> bool:
    try:
        await session.ask("job", job=job)
    except NotFoundError:
        return False
    return True


def _played(app: AnyApp, sites: Sequence[str] | None, roles: Roles | None) -> RoleSpec | None:
    """Who plays what, of an app of roles; None for one that a server leads.

    Raises:
        ConfigError: the arguments are those of the other kind.
    """
    if not isinstance(app, RolePlay):
        if roles is not None:
            raise ConfigError("roles: expected none for an hs.App, which asks all sites the same; leave them out")
        return None
    if isinstance(app, Peers) and roles is None and sites is not None:
        return app.spec({"peer": sites})
    if sites is not None:
        raise ConfigError("sites: expected roles={...} for an hs.RoleApp, which names its sites there")
    return app.spec(roles)


def _led(app: AnyApp) -> App:
    if not isinstance(app, App):
        raise ConfigError(f"app: expected an hs.App, found {type(app).__name__}")
    return app


def entry_of(bundle: Bundle) -> str:
    """The module's file in the bundle."""
    path = bundle.manifest.module.replace(".", "/") + ".py"
    names = {file.path for file in bundle.manifest.files}
    if path in names:
        return path
    package = bundle.manifest.module.replace(".", "/") + "/__init__.py"
    if package in names:
        return package
    raise ConfigError(f"bundle: expected the module {bundle.manifest.module} among its files")


async def _keep(store: MemoryBlobs, scope: str, content: bytes) -> Manifest:
    manifest = manifest_of(content)
    await store.put(scope, manifest, rechunk([content]))
    return manifest


async def _send(session: AnySession, store: MemoryBlobs, scope: str, manifest: Manifest) -> None:
    await session.connection.upload(store, scope, manifest, place=scope)


async def _ask(federation: Federation, op: str, **body: Any) -> dict[str, Any]:
    async with federation.connect() as session:
        return await session.ask(op, **body)
