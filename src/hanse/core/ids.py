"""Names and identifiers: what may be a name, how a task id is built and read, where a blob lives.

A task id is `job/component/round/phase/ordinal`; the ordinal is issued by the round machine, so a task
id is never used twice within a job.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from hanse.core.errors import ConfigError, PolicyError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
FEWEST_CHARACTERS = 4
"""Of a job's id, where a person types a part of it."""
SERVER = "server"
"""The server's address in envelopes. No site or person may bear it."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
OWNER_CHARACTERS = 8
"""At the end of a job's id: whose it is."""
JOB_CHARACTERS = 24


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it may name a site, person, job, component or phase.

    Raises:
        ConfigError: it is not 1 to 63 characters of a-z, 0-9, '-' and '_', beginning with a letter or digit.
    """
    if NAME_PATTERN.fullmatch(name) is None:
        raise ConfigError(
            f"{what}: expected 1 to 63 characters of a-z, 0-9, '-', '_' beginning with a letter or digit, "
            f"found {name[:80]!r}"
        )
    return name


def new_job_id(person: str = "", now_ms: int | None = None) -> str:
    """A fresh job id: 48 bits of time, so that ids sort by submission, 32 random bits, and 40 bits of whose it is."""
    value = ((int(time.time() * 1000) if now_ms is None else now_ms) << 32) | secrets.randbits(32)
    return job_id_of(_base32(value, JOB_CHARACTERS - OWNER_CHARACTERS), person)


def job_id_of(stem: str, person: str) -> str:
    """A person's job id that begins with `stem`.

    **Guarantee.** Who sees an id cannot submit a job under it: the chance that it belongs to a given other person, too,
    is 2^-40, and there is nothing in it to choose anew.
    """
    digest = hashlib.sha256(f"job-id\n{person}\n{stem}".encode()).digest()
    return stem + _base32(int.from_bytes(digest[:5]), OWNER_CHARACTERS)


def check_job_owner(job: str, person: str) -> None:
    """Return if a job's id was made for this person.

    Raises:
        PolicyError: it was not.
    """
    if job != job_id_of(job[:-OWNER_CHARACTERS], person):
        raise PolicyError(
            f"job {job[:64]}: expected an id that was made for person {person}; submit the app again with this version"
        )


def only_job(text: str, jobs: Iterable[str]) -> str:
    """The id that a person means who typed this much of one: all of it, or a beginning or an end that only one has.

    Args:
        jobs: the ids that there are; not asked for where `text` is too short.

    Returns:
        The id; `text` where none fits, for whoever knows what to say of an unknown job.

    Raises:
        ConfigError: it fits several, which are named; or it is too short.
    """
    if len(text) < FEWEST_CHARACTERS:
        raise ConfigError(f"job: expected an id or at least {FEWEST_CHARACTERS} characters of one, found {text!r}")
    known = list(jobs)
    if text in known:
        return text
    found = [job for job in known if job.startswith(text) or job.endswith(text)]
    if len(found) > 1:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise ConfigError(f"job: {text[:40]} fits {len(found)} jobs; give more of the id: {', '.join(found[:4])}{more}")
    return found[0] if found else text


def job_time_ms(job: str) -> int:
    """When the id of a job was made, by the clock of who made it; 0 for one that is not from `new_job_id`."""
    stem = job[:-OWNER_CHARACTERS]
    if len(job) != JOB_CHARACTERS or any(character not in _BASE32 for character in stem):
        return 0
    value = 0
    for character in stem:
        value = value << 5 | _BASE32.index(character)
    return value >> 32


def _base32(value: int, characters: int) -> str:
    return "".join(_BASE32[(value >> shift) & 31] for shift in range(5 * (characters - 1), -1, -5))


@dataclass(frozen=True, slots=True, order=True)
class TaskId:
    """The name of one question to one site. `ordinal` counts up over the whole component."""

    job: str
    component: str
    round: int
    phase: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.job}/{self.component}/{self.round}/{self.phase}/{self.ordinal}"

    @staticmethod
    @lru_cache(maxsize=1024)  # an id is read at every hop of a task and of its reply
    def parse(text: str) -> "TaskId":
        """Read what `str()` wrote.

        Raises:
            ConfigError: not of the form `job/component/round/phase/ordinal`, or a number written otherwise than
                `str()` would: no task has two ids.
        """
        parts = text.split("/")
        if len(parts) != 5 or not (_is_number(parts[2]) and _is_number(parts[4])):
            raise ConfigError(f"task id: expected job/component/round/phase/ordinal, found {text[:80]!r}")
        job, component, round_, phase, ordinal = parts
        for what, part in (("job", job), ("component", component), ("phase", phase)):
            check_name(part, what)
        return TaskId(job, component, int(round_), phase, int(ordinal))


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and int(text) < 2**32


def model_scope(job: str, component: str, round_: int) -> str:
    """Where the model and the strategy's state after `round_` are kept (0 is the initial model)."""
    return f"{job}/{component}/{round_}/model"


def upload_scope(task: TaskId, site: str) -> str:
    """Where `site` may put what it answers to `task`; nobody else may write or read there but the server."""
    return f"{task.job}/{task.component}/{task.round}/up/{site}"


def channel_scope(session: str, sender: str, recipient: str, seq: int) -> str:
    """Where one role puts what is too large for a message to another, in one session (`job/component/attempt`)."""
    return f"{session}/channel/{sender}/{recipient}/{seq}"


def bundle_scope(job: str) -> str:
    """Where a job's app bundle is kept."""
    return f"{job}/bundle"


_SCOPE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(/[a-z0-9][a-z0-9_-]{0,62}){0,7}")
_BLOB_ID = re.compile(r"[0-9a-f]{64}")


def check_scope(scope: str) -> str:
    """Return `scope` if it is safe as a path: names joined by '/', at most eight deep.

    Raises:
        ConfigError: it is not.
    """
    if _SCOPE.fullmatch(scope) is None:
        raise ConfigError(f"scope: expected names joined by '/', found {scope[:80]!r}")
    return scope


def check_blob_id(blob_id: str) -> str:
    """Return `blob_id` if it is 64 lower-case hexadecimal digits.

    Raises:
        ConfigError: it is not.
    """
    if _BLOB_ID.fullmatch(blob_id) is None:
        raise ConfigError(f"blob id: expected 64 hexadecimal digits, found {blob_id[:80]!r}")
    return blob_id
