"""What a function may do itself of a strategy's work, and what it leaves to another: an app's code, a long reduction.

A function that only looks holds no app and little memory. What it cannot do it names (`Elsewhere`); the state machine
has it done, and looks again.
"""

from dataclasses import dataclass

from hanse.core.errors import UnavailableError
from hanse.core.records import Metrics
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest
from hanse.rounds.hosts.local import LocalHost
from hanse.serverless.contract import Shard
from hanse.serverless.place import Place
from hanse.serverless.shards import joined, share_out
from hanse.strategies import named
from hanse.strategies.catalogue import CUSTOM, catalogue


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What must be done by another function: `Evaluate` (the app's own code), or `Reduce` in these shards."""

    kind: str
    shards: tuple[Shard, ...] = ()


class FunctionHost:
    """A `StrategyHost` of built-in strategies.

    Attributes:
        elsewhere: what it was asked and cannot do; None while it could do everything.
        is_custom: whether the strategy is the app's own.
    """

    def __init__(self, place: Place, job: str, component: str, spec: RunSpec) -> None:
        self.elsewhere: Elsewhere | None = None
        self.is_custom = spec.strategy == CUSTOM or spec.strategy not in catalogue()
        self._place = place
        self._key = (job, component)
        self._spec = spec
        strategy = None if self.is_custom else named(spec.strategy, spec.params)
        self._local = None if strategy is None else LocalHost(strategy, spec, place.blobs, chunks=place.blobs)

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        if self._local is None or self._spec.server_config:
            raise self._leave(Elsewhere("Evaluate"))
        return await self._local.plan(request)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        if self._local is None:
            raise self._leave(Elsewhere("Evaluate"))
        place = self._place
        place.blobs.hold(len(request.members) + 4)
        updates = [member.reply.update for member in request.members]
        num_bytes = sum(update.manifest.size for update in updates if update is not None)
        if num_bytes <= place.shard_bytes or not self._local.can_share(request):
            return await self._local.reduce(request)
        shards = await share_out(place, *self._key, request, num_bytes)
        answer = await joined(place, self._local, request, shards)
        if answer is None:
            raise self._leave(Elsewhere("Reduce", tuple(shards)))
        return answer

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        raise self._leave(Elsewhere("Evaluate"))

    def _leave(self, elsewhere: Elsewhere) -> UnavailableError:
        self.elsewhere = elsewhere
        return UnavailableError("another function does this")
