"""Having the strategy's host reduce what a phase has folded, and evaluate a model at the server."""

from collections.abc import Awaitable, Callable

from hanse.core.errors import HanseError, StorageError, UnavailableError
from hanse.core.ids import model_scope
from hanse.rounds.driver.driving import Driving
from hanse.rounds.events import Evaluate, Evaluated, Event, Failed, Reduce, Reduced, ReduceRefused
from hanse.rounds.hosts.host import Member, ReduceRequest, StrategyHost
from hanse.rounds.record import mean_metrics, server_metrics


class Reducing:
    """Reductions and evaluations of one run.

    Args:
        post: takes what came of one that went on in the background.
    """

    def __init__(self, driving: Driving, host: StrategyHost, post: Callable[[Event], Awaitable[None]]) -> None:
        self._driving = driving
        self._host = host
        self._post = post

    def is_small(self, instruction: Reduce) -> bool:
        """Whether every update came inside its reply: such a reduction is quick."""
        replies = self._driving.standing.replies
        return all(
            (update := replies[folded.task.ordinal].update) is None or update.content is not None
            for folded in instruction.folded
        )

    async def reduce(self, instruction: Reduce) -> Event | None:
        """The answer; None when the disk refuses and it is tried again."""
        driving, standing = self._driving, self._driving.standing
        state, where = standing.state, (instruction.round, instruction.phase_index)
        members = tuple(
            Member(
                folded.task.ordinal,
                standing.replies[folded.task.ordinal],
                folded.position,
                folded.staleness,
                folded.seconds,
                folded.group,
            )
            for folded in instruction.folded
        )
        request = ReduceRequest(
            instruction.round,
            instruction.phase,
            instruction.kind,
            members,
            instruction.size,
            instruction.model,
            instruction.state,
            model_scope(state.job, state.component, instruction.round),
            state.memory,
        )
        try:
            answer = await self._host.reduce(request)
        except (StorageError, UnavailableError) as error:
            driving.patience.later("write the model", error, lambda: self.reduce_and_post(instruction))
            return None
        except HanseError as error:
            reason = f"round {instruction.round}, phase {instruction.phase}: {error}"
            return Failed(reason, driving.clock.now_ms())
        if answer.refused:
            return ReduceRefused(*where, answer.refused, driving.clock.now_ms())
        if answer.model is not None:
            standing.left.made(answer.model[0])
        metrics = mean_metrics(instruction.phase, [(m.reply.num_examples, m.reply.metrics) for m in members])
        return Reduced(*where, answer.model, answer.state, metrics, driving.clock.now_ms(), answer.memory)

    async def reduce_and_post(self, instruction: Reduce) -> None:
        """The same in the background."""
        if [folded.task.ordinal for folded in instruction.folded] != list(self._driving.standing.state.closing):
            return  # it was put off, and the run has ended meanwhile
        event = await self.reduce(instruction)
        if event is not None:
            await self._post(event)

    async def evaluate(self, instruction: Evaluate) -> None:
        """Evaluate a model at the server, in the background."""
        now_ms = self._driving.clock.now_ms
        try:
            metrics = server_metrics(await self._host.evaluate(instruction.model, instruction.round))
        except (StorageError, UnavailableError) as error:
            self._driving.patience.later("evaluate the model", error, lambda: self.evaluate(instruction))
        except HanseError as error:
            reason = f"round {instruction.round}, evaluation at the server: {error}"
            await self._post(Failed(reason, now_ms()))
        else:
            await self._post(Evaluated(instruction.round, metrics, now_ms()))
