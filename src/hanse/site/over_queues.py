"""The link to a federation without a server: messages through queues, blobs through links that are asked for.

The site owns nothing but its queue. A message is hidden from itself while it is worked on, and deleted when what it
asked for is done: a task when its answer lies in the server's queue. Where work outlasts the twelve hours for which a
queue hides a message, or the site was restarted, the message comes again and finds its task at work or answered.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import structlog

from hanse.backends.objectstore.blobs import read_head
from hanse.channels.packets import CHANNEL, Packet
from hanse.clients.roles import PHASE
from hanse.core.blobs import INLINE_BYTES, Chunk, Manifest, manifest_of
from hanse.core.codec import canonical_json
from hanse.core.errors import (
    CodecError,
    ConfigError,
    HanseError,
    IntegrityError,
    NotFoundError,
    PolicyError,
    StorageError,
    TooLargeError,
    TrustError,
    UnavailableError,
)
from hanse.core.ids import SERVER, TaskId
from hanse.core.records import Envelope, Reply
from hanse.core.seams import BlobStore, Delivery, Inbox
from hanse.site.config import AwsAccess
from hanse.site.links import Accepted, Deliver, OpenLink, Renewed, SiteLink
from hanse.site.queue_streams import QueueStream, Streams
from hanse.trust.certificates import current_ms
from hanse.trust.envelopes import sign_envelope, verify_envelope
from hanse.trust.member_record import verify_record
from hanse.trust.membership import Membership
from hanse.trust.private_files import read_file
from hanse.trust.signing import load_signing_key
from hanse.trust.strict_json import parse_json

SERVER_RECORD = "server-record.json"
"""In the site's directory: what the authority says of the server, whose signature every message bears."""
BEAT_S = 40.0
"""How often a site that takes part in a job says that it is there."""
HIDDEN_S = 120.0
"""For how long a message that is worked on is hidden from then on; renewed with every beat."""
ANSWER_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
AT_ONCE = 4
MAX_LINKS = 64
MAX_ANSWER_BYTES = 192 * 1024
"""The size of an answer to a question for links."""

_ERRORS: dict[str, type[HanseError]] = {
    kind.__name__: kind for kind in (PolicyError, NotFoundError, IntegrityError, TooLargeError, CodecError, ConfigError)
}
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_LINK_HEADERS = frozenset({"if-none-match"})
Key = tuple[str, str]
T = TypeVar("T")
log = structlog.get_logger("hanse.link")


class Fetch(Protocol):
    """Uses links."""

    async def get(self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int) -> bytes:
        """What lies behind a link.

        Raises:
            UnavailableError: not now, or the link has expired.
        """
        ...

    async def put(self, url: str, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        """Put an object; that there is one already is as good.

        Raises:
            UnavailableError: not now, or the link has expired.
        """
        ...


class QueueLink:
    """A site's link through queues; see `OpenLink` for the callbacks.

    Args:
        inbox: this site's queue, and the server's to send to.
        fetch: uses links.
        server_record: the server's, as the authority signed it.
    """

    def __init__(
        self,
        member: Callable[[], Membership],
        *,
        deliver: Deliver,
        accepted: Accepted,
        holding: Callable[[], Sequence[str]],
        facts: Callable[[], dict[str, str]],
        software: str,
        inbox: Inbox,
        fetch: Fetch,
        server_record: bytes,
        beat_s: float = BEAT_S,
    ) -> None:
        self._member = member
        self._deliver = deliver
        self._accepted = accepted
        self._inbox = inbox
        self._server_record = server_record
        self._beat_s = beat_s
        self._key_until_ms = 0
        self._outgoing: asyncio.Queue[Envelope] = asyncio.Queue()
        self._held: dict[Key, list[str]] = {}
        self._jobs: set[str] = set()
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._over: asyncio.Queue[list[str]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self._streams = Streams(self)
        self.connection = LinkCarrier(self._ask, fetch, self._streams)
        self.last_error = ""

    # ---- what the agent calls ----

    def send(self, envelope: Envelope) -> None:
        """Send until the queue has it."""
        self._outgoing.put_nowait(envelope)

    def done(self, kind: str, id: str) -> None:
        """A delivered message needs not come again."""
        self._let_go((kind, id))
        if kind == "release":
            self._let_go(("task", id))
        if kind == "end":
            job = id.partition("/")[2]
            self._jobs.discard(job)
            self._streams.forget(job)
            for key in [key for key in self._held if key[1].startswith(f"{job}/") or key[1] == f"propose/{job}"]:
                self._let_go(key)

    def report(self, task: str, stage: str) -> None:
        """Nobody reads it here."""

    async def run(self) -> None:
        """Work the queues until cancelled.

        Raises:
            TrustError: this site's certificate, or the server's, does not hold any more.
        """
        self._check()
        work = (self._receiving(), self._sending(), self._acknowledging(), self._beating())
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.connected.clear()
            self._streams.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self) -> None:
        """Learn the server's key. Certificates end; so does the server's."""
        membership = self._member()
        membership.identity.check_time()
        if current_ms() < self._key_until_ms:
            return
        record = verify_record(self._server_record, membership.authority_pem)
        self._key_until_ms = record.not_after_ms
        if (record.kind, record.federation) != (SERVER, membership.identity.federation):
            raise TrustError(f"{SERVER_RECORD}: expected the server of {membership.identity.federation}")
        self._server_key = load_signing_key(record.signing_key)

    # ---- four loops ----

    async def _receiving(self) -> None:
        name = self._member().identity.name
        while True:
            for delivery in await self._insist("receive", lambda: self._inbox.receive(name, 10, 20.0)):
                await self._take(delivery)

    async def _sending(self) -> None:
        while True:
            envelope = await self._outgoing.get()
            try:
                await self._insist("send", lambda e=envelope: self._inbox.send(SERVER, e))  # type: ignore[misc]
            except TooLargeError as error:
                if asked := self._asked.get(envelope.id):  # for links to a blob of very many chunks
                    if not asked.done():
                        asked.set_exception(error)
                    continue
                if envelope.kind != "reply":
                    raise
                self._outgoing.put_nowait(self._too_large(envelope, error))
                continue
            self._sent(envelope)

    async def _acknowledging(self) -> None:
        while True:
            receipts = await self._over.get()
            while not self._over.empty():
                receipts += self._over.get_nowait()
            await self._insist("acknowledge", lambda r=receipts: self._inbox.ack(r))  # type: ignore[misc]

    async def _beating(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(self._beat_s)
            self._check()
            held = [receipt for receipts in self._held.values() for receipt in receipts]
            if held:
                await self._insist("extend", lambda r=held: self._inbox.extend(r, HIDDEN_S))  # type: ignore[misc]
            if self._jobs:
                number += 1
                body = {"v": 1, "jobs": sorted(self._jobs), "at_ms": current_ms()}
                self.send(self._signed("beat", f"beat/{number}", body))

    async def _insist(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Again until AWS, the network and this site's credentials let it."""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                found = await call()
            except (UnavailableError, StorageError, PolicyError, NotFoundError) as error:
                if str(error) != self.last_error:
                    log.warning("queues not reached", doing=what, reason=str(error))
                self.last_error = str(error)
                self.connected.clear()
                await asyncio.sleep(wait_s * (0.5 + random.random()))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                self.last_error = ""
                self.connected.set()
                return found

    # ---- messages ----

    async def _take(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        key = (envelope.kind, envelope.id)
        try:
            verify_envelope(self._server_key, envelope)
            if envelope.recipient != self._member().identity.name:
                raise TrustError("the message is for another site")
        except TrustError as error:
            log.error("message refused", kind=envelope.kind[:64], id=envelope.id[:200], reason=str(error))
            self._over.put_nowait([delivery.receipt])
            return
        if envelope.kind == "links":
            self._over.put_nowait([delivery.receipt])
            self._answered(envelope)
            return
        if envelope.kind == CHANNEL:  # of a session that does not outlive this process
            self._over.put_nowait([delivery.receipt])
            self._packet(envelope)
            return
        if envelope.kind == "release":
            self._released(envelope.id)
        self._held.setdefault(key, []).append(delivery.receipt)
        await self._deliver(envelope, delivery.count)

    def _sent(self, envelope: Envelope) -> None:
        if envelope.kind == "reply":
            self._let_go(("task", envelope.id))
        if envelope.kind == "decision":
            body = parse_json(envelope.body, what="decision")
            (self._jobs.add if body["decision"] == "accept" else self._jobs.discard)(envelope.job)
        if envelope.kind in ("reply", "decision"):
            self._accepted(envelope.id, "received", "")

    def _let_go(self, key: Key) -> None:
        if receipts := self._held.pop(key, []):
            self._over.put_nowait(receipts)

    def _too_large(self, envelope: Envelope, error: TooLargeError) -> Envelope:
        """What is said instead of an answer that no queue takes; otherwise the server would wait for it."""
        log.error("answer not sent", task=envelope.id, reason=str(error))
        reply = Reply.unpack(envelope.body)
        failed = Reply.failed(reply.task, reply.site, "lost", f"the answer cannot be sent: {error}").pack()
        return self._signed("reply", envelope.id, failed, envelope.job, envelope.component)

    def _signed(self, kind: str, id: str, body: Any, job: str = "", component: str = "") -> Envelope:
        membership = self._member()
        identity = membership.identity
        content = body if isinstance(body, bytes) else canonical_json(body)
        envelope = Envelope(identity.name, SERVER, id, kind, content, identity.federation, job, component)
        return sign_envelope(membership.keys.signing, envelope)

    # ---- channels ----

    def _packet(self, envelope: Envelope) -> None:
        try:
            self._streams.take(Packet.unpack(envelope.body))
        except HanseError as error:
            log.error("packet refused", id=envelope.id[:200], reason=str(error))

    def _released(self, task: str) -> None:
        """Nobody waits for a task any more: a session of roles is over."""
        with contextlib.suppress(HanseError):
            id = TaskId.parse(task)
            if id.phase == PHASE:
                self._streams.end(f"{id.job}/{id.component}/{id.round}")

    async def send_packet(self, packet: Packet) -> None:
        """Put a packet into the server's queue, which passes it on."""
        job, component, _ = packet.session.split("/")
        id = f"{packet.session}/{packet.sender}/{packet.recipient}/{secrets.token_hex(4)}"
        envelope = self._signed(CHANNEL, id, packet.pack(), job, component)
        await self._insist("send", lambda: self._inbox.send(SERVER, envelope, durable=False))

    async def put_blob(self, scope: str, content: bytes) -> Manifest:
        """See `Carry.put_blob`."""
        return await self.connection.put_content(scope, content)

    async def get_blob(self, packet: Packet) -> bytes:
        """See `Carry.get_blob`."""
        assert packet.blob is not None
        return await self.connection.get_content(packet.blob, packet.links)

    # ---- links ----

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask for links, and wait for them.

        Raises:
            HanseError: what the server answered. UnavailableError: nothing, in a minute.
        """
        id = f"want/{secrets.token_hex(8)}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[id] = answer
        self.send(self._signed("want", id, {"v": 1, **question}))
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await answer
        except TimeoutError:
            raise UnavailableError("links: no answer; it is asked again") from None
        finally:
            del self._asked[id]
        if "error" in found:
            raise _ERRORS.get(str(found.get("kind")), UnavailableError)(f"links: {str(found['error'])[:500]}")
        return found

    def _answered(self, envelope: Envelope) -> None:
        waiting = self._asked.get(envelope.id)
        if waiting is not None and not waiting.done():
            try:
                waiting.set_result(parse_json(envelope.body, what="links", max_bytes=MAX_ANSWER_BYTES))
            except HanseError as error:
                waiting.set_exception(error)


class LinkCarrier:
    """Blobs through links: a `Carrier` without a connection."""

    def __init__(
        self, ask: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], fetch: Fetch, streams: Streams
    ) -> None:
        self._ask = ask
        self._fetch = fetch
        self._streams = streams

    async def download(self, store: BlobStore, scope: str, manifest: Manifest, *, into: str | None = None) -> None:
        """See `Carrier.download`."""
        target = into or scope
        while missing := await store.missing(target, manifest):
            links = await self._links("get", scope, manifest, missing[:MAX_LINKS])
            await store.put(target, manifest, self._arriving(manifest, links))

    async def upload(self, store: BlobStore, scope: str, manifest: Manifest, *, place: str, task: str = "") -> None:
        """See `Carrier.upload`. It is complete for the server when the answer that names it comes."""

        async def put(index: int, url: str, headers: Sequence[tuple[str, str]]) -> None:
            await self._fetch.put(url, headers, bytes(store.read(scope, manifest.id, *manifest.span(index))))

        for first in range(0, manifest.num_chunks, MAX_LINKS):
            chunks = range(first, min(first + MAX_LINKS, manifest.num_chunks))
            links = await self._links("put", place, manifest, chunks)
            for start in range(0, len(links), AT_ONCE):
                await asyncio.gather(*(put(*link) for link in links[start : start + AT_ONCE]))

    async def renew(self, signing_request: bytes) -> Renewed:
        """Only the operator can.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError("no server renews certificates here; ask the federation's operator for a new one")

    async def relay(self, session: str, role: str, sites: Mapping[str, str]) -> QueueStream:
        """See `Carrier.relay`."""
        return self._streams.open(session, role, sites)

    async def put_content(self, scope: str, content: bytes) -> Manifest:
        """Put a blob that is in memory.

        Raises:
            HanseError: what the server answered. UnavailableError: not now.
        """
        manifest = manifest_of(content)
        for index, url, headers in await self._links("put", scope, manifest, range(manifest.num_chunks)):
            await self._fetch.put(url, headers, content[slice(*manifest.span(index))])
        return manifest

    async def get_content(self, manifest: Manifest, links: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> bytes:
        """A blob of one chunk or a few, from links that came with the word on it.

        Raises:
            IntegrityError: it is another content. UnavailableError: not now, or the links have expired.
        """
        if len(links) != manifest.num_chunks:
            raise CodecError("links: expected one for each chunk")
        parts = []
        for index, (url, headers) in enumerate(links):
            start, stop = manifest.span(index)
            parts.append(await self._fetch.get(url, headers, stop - start))
            manifest.verify(index, parts[-1])
        return b"".join(parts)

    async def _links(
        self, op: str, scope: str, manifest: Manifest, chunks: Sequence[int]
    ) -> list[tuple[int, str, list[tuple[str, str]]]]:
        about = {"scope": scope, "size": manifest.size, "hashes": manifest.hashes.hex()}
        answer = await self._ask({"op": op, **about, "chunks": list(chunks)})
        try:
            headers = [(str(name), str(value)) for name, value in answer["headers"]]
            links = [(int(n), str(url), headers) for n, url in zip(answer["chunks"], answer["urls"], strict=True)]
        except (KeyError, TypeError, ValueError):
            raise CodecError("links: expected chunks, urls and headers") from None
        if not {n for n, _, _ in links} <= set(chunks):
            raise CodecError("links: expected those of the chunks that were asked for")
        return links

    async def _arriving(
        self, manifest: Manifest, links: list[tuple[int, str, list[tuple[str, str]]]]
    ) -> AsyncIterator[tuple[int, Chunk]]:
        async def get(index: int, url: str, headers: Sequence[tuple[str, str]]) -> tuple[int, Chunk]:
            start, stop = manifest.span(index)
            if manifest.size <= INLINE_BYTES:  # it travels in its head
                found = await self._fetch.get(url, headers, INLINE_BYTES + 4096)
                return index, read_head(manifest.id, found)[1]
            return index, await self._fetch.get(url, headers, stop - start)

        for first in range(0, len(links), AT_ONCE):
            for pair in await asyncio.gather(*(get(*link) for link in links[first : first + AT_ONCE])):
                yield pair


class Https:
    """`Fetch` over HTTPS, to AWS and nowhere else: whoever signs messages as the server must not send this site's agent
    to addresses within the site's own network.

    Args:
        endpoint: of an emulator: links may go there too, and be plain HTTP if it is.
    """

    def __init__(self, *, endpoint: str = "") -> None:
        import urllib3

        self._pool = urllib3.PoolManager(
            maxsize=AT_ONCE, timeout=urllib3.Timeout(connect=5.0, read=60.0), retries=False
        )
        self._endpoint = urlsplit(endpoint) if endpoint else None

    async def get(self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int) -> bytes:
        """See `Fetch.get`."""
        return await asyncio.to_thread(self._request, "GET", url, dict(headers), None, max_bytes)

    async def put(self, url: str, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        """See `Fetch.put`."""
        await asyncio.to_thread(self._request, "PUT", url, dict(headers), content, 0)

    def _request(self, method: str, url: str, headers: dict[str, str], content: bytes | None, max_bytes: int) -> bytes:
        import urllib3.exceptions

        if not self._is_storage(url) or not {name.lower() for name in headers} <= _LINK_HEADERS:
            raise CodecError("links: expected https:// addresses of AWS, and no headers of another kind")
        try:
            answer = self._pool.request(
                method, url, body=content, headers=headers, preload_content=False, redirect=False
            )
            try:
                found: bytes = answer.read(max_bytes + 1) if answer.status == 200 else answer.read(1024)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(f"link not reached: {type(error).__name__}") from None
        if method == "PUT" and answer.status in (200, 412):  # 412: it is there already
            return b""
        if answer.status != 200:
            raise UnavailableError(f"link refused with status {answer.status}; another is asked for")
        if len(found) > max_bytes:
            raise IntegrityError(f"link: expected at most {max_bytes} bytes")
        return found

    def _is_storage(self, url: str) -> bool:
        """Whether a link is one that AWS, or the emulator, can have been asked to sign."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if "\\" in url or parts.username is not None:  # read as another host by some
            return False
        if parts.scheme == "https" and port in (None, 443) and host.endswith(_AWS_HOSTS):
            return True
        own = self._endpoint
        if own is None or parts.scheme not in ("https", own.scheme):
            return False
        # An emulator's functions may know it under another of this machine's names.
        return host == own.hostname or (host in _THIS_MACHINE and own.hostname in _THIS_MACHINE)


def over_queues(inbox: Inbox, fetch: Fetch, server_record: bytes, **settings: Any) -> OpenLink:
    """Makes links through these queues."""

    def open_link(member: Callable[[], Membership], **callbacks: Any) -> SiteLink:
        return QueueLink(member, inbox=inbox, fetch=fetch, server_record=server_record, **callbacks, **settings)

    return open_link


def over_sqs(access: AwsAccess, directory: Path) -> OpenLink:
    """Makes links through the queues of a federation on AWS.

    Args:
        directory: the site's own, which holds what the authority says of the server.

    Raises:
        ConfigError: no record of the server. MissingExtraError: boto3 is not installed.
    """
    from hanse.backends.aws.access import session_of
    from hanse.backends.aws.errors import imported
    from hanse.backends.aws.queues import QueueInbox

    path = directory / SERVER_RECORD
    if not path.exists():
        raise ConfigError(f"expected {path}, found none: ask the federation's operator for the server's record")
    federation = Membership.load(directory).identity.federation
    session = session_of(access.region, access.profile, access.role, access.external_id, access.endpoint)
    _, settings = imported()
    endpoint = access.endpoint or None
    client = session.client("sqs", endpoint_url=endpoint, config=settings("sqs", endpoint is not None))
    inbox = QueueInbox(client, f"hanse-{federation}")
    return over_queues(inbox, Https(endpoint=access.endpoint), read_file(path))
