"""The server's side of the wire: checks who calls, keeps sessions, moves blobs, and hands the rest to a `Handler`.

It decides nothing about jobs. A caller is known by the certificate of its TLS connection alone; the handler checks
revocation on every call.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from hanse.backends.grpc.inbox import Outgoing, SessionInbox
from hanse.backends.grpc.protocol import (
    ENROLMENT,
    LEASE_S,
    SERVICE,
    chunk_of,
    identity,
    pieces,
    status_of,
)
from hanse.backends.grpc.relay import End, Relays, read_opening
from hanse.backends.grpc.turns import Turn, Turns
from hanse.core.blobs import Chunk, Manifest
from hanse.core.errors import CodecError, HanseError, StorageError, TrustError, UnavailableError, place_of
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import WIRE_VERSION, Envelope
from hanse.core.seams import BlobStore, Links

HELLO_S = 10.0
"""A call that says nothing for so long after opening is no member's."""
MAX_REASON = 1000
"""Characters of a reason that a caller is told: a status travels in headers, which are limited."""

Context = Any
"""grpc.aio's servicer context is not typed."""
log = structlog.get_logger("hanse.transport")


class Caller(Protocol):
    """Who calls, as the certificate says."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def not_after_ms(self) -> int: ...


class Handler(Protocol):
    """What the server does with what comes in."""

    def admit(self, certificate: bytes) -> Caller:
        """Who this is.

        Raises:
            TrustError: foreign, expired or revoked.
        """
        ...

    def opened(self, site: str, hello: pb.Hello) -> None:
        """A site's session began."""
        ...

    def heard(self, site: str) -> None:
        """A frame of a site arrived."""
        ...

    def closed(self, site: str) -> None:
        """A site's session ended and no newer one has taken its place."""
        ...

    async def take(self, site: str, envelope: Envelope) -> tuple[str, str]:
        """A message of a site; outcome and reason."""
        ...

    def reported(self, site: str, report: pb.TaskReport) -> None:
        """Progress of a task, for people."""
        ...

    async def may_upload(self, caller: Caller, offer: pb.UploadOffer) -> str:
        """In whose name `Links` is asked for a place; grants what a person may have.

        Raises:
            PolicyError: not at all.
        """
        ...

    async def may_download(self, caller: Caller, request: pb.DownloadRequest) -> str:
        """In whose name `Links` is asked for a blob.

        Raises:
            PolicyError: not at all.
        """
        ...

    async def ask(self, caller: Caller, call: pb.Call) -> pb.Answer:
        """What a person asks.

        Raises:
            HanseError: it cannot be done.
        """
        ...

    def watch(self, caller: Caller, call: pb.Call) -> AsyncIterator[pb.Answer]:
        """What a person wants to go on seeing."""
        ...

    async def renew(self, caller: Caller, request: pb.RenewRequest) -> pb.JoinReply:
        """A new certificate for the same member."""
        ...

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        """A new member, by its token.

        Raises:
            TrustError: the token does not hold.
        """
        ...


class Service:
    """The methods of the federation's gRPC service.

    Args:
        relays: channels between sites; opened and closed by whoever runs jobs.
    """

    def __init__(
        self, handler: Handler, inbox: SessionInbox, blobs: BlobStore, links: Links, relays: Relays | None = None
    ) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(is_worth_a_trace)
        self._handler = handler
        self._inbox = inbox
        self._blobs = blobs
        self._links = links
        self._turns = Turns()
        self._relays = Relays() if relays is None else relays

    def federation(self) -> grpc.GenericRpcHandler:
        """For members, over mutual TLS.

        Messages are parsed inside each call: gRPC would log a trace for each that cannot be.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Session": grpc.stream_stream_rpc_method_handler(
                    self._session, identity, pb.ServerFrame.SerializeToString
                ),
                "Relay": grpc.stream_stream_rpc_method_handler(self._relay, identity, identity),
                "Download": grpc.unary_stream_rpc_method_handler(self._download, identity, identity),
                "Upload": grpc.stream_stream_rpc_method_handler(self._upload, identity, identity),
                "Ask": grpc.unary_unary_rpc_method_handler(self._ask, identity, pb.Answer.SerializeToString),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, identity, pb.Answer.SerializeToString),
                "Renew": grpc.unary_unary_rpc_method_handler(self._renew, identity, pb.JoinReply.SerializeToString),
            },
        )

    def enrolment(self) -> grpc.GenericRpcHandler:
        """For those who have a token and no certificate yet."""
        join = grpc.unary_unary_rpc_method_handler(self._join, identity, pb.JoinReply.SerializeToString)
        return grpc.method_handlers_generic_handler(ENROLMENT, {"Join": join})

    # ---- sessions ----

    async def _session(self, _: object, context: Context) -> None:
        caller = await self._admit(context, "site")
        try:
            hello = _site_frame(await asyncio.wait_for(_next(context), HELLO_S))
        except (TimeoutError, CodecError):
            hello = pb.SiteFrame()
        if hello.WhichOneof("kind") != "hello" or hello.hello.v != WIRE_VERSION:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"expected a hello of version {WIRE_VERSION}; update the older of site and server",
            )
        outgoing = Outgoing()
        outgoing.put(pb.ServerFrame(welcome=pb.Welcome(v=WIRE_VERSION, lease_s=LEASE_S)))
        self._inbox.attach(caller.name, outgoing, hello.hello.holding)
        self._handler.opened(caller.name, hello.hello)
        ending = asyncio.get_running_loop().call_later(
            min(max(0.0, _seconds_left(caller)), 30 * 86400.0), outgoing.close, "the certificate has expired"
        )
        writing = asyncio.ensure_future(_write(context, outgoing))
        writing.add_done_callback(_noted)
        tasks = {
            writing,
            asyncio.ensure_future(self._read(context, caller, outgoing)),
            asyncio.ensure_future(outgoing.ended.wait()),  # also where the site does not read what is written
        }
        try:
            done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (CodecError, TrustError) as error:
            log.warning("session refused", site=caller.name, reason=str(error))
            outgoing.close(str(error), status=status_of(error))
        finally:
            ending.cancel()
            for task in tasks - {writing}:
                task.cancel()
            if self._inbox.detach(caller.name, outgoing):
                self._handler.closed(caller.name)
            outgoing.ended.set()
            if not outgoing.writing:
                writing.cancel()
        await asyncio.wait({writing})  # gRPC takes no status behind a message that has not gone out
        if outgoing.closed:
            await context.abort(outgoing.status, _reason(outgoing.closed))

    async def _read(self, context: Context, caller: Caller, outgoing: Outgoing) -> None:
        while (content := await _next(context)) is not None:
            frame = _site_frame(content)
            self._handler.heard(caller.name)
            match frame.WhichOneof("kind"):
                case "envelope":
                    envelope = Envelope.from_message(frame.envelope)
                    outcome, reason = await self._handler.take(caller.name, envelope)
                    outgoing.accept(pb.Accepted(id=envelope.id, outcome=outcome, reason=reason))
                case "heartbeat":
                    outgoing.answer(pb.ServerFrame(heartbeat=frame.heartbeat))
                case "done":
                    kind, _, id = frame.done.partition(":")
                    self._inbox.forget(caller.name, kind, id)
                case "report":
                    self._handler.reported(caller.name, frame.report)
                case _:
                    pass  # a kind that a newer site sends

    # ---- channels between sites ----

    async def _relay(self, _: object, context: Context) -> None:
        caller = await self._admit(context, "site")
        with _mapped(context) as guard:
            session, role = read_opening(await asyncio.wait_for(_next(context), HELLO_S))
            end = self._relays.find(session).attach(role, caller.name)
            try:
                async with asyncio.timeout(min(max(0.0, _seconds_left(caller)), 30 * 86400.0)):
                    await _put_through(context, end)
            except TimeoutError:
                raise TrustError("the certificate has expired") from None
            finally:
                end.leave()
        await guard.finish()

    # ---- blobs ----

    async def _download(self, content: bytes, context: Context) -> None:
        caller = await self._admit(context)
        with _mapped(context) as guard:
            request = pb.DownloadRequest.FromString(content)
            async with self._turns.enter(f"{caller.kind} {caller.name}") as turn:
                who = await self._handler.may_download(caller, request)
                await self._links.get(who, request.scope, request.id)
                manifest = await self._blobs.manifest(request.scope, request.id)
                wanted = _wanted(request, manifest)
                await turn.begin(("down", request.scope, request.id))
                header = pb.Manifest(size=manifest.size, hashes=manifest.hashes)
                await _send(context, turn, header.SerializeToString())
                for index in wanted:
                    self._handler.admit(_certificate(context))  # who is revoked meanwhile gets no further chunk
                    for span in pieces(*manifest.span(index)):
                        piece = bytes(self._blobs.read(request.scope, request.id, *span))
                        await _send(context, turn, piece)
                        turn.moved(len(piece))
        await guard.finish()

    async def _upload(self, _: object, context: Context) -> None:
        caller = await self._admit(context)
        with _mapped(context) as guard:
            async with self._turns.enter(f"{caller.kind} {caller.name}") as turn:
                opening = await asyncio.wait_for(_next(context), HELLO_S)
                offer = pb.UploadOffer.FromString(opening or b"")
                manifest = Manifest(offer.manifest.size, offer.manifest.hashes)
                who = await self._handler.may_upload(caller, offer)
                await turn.begin(("up", offer.scope, manifest.id))
                ticket = await self._links.put(who, offer.scope, manifest)
                await turn.wait(context.write(pb.UploadTicket(missing=ticket.missing).SerializeToString()))
                if ticket.missing:
                    chunks = self._arriving(context, turn, manifest, ticket.missing)
                    await self._blobs.put(offer.scope, manifest, chunks)
                if await self._blobs.missing(offer.scope, manifest):
                    raise CodecError("upload: ended before all chunks were there; it resumes where it stopped")
                await turn.wait(context.write(b"done"))
        await guard.finish()

    async def _arriving(
        self, context: Context, turn: Turn, manifest: Manifest, missing: tuple[int, ...]
    ) -> AsyncIterator[tuple[int, Chunk]]:
        """Chunks as they come in; one in memory at a time."""

        async def read() -> bytes | None:
            piece = await turn.wait(_next(context))
            turn.moved(len(piece or b""))
            return piece

        for index in missing:
            self._handler.admit(_certificate(context))  # who is revoked meanwhile sends no further chunk
            start, stop = manifest.span(index)
            chunk = await chunk_of(stop - start, read)
            if chunk is None:
                return
            yield index, chunk

    # ---- people, enrolment ----

    async def _ask(self, content: bytes, context: Context) -> pb.Answer:
        caller = await self._admit(context)
        with _mapped(context) as guard:
            return await self._handler.ask(caller, pb.Call.FromString(content))
        await guard.finish()
        return pb.Answer()

    async def _watch(self, content: bytes, context: Context) -> AsyncIterator[pb.Answer]:
        caller = await self._admit(context)
        with _mapped(context) as guard:
            async for answer in self._handler.watch(caller, pb.Call.FromString(content)):
                self._handler.admit(_certificate(context))  # who is revoked, or expires, has seen enough
                yield answer
        await guard.finish()

    async def _renew(self, content: bytes, context: Context) -> pb.JoinReply:
        caller = await self._admit(context)
        with _mapped(context) as guard:
            return await self._handler.renew(caller, pb.RenewRequest.FromString(content))
        await guard.finish()
        return pb.JoinReply()

    async def _join(self, content: bytes, context: Context) -> pb.JoinReply:
        with _mapped(context) as guard:
            return await self._handler.join(pb.JoinRequest.FromString(content))
        await guard.finish()
        return pb.JoinReply()

    async def _admit(self, context: Context, kind: str = "") -> Caller:
        try:
            caller = self._handler.admit(_certificate(context))
            if kind and caller.kind != kind:
                raise TrustError(f"expected a {kind}, found {caller.kind} {caller.name}")
        except TrustError as error:
            log.warning("caller refused", peer=context.peer(), reason=str(error))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, _reason(str(error)))
            raise
        return caller


class _mapped(contextlib.AbstractContextManager["_mapped"]):
    """Turns our errors into status codes, and everything else into one line that says nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failure: tuple[Any, str] | None = None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, HanseError):
            self._failure = status_of(error), _reason(str(error))
        elif isinstance(error, TimeoutError | DecodeError):
            self._failure = grpc.StatusCode.INVALID_ARGUMENT, "expected a message that is not there or not readable"
        elif isinstance(error, Exception) and not isinstance(error, grpc.RpcError | grpc.aio.AbortError):
            # the top of a call: the caller learns that it failed, the log why
            log.error("call failed", peer=self._context.peer(), exc_info=error)
            self._failure = grpc.StatusCode.INTERNAL, "the server has failed; its log says why"
            return True
        else:
            return False
        say = log.error if isinstance(error, StorageError) else log.info
        say("call refused", peer=self._context.peer(), reason=self._failure[1], **place_of(error))
        return True

    async def finish(self) -> None:
        """End the call with what was caught; `abort` raises."""
        if self._failure is None:
            return
        await self._context.abort(*self._failure)


def is_worth_a_trace(record: logging.LogRecord) -> bool:
    """Whether a record of gRPC's own log is about more than a caller who left first.

    A call that breaks (reset, cancelled, over the message limit) while we write to it or send its status makes the
    batch fail. gRPC is silent about that once it has noticed the end of the call and logs a trace with ERROR where the
    failed batch is noticed first, which is a race and nobody's fault. A batch that could not be *started* is ours and
    stays in the log.
    """
    error = record.exc_info[1] if record.exc_info else None
    if type(error).__name__ != "ExecuteBatchError" or 'Failed "execute_batch"' not in str(error):
        return True
    log.debug("a caller left before its call was answered")
    return False


def _certificate(context: Context) -> bytes:
    certificates = context.auth_context().get("x509_pem_cert", [])
    if not certificates:
        raise TrustError("expected a member's certificate, found none")
    return bytes(certificates[0])


def _wanted(request: pb.DownloadRequest, manifest: Manifest) -> Sequence[int]:
    """The chunks that were asked for, each at most once: a short request must not make a long answer."""
    wanted = list(request.chunks)
    if not wanted:
        return range(manifest.num_chunks)
    if len(wanted) > manifest.num_chunks or len(set(wanted)) < len(wanted) or max(wanted) >= manifest.num_chunks:
        raise CodecError(f"download: expected each of {manifest.num_chunks} chunks at most once")
    return wanted


async def _write(context: Context, outgoing: Outgoing) -> None:
    while True:
        frame = await outgoing.next()
        outgoing.writing = True
        await context.write(frame)
        outgoing.writing = False
        if outgoing.ended.is_set():
            return


async def _put_through(context: Context, end: End) -> None:
    """Messages of one role, both ways, until the site half-closes or the session is over."""

    async def read() -> None:
        while (message := await _next(context)) is not None:
            end.take(message)

    async def write() -> None:
        while (message := await end.next()) is not None:
            await context.write(message)

    reading, writing = asyncio.ensure_future(read()), asyncio.ensure_future(write())
    try:
        await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, writing):
            if task.done():
                task.result()
    finally:
        reading.cancel()
        writing.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)


async def _send(context: Context, turn: Turn, content: bytes) -> None:
    """A piece of a blob. One that nobody reads gives its turn to others, and the call ends when it has gone out."""
    writing = asyncio.ensure_future(context.write(content))
    writing.add_done_callback(_noted)
    try:
        await turn.wait(asyncio.shield(writing))
    except UnavailableError:
        turn.end()
        await writing  # gRPC takes no status behind a message that has not gone out
        raise
    finally:
        writing.cancel()


def _noted(writing: "asyncio.Future[None]") -> None:
    """A write that failed because the call was over: nobody need hear of it."""
    if not writing.cancelled():
        writing.exception()


async def _next(context: Context) -> bytes | None:
    content = await context.read()
    return None if content is grpc.aio.EOF else content


def _site_frame(content: bytes | None) -> pb.SiteFrame:
    try:
        return pb.SiteFrame.FromString(content or b"")
    except DecodeError:
        raise CodecError(f"session: {len(content or b'')} bytes that are not a frame") from None


def _reason(text: str) -> str:
    """What a status can carry."""
    return text[:MAX_REASON].encode(errors="replace").decode()


def _seconds_left(caller: Caller) -> float:
    return caller.not_after_ms / 1000 - time.time()
