"""The server process: opens the store, the services and the jobs, and connects them. Rules live elsewhere."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
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
from hanse.core.codec import canonical_json
from hanse.core.errors import (
    CodecError,
    ConfigError,
    HanseError,
    PolicyError,
    StorageError,
    TooLargeError,
    TrustError,
    UnavailableError,
)
from hanse.core.ids import SERVER, bundle_scope, check_job_owner, check_name, model_scope
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope, Reply, pack_blob
from hanse.core.seams import BlobStore
from hanse.core.spec import MAX_ROUNDS
from hanse.pipeline.request import JobRequest
from hanse.rounds.seams import Seams
from hanse.server.config import EVERYONE, ServerConfig
from hanse.server.init import server_membership
from hanse.server.jobs import Jobs
from hanse.server.members import ADMIN, RESEARCHER, Members, directory_of
from hanse.server.metrics import Metrics
from hanse.server.presence import Presence
from hanse.server.runs import Lead, Runs
from hanse.server.tracking import AggregatorRuns
from hanse.trust.audit import AuditLog
from hanse.trust.authority import Authority
from hanse.trust.bundle import DEFAULT_LIMITS
from hanse.trust.bundle_signature import verify_bundle_signature
from hanse.trust.certificates import Identity
from hanse.trust.envelopes import verify_envelope
from hanse.trust.membership import Membership
from hanse.workers.launcher import Launcher
from hanse.workers.pool import Workers

MAX_CALL_BYTES = 1 << 20
CALL_VERSION = 1
MAX_TOKEN_HOURS = 24 * 366
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
        membership = server_membership(self.directory, config, authority)
        self._audit = AuditLog(self.directory / "audit.jsonl", membership.keys.signing, fsync=False)
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
        self._service = Service(self, self._inbox, self._store.blobs, self._store.links, self._relays)
        await self.jobs.recover()  # before anyone can connect: a reply must find its job
        if self._runs.is_on:
            for job in list(self.jobs.active):  # rounds that were over before they were tracked
                for event in await self.jobs.reading.past(job):
                    self._runs.take(event)
        await self._listen(membership)
        self._watch_leases()
        self.audit("server", "server.start", config.federation, "done")
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
            self.audit("unknown", "caller.refused", "connection", "refused", {"reason": str(error)[:200]})
            raise

    def opened(self, site: str, hello: pb.Hello) -> None:
        """See `Handler.opened`."""
        self._presence.opened(site, _monotonic_ms())
        log.info("site connected", site=site)
        self.audit(f"site/{site}", "site.connected", site, "done")
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
        self.audit(f"site/{site}", "site.lost", site, "done", {"reason": "connection closed"})
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
            return await self.jobs.decided(site, _json(envelope.body))
        except (StorageError, UnavailableError) as error:
            # not accepted: the site keeps it and sends it again after a while
            log.error("reply not kept", site=site, reason=str(error))
            return "later", str(error)
        except HanseError as error:
            log.warning("message refused", site=site, kind=envelope.kind, reason=str(error))
            self.audit(f"site/{site}", "message.refused", envelope.kind, "refused", {"reason": str(error)[:200]})
            return "refused", str(error)

    def reported(self, site: str, report: pb.TaskReport) -> None:
        """See `Handler.reported`."""
        self.jobs.reported(site, report.task, report.stage)

    def _watch_leases(self) -> None:
        """One timer, set to when the next lease can run out."""
        lost = self._presence.expire(_monotonic_ms())
        for site in lost:
            log.warning("site lost", site=site, reason=f"silent for {LEASE_S:g} s")
            self.audit(f"site/{site}", "site.lost", site, "done", {"reason": "lease"})
        if lost:
            self._sites_changed()
            self._spawn(self.jobs.all_presence_changed())
        at = self._presence.next_expiry_ms()
        wait_ms = LEASE_S * 1000 / 8 if at is None else max(10, min(at - _monotonic_ms(), LEASE_S * 1000 / 8))
        self._expiry = asyncio.get_running_loop().call_later(wait_ms / 1000, self._watch_leases)

    def _sites_changed(self) -> None:
        self.metrics.sites.set(len(self._presence.there()))

    # ---- blobs ----

    async def may_upload(self, caller: Caller, offer: pb.UploadOffer) -> str:
        """Sites write where a task allows; people write what a new job needs."""
        if caller.kind == "site":
            return caller.name
        self._require(caller, RESEARCHER)
        job, _, _ = offer.scope.partition("/")
        check_job_owner(check_name(job, "job"), caller.name)
        allowed = {bundle_scope(job), model_scope(job, "main", 0)}
        if offer.scope not in allowed or await self.jobs.is_known(job):
            raise PolicyError("upload: people may send a new job's bundle and initial model, nothing else")
        if offer.scope == bundle_scope(job) and offer.manifest.size > DEFAULT_LIMITS.total_bytes * 2:
            raise TooLargeError(f"bundle: expected at most {DEFAULT_LIMITS.total_bytes} bytes")
        who = f"person/{caller.name}"
        self._store.links.grant(who, write=[offer.scope])
        return who

    async def may_download(self, caller: Caller, request: pb.DownloadRequest) -> str:
        """Sites read what their tasks name; people read models of their own jobs."""
        if caller.kind == "site":
            return caller.name
        self._require(caller, RESEARCHER)
        who = f"person/{caller.name}"
        if not request.scope.endswith("/model"):
            raise PolicyError("download: people may read models, nothing else")
        await self._require_own(caller, request.scope.partition("/")[0], "read its models")
        self._store.links.grant(who, read=[(request.scope, request.id)])
        return who

    # ---- people ----

    async def ask(self, caller: Caller, call: pb.Call) -> pb.Answer:
        """See `Handler.ask`."""
        body = _body(call)
        method = _METHODS.get(str(body.get("op")))
        if method is None:
            raise ConfigError(f"call: expected one of {', '.join(_METHODS)}; found {str(body.get('op'))[:40]!r}")
        if caller.kind != "person":
            raise PolicyError(f"{caller.kind} {caller.name} may not ask this; a person may")
        role, function = method
        self._require(caller, role)
        answer, content = await function(self, caller, body, call)
        return pb.Answer(v=1, body=json.dumps(answer).encode(), content=content)

    async def watch(self, caller: Caller, call: pb.Call) -> AsyncIterator[pb.Answer]:
        """See `Handler.watch`: a job's events."""
        self._require(caller, RESEARCHER)
        body = _body(call)
        await self._require_own(caller, str(body.get("job")), "follow it")
        async for events in self.jobs.reading.follow(str(body.get("job"))):
            yield pb.Answer(v=1, body=json.dumps(events).encode())

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        """See `Handler.join`."""
        subject = f"{request.kind[:16]}/{request.name[:63]}"
        try:
            reply = await self.members.join(request)
        except HanseError as error:
            self.audit("unknown", "member.join", subject, "refused", {"reason": str(error)[:200]})
            raise
        self.audit(subject, "member.join", subject, "allowed")
        log.info("member joined", kind=request.kind, name=request.name)
        return reply

    async def renew(self, caller: Caller, request: pb.RenewRequest) -> pb.JoinReply:
        """See `Handler.renew`."""
        reply = await self.members.renew(_identity(caller), request)
        self.audit(f"{caller.kind}/{caller.name}", "member.renew", caller.name, "allowed")
        return reply

    def _require(self, caller: Caller, role: str) -> None:
        self.members.require(_identity(caller), role)

    async def _require_own(self, caller: Caller, job: str, what: str) -> None:
        """Who has submitted a job, admins, and everyone where the federation shares results."""
        owner = await self.jobs.owner(job)
        if owner == caller.name or self.config.results == EVERYONE:
            return
        try:
            self._require(caller, ADMIN)
        except PolicyError:
            raise PolicyError(f"job {job}: only {owner} and admins may {what}") from None

    async def _submit(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        request = JobRequest.from_json(body.get("request"))
        if request.person != caller.name:
            raise TrustError(f"job: signed as {request.person}, sent by {caller.name}")
        await self.submit(request, call.sig)
        return {"job": request.job}, b""

    async def submit(self, request: JobRequest, signature: bytes) -> None:
        """Take a job whose bundle is there, of a person who may submit.

        Raises:
            HanseError: it is not what its person signed, or something in it does not hold.
        """
        actor = f"person/{request.person}"
        try:
            request.verify(self.members.signing_key("person", request.person), signature)
            record, _ = self.members.record("person", request.person)
            verify_bundle_signature(request.bundle_signature.encode(), bundle_id=request.app, record=record)
            await self.jobs.submit(request, signature)
        except HanseError as error:
            self.audit(actor, "job.submit", request.job, "refused", {"reason": str(error)[:200], "app": request.app})
            raise
        self.audit(actor, "job.submit", request.job, "allowed", {"app": request.app})
        log.info("job submitted", job=request.job, person=request.person)

    @property
    def blobs(self) -> BlobStore:
        """Where this federation's blobs are."""
        return self._store.blobs

    async def _list_jobs(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return {"jobs": await self.jobs.reading.describe_all()}, b""

    async def _show_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return await self.jobs.reading.describe(str(body.get("job"))), b""

    async def _cancel_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        job = str(body.get("job"))
        if await self.jobs.owner(job) != caller.name:
            self._require(caller, ADMIN)
        await self.jobs.cancel(job, f"person {caller.name}")
        self.audit(f"person/{caller.name}", "job.cancel", job, "allowed")
        return {"job": job}, b""

    async def _remove_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        job = str(body.get("job"))
        if await self.jobs.owner(job) != caller.name:
            self._require(caller, ADMIN)
        await self.jobs.remove(job)
        self.audit(f"person/{caller.name}", "job.remove", job, "allowed")
        return {"job": job}, b""

    async def _resume_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        await self.jobs.take_up()
        about = await self.jobs.reading.describe(str(body.get("job")))
        self.audit(f"person/{caller.name}", "job.resume", about["job"], "allowed")
        return about, b""

    async def _job_result(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        await self._require_own(caller, str(body.get("job")), "read its result")
        value, model = await self.jobs.reading.result(
            str(body.get("job")), int(_number(body, "after", 0, 0, MAX_ROUNDS))
        )
        return value, b"" if model is None else pack_blob(model).SerializeToString()

    async def _list_sites(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        there, connected = self._presence.there(), self._presence.connected()
        return {
            "sites": [
                {
                    "site": member.name,
                    "state": "revoked"
                    if member.revoked
                    else "there"
                    if member.name in there
                    else "silent"
                    if member.name in connected
                    else "away",
                    "enrolled_at_ms": member.enrolled_at_ms,
                    "certificate_until_ms": member.not_after_ms,
                }
                for member in self.members.of_kind("site")
            ]
        }, b""

    async def _list_people(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return {
            "people": [
                {
                    "person": member.name,
                    "roles": list(member.roles),
                    "state": "revoked" if member.revoked else "enrolled",
                    "certificate_until_ms": member.not_after_ms,
                }
                for member in self.members.of_kind("person")
            ]
        }, b""

    async def _invite(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        kind, name = str(body.get("kind")), str(body.get("name"))
        host = self.config.hosts[0]
        roles = body.get("roles") or []
        if not isinstance(roles, list):
            raise ConfigError("roles: expected a list of names")
        token = await self.members.invite(
            kind,
            name,
            roles=roles,
            address=f"{host}:{self.enrolment_port}",
            hours=_number(body, "hours", 24, 0, MAX_TOKEN_HOURS),
        )
        self.audit(f"person/{caller.name}", "member.invite", f"{kind}/{name}", "allowed")
        return {"token": token}, b""

    async def _revoke(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        kind, name = str(body.get("kind")), str(body.get("name"))
        await self.members.revoke(kind, name)
        if kind == "site":
            self._relays.drop(name)
            outgoing = self._inbox.session(name)
            if outgoing is not None:
                outgoing.close(f"site {name} has been revoked; ask the federation's operator", final=True)
        self.audit(f"person/{caller.name}", "member.revoke", f"{kind}/{name}", "allowed")
        return {"revoked": f"{kind}/{name}"}, b""

    async def _audit_head(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return {"head": self._audit.export_head().decode()}, b""

    # ---- what happens ----

    def audit(
        self, actor: str, action: str, subject: str, outcome: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Write a line of the audit log; a log that cannot be written is said aloud, and nothing else stops."""
        try:
            self._audit.append(actor=actor, action=action, subject=subject, outcome=outcome, details=details)
        except StorageError as error:
            log.error("audit line lost", action=action, reason=str(error))

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
                self.audit("server", "round.closed", event["job"], "done", details)
            case "decision":
                details = {"reason": str(event["reason"])[:200]}
                self.audit(f"site/{event['site']}", "job.decision", event["job"], str(event["decision"]), details)
            case "finished":
                self.audit("server", "job.finished", event["job"], str(event["status"]))
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


Method = Callable[[Server, Caller, Mapping[str, Any], pb.Call], Any]
_METHODS: dict[str, tuple[str, Method]] = {
    "submit": (RESEARCHER, Server._submit),
    "jobs": (RESEARCHER, Server._list_jobs),
    "job": (RESEARCHER, Server._show_job),
    "cancel": (RESEARCHER, Server._cancel_job),
    "remove": (RESEARCHER, Server._remove_job),
    "resume": (RESEARCHER, Server._resume_job),
    "result": (RESEARCHER, Server._job_result),
    "sites": (RESEARCHER, Server._list_sites),
    "people": (ADMIN, Server._list_people),
    "invite": (ADMIN, Server._invite),
    "revoke": (ADMIN, Server._revoke),
    "audit_head": (ADMIN, Server._audit_head),
}


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


def _identity(caller: Caller) -> Identity:
    if not isinstance(caller, Identity):
        raise TrustError("expected a member")
    return caller


def _body(call: pb.Call) -> dict[str, Any]:
    if call.v != CALL_VERSION:
        raise CodecError(f"call: expected version {CALL_VERSION}, found {call.v}; update the older of the two programs")
    if len(call.body) > MAX_CALL_BYTES:
        raise TooLargeError(f"call: expected at most {MAX_CALL_BYTES} bytes")
    return _json(call.body)


def _json(content: bytes) -> dict[str, Any]:
    """A JSON object of values that can be written again: no NaN, no infinity, no half of a character."""
    try:
        value = json.loads(content)
        canonical_json(value)
    except (ValueError, RecursionError):
        raise CodecError("expected JSON") from None
    if not isinstance(value, dict):
        raise CodecError("expected a JSON object")
    return value


def _number(body: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = body.get(key, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise ConfigError(f"{key}: expected a number from {low:g} to {high:g}")
    return float(value)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _durability(value: str) -> Any:
    return value
