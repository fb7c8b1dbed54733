"""`hs.xgboost`: a site's half of `hs.XGBoost`, and `hs.booster`, the `xgboost.Booster` of a result.

Trees of others are checked as arrays before XGBoost is given a document made of them; see `trees/boosters.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanse.clients.boosting import examples_of, held_out_of, metrics_of
from hanse.clients.client import Answer, Client, Config
from hanse.clients.site import Site
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, MissingExtraError, UpdateError
from hanse.strategies.xgboost import OBJECTIVES
from hanse.trees.boosters import header, put_together, read_header, taken_apart, wrong_trees

DECIDED = ("objective", "num_class", "base_score", "booster", "num_parallel_tree", "multi_strategy", "process_type")
"""Settings that the strategy decides, or that another kind of booster needs."""
LEARNING_RATE = 0.3


def xgboost(
    params: Mapping[str, Any],
    X: Any,
    y: Any,
    *,
    classes: Sequence[Any] | None = None,
    test: float | tuple[Any, Any] = 0.2,
    seed: int = 0,
) -> "XGBoostClient":
    """A client that grows trees with XGBoost on this site's rows.

    Args:
        params: XGBoost's own, such as `{"max_depth": 4, "eta": 0.3}`; `nthread` is 1 unless given. What the strategy
            decides (objective, classes, base score) is refused here.
        X: `(n, d)`: numbers; NaN where a value is missing. The same columns in the same order at all sites.
        y, classes, test, seed: as for `hs.boosting`.

    Raises:
        ConfigError: data or settings that do not fit. MissingExtraError: XGBoost is not installed.
    """
    return XGBoostClient(params, X, y, classes=classes, test=test, seed=seed)


def booster(arrays: Mapping[str, Any]) -> Any:
    """The `xgboost.Booster` of a result's arrays.

    Raises:
        ConfigError: arrays of another kind. UpdateError: no trees. MissingExtraError: XGBoost is not installed.
    """
    objective, outputs, features, base_score = read_header(arrays, OBJECTIVES)
    why = wrong_trees(arrays, features, outputs)
    if why:
        raise UpdateError(f"xgboost: {why}")
    library = _library()
    rows = library.DMatrix(np.zeros((1, features)), label=np.zeros(1))
    empty = library.train(_settings(objective, outputs, base_score), rows, num_boost_round=0)
    template = json.loads(empty.save_raw("json"))
    document = json.dumps(put_together(arrays, template, outputs), allow_nan=False)
    made = library.Booster({"nthread": 1})
    made.load_model(bytearray(document.encode()))
    return made


class XGBoostClient(Client):
    """See `xgboost`."""

    def __init__(
        self, params: Mapping[str, Any], X: Any, y: Any, *, classes: Sequence[Any] | None, test: Any, seed: int
    ) -> None:
        decided = [name for name in DECIDED if name in params]
        if decided:
            raise ConfigError(f"hs.xgboost: {decided[0]}: expected in hs.XGBoost(…), found in the client's params")
        _library()
        self._params = dict(params)
        labels = None if classes is None else list(classes)
        x, target = examples_of(X, y, labels)
        self._train, self._test = held_out_of(x, target, labels, test, seed)

    def step(self, arrays: Arrays | None, config: Config, site: Site) -> Answer:
        """See `Client.step`: only the new trees."""
        library = _library()
        x, y = self._train
        objective, rounds = str(config["objective"]), int(config["local_rounds"])
        outputs = int(config["num_classes"]) if objective == "multi:softprob" else 1
        settings = {"nthread": 1, "seed": int(site.rng.integers(2**31)), **self._params}
        rate = settings.pop("learning_rate", settings.pop("eta", LEARNING_RATE))
        settings |= _settings(objective, outputs, float(config["base_score"]))
        settings["eta"] = float(rate) * float(config["share"])
        start = None if arrays is None else booster(arrays)
        grown = library.train(settings, library.DMatrix(x, label=y), num_boost_round=rounds, xgb_model=start)
        first = 0 if arrays is None else len(arrays["starts"]) - 1
        made = taken_apart(json.loads(grown.save_raw("json")), first)
        return Answer({**header(objective, outputs, x.shape[1], float(config["base_score"])), **made}, len(y), {})

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client.evaluate`: of the rows held out."""
        x, y = self._test
        if not len(y):
            return Answer(None, 0, {})
        objective = read_header(arrays, OBJECTIVES)[0]
        said = np.asarray(booster(arrays).predict(_library().DMatrix(x)), dtype=np.float64)
        if objective == "binary:logistic":
            said = np.stack([1 - said, said], axis=1)
        return Answer(None, len(y), metrics_of(said, y))


def _settings(objective: str, outputs: int, base_score: float) -> dict[str, Any]:
    several = {"num_class": outputs} if objective == "multi:softprob" else {}
    return {"objective": objective, "base_score": base_score, "booster": "gbtree", **several}


def _library() -> Any:
    try:
        import xgboost as library
    except ImportError:
        raise MissingExtraError("XGBoost", "xgboost") from None
    return library
