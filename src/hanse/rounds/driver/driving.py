"""What every part of a driver works with: the run, its place, its life, and those who watch."""

from dataclasses import dataclass

import structlog

from hanse.core.errors import ConflictError
from hanse.rounds.driver.clock import Clock
from hanse.rounds.driver.life import Life
from hanse.rounds.driver.patience import Patience
from hanse.rounds.driver.standing import Standing
from hanse.rounds.keeping import Keeping
from hanse.rounds.seams import Seams
from hanse.rounds.telling import Telling

log = structlog.get_logger("hanse.rounds")


@dataclass(frozen=True, slots=True)
class Driving:
    """One driver of one run.

    Args:
        alone: nobody else drives the run at the same time, unless it has taken the run over. Where others do, each
            deletes only what it has seen and counts only what has a fate.
    """

    standing: Standing
    seams: Seams
    clock: Clock
    keeping: Keeping
    life: Life
    patience: Patience
    telling: Telling
    alone: bool = True

    @classmethod
    def staying(cls, standing: Standing, seams: Seams, clock: Clock) -> "Driving":
        """A driver that stays until the run is over, and waits for a disk that refuses."""
        life = Life(standing.state.job, log.bind(job=standing.state.job), (ConflictError,))
        patience = Patience(clock, life, log.bind(job=standing.state.job))
        return cls(standing, seams, clock, keeping_of(standing, seams), life, patience, Telling(standing.state.job))

    @property
    def key(self) -> str:
        """`job/component`."""
        return f"{self.standing.state.job}/{self.standing.state.component}"


def keeping_of(standing: Standing, seams: Seams) -> Keeping:
    """Where a run's records are kept at a place."""
    key = f"{standing.state.job}/{standing.state.component}"
    return Keeping(seams.unhurried or seams.ledger, seams.blobs, key)
