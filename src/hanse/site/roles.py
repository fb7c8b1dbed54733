"""A task to play a role at this site: checked against the signed job, bridged to the relay, its arrays kept here.

The worker plays, and holds no key; the agent's `Bridge` seals and opens. A session's name is taken in the index of
one-time material before anything leaves, so a task that comes again after a crash is answered `lost`, and the server
begins a new session.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from hanse.channels.spec import RoleSpec
from hanse.clients.roles import Part, check_told
from hanse.core.errors import RefusedError, TrustError, UnavailableError
from hanse.core.records import Reply, Task
from hanse.site.links import Carrier
from hanse.site.material import MaterialIndex
from hanse.site.proposals import Proposal
from hanse.site.relay import Bridge, worker_pair
from hanse.trust.certificates import SITE
from hanse.trust.member_record import verify_record
from hanse.trust.membership import Membership
from hanse.trust.sessions import SessionContext, SessionEnd
from hanse.workers.isolation import Isolation
from hanse.workers.load import OUTPUTS
from hanse.workers.pool import Done

FLUSH_S = 60.0
"""How long a program that has ended is given for what it has sent to be on its way."""

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
        membership.identity.federation, proposal.job, task.id.component, part.session, proposal.agreement
    )
    if connection is None:
        raise UnavailableError("the server cannot be reached now")
    side.material.take(part.session)
    stream = await connection.relay(part.session, part.role)
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
            await asyncio.wait_for(asyncio.shield(bridging), FLUSH_S)
        return done
    finally:
        for work in (bridging, executing):
            work.cancel()
        await asyncio.gather(bridging, executing, return_exceptions=True)


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


def lend_outputs(side: RoleSide, spec: RoleSpec, role: str, scratch: Path, isolation: Isolation) -> None:
    """Copy what this role kept in the earlier job that the signed job names to where the worker finds it."""
    kept = side.outputs / spec.outputs_of / f"{role}.safetensors"
    if not spec.outputs_of or not kept.is_file():
        return  # the program says what it misses
    lent = scratch / OUTPUTS
    shutil.copyfile(kept, lent)
    lent.chmod(0o600)
    if isolation.level == "user":
        os.chown(lent, isolation.uid, isolation.gid)


def keep_arrays(side: RoleSide, job: str, role: str, done: Done, out: Path | None) -> Reply:
    """Write the arrays that a role returned to this site's folder; the reply goes out without them."""
    update = done.reply.update
    if update is None:
        return done.reply
    folder = side.outputs / job
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft, target = folder / f".{role}.{secrets.token_hex(4)}", folder / f"{role}.safetensors"
    try:
        content = update.content if update.content is not None else b"" if out is None else out.read_bytes()
        draft.write_bytes(content)
        draft.chmod(0o600)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    log.info("arrays kept", job=job, file=str(target.relative_to(side.outputs.parent)))
    return replace(done.reply, update=None)
