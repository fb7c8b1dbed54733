"""A schedule of functions: what is run, what befalls it, and how it ended."""

import random
from dataclasses import dataclass, replace

import numpy as np

from hanse.core.arrays import Arrays

SMALL = Arrays([("w", np.array([1.0, -2.0, 3.5, 0.25, -8.0])), ("b", np.array([1.5, 2.5, -0.75], np.float32))])
LARGE = Arrays([("w", np.linspace(-1, 1, 9000)), ("b", np.arange(300, dtype=np.float32))])
"""Over 64 KiB: it travels by links."""


class Violation(AssertionError):
    """A promise that a schedule broke."""


@dataclass(frozen=True)
class Case:
    """One schedule: what is run, and what befalls it until `until_s`."""

    seed: int
    sites: int = 3
    rounds: int = 2
    large: bool = False
    watched: bool = False
    hostile: str = ""
    kill: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    crash: float = 0.0
    slow: float = 0.0
    evaluate_every: int = 0
    batch: int = 10
    until_s: float = 60.0

    def calm(self) -> "Case":
        return replace(self, seed=0, kill=0.0, repeat=0.0, late=0.0, crash=0.0, slow=0.0, watched=False, batch=10)


def draw(seed: int) -> Case:
    rng = random.Random(f"functions {seed}")
    hostile = rng.choice(HOSTILITIES) if seed % 3 == 2 else ""
    return Case(
        seed=seed,
        sites=rng.choice((1, 2, 3, 4)),
        rounds=rng.choice((1, 2, 3)),
        large=rng.random() < 0.25 or hostile == "unuploaded",
        watched=rng.random() < 0.5,
        hostile=hostile,
        kill=rng.choice((0.0, 0.02, 0.1)),
        repeat=rng.choice((0.0, 0.3, 0.6)),
        late=rng.choice((0.0, 0.3)),
        crash=rng.choice((0.0, 0.3)),
        slow=rng.choice((0.0, 0.0, 0.2)),
        evaluate_every=rng.choice((0, 1)),
        batch=rng.choice((1, 2, 10)),
    )


HOSTILITIES = (
    "forged",
    "another's task",
    "another's prefix",
    "hash",
    "shape",
    "nan",
    "pickle",
    "unuploaded",
    "garbage",
)


@dataclass(frozen=True)
class Outcome:
    """How it ended, and what must be as in its calm twin."""

    status: str
    error: str
    model: bytes
    rounds: tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...]
    killed: int = 0
    refusals: int = 0
