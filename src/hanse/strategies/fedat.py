"""FedAT: sites are sorted into tiers by how long they take; a tier is synchronous, tiers among each other are not.

Chai, Chen, Anwar, Zhao, Cheng, Rangwala, "FedAT: A high-performance and communication-efficient federated learning
system with asynchronous tiers", SC 2021, https://arxiv.org/abs/2010.05958, Algorithm 1 (section 4.3: cross-tier
weights; Equation 3: the local constraint, which is FedProx's). It rests on a proof of convergence for convex and
non-convex objectives. TiFL, from which the tiers come (Chai et al., HPDC 2020), is synchronous: a tier a round.

Here response times are measured while it trains: they are smoothed, and before every plan the sites are sorted
anew. Sites of which nothing is known yet are dealt out evenly. A tier's model is a vector of the server's state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError
from hanse.core.records import Config
from hanse.core.spec import RunSpec
from hanse.strategies.asynchronous import Asynchronous
from hanse.strategies.selection import selection_of
from hanse.strategies.strategy import (
    Ask,
    Close,
    Context,
    FoldInput,
    Memory,
    PhasePlan,
    check_count,
    check_number,
    cohort_size,
)


@dataclass(frozen=True)
class FedAT(Asynchronous):
    """w ← Σ_m (T_{M+1−m} / T) w_m, where tier m of M, by speed, has made T_m of all T updates.

    When every site of tier m that was asked has answered, w_m becomes the mean of their models, weighed by examples:
    a round. Then the tier is asked again with the new w; the others go on.

    Args:
        tiers: M ≥ 1. The paper takes 5.
        smoothing: how much of the old response time stays with every new one, in [0, 1).
        proximal_mu: λ ≥ 0 of the local constraint.

    Raises:
        ConfigError: out of range.
    """

    tiers: int = 3
    smoothing: float = 0.5
    proximal_mu: float = 0.0

    name: ClassVar[str] = "fedat"
    order: ClassVar[str] = "position"  # within a tier, as in any round

    def __post_init__(self) -> None:
        check_count("fedat.tiers", self.tiers, 1)
        check_number("fedat.tiers", self.tiers, 1, 64)
        check_number("fedat.smoothing", self.smoothing, 0.0, 1.0, open_high=True)
        check_number("fedat.proximal_mu", self.proximal_mu, 0.0)

    def plan(self, context: Context) -> PhasePlan:
        """Ask `sample` of every tier in which nobody is at work.

        Raises:
            ConfigError: nobody is there, and nobody is at work.
        """
        if context.phase == "evaluate":
            return self._free(context)
        spec = context.spec
        busy, asks = set(context.busy), list[Ask]()
        seconds = context.memory.get("seconds", {})
        for tier, members in enumerate(tiers_of([*context.sites, *context.busy], seconds, self.tiers)):
            free = [site for site in members if site not in busy]
            if context.extends or (free and len(free) == len(members)):
                chosen = self._drawn(context, free, cohort_size(spec, len(members)), tier)
                config = {site: {"round": context.round, **self.config(context, site)} for site in chosen}
                asks += [Ask(site, "train", config[site], group=tier) for site in chosen]
        if not asks and not busy and not context.extends:
            raise ConfigError(f"round {context.round}: expected at least one site to be asked, found none available")
        close = Close(1, 1, deadline_s=spec.deadline_s, keep_in_flight=True, by_group=True)
        return PhasePlan(tuple(asks), close)

    @staticmethod
    def _drawn(context: Context, free: Sequence[str], count: int, tier: int) -> Sequence[str]:
        """Of one tier, as the run's selection chooses."""
        if count >= len(free):
            return free
        return selection_of(context.spec).choose(replace(context, phase=f"train-{tier}"), free, count)

    def config(self, context: Context, site: str) -> Config:
        """λ for training, where there is one."""
        return {"proximal_mu": float(self.proximal_mu)} if context.phase == "train" and self.proximal_mu else {}

    def remember(self, spec: RunSpec, memory: Memory, replies: Sequence[FoldInput]) -> Memory:
        """`seconds` by site, smoothed; `updates`: T_m; `tier`: whose turn it was, from 0."""
        before = super().remember(spec, memory, replies)
        seconds = dict(before.get("seconds", {}))
        for reply in replies:
            old = seconds.get(reply.site, reply.seconds)
            seconds[reply.site] = self.smoothing * old + (1 - self.smoothing) * reply.seconds
        updates = list(before.get("updates", [0] * self.tiers))
        tier = min(replies[0].group, self.tiers - 1)
        updates[tier] += 1
        return {**before, "seconds": seconds, "updates": updates, "tier": tier}

    def state_names(self) -> tuple[str, ...]:
        """`tier-0`…: w_m."""
        return tuple(f"tier-{tier}" for tier in range(self.tiers))

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """The tier that has answered, whether it is the first at all, and every tier's weight."""
        updates = memory["updates"]
        total = sum(updates)
        weights = {f"weight-{tier}": updates[self.tiers - 1 - tier] / total for tier in range(self.tiers)}
        return {"tier": memory["tier"], "first": float(total == 1), **weights}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        if scalars["first"]:
            for tier_model in state:
                tier_model[:] = model
        state[int(scalars["tier"])][:] = reduced
        made = np.zeros_like(model)
        for tier, tier_model in enumerate(state):
            made += scalars[f"weight-{tier}"] * tier_model
        return made


def tiers_of(sites: Sequence[str], seconds: Mapping[str, float], num_tiers: int) -> list[list[str]]:
    """Sites by tier, the fastest first; of equal numbers, up to one.

    Sites whose `seconds` are not known are dealt out among the known ones by name.
    """
    known = sorted((site for site in sites if site in seconds), key=lambda site: (seconds[site], site))
    unknown = sorted(site for site in sites if site not in seconds)
    tiers: list[list[str]] = [[] for _ in range(num_tiers)]
    for place, site in enumerate(known):
        tiers[place * num_tiers // len(known)].append(site)
    for place, site in enumerate(unknown):
        tiers[place % num_tiers].append(site)
    return [sorted(tier) for tier in tiers]
