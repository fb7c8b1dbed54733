"""Which engine a simulation runs on, by its name."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from hanse.aggregation import GROUP, Partial
from hanse.core.errors import ConfigError
from hanse.simulation.engine import Answered, Batch, Engine
from hanse.simulation.replicas import Replicas, num_cores
from hanse.simulation.sequential import Sequential
from hanse.simulation.sites import Places, to_stderr

ENGINES = ("auto", "sequential", "replicas", "ray")
STARTING_S = 1.5
"""What starting replicas takes, about: they are worth it where they save twice that."""
IMPORTING_TORCH_S = 4.0
"""What importing torch in each of them takes besides."""


def make_engine(
    name: str,
    places: Places,
    *,
    replicas: int | None = None,
    mixed_hardware: bool = False,
    resources: Mapping[str, float] | None = None,
    rounds: int = 1,
) -> Engine:
    """The engine called `name`.

    Args:
        replicas: processes; by default one for each core.
        resources: of each actor on a Ray cluster.
        rounds: that are left, so that `auto` knows whether something is worth its start.

    Raises:
        ConfigError: there is none of that name, or the app cannot run on it.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine: expected one of {', '.join(ENGINES)}; found {str(name)[:60]!r}")
    if replicas is not None and (type(replicas) is not int or not 1 <= replicas <= 1024):
        raise ConfigError(f"replicas: expected a whole number from 1 to 1024, found {replicas!r}")
    if resources is not None and name != "ray":
        raise ConfigError(f"resources: expected engine='ray' beside them, found {name!r}")
    if name == "ray":
        from hanse.simulation.on_ray import OnRay  # heavy and optional

        return OnRay(places.app, places.population, replicas, resources=resources, mixed_hardware=mixed_hardware)
    if name == "replicas":
        return Replicas(places.app, places.population, replicas, mixed_hardware=mixed_hardware)
    if name == "auto":
        count = num_cores() if replicas is None else replicas
        return Sequential(places) if count == 1 else Auto(places, count, rounds, mixed_hardware=mixed_hardware)
    return Sequential(places)


def resumed(asked: str, kept: Mapping[str, Any]) -> str:
    """The engine to go on with: the one on which the run was begun, or another one of the same bits.

    Raises:
        ConfigError: bits would change in the middle of a run.
    """
    if asked == "auto" or asked == kept["name"]:
        return str(kept["name"])
    if not kept["exact"]:
        raise ConfigError(f"engine: expected {kept['name']!r}, on which the run was begun, found {asked!r}")
    return asked


class Auto:
    """Begins with the sequential engine, measures a group, and goes on with replicas where they save time."""

    exact: ClassVar[bool] = True

    def __init__(self, places: Places, count: int, rounds: int, *, mixed_hardware: bool = False) -> None:
        self._places = places
        self._count = count
        self._rounds = rounds
        self._mixed = mixed_hardware
        self._engine: Engine = Sequential(places)
        self._seen_s: list[float] = []
        self._decided = False

    @property
    def name(self) -> str:
        """Of the engine that was chosen."""
        return self._engine.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Engine.settings`."""
        return self._engine.settings

    def run(self, batch: Batch) -> Iterator[Answered | Partial]:
        """See `Engine.run`."""
        done = 0
        if not self._decided:
            # The first task also pays for what is made once: it is answered and not measured.
            first = _part(batch, 0, 1 + GROUP)
            done = len(first)
            for item in self._engine.run(first):
                if isinstance(item, Answered):
                    self._seen_s.append(item.outcome.reply.seconds)
                yield item
                if isinstance(item, Answered) and item.outcome.reply.error_kind and batch.stop_at_failure:
                    return
            self._decide(len(batch))
        if done < len(batch):
            yield from self._engine.run(_part(batch, done, len(batch)))

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()

    def _decide(self, tasks: int) -> None:
        measured = sorted(self._seen_s[1:])
        if not measured:
            return
        self._decided = True
        expected_s = measured[len(measured) // 2] * tasks * self._rounds
        starting_s = STARTING_S + (IMPORTING_TORCH_S if "torch" in sys.modules else 0.0)
        if expected_s * (1 - 1 / self._count) < 2 * starting_s:
            return
        try:
            self._engine = Replicas(self._places.app, self._places.population, self._count, mixed_hardware=self._mixed)
        except ConfigError as error:
            to_stderr(f"simulation: one process, since {error}")


def _part(batch: Batch, start: int, stop: int) -> Batch:
    """Some of its tasks. Groups that are begun in an earlier part are no longer whole."""
    if start == 0 and stop >= len(batch):
        return batch
    return replace(
        batch,
        positions=batch.positions[start:stop],
        tasks=batch.tasks[start:stop],
        states=batch.states[start:stop],
        whole_from=-(-batch.positions[start] // GROUP) * GROUP if start else 0,
        whole_below=batch.whole_below if stop >= len(batch) else 0,
    )
