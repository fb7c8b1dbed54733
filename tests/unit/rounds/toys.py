"""Toy strategies that prove the round machine's generality: two phases with payloads, and asynchronous buffering.

Neither is for use: the sum's masks protect nobody who can see every payload.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies import Ask, Close, Context, FoldInput, PhasePlan, Strategy


@dataclass(frozen=True)
class ToySecureSum(Strategy):
    """Sites advertise a number each; survivors are told everybody's numbers and train with them.

    After Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017: what
    phase 1 collected is sent to those who answered phase 1, and only they are asked in phase 2.
    """

    name: ClassVar[str] = "toy-secure-sum"

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        return ("advertise", "train")

    def plan(self, context: Context) -> PhasePlan:
        spec = context.spec
        if context.phase == "advertise":
            return self._sampled(context, "advertise")
        numbers = {earlier.site: int.from_bytes(earlier.payload, "big") for earlier in context.previous}
        survivors = [site for site in numbers if site in context.sites]
        quorum = spec.quorum or len(numbers)
        if len(survivors) < quorum:
            raise ConfigError(f"toy sum: expected {quorum} survivors, found {len(survivors)}")
        asks = tuple(
            Ask(site, "train", payload=json.dumps({"mine": numbers[site], "all": numbers}).encode())
            for site in survivors
        )
        return PhasePlan(asks, Close(len(asks), quorum, deadline_s=spec.deadline_s))


@dataclass(frozen=True)
class ToyFedBuff(Strategy):
    """K updates of C tasks in flight make a step; late ones weigh less.

    After Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022, Algorithm 1, with
    staleness weights 1/√(1 + τ).
    """

    k: int = 2
    concurrency: int = 4

    name: ClassVar[str] = "toy-fedbuff"
    update_kind: ClassVar[str] = "delta"
    order: ClassVar[str] = "receipt"

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        return ("train", "evaluate") if spec.evaluate_every and round_ % spec.evaluate_every == 0 else ("train",)

    def plan(self, context: Context) -> PhasePlan:
        if context.phase == "evaluate":
            return self._everyone(context, "evaluate")
        free = max(0, self.concurrency - len(context.busy))
        asks = tuple(Ask(site, "train", {"round": context.round}) for site in context.sites[:free])
        if not asks and not context.busy:
            raise ConfigError("toy fedbuff: nobody is there")
        close = Close(self.k, self.k, deadline_s=context.spec.deadline_s, keep_in_flight=True)
        return PhasePlan(asks, close)

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        return [1.0 / (1.0 + reply.staleness) ** 0.5 for reply in replies]


@dataclass(frozen=True)
class Carrying(Strategy):
    """FedAvg that takes late replies into the next round."""

    name: ClassVar[str] = "carrying"
    late: ClassVar[str] = "carry"
