"""What comes to the server's queue, checked and written down; what it means for a run is found by looking.

    from a site      decision, reply, beat {jobs, leaves?}, want {op, scope, size, hashes, chunks}, ask {job} (to be
                     offered it again), channel (a packet to a peer)
    from a person    submit {request, signature, enclosed}, cancel {job}, resume {job, at_ms}, remove {job},
                     upload {job, id, scope, size, hashes}, fetch {job, id}: see `granting`

Every message is signed, and says for whom and in which federation. What does not hold is refused by name and does not
come again; what cannot be written now is raised, and comes again.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from hanse.channels.packets import CHANNEL
from hanse.core.errors import (
    CodecError,
    ConfigError,
    HanseError,
    IntegrityError,
    NotFoundError,
    PolicyError,
    StorageError,
    TrustError,
    UnavailableError,
)
from hanse.core.ids import SERVER, check_job_owner, check_name, model_scope, upload_scope
from hanse.core.records import BlobRef, Envelope, Reply
from hanse.pipeline.offering import check_request, check_sites, end_of, job_end, keep_request, proposal_of
from hanse.pipeline.removal import is_gone
from hanse.pipeline.request import JobRequest
from hanse.rounds import machine
from hanse.rounds.driver.visit import begin, collect
from hanse.serverless.channels import pass_on
from hanse.serverless.contract import LONGEST_EXECUTION_NAME, execution_name, first_input
from hanse.serverless.granting import fetch, keep_enclosed, state_of, upload, want
from hanse.serverless.looking import about_request, dismiss, is_over, row_of
from hanse.serverless.open_jobs import take_place
from hanse.serverless.place import Place
from hanse.serverless.presence import DECISIONS, decided, heard
from hanse.serverless.removing import remove
from hanse.serverless.roles import answered, begin_roles
from hanse.serverless.roster import ADMIN, Enrolled
from hanse.trust.bundle_signature import verify_bundle_signature
from hanse.trust.envelopes import verify_envelope

PERSONS = ("upload", "submit", "cancel", "resume", "remove", "fetch")
SITES = ("decision", "reply", "beat", "want", "ask", CHANNEL)
RESEARCHER = "researcher"
MAX_MS = 10**13
"""Times are below this until the year 2286, and have 13 digits at most."""
log = structlog.get_logger("hanse.serverless")


@dataclass(frozen=True, slots=True)
class News:
    """Something has happened to a job, and somebody should look.

    Args:
        kind: what the message was.
        in_stream: whether a row tells of it that the table's stream shows.
    """

    job: str
    kind: str
    in_stream: bool = False
    cancelled_by: str = ""


async def take(place: Place, envelope: Envelope) -> list[News]:
    """Take one message.

    Raises:
        StorageError, UnavailableError: it is not kept; it must come again.
    """
    try:
        return await _take(place, envelope)
    except (StorageError, UnavailableError):
        raise
    except HanseError as error:
        log.warning(
            "message refused",
            sender=envelope.sender[:64],
            kind=envelope.kind,
            id=envelope.id[:200],
            reason=f"{type(error).__name__}: {error}"[:500],
        )
        return []


async def _take(place: Place, envelope: Envelope) -> list[News]:
    if envelope.recipient != SERVER or envelope.federation != place.federation:
        raise CodecError(f"expected a message to the server of {place.federation}")
    if envelope.kind not in (*PERSONS, *SITES):
        raise CodecError("expected a kind of message that a server takes")
    kind = "person" if envelope.kind in PERSONS else "site"
    sender = await place.roster.member(kind, check_name(envelope.sender))
    verify_envelope(sender.key, envelope)
    member, size = f"{kind}/{envelope.sender}", len(envelope.body)
    await place.allowances.spend(place.ledger, member, size, place.now_ms())
    try:
        news, is_bounded = await _heeded(place, sender, envelope)
    except (StorageError, UnavailableError):
        place.allowances.forgive(member, size)  # it comes again
        raise
    if is_bounded:
        place.allowances.forgive(member, size)
    return news


async def _heeded(place: Place, sender: Enrolled, envelope: Envelope) -> tuple[list[News], bool]:
    """What a message means, and whether something else bounds how many of its kind there can be."""
    match envelope.kind:
        case "reply":
            news = await _reply(place, envelope)
            return news, all(each.kind == "received" for each in news)
        case "channel":
            await pass_on(place, envelope, await row_of(place, check_name(envelope.job, "job")))
            return [], True
        case "want":
            return [], await want(place, envelope, _body(envelope))
        case _:
            return await _asked(place, sender, envelope), False


async def _asked(place: Place, sender: Enrolled, envelope: Envelope) -> list[News]:
    body = _body(envelope)
    match envelope.kind:
        case "decision":
            return await _decision(place, envelope.sender, body)
        case "beat":
            return await _beat(place, envelope.sender, body)
        case "ask":
            await _ask(place, envelope.sender, body)
            return []
        case "submit":
            return await _submit(place, sender, body)
        case "upload":
            _check_submitter(sender)
            await upload(place, sender, body)
            return []
        case "fetch":
            await fetch(place, sender, await _own(place, sender, body), body)
            return []
        case "remove":
            return await _remove(place, sender, body)
        case "cancel":
            return await _cancel(place, sender, body)
        case _:
            return await _resume(place, sender, body)


# ---- sites ----


async def _reply(place: Place, envelope: Envelope) -> list[News]:
    reply = Reply.unpack(envelope.body)
    if reply.site != envelope.sender:
        raise TrustError("the reply names another site than its sender")
    task, update = reply.task, reply.update
    request = JobRequest.from_json((await row_of(place, task.job))["request"])
    if request.roles is not None:
        outcome, reason = await answered(place, request, reply)
        if outcome == "refused":
            raise PolicyError(reason)
        return [News(task.job, outcome, in_stream=outcome == "received")]
    if update is not None and update.content is None and update.scope == upload_scope(task, reply.site):
        try:
            await place.blobs.commit(update.scope, update.manifest)
        except (IntegrityError, NotFoundError) as error:
            raise IntegrityError(f"the update of {task} has not been uploaded: {error}") from None
    outcome, reason = await collect(task.job, task.component, place.seams, place.now_ms, reply)
    if outcome == "refused":
        raise PolicyError(reason)
    return [News(task.job, outcome, in_stream=outcome == "received")]


async def _decision(place: Place, site: str, body: Mapping[str, Any]) -> list[News]:
    job = check_name(str(body.get("job")), "job")
    row = await _row_or_word(place, site, job)
    if row is None:
        return []
    if site not in row["asked"]:
        raise PolicyError("the job was not offered to this site")
    decision, reason = str(body.get("decision")), str(body.get("reason", ""))[:500]
    if decision not in DECISIONS:
        raise CodecError("expected accept, hold or refuse")
    if await _dismissed(place, site, row):
        return []
    at_ms = _number(body, "at_ms")
    is_new = await decided(place.ledger, job, site, decision, reason, place.now_ms(), at_ms=at_ms)
    return [News(job, "decision", in_stream=is_new)]


async def _beat(place: Place, site: str, body: Mapping[str, Any]) -> list[News]:
    news: list[News] = []
    jobs = body.get("jobs")
    for job in jobs[:64] if isinstance(jobs, list) else []:
        try:
            row = await _row_or_word(place, site, check_name(str(job), "job"))
        except NotFoundError:
            continue
        if row is None or site not in row["asked"] or await _dismissed(place, site, row):
            continue
        leaves = body.get("leaves") is True
        if await heard(place.ledger, str(job), site, place.now_ms(), at_ms=_number(body, "at_ms"), leaves=leaves):
            news.append(News(str(job), "beat"))
    return news


async def _ask(place: Place, site: str, body: Mapping[str, Any]) -> None:
    """A site that has come again without its journal is offered a job again, or told that it is over."""
    job = check_name(str(body.get("job")), "job")
    try:
        row = await _row_or_word(place, site, job)
    except NotFoundError:  # not submitted yet: it will be offered when it is
        return
    if row is None or site not in row["asked"] or await _dismissed(place, site, row):
        return
    signature, record = bytes.fromhex(row["signature"]), row["person_record"].encode()
    await _offer(place, JobRequest.from_json(row["request"]), signature, record, [site])


async def _row_or_word(place: Place, site: str, job: str) -> dict[str, Any] | None:
    """A job's row; None where it was removed, which the site is told, or it would hold its part of it for ever.

    Raises:
        NotFoundError: there never was such a job.
    """
    try:
        return await row_of(place, job, fresh=True)
    except NotFoundError:
        if not await is_gone(job, place.ledger):
            raise
    await place.inbox.send(site, end_of(site, place.federation, job, "removed"))
    return None


async def _dismissed(place: Place, site: str, row: Mapping[str, Any]) -> bool:
    """Whether the job is over, which the site is told once more, in the same words: this may come before the first."""
    request = JobRequest.from_json(row["request"])
    end = await job_end(request.job, place.ledger)
    if end is None:
        return False
    status, model = str(end.get("status", "over")), None
    if status == "finished" and place.models_to_sites and request.roles is None:
        with contextlib.suppress(NotFoundError):  # it has expired
            state = await state_of(place, row)
            if state.model is not None:
                scope, id = state.model
                model = BlobRef(await place.blobs.manifest(scope, id), scope)
    await dismiss(place, site, request, status, model)
    return True


# ---- people ----


async def _submit(place: Place, sender: Enrolled, body: Mapping[str, Any]) -> list[News]:
    request = JobRequest.from_json(body.get("request"))
    if await is_gone(request.job, place.ledger):
        return []
    if await is_over(place, request.job):  # a copy: sites are not asked again
        kept = JobRequest.from_json((await row_of(place, request.job))["request"])
        name = execution_name(kept.job, kept.component, 0)
        # Whoever took it before may have died before this, and what was decided last may not have been performed.
        await place.machine.start(name, first_input(kept.job, kept.component))
        return []
    try:
        await _begin(place, sender, request, body)
    except (StorageError, UnavailableError):
        raise
    except HanseError as error:
        if _is_own(request, sender):  # nobody writes documents in another's name
            await _tell_refusal(place, sender, request, error)
        raise
    return [News(request.job, "submit")]


def _check_submitter(sender: Enrolled) -> None:
    if not {ADMIN, RESEARCHER} & set(sender.roles):
        raise PolicyError(f"person {sender.record.name} has not got the role {RESEARCHER}")


def _is_own(request: JobRequest, sender: Enrolled) -> bool:
    try:
        check_job_owner(request.job, sender.record.name)
    except PolicyError:
        return False
    return request.person == sender.record.name


async def _begin(place: Place, sender: Enrolled, request: JobRequest, body: Mapping[str, Any]) -> None:
    """Every step may have been done before, by a function that died."""
    _check_submitter(sender)
    if request.person != sender.record.name:
        raise TrustError(f"job: signed as {request.person}, sent by {sender.record.name}")
    try:
        signature = bytes.fromhex(str(body.get("signature")))
    except ValueError:
        raise CodecError("job: expected a signature") from None
    request.verify(sender.key, signature)
    verify_bundle_signature(request.bundle_signature.encode(), bundle_id=request.app, record=sender.record)
    if len(execution_name(request.job, request.component, MAX_MS - 1)) > LONGEST_EXECUTION_NAME:
        raise ConfigError("job: expected shorter names of job and component: together at most 65 characters on AWS")
    check_job_owner(request.job, request.person)
    await take_place(place, request.person, request.job)
    await keep_enclosed(place, request, body.get("enclosed"))
    await check_request(request, place.blobs, federation=place.federation)
    enrolled = await place.roster.sites()
    check_sites(request, enrolled)
    asked = [site for site in enrolled if request.sites is None or site in request.sites]
    if not asked:
        raise ConfigError(
            f"job: expected sites of the federation ({', '.join(enrolled) or 'none'}), found none of them"
        )
    person_record = sender.signed_record
    await keep_request(
        request, signature, place.ledger, place.now_ms(), asked=asked, person_record=person_record.decode()
    )
    if request.roles is not None:
        await begin_roles(place, request)
    else:
        await _begin_rounds(place, request)
    await _offer(place, request, signature, person_record, asked)
    name = execution_name(request.job, request.component, 0)
    await place.machine.start(name, first_input(request.job, request.component))


async def _begin_rounds(place: Place, request: JobRequest) -> None:
    model = None
    if request.initial is not None:
        model = (model_scope(request.job, request.component, 0), request.initial.id)
    state = machine.begin(request.job, request.component, request.spec, model)
    await begin(state, place.seams, place.now_ms)


async def _offer(place: Place, request: JobRequest, signature: bytes, person_record: bytes, sites: list[str]) -> None:
    offers = (proposal_of(site, request, signature, person_record) for site in sites)
    await asyncio.gather(*(place.inbox.send(offer.recipient, offer) for offer in offers))


async def _tell_refusal(place: Place, sender: Enrolled, request: JobRequest, error: HanseError) -> None:
    """The person reads it where it would have read of its job, unless there is such a job."""
    try:
        await row_of(place, request.job)
    except NotFoundError:
        about = {"status": "failed", "error": str(error)[:1000], "sites": {}, "refused": True}
        readers = {sender.record.name: sender.record.sealing_key.hex()} if place.private else None
        await place.documents.put_about(request.job, about_request(request) | about, readers)


async def _own(place: Place, sender: Enrolled, body: Mapping[str, Any]) -> dict[str, Any]:
    row = await row_of(place, check_name(str(body.get("job")), "job"), fresh=True)
    if row["request"]["person"] != sender.record.name and ADMIN not in sender.roles:
        raise PolicyError(f"person {sender.record.name} has not got the role {ADMIN}, and the job is another's")
    return row


async def _cancel(place: Place, sender: Enrolled, body: Mapping[str, Any]) -> list[News]:
    await _own(place, sender, body)
    return [News(str(body["job"]), "cancel", cancelled_by=f"person {sender.record.name}")]


async def _remove(place: Place, sender: Enrolled, body: Mapping[str, Any]) -> list[News]:
    row = await _own(place, sender, body)
    await remove(place, str(body["job"]), str(row["request"]["person"]))
    return []


async def _resume(place: Place, sender: Enrolled, body: Mapping[str, Any]) -> list[News]:
    """Offer the job again, and start another execution: the one before has failed, or sites have joined since."""
    row = await _own(place, sender, body)
    request = JobRequest.from_json(row["request"])
    if await is_over(place, request.job):
        raise ConfigError(f"job {request.job} is over")
    await _offer(place, request, bytes.fromhex(row["signature"]), row["person_record"].encode(), row["asked"])
    generation = _number(body, "at_ms") or place.now_ms()
    name = execution_name(request.job, request.component, generation)
    await place.machine.start(name, first_input(request.job, request.component, generation))
    return [News(request.job, "resume")]


def _number(body: Mapping[str, Any], name: str) -> int:
    """A time in milliseconds; 0 where there is none that can be."""
    value = body.get(name)
    return value if type(value) is int and 0 < value < MAX_MS else 0


def _body(envelope: Envelope) -> Mapping[str, Any]:
    try:
        body = json.loads(envelope.body)
    except (ValueError, RecursionError):
        raise CodecError("expected JSON") from None
    if not isinstance(body, dict):
        raise CodecError("expected a JSON object")
    return body
