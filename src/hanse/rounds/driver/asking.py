"""Asking sites: the plan of a phase by the strategy's host, tasks to those that it names, and letting them go."""

from collections.abc import Sequence

from hanse.core.errors import ConfigError, RefusedError, TaskError
from hanse.core.ids import TaskId, upload_scope
from hanse.rounds.driver.driving import Driving
from hanse.rounds.events import Event, Plan, PlanFailed, Send
from hanse.rounds.hosts.host import PlanRequest, StrategyHost
from hanse.rounds.hosts.planning import earlier
from hanse.rounds.outgoing import ModelRefs, RunInfo, release_envelope, task_envelope, task_of
from hanse.rounds.performing import planned, planned_parameters
from hanse.strategies import Ask


class Asking:
    """What one run asks of sites."""

    def __init__(self, driving: Driving, host: StrategyHost, info: RunInfo) -> None:
        self.models = ModelRefs(driving.seams.blobs)
        self._driving = driving
        self._host = host
        self._info = info

    async def plan(self, instruction: Plan) -> Event:
        """Whom to ask what: the answer to `instruction`."""
        driving, standing = self._driving, self._driving.standing
        now = driving.clock.now_ms()
        where = (instruction.round, instruction.phase_index)
        sites = instruction.only or instruction.sites
        if instruction.round == 0:
            return self._plan_parameters(sites, instruction.extends, now)
        previous = earlier([standing.replies[o] for o in instruction.previous if o in standing.replies])
        request = PlanRequest(
            *where,
            sites,
            instruction.busy,
            previous,
            bool(instruction.only),
            instruction.refills,
            instruction.asked,
            standing.state.memory,
        )
        try:
            answer = await driving.patience.insist("plan", self._host.plan, request)
        except ConfigError as error:
            return PlanFailed(*where, str(error), now)
        except (TaskError, RefusedError) as error:
            return PlanFailed(*where, f"the app's server side: {error}", now, final=True)
        standing.update_kind = answer.update_kind
        self._expect(answer.plan.asks)
        event = planned(instruction, answer, now)
        driving.telling.tell("phase", round=instruction.round, phase=event.phase, asked=len(event.tasks))
        return event

    def _plan_parameters(self, sites: Sequence[str], extends: bool, now: int) -> Event:
        if not sites:
            return PlanFailed(0, 0, "no site is there to be asked for the initial model", now)
        ask, event = planned_parameters(self._driving.standing.state.spec, sites, extends, now)
        self._expect([ask])
        return event

    def _expect(self, asks: Sequence[Ask]) -> None:
        """The machine issues ordinals in the order of the asks."""
        standing = self._driving.standing
        for offset, ask in enumerate(asks):
            standing.asks[standing.state.next_ordinal + offset] = ask

    async def send(self, instruction: Send) -> None:
        """Send a task to its site, unless it was answered meanwhile."""
        seams, standing = self._driving.seams, self._driving.standing
        state, task_id, site = standing.state, instruction.task, instruction.site
        slot, ask = state.open.get(task_id.ordinal), standing.asks.get(task_id.ordinal)
        if slot is None or ask is None or slot.answer:
            return
        model = None
        if ask.with_model and slot.model is not None:
            model = await self.models.ref(slot.model, lambda: standing.needed)
        task = task_of(self._info, state.spec, task_id, slot, ask, model, standing.update_kind)
        read = [(ref.scope, ref.id) for ref in (model, task.bundle) if ref is not None and ref.content is None]
        seams.links.grant(site, read=read, write=[upload_scope(task_id, site)])
        standing.left.may_upload(task_id.round, [site])
        if model is not None:
            standing.traffic.went_down(model)
            if model.content is None:
                standing.left.readers.setdefault(model.scope, set()).add(site)
        left_s = max(0.0, (instruction.deadline_ms - self._driving.clock.now_ms()) / 1000)
        await seams.inbox.send(site, task_envelope(self._info.federation, task, left_s))

    async def release(self, tasks: Sequence[tuple[TaskId, str]]) -> None:
        """Tell sites that their tasks are not waited for any more."""
        inbox, federation = self._driving.seams.inbox, self._info.federation
        for task_id, site in tasks:
            await inbox.send(site, release_envelope(federation, task_id, site), durable=False)
