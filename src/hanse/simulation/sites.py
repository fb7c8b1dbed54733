"""Virtual sites: any number of them, and the few that are at work. A site costs nothing until it is sampled.

`Places` makes the runtime of a site when it is first asked, and forgets those that were not asked for longest: a worker
may be replaced between any two tasks without changing a bit.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.clients.app import App
from hanse.clients.execute import Runtime, are_alike
from hanse.clients.failures import OnFailure
from hanse.core.errors import ConfigError, PolicyError
from hanse.core.ids import check_name
from hanse.rounds.names import Listed, Names, Numbered

DataSets = Mapping[str, Any]
"""Data set name → the data as `site.load` returns it, or a callable without arguments that makes it."""
MAX_SITES = 1_000_000_000
KEPT = 16_384
"""Sites whose data and clients are kept for the next time."""
DATA_BYTES = 1 << 30
"""What the data of sites that are kept may take together, where a `data` function made them."""
UNKNOWN_BYTES = 1 << 20
"""What is assumed of data that do not say how large they are."""
CLIENT_BYTES = 512 << 20
"""What the models inside the clients that are kept may take together, about."""


class Population:
    """Many virtual sites, as the argument `sites` of `hs.simulate`. None costs anything until it is sampled.

    Args:
        sites: how many, or their names.
        data: `f(site) -> {data set: data}`, called when a site is first asked and perhaps again later, so it must
            answer the same every time; None for apps that load nothing.
        prefix: what names begin with where only their number is given: `site-0000`, …

    Raises:
        ConfigError: no site, or a name that no site can have.

    Example:
        >>> people = Population(1_000_000, data=lambda site: {"rows": len(site)})
        >>> people.names[7], len(people)
        ('site-000007', 1000000)
    """

    def __init__(
        self,
        sites: int | Sequence[str],
        data: Callable[[str], DataSets] | None = None,
        *,
        prefix: str = "site",
    ) -> None:
        if data is not None and not callable(data):
            raise ConfigError(f"data: expected a function of a site's name, found {type(data).__name__}")
        self.names = _numbered(sites, prefix) if isinstance(sites, int) else _listed(sites)
        self.data = data

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_data(self) -> bool:
        """Whether there is anything to load."""
        return self.data is not None

    @property
    def sizes(self) -> Mapping[str, float]:
        """How much work each site may be, as far as that is known before it is asked."""
        return {}

    def data_of(self, site: str) -> DataSets:
        """What a site can load.

        Raises:
            ConfigError: `data` answered something else than a mapping.
        """
        if self.data is None:
            return {}
        made: Any = self.data(site)
        if type(made) is not dict and not isinstance(made, Mapping):  # the second question takes longer
            raise ConfigError(
                f"data: expected a mapping of data set name → data for {site}, found {type(made).__name__}"
            )
        return made


def population_of(sites: "Population | Mapping[str, DataSets] | Sequence[str] | int") -> Population:
    """The argument `sites` of `hs.simulate`, in whichever form it came.

    Raises:
        ConfigError: none of the forms, no site, a name that no site can have, or one twice.
    """
    if isinstance(sites, Population):
        return sites
    if isinstance(sites, Mapping):
        given = {site: _sets_of(site, sets) for site, sets in sites.items()}
        return _Given(_listed(list(given)), given)
    if isinstance(sites, str) or not isinstance(sites, int | Sequence):
        raise ConfigError(
            "sites: expected a mapping of site → data sets, names, a number or hs.Population, "
            f"found {type(sites).__name__}"
        )
    return Population(sites)


class _Given(Population):
    """Sites whose data sets are held by the caller."""

    def __init__(self, names: Names, given: Mapping[str, DataSets]) -> None:
        self.names = names
        self.data = None
        self._given = given

    @property
    def has_data(self) -> bool:
        """See `Population.has_data`."""
        return any(self._given.values())

    @property
    def sizes(self) -> Mapping[str, float]:
        """The lengths of sites' largest data sets."""
        return {
            site: max((_length(value) for value in sets.values()), default=1.0) for site, sets in self._given.items()
        }

    def data_of(self, site: str) -> DataSets:
        """See `Population.data_of`."""
        return self._given[site]


class Places:
    """The sites at work in this process.

    Args:
        log: where `site.log` goes.
        failed: told of what user code raised; without it that goes to the log, too.
    """

    def __init__(
        self,
        app: App,
        population: Population,
        log: Callable[[str], None] | None = None,
        failed: OnFailure | None = None,
    ) -> None:
        self.app = app
        self.population = population
        self._log = log or to_stderr
        self.failed = failed
        self._limit = KEPT
        self._runtimes: OrderedDict[str, tuple[Runtime, Loader]] = OrderedDict()
        self._held = Held()
        self._bare: Runtime | None = None
        if are_alike(app) and not population.has_data:
            self._bare = Runtime(app, site_name="", load=Loader(population, ""), log=self._log, failed=self.failed)

    def make_room(self, model_bytes: int) -> None:
        """Keep fewer sites where each client may hold a model of that size."""
        if self.app.client_side.client is not None and model_bytes:
            self._limit = min(KEPT, max(16, CLIENT_BYTES // model_bytes))

    def runtime(self, site: str) -> Runtime:
        """The one that executes this site's tasks, until another one is asked for.

        Bare functions without data leave nothing at a site, so that one runtime goes from site to site.
        """
        bare = self._bare
        if bare is not None:
            if bare.site.name != site:
                bare.turn_to(site, Loader(self.population, site))
            return bare
        found = self._runtimes.get(site)
        if found is not None:
            self._runtimes.move_to_end(site)
            return found[0]
        while len(self._runtimes) >= self._limit or (self._runtimes and self._held.num_bytes > DATA_BYTES):
            self._runtimes.popitem(last=False)[1][1].forget()
        loader = Loader(self.population, site, self._held)
        made = Runtime(self.app, site_name=site, load=loader, log=self._log, failed=self.failed)
        self._runtimes[site] = made, loader
        return made

    def has_client(self, site: str) -> bool:
        """Whether the site is at work and its client is made; bare functions are nobody's own."""
        found = self._runtimes.get(site)
        return self._bare is not None or (found is not None and found[0].has_client)

    def forget(self, site: str) -> None:
        """As if this site had never been asked for."""
        found = self._runtimes.pop(site, None)
        if found is not None:
            found[1].forget()


@dataclass(slots=True)
class Held:
    """What data that are held take together."""

    num_bytes: int = 0


class Loader:
    """`site.load` of one site.

    Args:
        held: where to add what a `data` function made; the site's own share is `num_bytes`.
    """

    __slots__ = ("_held", "_population", "_site", "num_bytes")

    def __init__(self, population: Population, site: str, held: Held | None = None) -> None:
        self._population = population
        self._site = site
        self._held = held if population.data is not None else None
        self.num_bytes = 0

    def forget(self) -> None:
        """What this site has loaded is not held any more."""
        if self._held is not None:
            self._held.num_bytes -= self.num_bytes
            self._held = None

    def __call__(self, dataset: str) -> Any:
        sets = self._population.data_of(self._site)
        if dataset not in sets:
            known = ", ".join(sorted(sets)) or "none"
            raise PolicyError(f"site {self._site}: data set {dataset!r} is not declared; declared are: {known}")
        value = sets[dataset]
        made = value() if callable(value) else value
        if self._held is not None:
            size = bytes_of(made)
            self.num_bytes += size
            self._held.num_bytes += size
        return made


def bytes_of(value: Any) -> int:
    """About what data take: arrays and containers of them say it, of anything else it is assumed."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if not isinstance(value, list | tuple):
        if isinstance(size := getattr(value, "nbytes", None), int):
            return size
        if isinstance(value, Mapping):
            value = list(value.values())
    if isinstance(value, list | tuple):
        seen = value[:64]
        return 64 + len(value) * sum(map(bytes_of, seen)) // max(1, len(seen))
    if isinstance(value, str | bytes):
        return 64 + len(value)
    return 32 if isinstance(value, int | float) or value is None else UNKNOWN_BYTES


def _length(value: Any) -> float:
    first = value[0] if isinstance(value, tuple) and value else value
    return float(len(first)) if hasattr(first, "__len__") else 1.0


def to_stderr(text: str) -> None:
    """A line for the person in front of the simulation."""
    sys.stderr.write(text + "\n")


def _numbered(count: int, prefix: str) -> Names:
    if isinstance(count, bool) or not 0 < count <= MAX_SITES:
        raise ConfigError(f"sites: expected at least one and at most {MAX_SITES}, found {count}")
    names = Numbered(count, prefix)
    check_name(names[count - 1], "site")
    return names


def _listed(sites: Sequence[str]) -> Names:
    if not sites:
        raise ConfigError("sites: expected at least one, found none")
    for site in sites:
        if not isinstance(site, str):
            raise ConfigError(f"sites: expected names, found {type(site).__name__}")
        check_name(site, "site")
    names = Listed(sites)
    if len(set(sites)) < len(names):
        twice = next(site for place, site in enumerate(names) if place and names[place - 1] == site)
        raise ConfigError(f"sites: expected distinct names, found {twice!r} twice")
    return names


def _sets_of(site: str, sets: Any) -> DataSets:
    if not isinstance(sets, Mapping):
        raise ConfigError(f"sites: expected a mapping of data sets for {site!r}, found {type(sets).__name__}")
    return sets
