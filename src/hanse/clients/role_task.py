"""What a task says that asks a site to play a role, and what the role may tell of it: for all who pass it on.

Playing is `hanse.clients.roles`, which loads all that an app needs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from hanse.channels.protocol import Protocol
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, TaskError
from hanse.core.ids import TaskId
from hanse.core.records import Metrics

CALL = "role"
"""The call of a task that asks a site to play its role."""
PHASE = "role"
"""The phase of such a task, whose round is the session's number."""
COUNTERS = ("sent_messages", "sent_bytes", "received_messages", "received_bytes", "turns")


def role_task(job: str, component: str, attempt: int, role: str, roles: Iterable[str]) -> TaskId:
    """The task that asks a role to play in one session: the same, whoever is left out of it.

    Args:
        roles: every role of the job.
    """
    return TaskId(job, component, attempt, PHASE, sorted(roles).index(role))


@dataclass(frozen=True, slots=True)
class Part:
    """What a role task says: `Task.payload`, canonical JSON.

    Attributes:
        session: the run of the protocol that this is; never used twice.
        records: each role's site's member record, as the authority signed it.
    """

    session: str
    role: str
    timeout_s: float
    sites: dict[str, str]
    records: dict[str, str]

    def pack(self) -> bytes:
        """As bytes."""
        return canonical_json(
            {
                "v": 1,
                "session": self.session,
                "role": self.role,
                "timeout_s": self.timeout_s,
                "sites": self.sites,
                "records": self.records,
            }
        )

    @classmethod
    def unpack(cls, content: bytes) -> "Part":
        """Read what `pack` wrote.

        Raises:
            CodecError: anything else.
        """
        try:
            body = json.loads(content)
            if body["v"] != 1:
                raise CodecError(f"role: expected version 1, found {body['v']!r:.20}; update the older side")
            found = cls(body["session"], body["role"], body["timeout_s"], body["sites"], body["records"])
            texts = [found.session, found.role, *found.sites.values(), *found.records.values()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CodecError("role: expected session, role, timeout_s, sites and records") from None
        if not all(type(text) is str for text in texts) or type(found.timeout_s) not in (int, float):
            raise CodecError("role: expected session, role, timeout_s, sites and records")
        return found


def check_told(metrics: Metrics, protocol: Protocol, role: str) -> None:
    """Return if a role's metrics are only those that its job says it tells, and what any channel counts.

    Raises:
        TaskError: `bad_reply`, another one, by name.
    """
    for name in metrics:
        if name not in protocol.told(role) and name not in COUNTERS:
            raise TaskError(
                "bad_reply", f"role {role}: metric {name[:60]!r} is not told; declare it with hs.RoleApp(tells={{...}})"
            )
