"""The server process: opens the store, the services and the jobs, and connects them. Rules live elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog

from hanse.backends.grpc.inbox import SessionInbox
from hanse.backends.grpc.protocol import ENROLMENT_OPTIONS, LEASE_S, MAX_ENROLMENT_CALLS, SERVER_OPTIONS
from hanse.backends.grpc.relay import Relays
from hanse.backends.grpc.service import Caller, Service
from hanse.backends.local import LocalStore
from hanse.core.errors import ConfigError, HanseError, StorageError, TrustError, UnavailableError, place_of
from hanse.core.ids import SERVER
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope, Reply
from hanse.core.seams import BlobStore
from hanse.pipeline.request import JobRequest
from hanse.rounds.seams import Seams
from hanse.server.audit import Audit
from hanse.server.calls import Calls, json_object
from hanse.server.config import ServerConfig
from hanse.server.init import server_membership
from hanse.server.jobs import Jobs
from hanse.server.members import Members, directory_of
from hanse.server.metrics import Metrics
from hanse.server.presence import Presence
from hanse.server.rights import Rights, identity_of
from hanse.server.runs import Lead, Runs
from hanse.server.tracking import AggregatorRuns
from hanse.trust.audit import AuditLog
from hanse.trust.authority import Authority
from hanse.trust.certificates import Identity
from hanse.trust.envelopes import verify_envelope
from hanse.trust.membership import Membership
from hanse.workers.launcher import Launcher
from hanse.workers.pool import Workers

log = structlog.get_logger("hanse.server")


class Server:
    """One federation's server. `start`, then `wait` or `stop`.

    Args:
        directory: what `hanse federation init` has made.
        launcher: started before keys and gRPC were loaded.
        lead: see `Runs`.
    """

    def __init__(self, directory: Path, launcher: Launcher, *, lead: Lead | None = None) -> None:
        self._lead = lead
        self.directory = directory
        self.config = ServerConfig.load(directory)
        self.metrics = Metrics()
        self._launcher = launcher
        self._presence = Presence(int(LEASE_S * 1000))
        self._inbox = SessionInbox()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self.port = self.enrolment_port = 0
        self.http_port: int | None = None

    # ---- life ----

    async def start(self) -> None:
        """Open everything; returns when members can connect.

        Raises:
            ConflictError: another server has the directory open. ConfigError, StorageError, TrustError.
        """
        config = self.config
        self._store = LocalStore.open(self.directory / "store", _durability(config.durability))
        authority = Authority.load(directory_of(self.directory))
        membership = server_membership(self.directory, authority, address=config.address, hosts=config.hosts)
        self._audit = Audit(AuditLog(self.directory / "audit.jsonl", membership.keys.signing, fsync=False))
        self.members = Members(
            authority,
            self._store.ledger,
            address=config.address,
            identities=config.aws_identities,
            sts=config.aws_sts,
        )
        await self.members.load(sign_roles=True)
        self._workers = Workers(self._launcher)
        store = self._store
        seams = Seams(
            store.ledger,
            store.blobs,
            self._inbox,
            store.links,
            private=True,
            overlap=True,
            unhurried=store.unhurried,
        )
        self._relays = Relays()
        self._runs = AggregatorRuns(config.tracking, self.directory, self._request_of)
        runs = Runs(
            seams,
            self._workers,
            self.directory / "apps",
            federation=config.federation,
            threads=config.threads,
            datasets=config.datasets,
            relays=self._relays,
            site_record_of=lambda site: self.members.record("site", site)[1],
            lead=self._lead,
        )
        self.jobs = Jobs(
            seams,
            runs,
            self.directory / "apps",
            federation=config.federation,
            models_to_sites=config.models_to_sites,
            there=self._presence.there,
            expect=lambda sites: self._presence.expect(sites, _monotonic_ms()),
            enrolled=lambda: [m.name for m in self.members.of_kind("site") if not m.revoked],
            record_of=lambda person: self.members.record("person", person)[1],
            on_event=self._observe,
        )
        self.rights = Rights(self.members, self.jobs, store.links, config.results)
        self._calls = Calls(
            self.members,
            self.jobs,
            self.rights,
            self._presence,
            self._audit,
            enrolment=lambda: f"{config.hosts[0]}:{self.enrolment_port}",
            cut_off=self._cut_off,
        )
        self._service = Service(self, self._inbox, self._store.blobs, self._store.links, self._relays)
        await self.jobs.recover()  # before anyone can connect: a reply must find its job
        if self._runs.is_on:
            for job in list(self.jobs.active):  # rounds that were over before they were tracked
                for event in await self.jobs.reading.past(job):
                    self._runs.take(event)
        await self._listen(membership)
        self._look_ms = _monotonic_ms()
        self._watch_leases()
        self._audit.line("server", "server.start", config.federation, "done")
        log.info("server ready", address=f"{config.listen}:{self.port}", enrolment=self.enrolment_port)

    async def _listen(self, membership: Membership) -> None:
        config = self.config
        chain = membership.certificate_pem + membership.authority_pem
        pair = [(membership.keys.tls_pem(), chain)]
        mutual = grpc.ssl_server_credentials(pair, membership.authority_pem, require_client_auth=True)
        self._members_server = grpc.aio.server(options=SERVER_OPTIONS)
        self._members_server.add_generic_rpc_handlers((self._service.federation(),))
        self.port = _bind(self._members_server, config.listen, config.port, mutual)
        self._enrolment_server = grpc.aio.server(options=ENROLMENT_OPTIONS, maximum_concurrent_rpcs=MAX_ENROLMENT_CALLS)
        self._enrolment_server.add_generic_rpc_handlers((self._service.enrolment(),))
        open_ = grpc.ssl_server_credentials(pair)
        self.enrolment_port = _bind(self._enrolment_server, config.listen, config.enrolment_port, open_)
        await self._members_server.start()
        await self._enrolment_server.start()
        if config.http_port is not None:
            self._spawn(self._serve_http(config.http_port))

    async def _serve_http(self, port: int) -> None:
        """Metrics and health, once everything else is up: the web framework takes long to import."""
        serve = await asyncio.to_thread(_import_http)
        try:
            await serve(self, port)
        except ConfigError as error:
            log.error("no metrics", reason=str(error))

    async def stop(self) -> None:
        """Close everything; jobs are taken up again at the next start."""
        log.info("server stops")
        if self._expiry is not None:
            self._expiry.cancel()
        await self.jobs.close()
        await asyncio.gather(self._members_server.stop(0.2), self._enrolment_server.stop(0.2))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._workers.close()
        await asyncio.to_thread(self._runs.close)
        self._audit.close()
        self._store.close()

    # ---- sessions (backends.grpc.service.Handler) ----

    def admit(self, certificate: bytes) -> Identity:
        """See `Handler.admit`."""
        try:
            return self.members.admit(certificate)
        except TrustError as error:
            self.metrics.refused.inc()
            self._audit.line("unknown", "caller.refused", "connection", "refused", {"reason": str(error)[:200]})
            raise

    def opened(self, site: str, hello: pb.Hello) -> None:
        """See `Handler.opened`."""
        self._presence.opened(site, _monotonic_ms())
        log.info("site connected", site=site)
        self._audit.line(f"site/{site}", "site.connected", site, "done")
        self._sites_changed()
        self._spawn(self.jobs.site_opened(site))

    def heard(self, site: str) -> None:
        """See `Handler.heard`."""
        if self._presence.heard(site, _monotonic_ms()):
            log.info("site is back", site=site)
            self._sites_changed()
            self._spawn(self.jobs.all_presence_changed())

    def closed(self, site: str) -> None:
        """See `Handler.closed`."""
        self._presence.closed(site)
        log.warning("site lost", site=site, reason="the connection closed")
        self._audit.line(f"site/{site}", "site.lost", site, "done", {"reason": "connection closed"})
        self._sites_changed()
        self._spawn(self.jobs.all_presence_changed())

    async def take(self, site: str, envelope: Envelope) -> tuple[str, str]:
        """See `Handler.take`."""
        expected = (site, SERVER, self.config.federation)
        if (envelope.sender, envelope.recipient, envelope.federation) != expected:
            return "refused", "the message names another sender, recipient or federation"
        if envelope.kind not in ("reply", "decision"):
            return "refused", "unknown kind of message"
        try:
            verify_envelope(self.members.signing_key("site", site), envelope)
            if envelope.kind == "reply":
                outcome = await self.jobs.replied(site, Reply.unpack(envelope.body), envelope.body)
                self._inbox.forget(site, "task", envelope.id)
                self.metrics.replies.labels(outcome[0]).inc()
                return outcome
            return await self.jobs.decided(site, json_object(envelope.body))
        except (StorageError, UnavailableError) as error:
            # not accepted: the site keeps it and sends it again after a while
            log.error("reply not kept", site=site, reason=str(error), **place_of(error))
            return "later", str(error)
        except HanseError as error:
            log.warning("message refused", site=site, kind=envelope.kind, reason=str(error))
            self._audit.line(f"site/{site}", "message.refused", envelope.kind, "refused", {"reason": str(error)[:200]})
            return "refused", str(error)

    def reported(self, site: str, report: pb.TaskReport) -> None:
        """See `Handler.reported`."""
        self.jobs.reported(site, report.task, report.stage)

    def _watch_leases(self) -> None:
        """One timer, set to when the next lease can run out. Its own delay is no site's silence."""
        now_ms = _monotonic_ms()
        self._presence.forgive(max(0, now_ms - self._look_ms), now_ms)
        lost = self._presence.expire(now_ms)
        for site in lost:
            log.warning("site lost", site=site, reason=f"silent for {LEASE_S:g} s")
            self._audit.line(f"site/{site}", "site.lost", site, "done", {"reason": "lease"})
        if lost:
            self._sites_changed()
            self._spawn(self.jobs.all_presence_changed())
        at = self._presence.next_expiry_ms()
        now_ms = _monotonic_ms()
        wait_ms = LEASE_S * 1000 / 8 if at is None else max(10, min(at - now_ms, LEASE_S * 1000 / 8))
        self._look_ms = now_ms + int(wait_ms)
        self._expiry = asyncio.get_running_loop().call_later(wait_ms / 1000, self._watch_leases)

    def _sites_changed(self) -> None:
        self.metrics.sites.set(len(self._presence.there()))

    # ---- members and people ----

    async def may_upload(self, caller: Caller, offer: pb.UploadOffer) -> str:
        """See `Handler.may_upload`."""
        return await self.rights.may_upload(caller, offer)

    async def may_download(self, caller: Caller, request: pb.DownloadRequest) -> str:
        """See `Handler.may_download`."""
        return await self.rights.may_download(caller, request)

    async def ask(self, caller: Caller, call: pb.Call) -> pb.Answer:
        """See `Handler.ask`."""
        return await self._calls.ask(caller, call)

    def watch(self, caller: Caller, call: pb.Call) -> AsyncIterator[pb.Answer]:
        """See `Handler.watch`."""
        return self._calls.watch(caller, call)

    async def submit(self, request: JobRequest, signature: bytes) -> None:
        """See `Calls.submit`."""
        await self._calls.submit(request, signature)

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        """See `Handler.join`."""
        subject = f"{request.kind[:16]}/{request.name[:63]}"
        try:
            reply = await self.members.join(request)
        except HanseError as error:
            self._audit.line("unknown", "member.join", subject, "refused", {"reason": str(error)[:200]})
            raise
        self._audit.line(subject, "member.join", subject, "allowed")
        log.info("member joined", kind=request.kind, name=request.name)
        return reply

    async def renew(self, caller: Caller, request: pb.RenewRequest) -> pb.JoinReply:
        """See `Handler.renew`."""
        reply = await self.members.renew(identity_of(caller), request)
        self._audit.line(f"{caller.kind}/{caller.name}", "member.renew", caller.name, "allowed")
        return reply

    @property
    def blobs(self) -> BlobStore:
        """Where this federation's blobs are."""
        return self._store.blobs

    def _cut_off(self, site: str) -> None:
        """End what a revoked site has open."""
        self._relays.drop(site)
        outgoing = self._inbox.session(site)
        if outgoing is not None:
            outgoing.close(f"site {site} has been revoked; ask the federation's operator", final=True)

    # ---- what happens ----

    def _request_of(self, job: str) -> JobRequest | None:
        found = self.jobs.active.get(job)
        return None if found is None else found.request

    def _observe(self, event: dict[str, Any]) -> None:
        self.metrics.observe(event)
        self._runs.take(event)
        match event["what"]:
            case "round":
                record = event["record"]
                details = {"round": str(record["number"]), "folded": ",".join(record["folded"])[:500]}
                self._audit.line("server", "round.closed", event["job"], "done", details)
            case "decision":
                details = {"reason": str(event["reason"])[:200]}
                self._audit.line(f"site/{event['site']}", "job.decision", event["job"], str(event["decision"]), details)
            case "finished":
                self._audit.line("server", "job.finished", event["job"], str(event["status"]))
                log.info("job over", job=event["job"], status=event["status"], error=event["error"])
            case _:
                pass

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception())


def _bind(server: Any, host: str, port: int, credentials: Any) -> int:
    try:
        bound: int = server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise ConfigError(f"cannot listen on {host}:{port}; is another server running there? choose another port")
    return bound


def _import_http() -> Any:
    from hanse.server.http import serve

    return serve


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _durability(value: str) -> Any:
    return value
