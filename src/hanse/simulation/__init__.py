"""Virtual sites: the same app, machine and strategies without a network."""

from hanse.simulation.inline import simulate

__all__ = ["simulate"]
