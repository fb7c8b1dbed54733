"""Decisions on jobs, written down: the policy's and the owner's. Used by the agent, and by the owner's commands when
no agent runs, so that both leave the same rows and the same lines in the audit log.
"""

import getpass
import os
from dataclasses import asdict
from typing import Any

from hanse.core.errors import CodecError, ConfigError, NotFoundError
from hanse.core.ids import only_job
from hanse.site.journal import JobRow, Journal
from hanse.site.policy import ACCEPT, HOLD, REFUSE
from hanse.site.proposals import Proposal
from hanse.trust.audit import MAX_TEXT, AuditLog

_OUTCOMES = {ACCEPT: "allowed", HOLD: "held", REFUSE: "refused"}


def record(
    journal: Journal, audit: AuditLog, *, job: str, content: bytes, verdict: str, reason: str, actor: str
) -> None:
    """Journal a decision and put it into the audit log, both on disk when this returns.

    Args:
        content: the proposal as it came.
        actor: who decided, as `kind/name`.
    """
    journal.decide(job, content, verdict, reason)
    journal.sync()
    details: dict[str, Any] = {"reason": reason[:MAX_TEXT]}
    try:
        proposal = Proposal.parse(content)
    except CodecError:
        pass
    else:
        details |= {"app": proposal.app, "person": proposal.person}
    audit.append(actor=actor, action="job.decide", subject=job, outcome=_OUTCOMES[verdict], details=details)


def job_named(journal: Journal, text: str) -> str:
    """The job that an owner means; see `only_job`.

    Raises:
        ConfigError: it fits several.
    """
    return only_job(text, (row.job for row in journal.jobs()))


def owner_decides(journal: Journal, audit: AuditLog, *, job: str, verdict: str, reason: str = "") -> JobRow:
    """The owner approves a held job, or refuses one that is held or accepted.

    Raises:
        NotFoundError: no such job here. ConfigError: a job that is not in the state for it.
    """
    row = journal.job(job)
    if row is None:
        known = ", ".join(each.job for each in journal.jobs()) or "none"
        raise NotFoundError(f"job {job[:40]}: not known at this site; known are {known[:200]}")
    if verdict == ACCEPT and row.decision == REFUSE:
        raise ConfigError(f"job {job}: refused already ({row.reason}); change the policy, then submit the job again")
    if row.decision != verdict:
        shown = reason or ("approved by the site's owner" if verdict == ACCEPT else "refused by the site's owner")
        record(journal, audit, job=job, content=row.proposal, verdict=verdict, reason=shown, actor=_owner())
    return journal.job(job) or row


def described(row: JobRow) -> dict[str, Any]:
    """A job for the owner's eyes."""
    shown: dict[str, Any] = {"job": row.job, "decision": row.decision, "reason": row.reason}
    try:
        proposal = Proposal.parse(row.proposal)
    except CodecError:
        return shown
    roles = proposal.roles
    if roles is not None:
        shown |= {"outputs_of": roles.outputs_of} if roles.outputs_of else {}
        shown |= {"roles": dict(roles.roles), "reveals": [asdict(each) for each in roles.protocol.reveals]}
    return shown | {
        "name": proposal.name,
        "person": proposal.person,
        "app": proposal.app,
        "strategy": proposal.spec.strategy,
        "rounds": proposal.spec.rounds,
        "quorum": proposal.spec.quorum,
        "submitted_at_ms": proposal.submitted_at_ms,
    }


def _owner() -> str:
    try:
        return f"owner/{getpass.getuser()[:100]}"
    except (OSError, KeyError):
        return f"owner/{os.getuid()}"
