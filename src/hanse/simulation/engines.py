"""Which engine a simulation runs on, by its name."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from hanse.aggregation import GROUP
from hanse.core.errors import ConfigError
from hanse.simulation.engine import Batch, Engine, Item, replies_of
from hanse.simulation.replicas import Replicas, num_cores
from hanse.simulation.sequential import Sequential
from hanse.simulation.sites import Places, to_stderr

if TYPE_CHECKING:
    from hanse.simulation.batched import Batched

BATCHED = ("batched", "numpy-batched", "torch-batched")
ENGINES = ("auto", "sequential", "replicas", "ray", *BATCHED)
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
    reproducible: bool = True,
    rounds: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Engine:
    """The engine called `name`.

    Args:
        replicas: processes; by default one for each core.
        resources: of each actor on a Ray cluster.
        reproducible: `auto` keeps to engines with the bits of the sequential one.
        rounds: that are left, so that `auto` knows whether something is worth its start.
        settings: of the engine on which a run was begun that is resumed.

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

        return OnRay(
            places.app,
            places.population,
            replicas,
            resources=resources,
            mixed_hardware=mixed_hardware,
            failed=places.failed,
        )
    if name == "replicas":
        return Replicas(places.app, places.population, replicas, mixed_hardware=mixed_hardware, failed=places.failed)
    if name == "auto":
        count = num_cores() if replicas is None else replicas
        if count == 1 and reproducible:
            return Sequential(places)
        return Auto(places, count, rounds, mixed_hardware=mixed_hardware, reproducible=reproducible)
    if name in BATCHED:
        if replicas is not None and replicas > 1:
            return Replicas(
                places.app, places.population, replicas, inner=name, mixed_hardware=mixed_hardware, failed=places.failed
            )
        return _batched(name, places, (settings or {}).get("group"))
    return Sequential(places)


def _batched(name: str, places: Places, group: int | None = None) -> "Batched":
    from hanse.simulation.batched import Batched

    kernel = name.removesuffix("batched").removesuffix("-") or "auto"
    return Batched(places, kernel=kernel, group=group, say=to_stderr)


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
    """Begins with the sequential engine, measures a group, and goes on with what saves time.

    Where bits need not be those of the sequential engine, a group is then trained at once and measured too, after a
    first one that pays for what is made once.
    """

    def __init__(
        self, places: Places, count: int, rounds: int, *, mixed_hardware: bool = False, reproducible: bool = True
    ) -> None:
        self._places = places
        self._count = count
        self._rounds = rounds
        self._mixed = mixed_hardware
        self._engine: Engine = Sequential(places)
        self._stacking = None if reproducible else _batched("batched", places)
        self._alone_s: list[float] = []
        self._stacked_s: list[float] = []
        self._decided = False

    @property
    def name(self) -> str:
        """Of the engine that was chosen."""
        return self._engine.name

    @property
    def exact(self) -> bool:
        """See `Engine.exact`; of what was used so far."""
        return self._engine.exact and not self._stacked_s

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Engine.settings`."""
        return self._engine.settings

    def run(self, batch: Batch) -> Iterator[Item]:
        """See `Engine.run`."""
        done = 0
        while not self._decided and done < len(batch):
            engine, count, seen = self._trial()
            part = _part(batch, done, done + count)
            done += len(part)
            for item in engine.run(part):
                replies = replies_of(item)
                seen.extend(reply.seconds for reply in replies)
                yield item
                if batch.stop_at_failure and any(reply.error_kind for reply in replies):
                    return
            if batch.tasks[0].call == "parameters":
                seen.clear()
            self._decide(len(batch))
        if done < len(batch):
            yield from self._engine.run(_part(batch, done, len(batch)))

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()
        if self._stacking is not None:
            self._stacking.close()

    def _trial(self) -> tuple[Engine, int, list[float]]:
        """What to measure next, on how many tasks. The first task, or group, also pays for what is made once."""
        if self._stacking is None or len(self._alone_s) <= GROUP:
            return self._engine, 1 + GROUP, self._alone_s
        return self._stacking, self._stacking.group or GROUP, self._stacked_s

    def _decide(self, tasks: int) -> None:
        if len(self._alone_s) < 2:
            return
        each_s, inner = median(self._alone_s[1:]), "sequential"
        if self._stacking is not None:
            if len(self._alone_s) <= GROUP or not self._stacked_s:
                return
            group = self._stacking.group
            if group and len(self._stacked_s) < GROUP + group:
                return
            if group and self._stacked_s[-1] < each_s:
                each_s, inner = self._stacked_s[-1], "batched"
        self._decided = True
        if inner == "batched" and self._stacking is not None:
            self._engine, self._stacking = self._stacking, None
        expected_s = each_s * tasks * self._rounds
        starting_s = STARTING_S + (IMPORTING_TORCH_S if "torch" in sys.modules else 0.0)
        if expected_s * (1 - 1 / self._count) < 2 * starting_s:
            return
        replicas: Replicas | None = None
        try:
            replicas = Replicas(
                self._places.app,
                self._places.population,
                self._count,
                inner=inner,
                mixed_hardware=self._mixed,
                failed=self._places.failed,
            )
            replicas.start()
        except ConfigError as error:
            if replicas is not None:
                replicas.close()
            to_stderr(f"simulation: one process, since {error}")
        else:
            self._engine.close()
            self._engine = replicas


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
