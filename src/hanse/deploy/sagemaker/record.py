"""What a launch has decided, kept beside its results (`launch.json`): the run, the federation's job, each site's job.

It is small and written before it is done, so that a launcher that was killed is started again and starts nothing twice.
"""

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from hanse.core.errors import ConfigError
from hanse.core.ids import new_job_id
from hanse.deploy.sagemaker.jobs import JobState

RECORD = "launch.json"
OVER = ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Launched:
    """What `launch.json` holds, and what is shown.

    Args:
        run: names the jobs of one launch.
        job: the federation's job. Its id is noted before anything starts; submitted it is when the sites are there.
        begun_ms: when, in milliseconds since 1970; 0 where an earlier version began it.
        status: `starting`, `training` (once the job was submitted), `finished`, `failed` or `cancelled`.
        sites: site → its training job.
    """

    run: str
    job: str = ""
    status: str = "starting"
    error: str = ""
    sites: Mapping[str, JobState] = field(default_factory=dict)
    begun_ms: int = 0

    @property
    def is_over(self) -> bool:
        """Whether this run has ended."""
        return self.status in OVER


def read_record(folder: Path) -> Launched | None:
    """What an earlier launcher wrote.

    Raises:
        ConfigError: something else is there.
    """
    try:
        value = json.loads((folder / RECORD).read_text())
        return Launched(**{**value, "sites": {name: JobState(**state) for name, state in value["sites"].items()}})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{folder / RECORD}: expected what an earlier launch wrote; move it away") from None


def write_record(folder: Path, launched: Launched) -> None:
    """Keep it, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{RECORD}"
    draft.write_text(json.dumps(asdict(launched), indent=1))
    os.replace(draft, folder / RECORD)


def begin(folder: Path) -> Launched:
    """The run that was begun and has not ended, or a new one."""
    before = read_record(folder)
    return before if before is not None and not before.is_over else anew()


def anew(run: str = "") -> Launched:
    """A run that begins now."""
    return Launched(run or secrets.token_hex(3), begun_ms=time.time_ns() // 1_000_000)


def noted(folder: Path, launched: Launched, person: str) -> Launched:
    """The run with the id of the federation's job, which `person` submits: on disk before anybody is told of it."""
    if not launched.job:
        launched = replace(launched, job=new_job_id(person))
        write_record(folder, launched)
    return launched
