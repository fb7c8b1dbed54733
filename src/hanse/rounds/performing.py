"""What every shell makes of a plan and of a checkpoint, the driver and the simulation alike: pure functions.

They stand between the machine, which knows ordinals, and the strategy and the people, who know sites and metrics.
"""

from collections.abc import Container, Mapping, Sequence

from hanse.core.records import Reply
from hanse.core.seeds import generator, key_of
from hanse.core.spec import RunSpec
from hanse.rounds.events import Checkpoint, Plan, Planned, PlannedTask
from hanse.rounds.hosts.host import PlanAnswer
from hanse.rounds.machine import PARAMETERS
from hanse.rounds.record import RoundRecord, site_metrics
from hanse.rounds.site_rows import RowsTaken
from hanse.strategies import Ask


def planned(plan: Plan, answer: PlanAnswer, now_ms: int) -> Planned:
    """The event that answers `plan`; the machine issues ordinals in the order of the asks."""
    close = answer.plan.close
    return Planned(
        plan.round,
        plan.phase_index,
        num_phases=len(answer.phases),
        phase=answer.phases[plan.phase_index],
        tasks=tuple([PlannedTask(ask.site, ask.call, ask.group) for ask in answer.plan.asks]),
        count=close.count,
        quorum=close.quorum,
        grace_s=close.grace_s,
        deadline_s=close.deadline_s,
        keep_in_flight=close.keep_in_flight,
        folds=answer.folds,
        order=answer.order,
        late=answer.late,
        now_ms=now_ms,
        extends=plan.extends,
        refill=close.refill,
        by_group=close.by_group,
    )


def planned_parameters(spec: RunSpec, sites: Sequence[str], extends: bool, now_ms: int) -> tuple[Ask, Planned]:
    """Round 0: one of the sites says what the model looks like at first."""
    site = sites[int(generator(key_of(spec.seed, purpose="initial")).integers(len(sites)))]
    task = (PlannedTask(site, PARAMETERS),)
    event = Planned(0, 0, 1, PARAMETERS, task, 1, 1, 0.0, spec.deadline_s, now_ms, extends=extends)
    return Ask(site, PARAMETERS, with_model=False), event


def record_of(
    checkpoint: Checkpoint, replies: Mapping[int, Reply], with_update: Container[int], moved: Mapping[str, int]
) -> RoundRecord:
    """A round's record for people.

    Args:
        replies: by ordinal, those that were settled in this round at least.
        with_update: ordinals of replies that bore arrays.
        moved: bytes, as `RoundRecord.bytes`.
    """
    rows = RowsTaken()
    folded: list[str] = []
    with_arrays: list[str] = []
    for ordinal, (site, fate) in checkpoint.fates.items():
        reply = replies.get(ordinal)
        if fate != "folded" or reply is None:
            continue
        folded.append(site)
        if ordinal in with_update:
            with_arrays.append(site)
        phase = reply.task.phase
        measured = site_metrics(phase, reply.metrics) if reply.metrics else {}
        if reply.num_examples:
            measured[f"{phase}_examples"] = reply.num_examples
        rows.add(site, measured)
    return RoundRecord(
        number=checkpoint.round,
        folded=tuple(dict.fromkeys(with_arrays or folded)),  # a round of metrics only has no updates
        late=tuple(dict.fromkeys(site for site, fate in checkpoint.fates.values() if fate == "late")),
        failed=dict(checkpoint.failed),
        metrics=dict(checkpoint.metrics),
        by_site=rows.rows(),
        seconds_by_phase=dict(checkpoint.seconds),
        bytes=dict(moved),
        model=checkpoint.model[1] if checkpoint.model is not None else "",
    )
