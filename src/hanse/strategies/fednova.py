"""FedNova: deltas are divided by the number of local steps before they are averaged.

Wang, Liu, Liang, Joshi, Poor, "Tackling the objective inconsistency problem in heterogeneous federated optimization",
NeurIPS 2020, https://arxiv.org/abs/2007.07481, Algorithm 1: the generalised update rule with weights p_i.

FedAvg over sites that take different numbers of steps minimises another objective than Σ p_i F_i: sites with many
steps weigh more. Here site i answers ‖a_i‖₁ as the metric `num_steps`. For plain SGD, whatever the learning rates, as
long as they are equal in all steps, that is the number of steps τ_i. With momentum ρ or a proximal term it is another
sum, which the paper gives: (τ − ρ (1 − ρ^τ) / (1 − ρ)) / (1 − ρ) for momentum. `hs.sklearn` answers
the number of steps by itself where they are plain ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.aggregation import WeightedSum
from hanse.strategies.strategy import FoldInput, Reducer, Strategy, number_in

MOST_STEPS = 10**9


@dataclass(frozen=True)
class FedNova(Strategy):
    """w ← w + τ_eff Σ_i p_i Δ_i / τ_i with τ_eff = Σ_i p_i τ_i and p_i = n_i / n of the cohort.

    With equal numbers of steps this is FedAvg. An update of no steps, or of more than `MOST_STEPS`, is refused. The
    number is the site's own claim, and τ_eff grows with it: not for federations in which somebody may lie.
    """

    name: ClassVar[str] = "fednova"
    update_kind: ClassVar[str] = "delta"
    wants: ClassVar[tuple[str, ...]] = ("num_steps",)

    def wrong(self, reply: FoldInput) -> str:
        """See `Strategy.wrong`; a step at least."""
        if why := super().wrong(reply):
            return why
        steps = number_in(reply, "num_steps")
        return (
            "" if 1 <= steps <= MOST_STEPS else f"expected a metric 'num_steps' from 1 to {MOST_STEPS}, found {steps:g}"
        )

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """τ_eff p_i / τ_i: what each delta is multiplied by in the sum."""
        counts = super().weigh(replies)
        total = sum(counts)
        steps = [number_in(reply, "num_steps") for reply in replies]
        effective = sum(count / total * step for count, step in zip(counts, steps, strict=True))
        return [effective * (count / total) / step for count, step in zip(counts, steps, strict=True)]

    def reducer(self) -> Reducer:
        """The sum: its weights say everything."""
        return WeightedSum()
