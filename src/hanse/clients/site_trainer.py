"""One site of an app as a `Trainer`: what a peer asks is done by the runtime that a federation's sites have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.aggregation.rounding import is_float, round_to
from hanse.channels.party import Party
from hanse.clients.app import App
from hanse.clients.execute import Outcome, Runtime
from hanse.clients.failures import OnFailure
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, TaskError
from hanse.core.ids import TaskId
from hanse.core.records import Config, Metrics, Task, Value
from hanse.core.spec import RunSpec
from hanse.peer.trainer import Trained


@dataclass(frozen=True, slots=True)
class Said:
    """What one peer left of one round."""

    answers: Mapping[str, tuple[int, Metrics]]
    seconds: float
    sent_bytes: int


class SiteTrainer:
    """One site's runtime as a `Trainer`: vectors of all floats, while integers stay at home."""

    def __init__(
        self,
        name: str,
        app: App,
        spec: RunSpec,
        load: Callable[[str], Any],
        job: str,
        config: Callable[[int, str], Config],
        log: Callable[[str], None],
        failed: OnFailure | None = None,
    ) -> None:
        self.name = name
        self.said: list[Said] = []
        self.party: Party | None = None
        self.told: Callable[[int, Array], None] = lambda round_, vector: None
        self.memory: Mapping[str, Array] = {}
        self.fingerprint = ""
        self._spec, self._job, self._config = spec, job, config
        self._runtime = Runtime(app, site_name=name, load=load, log=log, failed=failed)
        self._state: bytes | None = None
        self._model = Arrays()
        self._ordinal = 0
        self._seconds, self._sent = 0.0, 0

    def parameters(self) -> Arrays:
        """The initial arrays, by the site's own code."""
        arrays = self._execute("parameters", 0, None).arrays
        assert arrays is not None
        return arrays

    def begin(self, initial: Arrays) -> None:
        """Start from these arrays.

        Raises:
            ConfigError: no float among them.
        """
        self._model = initial
        self._start = self.vector_of(initial)

    @property
    def start(self) -> Array:
        """The first vector."""
        return self._start

    @property
    def standing(self) -> tuple[Arrays, bytes | None]:
        """What this peer has beside the vector: its arrays, for the integers among them, and its client's state."""
        return self._model, self._state

    def go_on(self, model: Arrays, state: bytes | None) -> None:
        """Stand where an earlier session stood."""
        self._model, self._state = model, state

    @property
    def latest(self) -> dict[str, Value]:
        """This site's metrics of the last round that measured them, as a record of a round calls them."""
        found: dict[str, Value] = {}
        for said in self.said:
            for phase, (count, metrics) in said.answers.items():
                for name, value in metrics.items():
                    if not isinstance(value, bytes):
                        found[name if phase == "evaluate" else f"{phase}_{name}"] = value
                found[f"{phase}_examples"] = count
        return found

    def train(self, round_: int, vector: Array) -> Trained:
        """See `Trainer`."""
        outcome = self._execute("train", round_, self.arrays(vector))
        assert outcome.arrays is not None
        self.fingerprint = outcome.reply.fingerprint
        self._model = outcome.arrays
        self._seconds = outcome.reply.seconds
        return Trained(self.vector_of(outcome.arrays), outcome.reply.num_examples, outcome.reply.metrics)

    def done(self, round_: int, vector: Array, trained: Trained, memory: Mapping[str, Array] | None = None) -> None:
        """See `Trainer`."""
        self.memory = memory or {}
        answers = {"train": (trained.num_examples, trained.metrics)}
        every = self._spec.evaluate_every
        if every and round_ % every == 0:
            reply = self._execute("evaluate", round_, self.arrays(vector)).reply
            answers["evaluate"] = (reply.num_examples, reply.metrics)
        sent = 0 if self.party is None else self.party.counters.sent_bytes
        self.said.append(Said(answers, self._seconds, sent - self._sent))
        self._sent = sent
        self.told(round_, vector)

    def arrays(self, vector: Array) -> Arrays:
        """The model that a vector stands for; integers as this peer last had them."""
        made, start = [], 0
        for name, array in self._model.items():
            if not is_float(array.dtype):
                made.append((name, array))
                continue
            piece = vector[start : start + array.size].astype(np.float64)
            start += array.size
            rounded = round_to(piece, array.dtype, allow_nonfinite=self._spec.allow_nonfinite)
            if rounded is None:
                raise TaskError("bad_reply", f"peer {self.name}: the mean of array {name[:60]!r} leaves its range")
            made.append((name, rounded.reshape(array.shape)))
        return Arrays(made)

    @staticmethod
    def vector_of(arrays: Arrays) -> Array:
        """All floats of a model: float64 if there are such among them, otherwise float32.

        Raises:
            ConfigError: there is none.
        """
        floats = [array.reshape(-1) for array in arrays.values() if is_float(array.dtype)]
        if not floats:
            raise ConfigError("peers: expected at least one array of floats in the model, found none")
        dtype = np.float64 if any(array.dtype == np.float64 for array in floats) else np.float32
        return np.concatenate([array.astype(dtype) for array in floats])

    def _execute(self, call: str, round_: int, model: Arrays | None) -> Outcome:
        self._ordinal += 1
        task = Task(
            TaskId(self._job, "main", round_, call, self._ordinal),
            self.name,
            call,
            config={"round": round_, **(self._config(round_, self.name) if round_ else {})},
            seed=self._spec.seed,
            allow_nonfinite=self._spec.allow_nonfinite,
        )
        outcome = self._runtime.execute(task, model, self._state)
        if not outcome.reply.ok:
            reason = f"peer {self.name}, round {round_}, {call}: {outcome.reply.error_kind}: {outcome.reply.error}"
            raise TaskError(outcome.reply.error_kind, reason)
        self._state = outcome.state
        return outcome
