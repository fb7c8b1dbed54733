"""What people ask the server: each question, the role that it takes, and what is done.

A call is a JSON object whose `op` names the question; see the table `METHODS` at the end.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import structlog

from hanse.backends.grpc.service import Caller
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, HanseError, PolicyError, TooLargeError, TrustError
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import pack_blob
from hanse.core.spec import MAX_ROUNDS
from hanse.pipeline.request import JobRequest
from hanse.server.audit import Audit
from hanse.server.jobs import Jobs
from hanse.server.members import ADMIN, RESEARCHER, Members
from hanse.server.presence import Presence
from hanse.server.rights import Rights
from hanse.trust.bundle_signature import verify_bundle_signature

MAX_CALL_BYTES = 1 << 20
CALL_VERSION = 1
MAX_TOKEN_HOURS = 24 * 366
log = structlog.get_logger("hanse.server")


class Calls:
    """Answers people.

    Args:
        enrolment: the address at which members enrol, once the server listens.
        cut_off: ends a revoked site's sessions.
    """

    def __init__(
        self,
        members: Members,
        jobs: Jobs,
        rights: Rights,
        presence: Presence,
        audit: Audit,
        *,
        enrolment: Callable[[], str],
        cut_off: Callable[[str], None],
    ) -> None:
        self._members = members
        self._jobs = jobs
        self._rights = rights
        self._presence = presence
        self._audit = audit
        self._enrolment = enrolment
        self._cut_off = cut_off

    async def ask(self, caller: Caller, call: pb.Call) -> pb.Answer:
        """See `Handler.ask`."""
        body = _body(call)
        method = METHODS.get(str(body.get("op")))
        if method is None:
            raise ConfigError(f"call: expected one of {', '.join(METHODS)}; found {str(body.get('op'))[:40]!r}")
        if caller.kind != "person":
            raise PolicyError(f"{caller.kind} {caller.name} may not ask this; a person may")
        role, function = method
        self._rights.require(caller, role)
        answer, content = await function(self, caller, body, call)
        return pb.Answer(v=1, body=json.dumps(answer).encode(), content=content)

    async def watch(self, caller: Caller, call: pb.Call) -> AsyncIterator[pb.Answer]:
        """A job's events, as they come; see `Handler.watch`."""
        self._rights.require(caller, RESEARCHER)
        body = _body(call)
        await self._rights.require_own(caller, str(body.get("job")), "follow it")
        async for events in self._jobs.reading.follow(str(body.get("job"))):
            yield pb.Answer(v=1, body=json.dumps(events).encode())

    async def submit(self, request: JobRequest, signature: bytes) -> None:
        """Take a job whose bundle is there, of a person who may submit.

        Raises:
            HanseError: it is not what its person signed, or something in it does not hold.
        """
        actor = f"person/{request.person}"
        try:
            request.verify(self._members.signing_key("person", request.person), signature)
            record, _ = self._members.record("person", request.person)
            verify_bundle_signature(request.bundle_signature.encode(), bundle_id=request.app, record=record)
            await self._jobs.submit(request, signature)
        except HanseError as error:
            self._audit.line(
                actor, "job.submit", request.job, "refused", {"reason": str(error)[:200], "app": request.app}
            )
            raise
        self._audit.line(actor, "job.submit", request.job, "allowed", {"app": request.app})
        log.info("job submitted", job=request.job, person=request.person)

    async def _submit(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        request = JobRequest.from_json(body.get("request"))
        if request.person != caller.name:
            raise TrustError(f"job: signed as {request.person}, sent by {caller.name}")
        await self.submit(request, call.sig)
        return {"job": request.job}, b""

    async def _list_jobs(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return {"jobs": await self._jobs.reading.describe_all()}, b""

    async def _show_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return await self._jobs.reading.describe(str(body.get("job"))), b""

    async def _cancel_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        job = str(body.get("job"))
        await self._rights.require_end(caller, job)
        await self._jobs.cancel(job, f"person {caller.name}")
        self._audit.line(f"person/{caller.name}", "job.cancel", job, "allowed")
        return {"job": job}, b""

    async def _remove_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        job = str(body.get("job"))
        await self._rights.require_end(caller, job)
        await self._jobs.remove(job)
        self._audit.line(f"person/{caller.name}", "job.remove", job, "allowed")
        return {"job": job}, b""

    async def _resume_job(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        await self._jobs.take_up()
        about = await self._jobs.reading.describe(str(body.get("job")))
        self._audit.line(f"person/{caller.name}", "job.resume", about["job"], "allowed")
        return about, b""

    async def _job_result(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        await self._rights.require_own(caller, str(body.get("job")), "read its result")
        value, model = await self._jobs.reading.result(
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
                for member in self._members.of_kind("site")
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
                for member in self._members.of_kind("person")
            ]
        }, b""

    async def _invite(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        kind, name = str(body.get("kind")), str(body.get("name"))
        roles = body.get("roles") or []
        if not isinstance(roles, list):
            raise ConfigError("roles: expected a list of names")
        token = await self._members.invite(
            kind,
            name,
            roles=roles,
            address=self._enrolment(),
            hours=_number(body, "hours", 24, 0, MAX_TOKEN_HOURS),
        )
        self._audit.line(f"person/{caller.name}", "member.invite", f"{kind}/{name}", "allowed")
        return {"token": token}, b""

    async def _revoke(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        kind, name = str(body.get("kind")), str(body.get("name"))
        await self._members.revoke(kind, name)
        if kind == "site":
            self._cut_off(name)
        self._audit.line(f"person/{caller.name}", "member.revoke", f"{kind}/{name}", "allowed")
        return {"revoked": f"{kind}/{name}"}, b""

    async def _audit_head(self, caller: Caller, body: Mapping[str, Any], call: pb.Call) -> tuple[Any, bytes]:
        return {"head": self._audit.head()}, b""


Method = Callable[[Calls, Caller, Mapping[str, Any], pb.Call], Any]
METHODS: dict[str, tuple[str, Method]] = {
    "submit": (RESEARCHER, Calls._submit),
    "jobs": (RESEARCHER, Calls._list_jobs),
    "job": (RESEARCHER, Calls._show_job),
    "cancel": (RESEARCHER, Calls._cancel_job),
    "remove": (RESEARCHER, Calls._remove_job),
    "resume": (RESEARCHER, Calls._resume_job),
    "result": (RESEARCHER, Calls._job_result),
    "sites": (RESEARCHER, Calls._list_sites),
    "people": (ADMIN, Calls._list_people),
    "invite": (ADMIN, Calls._invite),
    "revoke": (ADMIN, Calls._revoke),
    "audit_head": (ADMIN, Calls._audit_head),
}
"""The questions, by name."""


def _body(call: pb.Call) -> dict[str, Any]:
    if call.v != CALL_VERSION:
        raise CodecError(f"call: expected version {CALL_VERSION}, found {call.v}; update the older of the two programs")
    if len(call.body) > MAX_CALL_BYTES:
        raise TooLargeError(f"call: expected at most {MAX_CALL_BYTES} bytes")
    return json_object(call.body)


def json_object(content: bytes) -> dict[str, Any]:
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
