"""IFCA: k models, of which every site trains the one that fits it best.

Ghosh, Chung, Yin, Ramchandran, "An efficient framework for clustered federated learning", NeurIPS 2020,
https://arxiv.org/abs/2006.04088, Algorithm 1 with model averaging (option II).

The k models live in one: array `w` of model j is called `cluster-j/w`. A round has two phases. In `choose`, sites
evaluate all k and answer which has the least loss (line 6). In `train`, a site trains that one; the server knows by
then how many chose it, and tells the site to scale its step by |S| / |S_j|, so that the mean over all sites S is the
mean over the members S_j for each model (line 13). In both, all k models travel to the site.

An evaluation evaluates the model that the site chose last.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.core.seeds import generator, key_of
from hanse.core.spec import RunSpec
from hanse.strategies.strategy import (
    Ask,
    Close,
    Context,
    Earlier,
    FoldInput,
    PhasePlan,
    Strategy,
    check_count,
    check_number,
)

CHOOSE = "choose"
"""The phase, and the key of the config by which a site knows it."""


@dataclass(frozen=True)
class IFCA(Strategy):
    """θ_j ← mean of θ_i over the sites that chose j; a model that nobody chose stays.

    Args:
        clusters: k ≥ 2.
        spread: standard deviation ≥ 0 of what is added to every float of the initial model to make k of it; the
            first stays as it is. They must differ, or all sites choose the same; variances that must be positive need
            a small one. Not used where the initial arrays are named `cluster-0/…` to `cluster-(k−1)/…` already.
        seed: of these numbers.

    Raises:
        ConfigError: out of range. From `initial`: arrays that are named `cluster-…`, though not all k of them.
    """

    clusters: int = 2
    spread: float = 0.1
    seed: int = 0

    name: ClassVar[str] = "ifca"
    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("ifca.clusters", self.clusters, 2)
        check_number("ifca.clusters", self.clusters, 2, 1000)
        check_number("ifca.spread", self.spread, 0.0)
        check_count("ifca.seed", self.seed, 0)

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """`choose` before `train`."""
        usual = super().phases(spec, round_)
        at = usual.index("train")
        return (*usual[:at], CHOOSE, *usual[at:])

    def initial(self, arrays: Arrays) -> Arrays:
        """k models."""
        if any(name.startswith("cluster-") for name in arrays):
            models = clusters(arrays)
            if len(models) != self.clusters or any(model.layout != models[0].layout for model in models):
                raise ConfigError(f"ifca: expected {self.clusters} models alike, named cluster-0/… on, found others")
            return arrays
        models = [arrays]
        for number in range(1, self.clusters):
            rng = generator(key_of(self.seed, attempt=number, purpose="clusters"))
            models.append(Arrays((name, self._moved(array, rng)) for name, array in arrays.items()))
        return joined(models)

    def _moved(self, array: Array, rng: np.random.Generator) -> Array:
        if array.dtype.kind in "biu":
            return array
        return (np.asarray(array, np.float64) + rng.normal(0.0, self.spread, array.shape)).astype(array.dtype)

    def plan(self, context: Context) -> PhasePlan:
        """Ask the sampled sites which model they choose, then have them train it."""
        if context.phase == CHOOSE:
            plan = self._sampled(context, "evaluate")
            asks = tuple(replace(ask, config={**ask.config, CHOOSE: True}) for ask in plan.asks)
            return replace(plan, asks=asks)
        if context.phase != "train":
            return super().plan(context)
        there = [each for each in context.previous if each.site in context.sites]
        chosen = {each.site: j for each in there if (j := _choice(each, self.clusters)) is not None}
        if not chosen:
            raise ConfigError(f"round {context.round}: expected sites that chose a model, found none available")
        sizes = Counter(chosen.values())
        asks = tuple(
            Ask(site, "train", {"round": context.round, "cluster": j, "cluster_scale": len(chosen) / sizes[j]})
            for site, j in chosen.items()
        )
        spec, count = context.spec, len(asks)
        quorum = count if spec.quorum is None else min(spec.quorum, count)
        return PhasePlan(asks, Close(count, quorum, spec.grace_s, spec.deadline_s))

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """1 for every reply, as in the paper."""
        return [1.0] * len(replies)


def _choice(reply: Earlier, num: int) -> int | None:
    found = reply.metrics.get("cluster")
    return found if type(found) is int and 0 <= found < num else None


def joined(models: Sequence[Arrays]) -> Arrays:
    """Several models of one layout as one."""
    return Arrays((f"cluster-{j}/{name}", array) for j, model in enumerate(models) for name, array in model.items())


def clusters(arrays: Mapping[str, Array]) -> list[Arrays]:
    """The single models of an IFCA result, such as `clusters(result.arrays)[0]`."""
    found: dict[str, list[tuple[str, Array]]] = {}
    for name, array in arrays.items():
        cluster, _, inner = name.partition("/")
        if cluster.startswith("cluster-") and inner:
            found.setdefault(cluster, []).append((inner, array))
    return [Arrays(found[f"cluster-{j}"]) for j in range(len(found)) if f"cluster-{j}" in found]
