"""A member's side of the wire: one connection over mutual TLS, calls, and blobs in chunks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from hanse.backends.grpc.protocol import (
    CLIENT_OPTIONS,
    ENROLMENT,
    SERVICE,
    CutOffError,
    chunk_of,
    error_of,
    identity,
    pieces,
)
from hanse.backends.grpc.relay import opening
from hanse.core.blobs import Chunk, Manifest
from hanse.core.errors import CodecError, HanseError, UnavailableError
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.seams import BlobStore


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files' contents: the member's chain and key, and the federation's authority."""

    certificate: bytes
    key: bytes
    authority: bytes

    def __repr__(self) -> str:
        return "Credentials(…)"


class Connection:
    """Calls to the server. Reconnects by itself; a call that was under way fails with `UnavailableError`.

    So does one that is made once the connection is closed: whoever moves blobs learns of the end later than whoever
    closes.
    """

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        secrets = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
        self._channel = grpc.aio.secure_channel(address, secrets, options=CLIENT_OPTIONS)
        streams, answers, asks = self._channel.stream_stream, self._channel.unary_stream, self._channel.unary_unary
        self.open_session = _open(
            streams(f"/{SERVICE}/Session", pb.SiteFrame.SerializeToString, pb.ServerFrame.FromString)
        )
        self._relay = _open(streams(f"/{SERVICE}/Relay", identity, identity))
        self._upload = _open(streams(f"/{SERVICE}/Upload", identity, identity))
        self._download = _open(answers(f"/{SERVICE}/Download", pb.DownloadRequest.SerializeToString, identity))
        self._ask = _open(asks(f"/{SERVICE}/Ask", pb.Call.SerializeToString, pb.Answer.FromString))
        self._watch = _open(answers(f"/{SERVICE}/Watch", pb.Call.SerializeToString, pb.Answer.FromString))
        self._renew = _open(asks(f"/{SERVICE}/Renew", pb.RenewRequest.SerializeToString, pb.JoinReply.FromString))

    async def ready(self) -> None:
        """Wait until there is a connection."""
        await self._channel.channel_ready()

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def ask(self, call: pb.Call, *, timeout_s: float = 60.0) -> pb.Answer:
        """One question of a person.

        Raises:
            HanseError: what the server answered; UnavailableError: it could not be reached.
        """
        try:
            answer: pb.Answer = await self._ask(call, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return answer

    async def watch(self, call: pb.Call) -> AsyncIterator[pb.Answer]:
        """Answers as they come.

        Raises:
            HanseError: what the server answered; UnavailableError: the connection broke.
        """
        try:
            async for answer in self._watch(call):
                yield answer
        except grpc.RpcError as error:
            raise error_of(error) from None

    async def renew(self, signing_request: bytes) -> pb.JoinReply:
        """A new certificate for this member."""
        try:
            reply: pb.JoinReply = await self._renew(pb.RenewRequest(signing_request=signing_request), timeout=30.0)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return reply

    async def relay(self, session: str, role: str, sites: Mapping[str, str] | None = None) -> "RelayStream":
        """Open this site's end of a channel between sites; what is wrong with it shows in reading."""
        del sites  # the server knows them
        stream = RelayStream(self._relay())
        await stream.write(opening(session, role))
        return stream

    async def download(self, store: BlobStore, scope: str, manifest: Manifest, *, into: str | None = None) -> None:
        """Bring a blob into `store` (under `into`, or the same scope); only chunks that it lacks travel.

        Raises:
            PolicyError, NotFoundError, IntegrityError; UnavailableError: the connection broke, call again.
        """
        target = into or scope
        missing = await store.missing(target, manifest)
        if not missing:
            return
        chunks = [] if len(missing) == manifest.num_chunks else missing
        call = self._download(pb.DownloadRequest(scope=scope, id=manifest.id, chunks=chunks))
        try:
            if pb.Manifest.FromString(await call.read()) != pb.Manifest(size=manifest.size, hashes=manifest.hashes):
                raise CodecError("download: the server sends another blob than was asked for")
            await store.put(target, manifest, _arriving(call, manifest, missing))
        except grpc.RpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()
        if await store.missing(target, manifest):
            raise UnavailableError("download: ended early; it resumes where it stopped")

    async def upload(self, store: BlobStore, scope: str, manifest: Manifest, *, place: str, task: str = "") -> None:
        """Send a blob of `store` to `place` at the server; only chunks that it lacks travel.

        Raises:
            PolicyError, TooLargeError, StorageError; UnavailableError: the connection broke, call again.
        """
        offer = pb.UploadOffer(scope=place, task=task, manifest=pb.Manifest(size=manifest.size, hashes=manifest.hashes))
        try:
            await self._send_missing(store, scope, manifest, offer)
        except (
            CutOffError
        ):  # another sender may have brought the rest; asked again, the server says so, or says why not
            await self._send_missing(store, scope, manifest, offer)

    async def _send_missing(self, store: BlobStore, scope: str, manifest: Manifest, offer: pb.UploadOffer) -> None:
        call = self._upload()
        try:
            await _begin(call, offer.SerializeToString())
            ticket = await _content(call)
            for index in pb.UploadTicket.FromString(ticket).missing:
                for span in pieces(*manifest.span(index)):
                    await call.write(bytes(store.read(scope, manifest.id, *span)))
            await call.done_writing()
            await _content(call)
        except grpc.RpcError as error:
            raise error_of(error) from None
        except asyncio.InvalidStateError:  # what gRPC says where the call was over before we came to write
            raise await _ending(call) from None
        finally:
            call.cancel()


class RelayStream:
    """One role's stream through the server; see `backends.grpc.relay`."""

    alive_s = 2.5
    """How often a site says to its peers that it is there."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing = asyncio.Lock()

    async def write(self, message: bytes) -> None:
        """Send one message; waits while gRPC has no room. From several tasks, in the order of their asking.

        Raises:
            HanseError: how the server ended the stream. UnavailableError: the connection broke.
        """
        try:
            async with self._writing:
                await self._call.write(message)
        except grpc.RpcError as error:
            raise error_of(error) from None
        except asyncio.InvalidStateError:
            raise await _ending(self._call) from None

    async def read(self) -> bytes | None:
        """The next message; None where the server has ended the stream as it should.

        Raises:
            HanseError: how the server ended the stream. UnavailableError: the connection broke.
        """
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise error_of(error) from None
        if message is not grpc.aio.EOF:
            return bytes(message)
        if await self._call.code() == grpc.StatusCode.OK:
            return None
        raise await _ending(self._call)

    async def half_close(self) -> None:
        """Nothing more is written."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    def cancel(self) -> None:
        """Give up the stream."""
        self._call.cancel()


async def join(address: str, authority: bytes, request: pb.JoinRequest) -> pb.JoinReply:
    """Enrol over TLS with the server's certificate only.

    Raises:
        TrustError: the token does not hold; UnavailableError: the server cannot be reached.
    """
    secrets = grpc.ssl_channel_credentials(authority)
    async with grpc.aio.secure_channel(address, secrets, options=CLIENT_OPTIONS) as channel:
        method = channel.unary_unary(f"/{ENROLMENT}/Join", pb.JoinRequest.SerializeToString, pb.JoinReply.FromString)
        try:
            reply: pb.JoinReply = await method(request, timeout=30.0)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return reply


async def _arriving(call: Any, manifest: Manifest, missing: Sequence[int]) -> AsyncIterator[tuple[int, Chunk]]:
    """Chunks as they come in; one in memory at a time."""

    async def read() -> bytes | None:
        piece = await call.read()
        return None if piece is grpc.aio.EOF else piece

    for index in missing:
        start, stop = manifest.span(index)
        chunk = await chunk_of(stop - start, read)
        if chunk is None:
            return
        yield index, chunk


def _open(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose calls raise `UnavailableError` where the channel is closed."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except grpc.aio.UsageError:
            raise UnavailableError("the connection is closed") from None

    return call


async def _begin(call: Any, content: bytes) -> None:
    """Send a call's first message. On its own, gRPC waits for ever if the call is cancelled before it has begun."""
    writing, ending = asyncio.ensure_future(call.write(content)), asyncio.ensure_future(_ending(call))
    try:
        await asyncio.wait((writing, ending), return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            raise ending.result()
        writing.result()
    finally:
        writing.cancel()
        ending.cancel()


async def _content(call: Any) -> bytes:
    content = await call.read()
    if content is grpc.aio.EOF:
        raise await _ending(call)
    return bytes(content)


async def _ending(call: Any) -> HanseError:
    """Wait for a call's end; why it ended."""
    return error_of(_Ended(await call.code(), await call.details()))


class _Ended(grpc.RpcError):
    """A call that ended where an answer was expected."""

    def __init__(self, code: Any, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details
