"""A person's session with a federation that has no server: requests through the server's queue, answers in the bucket.

The person's role may send to the queue and read documents; what it asks for is signed by its own key as everywhere, and
checked by the functions. An app and an initial model go with the request, or, where they are large, by links that are
asked for, as a site's updates do: nobody has a right to put anything into the bucket. Nobody pushes anything to a
person: who follows a job looks, at first often, then every two seconds.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from hanse.backends.aws import AwsConfig, AwsStore
from hanse.backends.aws.access import session_of
from hanse.backends.aws.https import AT_ONCE, Fetch, Https
from hanse.core.blobs import INLINE_BYTES, Manifest
from hanse.core.codec import canonical_json
from hanse.core.errors import (
    CodecError,
    ConfigError,
    ConflictError,
    HanseError,
    NotFoundError,
    PolicyError,
    RefusedError,
    TooLargeError,
    UnavailableError,
)
from hanse.core.ids import SERVER, bundle_scope
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import BlobRef, Envelope, pack_blob
from hanse.core.seams import BlobStore
from hanse.person.federation import Federation
from hanse.pipeline.documents import Documents
from hanse.pipeline.sessions import played
from hanse.rounds.record import RoundRecord
from hanse.rounds.result import Result
from hanse.trust.envelopes import sign_envelope

FIRST_LOOK_S, LONGEST_LOOK_S = 0.1, 2.0
TAKEN_S = 120.0
"""A request of which nothing is known after so long has met no function."""
ENCLOSED_BYTES = 96 * 1024
"""An app and an initial model up to so much together travel in the request: a queue takes 256 KiB in base 64."""
OVER = ("finished", "failed", "cancelled")
_ERRORS: dict[str, type[HanseError]] = {kind.__name__: kind for kind in (PolicyError, TooLargeError, ConfigError)}


class AwsSession:
    """Questions to a federation without a server; the same shape as `Session`."""

    def __init__(self, federation: Federation, store: AwsStore | None = None) -> None:
        self.federation = federation
        access = federation.aws
        if access is None:
            raise ConfigError("federation: expected a section `aws`")
        config = AwsConfig(federation.name, access.bucket, "", access.region, access.endpoint or None)
        self._store = store or AwsStore.open(
            config, session_of(access.region, access.profile, access.role, access.external_id, access.endpoint)
        )
        member = federation.membership
        reader = (member.identity.name, member.keys.sealing)
        self._documents = Documents(self._store.objects, federation.name, reader=reader)
        self.connection = BucketCarrier(self._store.blobs, Https(endpoint=access.endpoint), self._upload_links)

    async def __aenter__(self) -> Self:
        self.federation.membership.identity.check_time()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._store.close()

    async def ask(self, op: str, *, sig: bytes = b"", **body: Any) -> dict[str, Any]:
        """One question.

        Raises:
            ConfigError: nobody can answer it here. NotFoundError: no such job. RefusedError: the request was refused.
        """
        match op:
            case "submit":
                enclosed = self.connection.enclosed_for(body["request"]["job"])
                request = {"v": 1, "request": body["request"], "signature": sig.hex(), "enclosed": enclosed}
                await self._send("submit", request)
                about = await self._taken(body["request"]["job"])
                if about.get("refused"):
                    raise RefusedError(about["error"])
                return {"job": about["job"]}
            case "job":
                return await self._documents.about(body["job"])
            case "jobs":
                jobs = await self._documents.jobs()
                return {"jobs": [found for job in reversed(jobs) if (found := await self._readable(job))]}
            case "cancel" | "resume":
                about = await self._documents.about(body["job"])
                if about["status"] in OVER:
                    raise NotFoundError(f"job {body['job']} is not at work")
                more = {"at_ms": _now()} if op == "resume" else {}
                await self._send(op, {"v": 1, "job": body["job"], **more})
                return about
            case "remove":
                about = await self._documents.about(body["job"])
                if about["status"] not in OVER:
                    raise ConflictError(f"job {body['job']} is not over; end it first: hanse job cancel {body['job']}")
                await self._send("remove", {"v": 1, "job": body["job"]})
                await self._gone(body["job"])
                return {"job": body["job"]}
            case "result":
                return (await self._result(body["job"], int(body.get("after", 0))))[0]
            case _:
                raise ConfigError(f"{op}: a federation without a server is asked this with `hanse deploy aws`")

    async def ask_raw(self, op: str, *, sig: bytes = b"", **body: Any) -> pb.Answer:
        """One question; the whole answer: of `result`, where the model is."""
        if op != "result":
            return pb.Answer(body=canonical_json(await self.ask(op, sig=sig, **body)))
        value, model = await self._result(body["job"], int(body.get("after", 0)))
        content = b"" if model is None else pack_blob(model).SerializeToString()
        return pb.Answer(body=canonical_json(value), content=content)

    async def watch(self, job: str) -> AsyncIterator[dict[str, Any]]:
        """A job's rounds and its end."""
        seen, wait_s, told = 0, FIRST_LOOK_S, ""
        while True:
            about = await self._taken(job)
            records = await self._documents.rounds(job, seen)
            for record in records:
                seen = record["number"]
                yield {"what": "round", "job": job, "record": record}
            if about["status"] in OVER:
                yield {"what": "finished", "job": job, "status": about["status"], "error": about["error"]}
                return
            said = f"{about.get('round')} {about.get('phase')} {about['sites']}"
            wait_s = FIRST_LOOK_S if records or said != told else min(2 * wait_s, LONGEST_LOOK_S)
            told = said
            await asyncio.sleep(wait_s)

    async def _taken(self, job: str) -> dict[str, Any]:
        """What is known of a job, as soon as anything is."""
        wait_s, end = FIRST_LOOK_S, time.monotonic() + TAKEN_S
        while True:
            try:
                return await self._documents.about(job)
            except NotFoundError:
                if time.monotonic() > end:
                    raise UnavailableError(
                        f"job {job}: no function has taken it; look at the dead letters and logs of `collect`"
                    ) from None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_LOOK_S)

    async def _readable(self, job: str) -> dict[str, Any] | None:
        try:
            return await self._documents.about(job)
        except (PolicyError, NotFoundError):
            return None  # another person's, or removed meanwhile

    async def _gone(self, job: str) -> None:
        """Return when nothing is known of a job any more."""
        wait_s, end = FIRST_LOOK_S, time.monotonic() + TAKEN_S
        while time.monotonic() < end:
            try:
                await self._documents.about(job)
            except NotFoundError:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_LOOK_S)
        raise UnavailableError(
            f"job {job}: not removed; only who submitted it and admins may, and the log of `collect` says why"
        )

    async def _result(self, job: str, after: int) -> tuple[dict[str, Any], BlobRef | None]:
        about = await self._documents.about(job)
        records = [RoundRecord.from_json(record) for record in await self._documents.rounds(job, after)]
        sites = {site for record in records for site in (*record.folded, *record.late, *record.failed)}
        sites |= set(about.get("roles", {}).values())
        result = Result(
            about["status"],
            rounds=tuple(records),
            job=job,
            error=about["error"],
            sites=tuple(sorted(sites)),
            seconds=(about.get("told_at_ms", 0) - about.get("taken_at_ms", 0)) / 1000,
            fingerprints=about.get("fingerprints", {}),
            about={"app": about["name"], "person": about["person"], "federation": self.federation.name, **_what(about)},
        )
        if not about.get("model"):
            return result.to_json(), None
        scope, id = about["model"]
        if await self._documents.is_sealed(job):
            return result.to_json(), await self._linked(job)
        manifest = await self._store.blobs.manifest(scope, id)
        inline = None
        if manifest.size <= INLINE_BYTES:
            inline = bytes(self._store.blobs.read(scope, id, 0, manifest.size))
        return result.to_json(), BlobRef(manifest, scope, inline)

    async def _linked(self, job: str) -> BlobRef:
        """Where the model is, once a function has answered with links to it."""
        answer = await self._answered("fetch", job, "its model")
        manifest = Manifest(int(answer["size"]), bytes.fromhex(answer["hashes"]))
        if "content" in answer:
            return BlobRef(manifest, answer["scope"], base64.b64decode(answer["content"]))
        self.connection.links[answer["scope"], manifest.id] = tuple(answer["urls"])
        return BlobRef(manifest, answer["scope"])

    async def _upload_links(self, job: str, scope: str, manifest: Manifest) -> dict[str, Any]:
        """Links to put what the federation lacks of a blob."""
        about = {"scope": scope, "size": manifest.size, "hashes": manifest.hashes.hex()}
        answer = await self._answered("upload", job, "links for its upload", **about)
        if "error" in answer:
            kind = _ERRORS.get(str(answer.get("kind")), RefusedError)
            raise kind(str(answer["error"])[:500])
        return answer

    async def _answered(self, kind: str, job: str, what: str, **more: Any) -> dict[str, Any]:
        """What a function says to a message, as a document for this person."""
        id = secrets.token_hex(16)
        await self._send(kind, {"v": 1, "job": job, "id": id, **more})
        wait_s, end = FIRST_LOOK_S, time.monotonic() + TAKEN_S
        while True:
            try:
                return await self._documents.answer(job, id)
            except NotFoundError:
                if time.monotonic() > end:
                    raise UnavailableError(
                        f"job {job}: no function has answered with {what}; the log of `collect` says why"
                    ) from None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_LOOK_S)

    async def _send(self, kind: str, body: dict[str, Any]) -> None:
        member = self.federation.membership
        envelope = Envelope(
            member.identity.name,
            SERVER,
            f"{kind}/{secrets.token_hex(8)}",
            kind,
            canonical_json(body),
            self.federation.name,
        )
        await self._store.inbox.send(SERVER, sign_envelope(member.keys.signing, envelope))


def _what(about: dict[str, Any]) -> dict[str, str]:
    """What a job did: a strategy, or a protocol among roles."""
    if "roles" not in about:
        return {"strategy": about["strategy"]}
    return {"protocol": about["protocol"], "roles": played(about["roles"])}


class BucketCarrier:
    """Blobs out of the bucket, by links or, where everyone may read models, straight; and into it, by links.

    Args:
        blobs: the bucket, as far as this person may read it.
        links_for: asks for links to put a blob: job, scope, manifest.

    Attributes:
        links: URLs of the chunks of blobs for which links were given, by scope and id.
    """

    def __init__(
        self, blobs: BlobStore, fetch: Fetch, links_for: Callable[[str, str, Manifest], Awaitable[dict[str, Any]]]
    ) -> None:
        self._blobs = blobs
        self._fetch = fetch
        self._links_for = links_for
        self._enclosed: dict[str, bytes] = {}
        self.links: dict[tuple[str, str], tuple[str, ...]] = {}

    async def download(self, store: BlobStore, scope: str, manifest: Manifest, *, into: str | None = None) -> None:
        """Bring a blob into `store`."""
        urls = self.links.get((scope, manifest.id))
        if urls is not None and len(urls) != manifest.num_chunks:
            raise CodecError("model: expected a link for each chunk")

        async def chunks(missing: list[int]) -> AsyncIterator[tuple[int, bytes]]:
            for index in missing:
                start, stop = manifest.span(index)
                if urls is None:
                    yield index, bytes(await asyncio.to_thread(self._blobs.read, scope, manifest.id, start, stop))
                else:
                    yield index, await self._fetch.get(urls[index], (), stop - start)

        if missing := await store.missing(into or scope, manifest):
            await store.put(into or scope, manifest, chunks(missing))

    async def upload(self, store: BlobStore, scope: str, manifest: Manifest, *, place: str, task: str = "") -> None:
        """Bring a blob out of `store`: keep it for the request if it is small, put it by links otherwise."""

        def content_of(index: int) -> bytes:
            return bytes(store.read(scope, manifest.id, *manifest.span(index)))

        if sum(map(len, self._enclosed.values())) + manifest.size <= ENCLOSED_BYTES:
            self._enclosed[place] = bytes(store.read(scope, manifest.id, 0, manifest.size))
            return
        answer = await self._links_for(place.partition("/")[0], place, manifest)
        try:
            headers = [(str(name), str(value)) for name, value in answer["headers"]]
            links = [(int(n), str(url)) for n, url in zip(answer["chunks"], answer["urls"], strict=True)]
        except (KeyError, TypeError, ValueError):
            raise CodecError("upload: expected chunks, urls and headers") from None
        if not {n for n, _ in links} <= set(range(manifest.num_chunks)):
            raise CodecError("upload: expected links for chunks of this blob")
        for first in range(0, len(links), AT_ONCE):
            part = links[first : first + AT_ONCE]
            await asyncio.gather(*(self._fetch.put(url, headers, content_of(n)) for n, url in part))

    def enclosed_for(self, job: str) -> dict[str, str]:
        """What goes with a job's request, by name, in base 64."""
        return {
            "bundle" if place == bundle_scope(job) else "initial": base64.b64encode(content).decode()
            for place, content in self._enclosed.items()
            if place.partition("/")[0] == job
        }


def _now() -> int:
    return time.time_ns() // 1_000_000
