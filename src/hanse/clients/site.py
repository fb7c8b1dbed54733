"""`Site`: what user code sees of the place where it runs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hanse.channels.checkpoints import KEPT, FileCheckpoints
from hanse.channels.secret import new_secret
from hanse.channels.spending import FileSpending, Spending
from hanse.core.arrays import Arrays
from hanse.core.errors import CodecError, ConfigError, TaskError
from hanse.core.records import Task
from hanse.core.seeds import generator, is_seeding, key_of, seed_globals
from hanse.core.tracked import MAX_STEP, MAX_VALUES, Tracked, plain

SETUP = "setup"
"""The phase that `@app.client` sees while it runs: once per worker, outside any round."""


class Site:
    """The site as the app's code sees it.

    Attributes:
        name: the site's name.
        round: the round of the task at hand; 0 before the first.
        phase: `train`, `evaluate`, …; `setup` while `@app.client` runs.
        seed: the job's seed, the same at every site.
        rng: a numpy Generator of this (seed, round, phase, site, attempt); a repeated task draws the same numbers.
        log: `log(text)` writes into the site's own log, which never leaves the site.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[str], Any],
        log: Callable[[str], None],
        seed: int = 0,
        *,
        outputs: Callable[[], Arrays] | None = None,
        checkpoints: Path | None = None,
        spending: Spending | None = None,
        secret: Callable[[], bytes] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.seed = seed
        self.round = 0
        self.phase = SETUP
        self._attempt = 0
        self._rng: np.random.Generator | None = None
        self._load = load
        self._outputs = outputs
        self._checkpoints = checkpoints
        self._spending = spending
        self._secret = secret
        self._loaded: dict[str, Any] = {}
        self._loadings = 0
        self._state: dict[str, Any] | None = None
        self._tracked: list[Tracked] = []
        self._room = MAX_VALUES

    @property
    def rng(self) -> np.random.Generator:
        """See the class; made when it is first asked for, since most code does without."""
        if self._rng is None:
            self._rng = generator(self.key("client"))
        return self._rng

    def load(self, dataset: str) -> Any:
        """A data set that the site's owner declared and granted to this job; read once per worker.

        Afterwards global random state is seeded anew, whether it was read or known: a worker that has the data already
        draws the same numbers as one whose loader has drawn some.

        Raises:
            PolicyError: not granted. ConfigError: not declared. Whatever the owner's loader raises.
        """
        if dataset not in self._loaded:
            self._loaded[dataset] = self._load(dataset)
        self._loadings += 1
        if is_seeding():
            seed_globals(self.key(f"globals {self._loadings}"))
        return self._loaded[dataset]

    def outputs(self) -> Arrays:
        """What the same role kept at this site in the earlier job that this one names (`RoleApp.outputs_of`).

        Raises:
            ConfigError: the job names none, or nothing is kept of it. CodecError: what is kept are no arrays.
        """
        if self._outputs is None:
            raise ConfigError("site.outputs: expected a job that names an earlier one with outputs_of, found none")
        return self._outputs()

    @property
    def checkpoints(self) -> Callable[..., FileCheckpoints] | None:
        """What this role has reached in earlier sessions of the job, which broke: a function of what it holds for, and
        of how many stay.

        See `hanse.channels.checkpoints`; None where nothing is kept.
        """
        folder = self._checkpoints
        return None if folder is None else lambda about, kept=KEPT: FileCheckpoints(folder, about, kept)

    @property
    def spending(self) -> Spending:
        """Counts what other sites have used up here, whatever the job; in a simulation, within it."""
        if self._spending is None:
            self._spending = FileSpending(":memory:")
        return self._spending

    def secret(self) -> bytes:
        """32 random bytes that only this site knows, the same in all its jobs; in a simulation drawn for it."""
        if self._secret is None:
            self._secret = cache(new_secret)
        return self._secret()

    @property
    def state(self) -> dict[str, Any]:
        """What this site remembers from task to task within the job: str → number, string, list or ndarray.

        It is stored together with the answer: a task that fails or is repeated starts from the state before it.
        """
        if self._state is None:
            raise TaskError(
                "refused",
                "site.state is read while @app.client runs, which is outside any task (once per worker); "
                "read it in fit, evaluate or query",
            )
        return self._state

    def track(self, *, step: int | None = None, **values: Any) -> None:
        """Say how training goes, to this site's own tracker and nobody else: `site.track(loss=0.3, step=17)`.

        What is said goes where the site's owner has tracking written (`tracking` in `site.yaml`), once the task is
        answered; never to the server. In a simulation it is part of the site's run. A task that fails tracks nothing.

        Args:
            step: where in the whole job, as this code counts; None for the round.
            values: numbers, which become metrics, and texts, which become parameters. `**{"val/loss": 0.3}` for names
                that Python does not take. At most 10,000 of a task are kept.

        Raises:
            TaskError: neither number nor text, or outside a task.
        """
        if self._state is None:
            raise TaskError("refused", "site.track: expected to be called in a task, found @app.client running")
        is_whole = hasattr(step, "__index__") and not isinstance(step, bool)
        if step is not None and not (is_whole and 0 <= int(step) < MAX_STEP):
            raise TaskError(
                "refused", f"site.track: expected step to be a whole number from 0 below 2^53, found {str(step)[:60]}"
            )
        try:
            found = {name: plain(name, value) for name, value in values.items()}
        except CodecError as error:
            raise TaskError("refused", str(error)) from None
        if 0 <= self._room < len(found):
            self.log(f"site.track: only the first {MAX_VALUES} values of a task are kept")
            self._room = -1
        if 0 < len(found) <= self._room:
            self._room -= len(found)
            self._tracked.append(Tracked(None if step is None else int(step), found))

    @property
    def tracked(self) -> tuple[Tracked, ...]:
        """What `track` was told during the task at hand. Read by the runtime."""
        return tuple(self._tracked)

    def key(self, purpose: str) -> int:
        """The key of one random stream of the task at hand, for `hanse.core.seeds.generator`."""
        return key_of(
            self.seed,
            round_=self.round,
            phase=self.phase,
            site=self.name,
            attempt=self._attempt,
            purpose=purpose,
        )

    def begin(self, task: Task, state: dict[str, Any]) -> None:
        """Turn to the next task. Called by the runtime."""
        self.round, self.phase, self.seed, self._attempt = task.id.round, task.id.phase, task.seed, task.attempt
        self._rng, self._state, self._loadings = None, state, 0
        if self._tracked or self._room != MAX_VALUES:
            self._tracked, self._room = [], MAX_VALUES

    def begin_setup(self, seed: int) -> None:
        """Turn to the making of the client: the same numbers in every worker, whatever task comes first."""
        self.round, self.phase, self.seed, self._attempt = 0, SETUP, seed, 0
        self._rng, self._state, self._loadings = None, None, 0

    def load_through(self, change: Callable[[Any], Any]) -> None:
        """Let what is loaded from now on pass through a function first. For attacks in simulation."""
        load = self._load
        self._load = lambda dataset: change(load(dataset))

    def stand_in(self, beside: "Site", rng: np.random.Generator, state: dict[str, Any]) -> None:
        """Turn to the task that `beside` is at, with numbers and memory of one's own. For attacks in simulation."""
        self.round, self.phase, self.seed, self._attempt = beside.round, beside.phase, beside.seed, beside._attempt
        self._rng, self._state, self._loadings = rng, state, 0

    def __repr__(self) -> str:
        return f"Site({self.name!r}, round={self.round}, phase={self.phase!r})"


def stream_of(task: Task, site: str, purpose: str) -> int:
    """The key of one random stream of one task."""
    return key_of(
        task.seed, round_=task.id.round, phase=task.id.phase, site=site, attempt=task.attempt, purpose=purpose
    )
