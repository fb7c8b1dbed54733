"""The clients of many sites at once: made without seeding global random state for each, where nobody draws from it.

To seed `random`, numpy and torch before a client is made and again after it has loaded its data is half of what a new
site costs, and hardly any app draws there. So clients are made without, more at a time as long as nobody has drawn; if
somebody has, those of that time are made again with seeds, as every one is from then on. Making a client is user code
that runs once a worker, and a worker may be replaced between any two tasks, so it may run twice.
"""

from collections.abc import Sequence

from hanse.clients.client import Client
from hanse.core.seeds import Unseeded, key_of
from hanse.simulation.sites import Places

GROWTH = 4
MOST = 1024
"""Clients that are made at a time, at most."""


class Making:
    """Makes clients in one process, for one app."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._many = 1
        self.seeds_each = False
        """Whether somebody was seen to draw, or it cannot be seen here."""

    def clients(self, sites: Sequence[str], seed: int) -> list[Client | None]:
        """The client of each, made if it was not; None where making it fails."""
        made: list[Client | None] = []
        while len(made) < len(sites):
            part = sites[len(made) : len(made) + (len(sites) if self.seeds_each else self._many)]
            made += self._made(part, seed)
        return made

    def _made(self, sites: Sequence[str], seed: int) -> list[Client | None]:
        fresh = [] if self.seeds_each else [site for site in sites if not self._places.has_client(site)]
        if not fresh:
            return [self._one(site, seed) for site in sites]
        with Unseeded(key_of(seed, purpose="unseeded")) as stretch:
            made = [self._one(site, seed) for site in sites]
        if not stretch.was_touched:
            self._many = min(GROWTH * self._many, MOST)
            return made
        self.seeds_each = True
        for site in fresh:
            self._places.forget(site)
        return self._made(sites, seed)

    def _one(self, site: str, seed: int) -> Client | None:
        try:
            return self._places.runtime(site).client(seed)
        except (Exception, SystemExit):
            return None
