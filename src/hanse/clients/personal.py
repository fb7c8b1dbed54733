"""The site's half of personalised strategies: what a site keeps for itself, in its state, whatever its client is.

    AtHome   arrays that never travel: FedBN, FedPer, FedRep, LG-FedAvg     `strategies/at_home.py` and its files
    Ditto    a model of its own, held near the common one                   `strategies/ditto.py`
    FineTune training before evaluation                                     `strategies/finetune.py`
    IFCA     which of k models is trained                                   `strategies/ifca.py`
    Moon     its last model, for the loss                                   `strategies/moon.py`

User code sees whole models of one layout and knows nothing of it, but for what the strategies' files say of `config`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.clients.around import Around, copied, keep, kept, moved, trained_arrays
from hanse.clients.client import Answer, Client, Config, arrays_of
from hanse.clients.site import Site
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import TaskError
from hanse.strategies.at_home import AtHome
from hanse.strategies.ditto import Ditto
from hanse.strategies.fedrep import FedRep
from hanse.strategies.ifca import CHOOSE, clusters, joined

CLUSTER = "hanse:cluster"


class Home(Around):
    """Puts the arrays that stay at home beside those that came, and takes them away again.

    Args:
        start: a whole model, in the client's order, from which a site begins that has no arrays of its own yet.
    """

    def __init__(self, inner: Client, strategy: AtHome, start: Arrays) -> None:
        super().__init__(inner)
        self.strategy = strategy
        self.order = list(start)
        self.first = {name: array.copy() for name, array in start.items() if strategy.stays(name)}

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`; those that travel."""
        return self.strategy.initial(arrays_of(self.inner.parameters(config, site), "parameters", None))

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`; of the site's own model."""
        return self.inner.evaluate(self._whole(arrays, site), config, site)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        whole = self._whole(arrays, site)
        if isinstance(self.strategy, FedRep):
            body = [name for name in whole if not self.strategy.stays(name)]
            head = [name for name in whole if self.strategy.stays(name)]
            first = self._without(body, whole, {**config, "part": "head"}, site)
            answer = self._without(head, trained_arrays(first, whole), {**config, "part": "body"}, site)
        else:
            answer = self.inner.train(whole, config, site)
        new = trained_arrays(answer, whole)
        keep(site, "home/", {name: array for name, array in new.items() if self.strategy.stays(name)})
        travelling = Arrays((name, array) for name, array in new.items() if not self.strategy.stays(name))
        return Answer(travelling, answer.num_examples, answer.metrics)

    def _whole(self, arrays: Arrays, site: Site) -> Arrays:
        own = {name: array.copy() for name, array in self.first.items()} | kept(site, "home/")
        lacking = [name for name in self.order if name not in arrays and name not in own]
        if lacking or len(self.order) != len(arrays) + len(own):
            raise TaskError("refused", "the model that came and this site's own arrays are not those of its client")
        return Arrays((name, arrays[name] if name in arrays else own[name]) for name in self.order)

    def _without(self, frozen: list[str], whole: Arrays, config: Config, site: Site) -> Answer:
        """Train, and put back what must not move."""
        before = {name: whole[name].copy() for name in frozen}
        answer = self.inner.train(copied(whole), {**config, "frozen": list(frozen)}, site)
        new = trained_arrays(answer, whole)
        back = Arrays((name, before.get(name, array)) for name, array in new.items())
        return Answer(copied(back), answer.num_examples, answer.metrics)


class Personal(Around):
    """Ditto."""

    def __init__(self, inner: Client, strategy: Ditto) -> None:
        super().__init__(inner)
        self.pull = strategy.pull

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`: w is answered, then v takes its steps and stays."""
        w = copied(arrays)
        answer = self.inner.train(arrays, dict(config), site)
        common = copied(trained_arrays(answer, w))
        v = self._own(w, site)
        correction = Arrays((name, np.asarray(self.pull * (_wide(v[name]) - _wide(array)), array.dtype))
                            for name, array in w.items() if array.dtype.kind not in "biu")  # fmt: skip
        wanted = {**config, "personal": True, "proximal_mu": float(self.pull), "correction": correction}
        own = self.inner.train(v, wanted, site)
        keep(site, "personal/", trained_arrays(own, w))
        return Answer(common, answer.num_examples, answer.metrics)

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`: of v, and of w under other names."""
        return both(self.inner, arrays, self._own(arrays, site), config, site)

    def _own(self, arrays: Arrays, site: Site) -> Arrays:
        own = kept(site, "personal/")
        return Arrays((name, own.get(name, array.copy())) for name, array in arrays.items())


class Tuned(Around):
    """Trains before it evaluates."""

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`: after a training, and before it under other names. What the training left in the state goes."""
        before = dict(site.state)
        answer = self.inner.train(copied(arrays), {**config, "personal": True}, site)
        tuned = copied(trained_arrays(answer, arrays))
        site.state.clear()
        site.state.update(before)
        return both(self.inner, arrays, tuned, config, site)


class Choosing(Around):
    """IFCA."""

    def __init__(self, inner: Client, initial: Any) -> None:
        super().__init__(inner)
        self.initial = initial

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`; k of them."""
        return self.initial(arrays_of(self.inner.parameters(config, site), "parameters", None))

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`: which model has the least loss, or the evaluation of the one that was chosen last."""
        models = clusters(arrays)
        last = site.state.get(CLUSTER)
        if isinstance(last, int) and last < len(models) and CHOOSE not in config:
            answer = self.inner.evaluate(models[last], config, site)
            return Answer(None, answer.num_examples, _with(answer.metrics, last))
        answers = [self.inner.evaluate(copied(model), dict(config), site) for model in models]
        losses = [_loss(answer.metrics) for answer in answers]
        chosen = int(np.argmin(losses))
        site.state[CLUSTER] = chosen
        return Answer(None, answers[chosen].num_examples, _with(answers[chosen].metrics, chosen))

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`: the chosen one; the others come back as they were."""
        models = [copied(model) for model in clusters(arrays)]
        chosen, scale = int(config["cluster"]), float(config.pop("cluster_scale", 1.0))
        start = copied(models[chosen])
        answer = self.inner.train(models[chosen], config, site)
        models[chosen] = moved(start, trained_arrays(answer, start), scale)
        return Answer(joined(models), answer.num_examples, _with(answer.metrics, chosen))


class Remembering(Around):
    """MOON: the site's last arrays."""

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        last = kept(site, "previous/")
        like = list(arrays)
        config["previous"] = Arrays((name, last.get(name, array.copy())) for name, array in arrays.items())
        answer = self.inner.train(arrays, config, site)
        new = trained_arrays(answer, None, like)
        keep(site, "previous/", new)
        return Answer(new, answer.num_examples, answer.metrics)


def both(client: Client, common: Arrays, own: Arrays, config: Config, site: Site) -> Answer:
    """The evaluation of a personal model, and beside it that of the common one, under `global_…`."""
    first = client.evaluate(copied(common), dict(config), site)
    answer = client.evaluate(own, config, site)
    if not isinstance(answer.metrics, Mapping) or not isinstance(first.metrics, Mapping):
        return answer  # refused by name, like any other
    beside = {f"global_{name}": value for name, value in first.metrics.items() if isinstance(name, str)}
    return Answer(None, answer.num_examples, {**answer.metrics, **beside})


def _loss(metrics: Any) -> float:
    """What a site chooses by.

    Raises:
        TaskError: `bad_reply`, there is none.
    """
    value = metrics.get("loss") if isinstance(metrics, Mapping) else None
    try:
        loss = float(value)  # type: ignore[arg-type]  # whatever user code answered
    except (TypeError, ValueError):
        raise TaskError("bad_reply", "evaluate: expected a metric 'loss', by which IFCA chooses; found none") from None
    return loss if np.isfinite(loss) else np.inf


def _with(metrics: Any, cluster: int) -> Any:
    return {**metrics, "cluster": cluster} if isinstance(metrics, Mapping) else metrics


def _wide(array: Array) -> Array:
    return np.asarray(array, np.float64)
