"""A task to play a role at this site: checked against the signed job, bridged to the relay, its arrays kept here.

The worker plays, and holds no key; the agent's `Bridge` seals and opens. A session's name is taken in the index of
one-time material before anything leaves, so a task that comes again after a crash is answered `lost`, and the server
begins a new session.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from hanse.channels.spec import RoleSpec
from hanse.clients.role_task import Part, check_told
from hanse.core.codec import canonical_json
from hanse.core.errors import RefusedError, TrustError, UnavailableError
from hanse.core.records import Reply, Task
from hanse.site.links import Carrier
from hanse.site.material import MaterialIndex
from hanse.site.policy import Allowed
from hanse.site.proposals import Proposal
from hanse.site.relay import Bridge, worker_pair
from hanse.trust.certificates import SITE
from hanse.trust.member_record import verify_record
from hanse.trust.membership import Membership
from hanse.trust.sessions import SessionContext, SessionEnd
from hanse.workers.answers import Done
from hanse.workers.isolation import Isolation
from hanse.workers.load import OUTPUTS

FLUSH_S = 60.0
"""How long a program that has ended is given for what it has sent to be on its way."""
ABOUT = "job.json"
"""Beside the arrays that roles left: whose job it was, and who played what."""

log = structlog.get_logger("hanse.site")


@dataclass(frozen=True, slots=True)
class RoleSide:
    """What playing roles needs of the site.

    Attributes:
        membership: the site's own, as it is now.
        material: the index of one-time material.
        outputs: the folder in which roles' arrays stay.
    """

    membership: Callable[[], Membership]
    material: MaterialIndex
    outputs: Path


async def play(
    side: RoleSide,
    proposal: Proposal,
    task: Task,
    connection: Carrier | None,
    execute: Callable[[socket.socket], Awaitable[Done]],
) -> Done:
    """Play one role for one session.

    Args:
        connection: to the server, if there is one now.
        execute: has the worker execute the task over a socket.

    Raises:
        RefusedError, TrustError: the task is not the signed job's, or a peer is not who it should be.
        ConflictError: the session began before. UnavailableError: the server is not there. TaskError: the worker.
    """
    membership = side.membership()
    part = Part.unpack(task.payload)
    spec = _checked(proposal, task, part, membership.identity.name)
    ends = _ends(part, membership)
    context = SessionContext(
        membership.identity.federation, proposal.job, task.id.component, part.session, agreement(proposal, part.sites)
    )
    if connection is None:
        raise UnavailableError("the server cannot be reached now")
    side.material.take(part.session)
    stream = await connection.relay(part.session, part.role, part.sites)
    ours, theirs = worker_pair()
    bridge = Bridge(stream, ours, spec.protocol, part.role, ends=ends, context=context, key=membership.keys.sealing)
    bridging, executing = asyncio.ensure_future(bridge.run()), asyncio.ensure_future(execute(theirs))
    try:
        await asyncio.wait((bridging, executing), return_when=asyncio.FIRST_COMPLETED)
        if not executing.done():
            bridging.result()  # it raises what it broke with; a worker that closed its end is about to answer
        done = await executing
        check_told(done.reply.metrics, spec.protocol, part.role)
        with contextlib.suppress(TimeoutError, UnavailableError):
            async with asyncio.timeout(FLUSH_S):
                await asyncio.shield(bridging)
        return done
    finally:
        for work in (bridging, executing):
            work.cancel()
        await asyncio.gather(bridging, executing, return_exceptions=True)


def agreement(proposal: Proposal, playing: Mapping[str, str]) -> str:
    """What sites agree on before they understand each other: the signed job, and who is left out of this session.

    So a server cannot tell one site that a role is away while it tells another that it plays.
    """
    if proposal.roles is None or playing == proposal.roles.roles:
        return proposal.agreement
    return hashlib.sha256(canonical_json([proposal.agreement, dict(playing)])).hexdigest()


COMPONENT = "main"
"""The one component that a job has today."""


def _checked(proposal: Proposal, task: Task, part: Part, site: str) -> RoleSpec:
    """The job's roles, if the task is what its person signed."""
    spec = proposal.roles
    if spec is None:
        raise RefusedError("a task to play a role, of a job that has none")
    session = f"{task.id.job}/{task.id.component}/{task.id.round}"
    missing = set(spec.roles) - set(part.sites)
    expected = {role: site for role, site in spec.roles.items() if role not in missing}
    asked = (part.session, part.role, part.sites, part.timeout_s, task.seed)
    if task.id.round > spec.retries + 1 or task.id.component != COMPONENT:
        raise RefusedError(f"a task to play once more, of a job that allows {spec.retries + 1} sessions")
    if not missing <= set(spec.optional) or asked != (session, spec.role_of(site), expected, spec.timeout_s, spec.seed):
        raise RefusedError(
            "a task to play another role, with other sites, another patience or another seed, than its person signed"
        )
    return spec


def _ends(part: Part, membership: Membership) -> dict[str, SessionEnd]:
    """Every role's end, from records that the authority signed and that hold now."""
    found = {}
    for role, site in part.sites.items():
        record = verify_record(part.records.get(role, "").encode(), membership.authority_pem)
        if (record.kind, record.name, record.federation) != (SITE, site, membership.identity.federation):
            raise TrustError(f"expected the member record of site {site}, found one of {record.kind} {record.name}")
        found[role] = SessionEnd(role, site, record.sealing_key)
    own = found[part.role]
    if own.key != membership.keys.sealing_public:
        raise TrustError("the server names another key for this site than its own; has it been renewed elsewhere?")
    return found


def lend_outputs(
    side: RoleSide, proposal: Proposal, role: str, scratch: Path, isolation: Isolation, lends: Allowed
) -> None:
    """Copy what this role kept in the earlier job that the signed job names to where the worker finds it.

    **Guarantee.** It was the same person's job, or that of one whom the owner `lends`, and whoever plays a role in both
    is the same site.

    Args:
        lends: people whose jobs' outputs jobs of others may use, too; None for anybody.

    Raises:
        RefusedError: the earlier job was another person's, or had other sites.
    """
    spec = proposal.roles
    if spec is None or not spec.outputs_of:
        return
    folder = side.outputs / spec.outputs_of
    kept = folder / f"{role}.safetensors"
    if not kept.is_file():
        return  # the program says what it misses
    person, roles = kept_for(folder)
    if person != proposal.person and lends is not None and person not in lends:
        raise RefusedError(
            f"outputs_of: {spec.outputs_of} is not a job of {proposal.person}; "
            f"the site's owner may allow it (`lends` in policy.yaml)"
        )
    if any(roles.get(each, site) != site for each, site in spec.roles.items()):
        raise RefusedError(f"outputs_of: expected the sites of {spec.outputs_of} in its roles, found others")
    lent = scratch / OUTPUTS
    with open(lent, "xb", opener=_owner_only) as target, kept.open("rb") as source:
        shutil.copyfileobj(source, target)
    if isolation.level == "user":
        os.chown(lent, isolation.uid, isolation.gid)


def keep_arrays(side: RoleSide, proposal: Proposal, role: str, done: Done, out: Path | None) -> Reply:
    """Write the arrays that a role returned to this site's folder, and whose they are; the reply goes without them.

    Raises:
        RefusedError: another job of that name has left something here.
    """
    update = done.reply.update
    if update is None:
        return done.reply
    folder = side.outputs / proposal.job
    for each in (side.outputs, folder):
        each.mkdir(mode=0o700, exist_ok=True)
    roles = {} if proposal.roles is None else dict(proposal.roles.roles)
    about = canonical_json(
        {"v": 1, "job": proposal.job, "person": proposal.person, "app": proposal.app, "roles": roles}
    )
    path = folder / ABOUT
    if path.read_bytes() != about if path.exists() else any(folder.glob("*.safetensors")):
        raise RefusedError(f"outputs: expected none of another job called {proposal.job} here, found some")
    _write(path, about)
    content = update.content if update.content is not None else b"" if out is None else out.read_bytes()
    target = folder / f"{role}.safetensors"
    _write(target, content)
    log.info("arrays kept", job=proposal.job, file=str(target.relative_to(side.outputs.parent)))
    return replace(done.reply, update=None)


def discard_arrays(side: RoleSide, job: str) -> None:
    """Remove what roles of a job left that has failed or was cancelled: without the others' it is of no use."""
    folder = side.outputs / job
    if (folder / ABOUT).exists():
        shutil.rmtree(folder, ignore_errors=True)
        log.info("arrays of a job without a result removed", job=job)


def kept_for(folder: Path) -> tuple[str, Mapping[str, str]]:
    """Whose job left what is in this folder, and the site of each of its roles.

    Raises:
        RefusedError: nothing here says so.
    """
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        if about["v"] == 1 and type(about["person"]) is str and isinstance(about["roles"], dict):
            return about["person"], about["roles"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise RefusedError(f"outputs_of: expected {ABOUT} beside what {folder.name} left, which says whose it is")


def _write(path: Path, content: bytes) -> None:
    """All of it, on disk and for the owner alone, or nothing."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(draft, "xb", opener=_owner_only) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
