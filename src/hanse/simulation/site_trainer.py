"""One site of an app as a `Trainer`: what a peer asks is done by the runtime that a federation's sites have."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.aggregation.rounding import is_float, round_to
from hanse.channels.party import Party
from hanse.clients.app import App
from hanse.clients.execute import Outcome, Runtime
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, PolicyError, TaskError
from hanse.core.ids import TaskId
from hanse.core.records import Config, Metrics, Task
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
        data: Mapping[str, Any],
        job: str,
        config: Callable[[int, str], Config],
    ) -> None:
        self.name = name
        self.said: list[Said] = []
        self.party: Party | None = None
        self.told: Callable[[int, Array], None] = lambda round_, vector: None
        self.fingerprint = ""
        self._spec, self._job, self._data, self._config = spec, job, data, config
        self._runtime = Runtime(app, site_name=name, load=self._load, log=_to_stderr)
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
        floats = [array.dtype for array in initial.values() if is_float(array.dtype)]
        if not floats:
            raise ConfigError("peers: expected at least one array of floats in the model, found none")
        self._model = initial
        wide = any(dtype == np.float64 for dtype in floats)
        self._dtype = np.dtype(np.float64 if wide else np.float32)

    @property
    def start(self) -> Array:
        """The first vector."""
        return self._vector(self._model)

    def train(self, round_: int, vector: Array) -> Trained:
        """See `Trainer`."""
        outcome = self._execute("train", round_, self.arrays(vector))
        assert outcome.arrays is not None
        self.fingerprint = outcome.reply.fingerprint
        self._model = outcome.arrays
        self._seconds = outcome.reply.seconds
        return Trained(self._vector(outcome.arrays), outcome.reply.num_examples, outcome.reply.metrics)

    def done(self, round_: int, vector: Array, trained: Trained) -> None:
        """See `Trainer`."""
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

    def _vector(self, arrays: Arrays) -> Array:
        floats = [array.reshape(-1) for array in arrays.values() if is_float(array.dtype)]
        return np.concatenate([array.astype(self._dtype) for array in floats])

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

    def _load(self, dataset: str) -> Any:
        if dataset not in self._data:
            known = ", ".join(sorted(self._data)) or "none"
            raise PolicyError(f"site {self.name}: data set {dataset!r} is not declared; declared are: {known}")
        value = self._data[dataset]
        return value() if callable(value) else value


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
