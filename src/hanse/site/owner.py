"""What the owner does with jobs, whether an agent runs or not: `ask(directory, "approve", job=…)`."""

from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError, UnavailableError
from hanse.site.control import request
from hanse.site.journal import Journal
from hanse.site.policy import ACCEPT, HOLD, REFUSE
from hanse.site.verdicts import described, job_named, owner_decides
from hanse.trust.audit import AuditLog
from hanse.trust.certificates import SITE
from hanse.trust.membership import Membership


def ask(directory: Path, op: str, *, job: str = "", reason: str = "") -> dict[str, Any]:
    """Do `status`, `pending`, `approve`, `refuse` or `stop` at the site in `directory`.

    Without an agent, decisions are written down and take effect when it starts.

    Returns:
        `status`: `running`, `site`, `server`, `connected`, `jobs`, …; `pending`: `jobs`; `approve`, `refuse`: the job.

    Raises:
        ConfigError: no site there, or a wrong argument. NotFoundError: no such job. UnavailableError: `stop`, and
            no agent runs.
    """
    directory = directory.absolute()
    if not (directory / "membership.json").exists():
        raise ConfigError(f"expected a site in {directory}, found no membership.json; join with `hanse site join`")
    try:
        return request(directory, {"op": op, "job": job, "reason": reason})
    except UnavailableError:
        if op == "stop":
            raise
    membership = Membership.load(directory, kind=SITE)
    with Journal(directory / "journal.db") as journal:
        if op == "status":
            identity = membership.identity
            jobs = [described(row) for row in journal.jobs()]
            return {"running": False, "site": identity.name, "server": membership.address, "jobs": jobs}
        if op == "pending":
            return {"jobs": [described(row) for row in journal.jobs() if row.decision == HOLD]}
        with AuditLog(directory / "audit.jsonl", membership.keys.signing) as audit:
            verdict = verdict_of(op)
            named = job_named(journal, job)
            return described(owner_decides(journal, audit, job=named, verdict=verdict, reason=reason))


def verdict_of(op: str) -> str:
    """What a command decides.

    Raises:
        ConfigError: no such command.
    """
    verdict = {"approve": ACCEPT, "refuse": REFUSE}.get(op)
    if verdict is None:
        raise ConfigError(f"site: expected status, pending, approve, refuse or stop, found {op[:40]!r}")
    return verdict
