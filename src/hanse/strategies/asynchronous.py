"""What asynchronous strategies share: sites are kept at work, and how long an update was under way makes it count less.

A site begins with the newest model when it is asked, and works while the model moves on. Its staleness, t − τ in the
papers, is the number of steps that the model has taken meanwhile. The order in which updates count is the order of
their receipt, as the close record has it: with equal orders all bits are equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies.strategy import (
    Ask,
    Close,
    Context,
    PhasePlan,
    Strategy,
    check_number,
    cohort_size,
    sample_sites,
)

STALENESS = ("constant", "hinge", "polynomial")


@dataclass(frozen=True)
class Asynchronous(Strategy):
    """A round is one step of the model: it closes with the first `step_size` updates, and the others stay at work.

    `hs.App(sample=…)` says how many sites are at work at a time; `deadline_s` is how long one may take, and
    `evaluate_every` counts steps. An evaluation asks those who are not at work just then.
    """

    order: ClassVar[str] = "receipt"

    @property
    def can_compress(self) -> bool:
        """See `Strategy.can_compress`: what is folded may have begun from any earlier model."""
        return self.update_kind == "delta"

    @property
    def step_size(self) -> int:
        """How many updates make a step."""
        return 1

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """Steps, and evaluations. A selection that asks candidates first has no place here: `hs.App` refuses it."""
        every = spec.evaluate_every
        return ("train", "evaluate") if every and round_ % every == 0 else ("train",)

    def plan(self, context: Context) -> PhasePlan:
        """Set as many free sites to work as there is room for.

        Raises:
            ConfigError: nobody is there, and nobody is at work.
        """
        if context.phase == "evaluate":
            return self._free(context)
        spec = context.spec
        at_work = len(context.busy)
        wanted = cohort_size(spec, len(context.sites) + at_work)
        chosen = sample_sites(context, max(0, wanted - at_work))
        if not chosen and not at_work and not context.extends:
            raise ConfigError(f"round {context.round}: expected at least one site to be asked, found none available")
        close = Close(
            self.step_size,
            self.step_size,
            deadline_s=spec.deadline_s,
            keep_in_flight=True,
            refill=wanted,
        )
        return PhasePlan(self._asks(context, chosen, "train"), close)

    def _free(self, context: Context) -> PhasePlan:
        if not context.sites:
            raise ConfigError(
                f"round {context.round}: expected a site that is free to evaluate, found none beside "
                f"{len(context.busy)} at work; set hs.App(sample=...) below the number of sites, or evaluate_every=0 "
                "and evaluate at the server"
            )
        num, spec = len(context.sites), context.spec
        return PhasePlan(
            self._asks(context, context.sites, "evaluate"),
            Close(num, min(num, spec.quorum or 1), spec.grace_s, spec.deadline_s),
        )

    def _asks(self, context: Context, chosen: Sequence[str], call: str) -> tuple[Ask, ...]:
        return tuple(Ask(site, call, {"round": context.round, **self.config(context, site)}) for site in chosen)


def damping(kind: str, staleness: int, a: float, b: int) -> float:
    """s(t − τ) of Xie et al., section 5.2; 1 for an update that is not stale.

    constant      1
    hinge         1 if t − τ ≤ b, else 1 / (a (t − τ − b) + 1)
    polynomial    (t − τ + 1)^−a
    """
    if kind == "hinge":
        return 1.0 if staleness <= b else 1.0 / (a * (staleness - b) + 1.0)
    return (staleness + 1.0) ** -a if kind == "polynomial" else 1.0


def check_damping(name: str, kind: str, a: float, b: int) -> None:
    """Check what `damping` is given.

    Raises:
        ConfigError: another word, or a number out of range.
    """
    if kind not in STALENESS:
        raise ConfigError(f"{name}.staleness: expected one of {', '.join(STALENESS)}, found {str(kind)[:60]!r}")
    check_number(f"{name}.a", a, 0.0)
    if type(b) is not int or not 0 <= b < 2**31:
        raise ConfigError(f"{name}.b: expected a whole number from 0, found {b!r}"[:200])
