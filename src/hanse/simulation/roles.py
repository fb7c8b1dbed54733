"""Every role of an app in this process, over local channels: what `hs.simulate` does with an `hs.RoleApp`.

The same programs, checks and errors as between sites. What roles return as arrays stays at their sites there; here it
is in the result, as `ROLE/NAME`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from hanse.channels.app import RolePlay
from hanse.channels.local import local_channels
from hanse.channels.spec import RoleSpec
from hanse.clients.execute import Outcome
from hanse.clients.failures import OnFailure
from hanse.clients.role_task import CALL, Part
from hanse.clients.roles import RoleRuntime, kept_outputs
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, JobFailed
from hanse.core.ids import TaskId, new_job_id
from hanse.core.records import Task
from hanse.rounds.record import role_record
from hanse.rounds.result import Result
from hanse.rounds.telling import Observer, Telling
from hanse.simulation.sites import to_stderr

COMPONENT, PHASE = "main", "role"


async def simulate_roles(
    app: RolePlay,
    spec: RoleSpec,
    load: Mapping[str, Callable[[str], Any]],
    tell: Observer,
    outputs: Arrays,
    told: OnFailure,
) -> Result:
    """Play one session.

    Args:
        load: each site's data sets by name.
        tell: told what happens.
        outputs: what roles kept in the earlier job that this one names, as `ROLE/NAME`.
        told: of what user code raised.
    """
    missing = sorted(set(spec.sites) - set(load))
    if missing:
        raise ConfigError(f"roles: expected sites of the simulation, found {', '.join(missing)}")
    job, started, cast = new_job_id(), time.perf_counter(), app.cast(spec.roles)
    channels = local_channels(spec.protocol.roles)
    telling = Telling(job, [tell])
    telling.tell("phase", round=1, phase=PHASE, asked=len(spec.roles))

    async def play(place: int, role: str) -> Outcome:
        site = spec.roles[role]
        kept = {name.partition("/")[2]: value for name, value in outputs.items() if name.partition("/")[0] == role}
        runtime = RoleRuntime(
            cast,
            site_name=site,
            load=load[site],
            log=to_stderr,
            outputs=lambda: kept_outputs(Arrays(kept)),
            failed=told,
        )
        task = Task(TaskId(job, COMPONENT, 1, PHASE, place), site, CALL, seed=spec.seed)
        part = Part(f"{job}/{COMPONENT}/1", role, spec.timeout_s, dict(spec.roles), {})
        return await runtime.play(task, part, channels[role])

    roles = sorted(spec.roles)
    outcomes = dict(zip(roles, await asyncio.gather(*(play(*each) for each in enumerate(roles))), strict=True))
    seconds = time.perf_counter() - started
    failed = {role: outcome.reply for role, outcome in outcomes.items() if not outcome.reply.ok}
    first = next((role for role, reply in failed.items() if reply.error_kind != "lost"), next(iter(failed), ""))
    error = f"{first} {spec.roles[first]}: {failed[first].error}" if first else ""
    status = "failed" if failed else "finished"
    arrays = {
        f"{role}/{name}": array
        for role, outcome in outcomes.items()
        for name, array in ({} if outcome.arrays is None else outcome.arrays).items()
    }
    metrics = {role: outcome.reply.metrics for role, outcome in outcomes.items()}
    record = role_record(spec.roles, metrics, seconds)
    result = Result(
        status,
        Arrays(arrays),
        () if failed else (record,),
        job=job,
        error=error,
        sites=spec.sites,
        seconds=seconds,
        about={"protocol": spec.protocol.name, "roles": ", ".join(f"{role}: {spec.roles[role]}" for role in roles)},
    )
    if not failed:
        telling.tell("round", record=record.to_json())
    telling.tell("finished", status=status, error=error)
    if failed:
        raise JobFailed(error, result)
    return result
