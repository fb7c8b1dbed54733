"""What a function may do itself of a strategy's work, and what it leaves to another: an app's code, a long reduction.

A function that only looks holds no app and little memory. What it cannot do it names (`Elsewhere`); the state machine
has it done, and looks again.
"""

from dataclasses import dataclass

from hanse.core.errors import UnavailableError
from hanse.core.records import Metrics
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.host import LocalHost, PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest
from hanse.serverless.contract import Shard
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
    """

    def __init__(self, spec: RunSpec, blobs: BlobStore) -> None:
        self.elsewhere: Elsewhere | None = None
        self._spec = spec
        own = spec.strategy == CUSTOM or spec.strategy not in catalogue()
        self._local = None if own else LocalHost(named(spec.strategy, spec.params), spec, blobs)

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        if self._local is None or self._spec.server_config:
            raise self._leave(Elsewhere("Evaluate"))
        return await self._local.plan(request)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        if self._local is None:
            raise self._leave(Elsewhere("Evaluate"))
        return await self._local.reduce(request)

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        raise self._leave(Elsewhere("Evaluate"))

    def _leave(self, elsewhere: Elsewhere) -> UnavailableError:
        self.elsewhere = elsewhere
        return UnavailableError("another function does this")
