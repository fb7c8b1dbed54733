"""Virtual sites: the same app, machine and strategies without a network."""

from hanse.simulation.simulate import simulate

__all__ = ["simulate"]
