"""Which sites take part in a job, as far as they have said: one row a site, `decision/JOB/SITE`.

    {decision: accept | hold | refuse, reason, seen_ms, at_ms, beat_ms}

`at_ms` is the time of the decision by the site's own clock, `beat_ms` that of its last sign of life: queues bring a
message late, or once more, and what a site has said before must not count again.

Nobody holds a connection, so a site is there while it says so: with its decision, and then every `BEAT_S` as long as
the job lasts. Where nothing trains, nobody says anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanse.core.errors import NotFoundError
from hanse.core.seams import Ledger
from hanse.rounds import causes
from hanse.rounds.keeping import PAGE

LEASE_MS = 120_000
"""A site that has said nothing for so long is not there."""
LEAVING_MS = 10_000
"""One that has said that it goes, after so long: it may be back at once, as where a connection ends."""
DECISION_MS = 30_000
"""How long a site that says nothing to a proposal holds the start up."""
DECISIONS = ("accept", "hold", "refuse")


@dataclass(frozen=True, slots=True)
class Presence:
    """Who takes part now.

    Args:
        there: accepted, and heard lately.
        undecided: asked, and may still answer in time.
        unwilling: those that hold or refuse, with what they said.
        changes_ms: when this changes although nobody says anything; None for never.
        said: every site that has decided, with its row.
    """

    there: tuple[str, ...]
    undecided: int
    unwilling: Mapping[str, str]
    changes_ms: int | None
    said: Mapping[str, Mapping[str, Any]]

    def refused_by_all(self, asked: Sequence[str]) -> str:
        """What they said, if every site that was asked has refused."""
        refused = {site: row["reason"] for site, row in self.said.items() if row["decision"] == "refuse"}
        if not asked or not set(asked) <= set(refused):
            return ""
        return f"every site has refused the job ({causes.told(refused, len(asked))})"


async def presence(ledger: Ledger, job: str, asked: Sequence[str], taken_at_ms: int, now_ms: int) -> Presence:
    """Read what sites have said.

    Args:
        asked: the sites that the job was proposed to.
    """
    said: dict[str, Mapping[str, Any]] = {}
    prefix, after = f"decision/{job}/", None
    while rows := await ledger.query(prefix, after, PAGE):
        said |= {key.removeprefix(prefix): json.loads(value) for key, value, _ in rows}
        after = rows[-1][0]
        if len(rows) < PAGE:
            break
    until = {site: row["seen_ms"] + LEASE_MS for site, row in said.items() if row["decision"] == "accept"}
    there = tuple(sorted(site for site, end in until.items() if now_ms < end))
    decided_by = taken_at_ms + DECISION_MS
    undecided = sum(site not in said for site in asked) if now_ms < decided_by else 0
    changes = [until[site] for site in there] + ([decided_by] if undecided else [])
    unwilling = {
        site: f"{row['decision']}: {row['reason'][:200]}" if row["reason"] else row["decision"]
        for site, row in said.items()
        if row["decision"] != "accept"
    }
    return Presence(there, undecided, unwilling, min(changes, default=None), said)


async def decided(
    ledger: Ledger, job: str, site: str, decision: str, reason: str, now_ms: int, *, at_ms: int = 0
) -> bool:
    """A site has answered a proposal, perhaps once more. Whether there is a new row.

    Args:
        at_ms: when, by the site's clock; one that is fast counts as now, so that it may be set right.
    """
    value = {"decision": decision, "reason": reason, "seen_ms": now_ms, "at_ms": min(at_ms, now_ms), "beat_ms": 0}
    key = f"decision/{job}/{site}"
    while not await ledger.create(key, json.dumps(value).encode()):
        content, version = await ledger.get(key)
        before = json.loads(content)
        if value["at_ms"] < before.get("at_ms", 0):
            return False
        value["beat_ms"] = before.get("beat_ms", 0)
        if await ledger.compare_and_set(key, json.dumps(value).encode(), version):
            return False
    return True


async def heard(ledger: Ledger, job: str, site: str, now_ms: int, *, at_ms: int = 0, leaves: bool = False) -> bool:
    """A site has given a sign of life. Whether that is news: it had been given up, and is back; or it goes.

    Args:
        at_ms: when, by the site's clock.
        leaves: whether it is the last one.
    """
    key = f"decision/{job}/{site}"
    try:
        content, version = await ledger.get(key)
    except NotFoundError:
        return False
    row = json.loads(content)
    was, at_ms = row["seen_ms"], min(at_ms, now_ms)
    if row["decision"] != "accept" or now_ms <= was or 0 < at_ms <= row.get("beat_ms", 0):
        return False
    if leaves and 0 < at_ms < row.get("at_ms", 0):  # of before it came again
        return False
    seen_ms = now_ms - (LEASE_MS - LEAVING_MS) * leaves
    kept = await ledger.compare_and_set(
        key, json.dumps({**row, "seen_ms": seen_ms, "beat_ms": at_ms}).encode(), version
    )
    return kept if leaves else bool(now_ms >= was + LEASE_MS)
