"""What every server does with a job request, wherever it runs: check it, keep it, propose it to sites.

job/<id>      {request, signature, taken_at_ms}: the signed request and when it was taken
jobend/<id>   how it ended
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hanse.aggregation import codec_named
from hanse.core.errors import ConfigError, ConflictError, NotFoundError
from hanse.core.ids import bundle_scope, check_job_owner, model_scope
from hanse.core.records import BlobRef, Envelope
from hanse.core.seams import BlobStore, Ledger
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest, manifest_json
from hanse.strategies import named
from hanse.strategies.catalogue import CUSTOM, catalogue
from hanse.strategies.groups import Groups, check_above, is_within
from hanse.strategies.schedule import rate_of
from hanse.strategies.selection import selection_of
from hanse.trust.bundle import Bundle, read_bundle


async def check_request(request: JobRequest, blobs: BlobStore, *, federation: str, leader: str | None = None) -> None:
    """Return if a request can be taken; whose it is was checked before.

    Args:
        leader: the person whose jobs a federation above leads here, where this is an edge: nobody else's ever is.

    Raises:
        PolicyError: its id is not its person's. ConfigError, RefusedError: something in it does not hold, by name.
    """
    spec = request.spec
    check_job_owner(request.job, request.person)
    if request.federation != federation:
        raise ConfigError(f"job: expected one for federation {federation}, found {request.federation}")
    if spec.strategy in catalogue():
        if not named(spec.strategy, spec.params).can_compress and spec.compression:
            raise ConfigError(f"run.compression: expected none with the strategy {spec.strategy}")
    elif request.roles is None and spec.strategy != CUSTOM:
        known = ", ".join((*catalogue(), CUSTOM))
        raise ConfigError(f"run.strategy: expected one of {known}; found {spec.strategy[:40]!r}")
    if spec.compression:
        codec_named(spec.compression)
    selection_of(spec)
    if spec.lr is not None:
        rate_of("run.lr", spec.lr)
    if spec.groups is not None:
        Groups.from_json(spec.groups)
        if spec.strategy not in catalogue():
            raise ConfigError(f"run.strategy: expected a built-in one beside groups, found {spec.strategy[:40]}")
        check_above(named(spec.strategy, spec.params))
        if is_within(spec) and leader is None:
            raise ConfigError(
                "run.groups: expected an edge (`hanse edge start`) for a group's own run, found none here"
            )
        if is_within(spec) and request.person != leader:
            raise ConfigError(
                f"run.groups: expected a group's own run of the edge's person {leader} alone, found one of "
                f"{request.person}; submit the job to the federation above"
            )
    if request.sites is not None and not request.sites:
        raise ConfigError("job: expected at least one site, or none named for all of them")
    bundle = await fetch_bundle(request, blobs)
    if bundle.manifest.object != request.object:
        raise ConfigError("job: the request names another object than the bundle")
    if request.entry != f"{bundle.manifest.module.replace('.', '/')}.py":
        raise ConfigError("job: the request names another module than the bundle")
    if request.initial is not None:
        scope = model_scope(request.job, request.component, 0)
        if await blobs.missing(scope, request.initial):
            raise ConfigError("job: the initial model has not been uploaded")
    elif spec.initial == "given":
        raise ConfigError("job: expected an initial model, found none")


def check_sites(request: JobRequest, enrolled: Sequence[str]) -> None:
    """Return if the sites that a job names are there to be asked, and enough; of one with roles, those that play them.

    Raises:
        ConfigError: they are not.
    """
    roles = request.roles
    if roles is None:
        if request.sites is not None:
            _check_named(request.sites, request.spec, enrolled)
        return
    if sorted(request.sites or ()) != list(roles.sites):
        raise ConfigError("job: expected the sites that play roles, and no others")
    unknown = sorted(set(roles.sites) - set(enrolled))
    if unknown:
        raise ConfigError(f"roles: expected sites of the federation, found {', '.join(unknown)}")


def _check_named(sites: Sequence[str], spec: RunSpec, enrolled: Sequence[str]) -> None:
    unknown = sorted(set(sites) - set(enrolled))
    if unknown:
        raise ConfigError(f"sites: expected some of {', '.join(enrolled) or 'none yet'}, found {', '.join(unknown)}")
    for name in ("quorum", "min_sites"):
        least = getattr(spec, name)
        if least is not None and least > len(sites):
            raise ConfigError(f"{name}: expected at most the {len(sites)} sites that are asked, found {least}")


async def fetch_bundle(request: JobRequest, blobs: BlobStore) -> Bundle:
    """The app of a job.

    Raises:
        ConfigError: it has not been uploaded. RefusedError: it is not what the request names.
    """
    scope = bundle_scope(request.job)
    if await blobs.missing(scope, request.bundle):
        raise ConfigError("job: the app's bundle has not been uploaded")
    content = bytes(blobs.read(scope, request.bundle.id, 0, request.bundle.size))
    return await asyncio.to_thread(lambda: read_bundle(content, expected_id=request.app))


async def keep_request(request: JobRequest, signature: bytes, ledger: Ledger, now_ms: int, **more: Any) -> bool:
    """Write a job's row. False if it is there already: asking twice is harmless.

    Raises:
        ConflictError: another job of this id.
    """
    row = {"request": request.to_json(), "signature": signature.hex(), "taken_at_ms": now_ms, **more}
    content = json.dumps(row, separators=(",", ":"))
    if await ledger.create(f"job/{request.job}", content.encode()):
        return True
    before = await job_row(request.job, ledger)
    if before["request"] != json.loads(content)["request"]:  # as read: what is a tuple here is a list there
        raise ConflictError(f"job {request.job} exists already and is another one")
    return False


async def job_row(job: str, ledger: Ledger) -> dict[str, Any]:
    """A job's row.

    Raises:
        NotFoundError: there is no such job.
    """
    try:
        content, _ = await ledger.get(f"job/{job}")
    except NotFoundError:
        raise NotFoundError(f"there is no job {job[:64]!r}; see: hanse job list") from None
    row: dict[str, Any] = json.loads(content)
    return row


async def keep_end(job: str, end: Mapping[str, Any], ledger: Ledger) -> None:
    """Write how a job ended; the first to do so is right.

    Args:
        end: `status`, `error`, `ended_at_ms`, `fingerprints`.
    """
    await ledger.create(f"jobend/{job}", json.dumps(end).encode())


async def job_end(job: str, ledger: Ledger) -> dict[str, Any] | None:
    """How a job ended; None if it has not."""
    try:
        content, _ = await ledger.get(f"jobend/{job}")
    except NotFoundError:
        return None
    end: dict[str, Any] = json.loads(content)
    return end


async def rows_of(prefix: str, ledger: Ledger) -> list[tuple[str, bytes, int]]:
    """Every record whose key begins with `prefix`: key, content, version."""
    found: list[tuple[str, bytes, int]] = []
    after: str | None = None
    while rows := await ledger.query(prefix, after):
        after = rows[-1][0]
        found.extend(rows)
    return found


def proposal_of(site: str, request: JobRequest, signature: bytes, person_record: bytes) -> Envelope:
    """The message that asks a site to take part."""
    body = {
        "v": 1,
        "job": request.job,
        "name": request.name,
        "person": request.person,
        "app": request.app,
        "bundle": {"scope": bundle_scope(request.job), **manifest_json(request.bundle)},
        "entry": request.entry,
        "object": request.object,
        "spec": request.spec.to_json(),
        "person_record": person_record.decode(),
        "bundle_signature": request.bundle_signature,
        "submitted_at_ms": request.submitted_at_ms,
        "request": request.to_json(),
        "signature": signature.hex(),
    }
    return _envelope(site, request.federation, request.job, "propose", body)


def end_of(site: str, federation: str, job: str, status: str, model: BlobRef | None = None) -> Envelope:
    """The message that tells a site that a job is over, and where its last model is if the site is to have it.

    Args:
        status: how it ended; `removed` where nothing else is known of it any more.
    """
    body: dict[str, Any] = {"v": 1, "job": job, "status": status}
    if model is not None:
        body["model"] = {"scope": model.scope, **manifest_json(model.manifest)}
    return _envelope(site, federation, job, "end", body)


def _envelope(site: str, federation: str, job: str, kind: str, body: dict[str, Any]) -> Envelope:
    return Envelope(
        sender="server",
        recipient=site,
        id=f"{kind}/{job}",
        kind=kind,
        body=json.dumps(body).encode(),
        federation=federation,
        job=job,
    )
