"""Who may read or put which blob, and the links with which it is done: no site and no person has a right on the bucket.

    from a site      want {op, scope, size, hashes, chunks}: as a message into its queue
    from a person    upload {job, id, scope, size, hashes}: an app, or an initial model, too large for `submit` itself
                     fetch {job, id}: the last model; both as a document sealed for this person

A link is bound to a chunk's name, which is its hash, to its length, and to nothing lying there yet. The head that makes
chunks a blob is written here, when the message comes that a person or a site has signed and that names the blob. So
nobody puts anything where another's app, model or answer is to be.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from hanse.core.blobs import INLINE_BYTES, Manifest, rechunk
from hanse.core.codec import canonical_json
from hanse.core.errors import (
    CodecError,
    ConfigError,
    HanseError,
    IntegrityError,
    NotFoundError,
    PolicyError,
    StorageError,
    UnavailableError,
)
from hanse.core.ids import SERVER, bundle_scope, check_job_owner, check_name, model_scope, upload_scope
from hanse.core.records import Envelope
from hanse.pipeline.removal import is_gone
from hanse.pipeline.request import JobRequest
from hanse.rounds import run_state
from hanse.rounds.keeping import run_record
from hanse.serverless.channels import check_writing, is_channel
from hanse.serverless.looking import row_of
from hanse.serverless.open_jobs import take_place
from hanse.serverless.place import Place
from hanse.serverless.roster import Enrolled

MAX_LINKS = 64
"""URLs in one answer: a message to a queue holds 256 KiB."""
BUNDLE, INITIAL = "bundle", "initial"
"""What a request encloses, by name."""
_ANSWER = re.compile("[0-9a-f]{32}")


async def state_of(place: Place, row: Mapping[str, Any]) -> run_state.RunState:
    """The round machine's state of a job.

    Raises:
        NotFoundError: it has none.
    """
    request = JobRequest.from_json(row["request"])
    record, _, _ = await run_record(place.ledger, place.blobs, request.job, request.component)
    return run_state.decode(record["state"])


# ---- sites ----


async def want(place: Place, envelope: Envelope, body: Mapping[str, Any]) -> bool:
    """Links for a blob, if it is one that this site may read or write now.

    Returns:
        Whether it was counted already, as one of those between roles are.
    """
    site, is_counted = envelope.sender, body.get("op") == "put" and is_channel(str(body.get("scope")))
    try:
        answer = await _site_links(place, site, body)
    except (StorageError, UnavailableError):
        raise
    except HanseError as error:
        answer, is_counted = {"error": f"{error}"[:500], "kind": type(error).__name__}, False
    await place.inbox.send(
        site,
        Envelope(SERVER, site, envelope.id, "links", canonical_json({"v": 1, **answer}), place.federation),
    )
    return is_counted


async def _site_links(place: Place, site: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        manifest = Manifest(int(body["size"]), bytes.fromhex(body["hashes"]))
        chunks = [int(n) for n in body["chunks"][:MAX_LINKS]]
        op, scope = str(body["op"]), str(body["scope"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CodecError("want: expected op, scope, size, hashes and chunks") from None
    job = check_name(scope.partition("/")[0], "job")
    row = await row_of(place, job)
    if site not in row["asked"]:
        raise PolicyError("the job was not offered to this site")
    if op == "get":
        await _check_reading(place, site, row, scope, manifest)
        links = place.links.fresh()
        links.grant(site, read=[(scope, manifest.id)])
        link = await links.get(site, scope, manifest.id, only=chunks)
        return {"urls": list(link.urls), "headers": [list(pair) for pair in link.headers], "chunks": chunks}
    if is_channel(scope):
        await check_writing(place, site, JobRequest.from_json(row["request"]), scope, manifest)
    else:
        await _check_answering(place, site, row, scope)
    links = place.links.fresh()
    links.grant(site, write=[scope])
    ticket = await links.put(site, scope, manifest, only=chunks)
    return {
        "urls": list(ticket.urls),
        "headers": [list(pair) for pair in ticket.headers],
        "chunks": list(ticket.missing),
    }


async def _check_answering(place: Place, site: str, row: Mapping[str, Any], scope: str) -> None:
    state = await state_of(place, row)
    slots = {**state.open, **state.released}
    if scope not in {upload_scope(state.task_id(n, slot), site) for n, slot in slots.items() if slot.site == site}:
        raise PolicyError("this site has no task whose answer belongs there")


async def _check_reading(place: Place, site: str, row: Mapping[str, Any], scope: str, manifest: Manifest) -> None:
    request = JobRequest.from_json(row["request"])
    key = (scope, manifest.id)
    if key != (bundle_scope(request.job), request.bundle.id):
        state = await state_of(place, row)
        slots = (*state.open.values(), *state.released.values())
        is_last = place.models_to_sites and state.status == "finished" and key == state.model
        if not is_last and key not in {slot.model for slot in slots if slot.site == site}:
            raise PolicyError("this site has no task that names this blob")


# ---- people ----


async def upload(place: Place, sender: Enrolled, body: Mapping[str, Any]) -> None:
    """Links with which a person puts an app or an initial model for a job that is to be submitted.

    Raises:
        PolicyError, CodecError: not by this person, not there, or not for an answer.
    """
    name, job, id = sender.record.name, check_name(str(body.get("job")), "job"), _answer_id(body)
    check_job_owner(job, name)  # or the answer would lie where another's documents do
    try:
        answer = await _person_links(place, name, job, body)
    except (StorageError, UnavailableError):
        raise
    except HanseError as error:
        answer = {"error": f"{error}"[:500], "kind": type(error).__name__}
    await place.documents.put_answer(job, id, answer, {name: sender.record.sealing_key.hex()})


async def _person_links(place: Place, person: str, job: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        manifest = Manifest(int(body["size"]), bytes.fromhex(body["hashes"]))
        scope = str(body["scope"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CodecError("upload: expected scope, size and hashes") from None
    if scope != bundle_scope(job):
        component = check_name(scope.removeprefix(f"{job}/").partition("/")[0], "component")
        if scope != model_scope(job, component, 0):
            raise PolicyError("upload: expected the place of the job's app or of its initial model")
    if await is_gone(job, place.ledger) or await _is_submitted(place, job):
        raise PolicyError(f"job {job} was submitted: nothing more is put for it")
    await take_place(place, person, job)
    links = place.links.fresh()
    links.grant(person, write=[scope])
    ticket = await links.put(person, scope, manifest, only=range(manifest.num_chunks))
    return {
        "urls": list(ticket.urls),
        "headers": [list(pair) for pair in ticket.headers],
        "chunks": list(ticket.missing),
    }


async def _is_submitted(place: Place, job: str) -> bool:
    try:
        await row_of(place, job)
    except NotFoundError:
        return False
    return True


async def keep_enclosed(place: Place, request: JobRequest, enclosed: object) -> None:
    """Write down what came with a request, or the heads of what was put by links before. Harmless when repeated.

    Args:
        request: verified, and its id its person's.
        enclosed: of `BUNDLE` and `INITIAL` those that were small enough, in base 64.

    Raises:
        CodecError, IntegrityError: not what the request names.
    """
    given = enclosed if isinstance(enclosed, dict) else {}
    blobs = [(BUNDLE, bundle_scope(request.job), request.bundle)]
    if request.initial is not None:
        blobs.append((INITIAL, model_scope(request.job, request.component, 0), request.initial))
    for what, scope, manifest in blobs:
        if what in given:
            try:
                content = base64.b64decode(given[what], validate=True)
            except (TypeError, ValueError):
                raise CodecError(f"job: expected the {what} in base 64") from None
            if len(content) != manifest.size:
                raise IntegrityError(f"job: expected a {what} of {manifest.size} bytes, found {len(content)}")
            await place.blobs.put(scope, manifest, rechunk([content]))
        else:
            try:
                await place.blobs.commit(scope, manifest)
            except (IntegrityError, NotFoundError):
                continue  # it is not there: what checks the request says so


async def fetch(place: Place, sender: Enrolled, row: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Links to a job's last model.

    Args:
        row: of a job that this person may read.

    Raises:
        ConfigError: there is no model. CodecError: not for an answer.
    """
    id, name = _answer_id(body), sender.record.name
    state = await state_of(place, row)
    if state.model is None:
        raise ConfigError("fetch: there is no model")
    manifest = await place.blobs.manifest(*state.model)
    links = place.links.fresh()
    links.grant(name, read=[state.model])
    link = await links.get(name, *state.model, only=range(manifest.num_chunks))
    answer = {
        "scope": link.scope,
        "size": manifest.size,
        "hashes": manifest.hashes.hex(),
        "urls": list(link.urls),
    }
    if manifest.size <= INLINE_BYTES:
        content = bytes(place.blobs.read(*state.model, 0, manifest.size))
        answer |= {"urls": [], "content": base64.b64encode(content).decode()}
    await place.documents.put_answer(state.job, id, answer, {name: sender.record.sealing_key.hex()})


def _answer_id(body: Mapping[str, Any]) -> str:
    id = str(body.get("id"))
    if not _ANSWER.fullmatch(id):
        raise CodecError("expected the id of an answer: 32 hexadecimal digits")
    return id
