"""Partitioners: each gives every example (or column) to exactly one site, as a function of its arguments and a seed.

    iid         a random cut into equal parts
    dirichlet   label skew: for every label, the sites' shares are drawn from Dir(α)
    shards      label skew: examples in order of label, cut into shards, a few of them for each site
    quantity    sizes drawn from Dir(α), labels alike
    by_id       whoever an example belongs to in nature
    columns     vertical: all examples, other features

Shards: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
section 3. Dirichlet over labels: Yurochkin et al., "Bayesian nonparametric federated learning of neural networks",
ICML 2019, section 4; over sizes: Li, Diao, Chen, He, "Federated learning on non-IID data silos", ICDE 2022, section 4.
(Hsu et al., 2019, draw each site's label shares instead, and need sites of equal size.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.core.ids import check_name
from hanse.core.seeds import generator, key_of

Indices = npt.NDArray[np.int64]
MAX_DRAWS = 1000


@dataclass(frozen=True)
class Partition:
    """Who has what.

    Args:
        parts: site → indices, ascending; every index below `size` belongs to exactly one site.
        size: number of examples, or of columns.
        axis: 0 if examples were dealt out, 1 if columns were.

    Raises:
        ConfigError: something is lost or twice, or a name that no site can have.

    Example:
        >>> parts = iid(10, 3, seed=1)
        >>> [len(indices) for indices in parts.parts.values()]
        [4, 3, 3]
        >>> parts.take(np.arange(10))["site-0"].shape
        (4,)
    """

    parts: Mapping[str, Indices]
    size: int
    axis: int = 0

    def __post_init__(self) -> None:
        for site in self.parts:
            check_name(site, "site")
        every = np.concatenate([np.empty(0, np.int64), *self.parts.values()])
        outside = int(((every < 0) | (every >= self.size)).sum())
        times = np.bincount(every[(every >= 0) & (every < self.size)], minlength=self.size)
        lost, repeated = int((times == 0).sum()), int((times > 1).sum())
        if outside or lost or repeated:
            raise ConfigError(
                f"partition: expected each of {self.size} at one site, found {lost} lost, {repeated} repeated and "
                f"{outside} that do not exist"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """How many each site has."""
        return {site: len(indices) for site, indices in self.parts.items()}

    def take(self, array: Any) -> dict[str, Any]:
        """Each site's part of an array whose `axis` was dealt out; copies.

        Raises:
            ConfigError: an array of another size.
        """
        array = self._checked(array)
        return {site: np.take(array, indices, axis=self.axis) for site, indices in self.parts.items()}

    def _checked(self, array: Any) -> Any:
        array = np.asarray(array)
        found = array.shape[self.axis] if array.ndim > self.axis else None
        if found != self.size:
            raise ConfigError(f"partition: expected {self.size} along axis {self.axis}, found {found}")
        return array

    def sites(self, name: str, *arrays: Any) -> dict[str, dict[str, Any]]:
        """The argument `sites` of `hs.simulate`: each site loads its part of the arrays by `name`, as a tuple if many.

        Raises:
            ConfigError: no array, or one of another size.
        """
        if not arrays:
            raise ConfigError("partition: expected at least one array, found none")
        taken = [self.take(array) for array in arrays]
        return {
            site: {name: taken[0][site] if len(taken) == 1 else tuple(t[site] for t in taken)} for site in self.parts
        }

    def reader(self, name: str, *arrays: Any) -> Callable[[str], dict[str, Any]]:
        """As `sites`, one site at a time: the argument `data` of `hs.Population(list(partition.parts), data=...)`.

        Raises:
            ConfigError: no array, or one of another size.
        """
        if not arrays:
            raise ConfigError("partition: expected at least one array, found none")
        whole = [self._checked(array) for array in arrays]

        def read(site: str) -> dict[str, Any]:
            taken = tuple(np.take(array, self.parts[site], axis=self.axis) for array in whole)
            return {name: taken[0] if len(taken) == 1 else taken}

        return read

    def counts(self, labels: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """The distinct labels, and how many of each every site has: `(num_sites, num_labels)`."""
        known, numbers = np.unique(np.asarray(labels), return_inverse=True)
        taken = self.take(numbers)
        return known, np.array([np.bincount(part, minlength=len(known)) for part in taken.values()])


def iid(num_examples: int, num_sites: int, *, seed: int = 0) -> Partition:
    """A random cut into parts whose sizes differ by one at most.

    Raises:
        ConfigError: numbers below 1, or more sites than examples.
    """
    _check_sizes(num_examples, num_sites)
    order = _stream(seed, "iid").permutation(num_examples)
    return _partition(np.array_split(order, num_sites), num_examples)


def dirichlet(labels: Any, num_sites: int, alpha: float, *, seed: int = 0, min_size: int = 1) -> Partition:
    """For every label, the share of each site is drawn from a symmetric Dirichlet distribution.

    Args:
        labels: `(num_examples,)`.
        alpha: > 0; 0.1 gives sites a few labels each, 100 gives all the same.
        min_size: drawn again until every site has so many examples, ≥ 0.

    Raises:
        ConfigError: an impossible argument, or a `min_size` that 1000 draws have not met.
    """
    y = _labels(labels)
    _check_sizes(len(y), num_sites, min_size)
    _check_positive("alpha", alpha)
    rng = _stream(seed, "dirichlet")
    order = np.argsort(y, kind="stable")
    by_label = np.split(order, np.unique(y[order], return_index=True)[1][1:])
    best = -1
    for _ in range(MAX_DRAWS):
        pieces: list[list[Indices]] = [[] for _ in range(num_sites)]
        for examples in by_label:
            members = rng.permutation(examples)
            shares = rng.dirichlet(np.full(num_sites, float(alpha)))
            for site, piece in enumerate(np.split(members, _cuts(shares, len(members)))):
                pieces[site].append(piece)
        parts = [np.concatenate(each) for each in pieces]
        smallest = min(map(len, parts))
        if smallest >= min_size:
            return _partition(parts, len(y))
        best = max(best, smallest)
    raise ConfigError(
        f"dirichlet: expected every site to have min_size={min_size} examples, found {best} at the smallest site of "
        f"the best of {MAX_DRAWS} draws; lower min_size or num_sites={num_sites}, or raise alpha={alpha:g}"
    )


def shards(labels: Any, num_sites: int, shards_per_site: int = 2, *, seed: int = 0) -> Partition:
    """Examples in order of label, cut into equal shards, of which each site gets `shards_per_site` at random.

    Raises:
        ConfigError: numbers below 1, or more shards than examples.
    """
    y = _labels(labels)
    _check_sizes(len(y), num_sites)
    _check_whole("shards_per_site", shards_per_site, 1)
    num = num_sites * shards_per_site
    if num > len(y):
        raise ConfigError(f"shards: expected at most {len(y)} shards of {len(y)} examples, found {num}")
    cut = np.array_split(np.argsort(y, kind="stable"), num)
    order = _stream(seed, "shards").permutation(num).reshape(num_sites, shards_per_site)
    return _partition([np.concatenate([cut[shard] for shard in mine]) for mine in order], len(y))


def quantity(num_examples: int, num_sites: int, alpha: float, *, seed: int = 0, min_size: int = 1) -> Partition:
    """Sizes drawn from a symmetric Dirichlet distribution, above `min_size` for each site; labels as they fall.

    Args:
        alpha: > 0; the smaller, the more uneven.
        min_size: ≥ 0.

    Raises:
        ConfigError: an impossible argument.
    """
    _check_sizes(num_examples, num_sites, min_size)
    _check_positive("alpha", alpha)
    rng = _stream(seed, "quantity")
    spare = num_examples - num_sites * min_size
    shares = rng.dirichlet(np.full(num_sites, float(alpha)))
    cuts = _cuts(shares, spare) + min_size * np.arange(1, num_sites)
    return _partition(np.split(rng.permutation(num_examples), cuts), num_examples)


def by_id(ids: Any) -> Partition:
    """Every distinct id is a site, under its own name.

    Args:
        ids: `(num_examples,)`: whom each example belongs to, as numbers or names.

    Raises:
        ConfigError: an id that cannot be a site's name, or no ids.
    """
    owners = _labels(ids, "ids")
    known, numbers = np.unique(owners, return_inverse=True)
    named = {str(owner): np.flatnonzero(numbers == place) for place, owner in enumerate(known)}
    if len(named) < len(known):
        raise ConfigError(f"ids: expected distinct names, found {len(known) - len(named)} that are written alike")
    return Partition(named, len(owners))


def columns(num_columns: int, sites: int | Mapping[str, Sequence[int]], *, seed: int = 0) -> Partition:
    """Vertical: every site has all examples and some of the features.

    Args:
        sites: how many, for a random cut into equal parts; or site → its columns.

    Raises:
        ConfigError: columns that are lost, twice or not there.
    """
    _check_whole("num_columns", num_columns, 1)
    if isinstance(sites, Mapping):
        parts = {site: np.sort(np.asarray(which, np.int64).reshape(-1)) for site, which in sites.items()}
        return Partition(parts, num_columns, axis=1)
    _check_sizes(num_columns, sites, what="columns")
    cut = np.array_split(_stream(seed, "columns").permutation(num_columns), sites)
    return _partition(cut, num_columns, axis=1)


def _partition(parts: Sequence[Indices], size: int, axis: int = 0) -> Partition:
    digits = len(str(len(parts) - 1))  # so that the order of names is the order of numbers
    named = {f"site-{place:0{digits}}": np.sort(part).astype(np.int64) for place, part in enumerate(parts)}
    return Partition(named, size, axis)


def _cuts(shares: npt.NDArray[np.float64], num: int) -> Indices:
    """Where to cut `num` things so that the parts are about `shares`: nothing is lost to rounding."""
    return np.minimum(np.floor(np.cumsum(shares)[:-1] * num + 0.5), num).astype(np.int64)


def _stream(seed: int, purpose: str) -> np.random.Generator:
    _check_whole("seed", seed, 0)
    return generator(key_of(seed, purpose=f"partition/{purpose}"))


def _labels(labels: Any, what: str = "labels") -> npt.NDArray[Any]:
    y = np.asarray(labels)
    if y.ndim != 1 or not y.size or y.dtype.kind not in "biufSU":
        raise ConfigError(f"{what}: expected (num_examples,) numbers or texts, found {y.dtype} {y.shape}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ConfigError(f"{what}: expected finite numbers, found NaN or infinity")
    return y


def _check_sizes(num: int, num_sites: int, min_size: int = 1, what: str = "examples") -> None:
    _check_whole(f"num_{what}", num, 1)
    _check_whole("num_sites", num_sites, 1)
    _check_whole("min_size", min_size, 0)
    least = num_sites * min_size
    if least > num:
        raise ConfigError(f"num_sites: expected at most {num} {what} to be needed, found {num_sites} × {min_size}")


def _check_whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ConfigError(f"{name}: expected a whole number from {low}, found {_shown(value)}")


def _shown(value: Any) -> str:
    """A wrong number as it is; of anything else, which may be somebody's labels, the type."""
    return repr(value)[:40] if isinstance(value, int | float | np.number) else type(value).__name__


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 < value < np.inf:
        raise ConfigError(f"{name}: expected a finite number above 0, found {_shown(value)}")
