"""The link to a federation without a server: messages through queues, blobs through links that are asked for.

The site owns nothing but its queue. A message is hidden from itself while it is worked on, and deleted when what it
asked for is done: a task when its answer lies in the server's queue. Where work outlasts the twelve hours for which a
queue hides a message, or the site was restarted, the message comes again and finds its task at work or answered.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from hanse.backends.aws.https import Fetch, Https
from hanse.channels.packets import CHANNEL, Packet
from hanse.clients.role_task import PHASE
from hanse.core.blobs import Manifest
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
from hanse.core.seams import Delivery, Inbox
from hanse.site.by_links import LinkCarrier
from hanse.site.config import AwsAccess
from hanse.site.links import Accepted, Deliver, OpenLink, SiteLink
from hanse.site.queue_streams import Streams
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
BEAT_JOBS = 64
"""Jobs of one such message; more of them are not read."""
HIDDEN_S = 120.0
"""For how long a message that is worked on is hidden from then on; renewed with every beat."""
ANSWER_S = 60.0
LEAVE_S = 10.0
"""How long a site that goes takes to say so."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
MAX_ANSWER_BYTES = 192 * 1024
"""The size of an answer to a question for links."""

_ERRORS: dict[str, type[HanseError]] = {
    kind.__name__: kind for kind in (PolicyError, NotFoundError, IntegrityError, TooLargeError, CodecError, ConfigError)
}
Key = tuple[str, str]
T = TypeVar("T")
log = structlog.get_logger("hanse.link")


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

    def ask(self, job: str) -> bool:
        """See `SiteLink.ask`: who came before as this site may have taken the proposal out of the queue."""
        self.send(self._signed("ask", f"ask/{job}", {"v": 1, "job": job}))
        return True

    async def leave(self) -> None:
        """See `SiteLink.leave`: what waits to be sent goes out, and what is worked on may come again at once."""
        with contextlib.suppress(HanseError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                while not self._outgoing.empty():
                    await self._inbox.send(SERVER, self._outgoing.get_nowait())
                if self._jobs:
                    body = {"v": 1, "jobs": sorted(self._jobs)[:BEAT_JOBS], "at_ms": current_ms(), "leaves": True}
                    await self._inbox.send(SERVER, self._signed("beat", "beat/last", body))
                if held := [receipt for receipts in self._held.values() for receipt in receipts]:
                    await self._inbox.extend(held, 0)
                    # A poll that is on its way takes it again at once, for nobody.
                    again = await self._inbox.receive(self._member().identity.name, 10, 0)
                    await self._inbox.extend([delivery.receipt for delivery in again], 0)

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
            jobs = sorted(self._jobs)
            for start in range(0, len(jobs), BEAT_JOBS):
                number += 1
                body = {"v": 1, "jobs": jobs[start : start + BEAT_JOBS], "at_ms": current_ms()}
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
