"""Which engine a simulation runs on, by its name."""

from hanse.core.errors import ConfigError
from hanse.simulation.batched import Batched
from hanse.simulation.engine import Engine
from hanse.simulation.sequential import Sequential
from hanse.simulation.sites import Places

ENGINES = ("auto", "sequential", "batched", "numpy-batched", "torch-batched")


def make_engine(name: str, places: Places) -> Engine:
    """The engine called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine: expected one of {', '.join(ENGINES)}; found {str(name)[:60]!r}")
    kernel, _, kind = name.rpartition("-")
    if kind == "batched":
        return Batched(places, kernel=kernel or "auto")
    return Sequential(places)
