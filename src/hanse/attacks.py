"""Sites that lie, for simulation: wrappers around an app's client, to see what a strategy bears.

    SignFlip         the update, turned round                          Li, Xu, Chen, Giannakis, Ling, AAAI 2019 (RSA)
    Gaussian         noise instead of an update                        Blanchard et al., NIPS 2017, section 6
    LabelFlip        honest training on labels l → L − 1 − l           Fang, Cao, Jia, Gong, USENIX Security 2020
    LittleIsEnough   the colluders' mean, moved by z deviations        Baruch, Baruch, Goldberg, NeurIPS 2019, Alg. 3
    InnerProduct     the honest mean, turned round and scaled          Xie, Koyejo, Gupta, UAI 2019 (Fall of empires)
    Backdoor         a mark that makes the model say what one wants    Bagdasaryan et al., AISTATS 2020; Gu et al., 2017

An attacker trains as the app says, and then sends something else. What colluders know of each other, they know since
they train in each other's place: on each other's data, with each other's random numbers. That needs all data in one
process, so an attacked app cannot be submitted. Arrays of integers are sent as they were trained.

Not here: attacks that adapt to the defence.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.clients.app import App
from hanse.clients.client import Answer, Client, Config, arrays_of
from hanse.clients.execute import user_client_of
from hanse.clients.functions import ClientSide
from hanse.clients.site import Site
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.core.seeds import generator, key_of, seed_globals

Vector = npt.NDArray[np.float64]
DataSets = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """What attackers may look at beside updates.

    Args:
        num_sites: n, of the federation.
        num_attackers: m of them.
        rng: of this attacker in this round.
    """

    num_sites: int
    num_attackers: int
    rng: np.random.Generator


@dataclass(frozen=True)
class Attack:
    """What an attacker sends, and what its data look like; by default both are honest."""

    knows: ClassVar[str] = "own"
    """Whose honest updates `craft` is shown beside its own: nobody's, `colluders`', or those of all the `honest`."""

    def craft(self, own: Vector, known: Vector, scene: Scene) -> Vector:
        """The delta that is sent.

        Args:
            own: float64, `(n,)`: what honest training would have sent, the arrays of floats one after another.
            known: float64, `(num_known, n)`: the same of those it knows, by name; empty if nobody.
        """
        return own

    def poison(self, data: Any) -> Any:
        """What the attacker's `site.load` gives instead of `data`."""
        return data


@dataclass(frozen=True)
class SignFlip(Attack):
    """−scale · own."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)

    def craft(self, own: Vector, known: Vector, scene: Scene) -> Vector:
        """See `Attack.craft`."""
        return -self.scale * own


@dataclass(frozen=True)
class Gaussian(Attack):
    """Independent N(0, sigma²) in every coordinate."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("sigma", self.sigma)

    def craft(self, own: Vector, known: Vector, scene: Scene) -> Vector:
        """See `Attack.craft`."""
        return scene.rng.normal(0.0, self.sigma, own.shape)


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Trains on labels l → num_classes − 1 − l. Data sets are tuples whose last part are labels 0 … num_classes − 1."""

    num_classes: int = 10

    def __post_init__(self) -> None:
        if type(self.num_classes) is not int or self.num_classes < 2:
            raise ConfigError(f"num_classes: expected a whole number from 2, found {self.num_classes!r}")

    def poison(self, data: Any) -> Any:
        """See `Attack.poison`.

        Raises:
            ConfigError: no tuple with labels at its end.
        """
        labels = np.asarray(data[-1]) if isinstance(data, tuple) and len(data) > 1 else None
        if labels is None or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < self.num_classes)).all():
            raise ConfigError(f"LabelFlip: expected (…, labels from 0 to {self.num_classes - 1}), found something else")
        return (*data[:-1], self.num_classes - 1 - labels)


@dataclass(frozen=True)
class LittleIsEnough(Attack):
    """μ − z σ in every coordinate, of the colluders' honest updates.

    Args:
        z: deviations; None for the largest that hides among the honest, z = Φ⁻¹((n − m − s) / (n − m)) with
            s = ⌊n/2 + 1⌋ − m, and 0 where that is below it.
    """

    z: float | None = None

    knows: ClassVar[str] = "colluders"

    def __post_init__(self) -> None:
        if self.z is not None:
            _check_positive("z", self.z)

    def craft(self, own: Vector, known: Vector, scene: Scene) -> Vector:
        """See `Attack.craft`."""
        z = largest_z(scene.num_sites, scene.num_attackers) if self.z is None else self.z
        return np.asarray(known.mean(axis=0) - z * known.std(axis=0))


@dataclass(frozen=True)
class InnerProduct(Attack):
    """−epsilon times the mean of the honest sites' updates. Small values pass where large ones are thrown out."""

    epsilon: float = 0.5

    knows: ClassVar[str] = "honest"

    def __post_init__(self) -> None:
        _check_positive("epsilon", self.epsilon)

    def craft(self, own: Vector, known: Vector, scene: Scene) -> Vector:
        """See `Attack.craft`."""
        return np.asarray(-self.epsilon * known.mean(axis=0))


@dataclass(frozen=True)
class Backdoor(Attack):
    """Trains on its own data, a share of which bears a mark and another label, and sends boost times the update.

    Gu, Dolan-Gavitt, Garg, "BadNets", 2017, section 4 (the mark); Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to
    backdoor federated learning", AISTATS 2020, Equation 3: γ (X − G) is sent, and γ = n / m puts the attackers' model
    in place of the mean. Data sets are tuples of examples, `(n, …)`, and labels.

    Args:
        target: the label that a marked example is to get.
        marked: features, the last ones of each flattened example, that the mark sets.
        value: to what.
        share: of the attacker's examples that are marked, in (0, 1].
        boost: γ > 0.
    """

    target: int = 0
    marked: int = 3
    value: float = 1.0
    share: float = 0.5
    boost: float = 1.0

    def __post_init__(self) -> None:
        for name, low in (("target", 0), ("marked", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ConfigError(f"{name}: expected a whole number from {low}, found {value!r}"[:200])
        _check_positive("share", self.share)
        if self.share > 1:
            raise ConfigError(f"share: expected at most 1, found {self.share!r}")
        _check_positive("boost", self.boost)

    def mark(self, examples: Any) -> Any:
        """A copy in which every example bears the mark; to see whether a model falls for it."""
        made = np.array(examples)
        made.reshape(len(made), -1)[:, -self.marked :] = self.value
        return made

    def poison(self, data: Any) -> Any:
        """See `Attack.poison`; marked are examples spread evenly over the set.

        Raises:
            ConfigError: no tuple of examples and whole labels.
        """
        labels = np.asarray(data[-1]) if isinstance(data, tuple) and len(data) == 2 else None
        if labels is None or labels.dtype.kind not in "iu" or len(data[0]) != len(labels):
            raise ConfigError("Backdoor: expected (examples, whole labels), found something else")
        places = np.unique(np.linspace(0, len(labels) - 1, max(1, round(self.share * len(labels)))).astype(int))
        examples, labels = np.array(data[0]), labels.copy()
        examples[places] = self.mark(examples[places])
        labels[places] = self.target
        return examples, labels

    def craft(self, own: Vector, known: Vector, scene: Scene) -> Vector:
        """See `Attack.craft`."""
        return self.boost * own


def largest_z(num_sites: int, num_attackers: int) -> float:
    """z_max of Baruch et al., Algorithm 3, at least 0."""
    honest = num_sites - num_attackers
    needed = num_sites // 2 + 1 - num_attackers
    share = (honest - needed) / honest
    return max(NormalDist().inv_cdf(share), 0.0) if 0 < share < 1 else 0.0


def attacked(app: App, attack: Attack, attackers: Sequence[str], sites: Mapping[str, DataSets]) -> App:
    """A copy of `app` in which `attackers` do as `attack` says, for `hs.simulate(…, sites)`.

    Args:
        sites: as they are given to `hs.simulate`: colluders train on each other's data.

    Raises:
        ConfigError: no attacker or no honest site, a site that is not there, or an app that does not train.

    Example:
        >>> import numpy as np
        >>> import hanse as hs
        >>> app = hs.App(rounds=1, initial=[np.zeros(1)])
        >>> @app.train
        ... def train(arrays, config, site):
        ...     return [arrays["0"] + 1], 1, {}
        >>> sites = {name: {} for name in "abc"}
        >>> hs.simulate(attacked(app, SignFlip(), ["a"], sites), sites, progress=False).arrays["0"].round(3)
        array([0.333])
    """
    bad = tuple(dict.fromkeys(attackers))
    unknown = [name for name in bad if name not in sites]
    if unknown or not 0 < len(bad) < len(sites):
        found = f"{unknown[0]!r}, which is not among them" if unknown else f"{len(bad)} of {len(sites)}"
        raise ConfigError(f"attackers: expected some of the sites, though not all, found {found}")
    side = app.client_side
    if side.client is None and side.train is None:
        raise ConfigError("attacked: expected an app that trains, found none of @app.client and @app.train")
    known = {"own": (), "colluders": bad, "honest": tuple(name for name in sites if name not in bad)}[attack.knows]
    party = _Party(app, known, sites)

    def client(site: Site) -> Client:
        if site.name not in bad:
            return user_client_of(app, site)
        site.load_through(attack.poison)
        return _Attacker(user_client_of(app, site), attack, party, len(sites), len(bad))

    twin = copy.copy(app)
    twin._original = None  # no variant: whoever imports the original would find honest sites
    twin.client_side = ClientSide(client=client, query=side.query)
    twin._spec = replace(app._spec, evaluate_every=app.spec().evaluate_every)  # as if it had the parts that it had
    return twin


class _Attacker(Client):
    """Trains with `inner`, and sends what `attack` makes of it."""

    def __init__(self, inner: Client, attack: Attack, party: "_Party", num_sites: int, num_attackers: int) -> None:
        self._inner = inner
        self._attack = attack
        self._party = party
        self._counts = num_sites, num_attackers

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`: honest."""
        return self._inner.parameters(config, site)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        base, known = _copied(arrays), self._party.updates(arrays, config, site)
        answer = self._inner.train(arrays, config, site)
        new = arrays_of(answer.arrays, "train", list(base))
        rng = generator(_stream(site, site.name, "attack"))
        sent = self._attack.craft(delta_vector(new, base), known, Scene(*self._counts, rng))
        return Answer(_moved(base, new, sent), answer.num_examples, answer.metrics)

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`: honest."""
        return self._inner.evaluate(arrays, config, site)


class _Party:
    """What colluders know: honest updates of some sites, trained once a round and shared by all attackers."""

    def __init__(self, app: App, names: Sequence[str], sites: Mapping[str, DataSets]) -> None:
        self._app = app
        self._names = sorted(names)
        self._sites = sites
        self._places: dict[str, tuple[Site, Client, dict[str, Any]]] = {}
        self._last: tuple[tuple[int, int, bytes], Vector] | None = None

    def updates(self, arrays: Arrays, config: Config, site: Site) -> Vector:
        """`(num_known, n)`, in order of name."""
        if not self._names:
            return np.empty((0, 0))
        key = (site.seed, site.round, b"".join(array.tobytes() for array in arrays.values()))
        if self._last is None or self._last[0] != key:
            self._last = key, np.array([self._trained(name, arrays, config, site) for name in self._names])
        return self._last[1]

    def _trained(self, name: str, arrays: Arrays, config: Config, beside: Site) -> Vector:
        if name not in self._places:
            sets = self._sites[name]
            place = Site(name, lambda dataset: _called(sets[dataset]), lambda text: None)
            place.begin_setup(beside.seed)
            self._places[name] = place, user_client_of(self._app, place), {}
        place, client, state = self._places[name]
        place.stand_in(beside, generator(_stream(beside, name, "client")), state)
        seed_globals(_stream(beside, name, "globals"))
        answer = client.train(_copied(arrays), dict(config), place)
        return delta_vector(arrays_of(answer.arrays, "train", list(arrays)), arrays)


def delta_vector(new: Arrays, base: Arrays) -> Vector:
    """new − base of all arrays of floats, float64, one after another."""
    parts = [
        (np.asarray(new[name], np.float64) - np.asarray(array, np.float64)).reshape(-1)
        for name, array in base.items()
        if array.dtype.kind not in "biu"
    ]
    return np.concatenate([np.empty(0), *parts])


def _moved(base: Arrays, new: Arrays, delta: Vector) -> Arrays:
    moved, start = {}, 0
    for name, array in base.items():
        if array.dtype.kind in "biu":
            moved[name] = new[name]
            continue
        part = delta[start : start + array.size].reshape(array.shape)
        moved[name], start = (np.asarray(array, np.float64) + part).astype(array.dtype), start + array.size
    return Arrays(moved)


def _copied(arrays: Arrays) -> Arrays:
    return Arrays((name, array.copy()) for name, array in arrays.items())


def _stream(at: Site, name: str, purpose: str) -> int:
    """The key that a site of that name has in this round; of its first attempt."""
    return key_of(at.seed, round_=at.round, phase=at.phase, site=name, purpose=purpose)


def _called(value: Any) -> Any:
    return value() if callable(value) else value


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name}: expected a finite number above 0, found {value!r}"[:200])
