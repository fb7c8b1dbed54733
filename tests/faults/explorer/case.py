"""What a schedule is made of, drawn from its seed."""

import random
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from hanse.core.arrays import Arrays
from hanse.core.spec import EarlyStop, RunSpec
from hanse.strategies import Strategy, named
from hanse.strategies.fedat import FedAT
from hanse.strategies.fedbuff import FedBuff
from tests.unit.rounds.toys import Carrying, ToyFedBuff, ToySecureSum

INITIAL = Arrays([("w", np.array([1.0, -2.0, 3.5, 0.25, -8.0])), ("b", np.array([1.5, 2.5, -0.75], np.float32))])


@dataclass(frozen=True)
class Faults:
    """Rates per call or message, between 0 and 1, and how many at most."""

    kill: float = 0.0
    kills: int = 0
    pause: float = 0.0
    pauses: int = 0
    disk: float = 0.0
    disks: int = 0
    slow: float = 0.0
    loss: float = 0.0
    repeat: float = 0.0
    flap: float = 0.0
    bad: float = 0.0
    cancel: bool = False
    until_s: float = 120.0


@dataclass(frozen=True)
class Case:
    """One schedule.

    Args:
        exact: nothing in it may change a bit of the result: the same sites are folded in the same places.
        stored: updates are uploaded as blobs instead of travelling inline.
    """

    seed: int
    num_sites: int
    spec: RunSpec
    strategy: str
    exact: bool
    stored: bool
    faults: Faults = field(default_factory=Faults)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(f"site-{n}" for n in range(self.num_sites))

    def make_strategy(self) -> Strategy:
        return strategy_of(self.strategy)

    def calm(self) -> "Case":
        """The same without any fault, and without what must not matter: what the disturbed run is compared with."""
        spec = replace(self.spec, grace_s=0.0, keep_updates=False, server_evaluate=False, initial="given")
        return replace(self, seed=0, faults=Faults(), stored=False, spec=spec)


@cache
def strategy_of(name: str) -> Strategy:
    toys: dict[str, Strategy] = {
        "two-phase": ToySecureSum(),
        "fedbuff": ToyFedBuff(),
        "carrying": Carrying(),
        "refilled": FedBuff(2),
        "tiers": FedAT(2),
    }
    return toys[name] if name in toys else named(name, {})


def draw(seed: int) -> Case:
    """The schedule of a seed."""
    rng = random.Random(f"case {seed}")
    return _exact(rng, seed) if rng.random() < 0.5 else _rough(rng, seed)


def _exact(rng: random.Random, seed: int) -> Case:
    num_sites = rng.choice((1, 2, 3, 5))
    spec = RunSpec(
        rounds=rng.choice((1, 2, 3)),
        quorum=num_sites,
        min_sites=num_sites,
        evaluate_every=rng.choice((0, 0, 1, 2)),
        initial=rng.choice(("ask", "given")),
        deadline_s=5000.0,
        grace_s=rng.choice((0.0, 1.0)),
        server_evaluate=rng.random() < 0.2,
        keep_updates=rng.random() < 0.1,
    )
    strategy = rng.choice(("fedavg", "fedavg", "fedavgm", "fedadam", "two-phase"))
    return Case(seed, num_sites, spec, strategy, True, rng.random() < 0.3, _faults(rng, bad=0.0))


def _rough(rng: random.Random, seed: int) -> Case:
    num_sites = rng.choice((2, 3, 4, 6))
    strategy = rng.choice(("fedavg", "fedavg", "carrying", "two-phase", "fedbuff", "refilled", "tiers"))
    stop = EarlyStop("loss", patience=rng.choice((1, 2))) if rng.random() < 0.2 else None
    spec = RunSpec(
        rounds=rng.choice((1, 2, 3, 4)),
        quorum=rng.choice((None, 1, max(1, num_sites // 2), num_sites)),
        sample=rng.choice((1.0, 1.0, 0.5, 2)),
        over_select=rng.choice((0.0, 0.5)),
        evaluate_every=rng.choice((0, 1, 2)),
        initial=rng.choice(("ask", "given")),
        deadline_s=rng.choice((5.0, 20.0, 60.0)),
        grace_s=rng.choice((0.0, 0.5, 3.0)),
        retries=rng.choice((0, 1, 3)),
        on_error=rng.choice(("continue", "continue", "continue", "fail")),
        stop=stop,
        keep_updates=rng.random() < 0.1,
    )
    faults = _faults(rng, bad=rng.choice((0.0, 0.1, 0.4)))
    return Case(seed, num_sites, spec, strategy, False, rng.random() < 0.3, faults)


def _faults(rng: random.Random, bad: float) -> Faults:
    return Faults(
        kill=rng.choice((0.0, 0.02, 0.1)),
        kills=rng.choice((1, 3)),
        pause=rng.choice((0.0, 0.0, 0.05)),
        pauses=1,
        disk=rng.choice((0.0, 0.0, 0.05, 0.2)),
        disks=12,
        slow=rng.choice((0.0, 0.3)),
        loss=rng.choice((0.0, 0.1, 0.3)),
        repeat=rng.choice((0.0, 0.2)),
        flap=rng.choice((0.0, 0.0, 0.3)),
        bad=bad,
        cancel=bad > 0 and rng.random() < 0.2,
    )
