"""How good predictions are, computed by whoever holds the label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError

Numbers = npt.NDArray[np.float64]


def auc(label: npt.NDArray[Any], scores: Numbers) -> float:
    """The area under the ROC curve: the chance that a positive row scores above a negative one, ties counted half.

    Args:
        label: bool or 0 and 1, `(n,)`.
        scores: float64, `(n,)`.

    Raises:
        ConfigError: rows of one class only.
    """
    positive = np.asarray(label).astype(np.bool_)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ConfigError("auc: expected rows of both classes, found one")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks = ends - (counts - 1) / 2
    return float(
        (mean_ranks[place][positive].sum() - num_positive * (num_positive + 1) / 2) / num_positive / num_negative
    )


def ks(label: npt.NDArray[Any], scores: Numbers) -> float:
    """The Kolmogorov-Smirnov distance between the scores of both classes."""
    positive = np.asarray(label).astype(np.bool_)
    order = np.argsort(scores, kind="stable")
    ranked, found = scores[order], positive[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    above = np.cumsum(found) / found.sum() - np.cumsum(~found) / (~found).sum()
    return float(np.abs(above[last]).max())


def of_classes(label: npt.NDArray[Any], chances: Numbers, classes: Sequence[Any]) -> dict[str, float]:
    """`accuracy` and `log_loss`, and for two classes `auc` and `ks`.

    Args:
        label: `(n,)`, values of `classes`.
        chances: of the second class `(n,)`, or of each `(n, num_classes)`.
        classes: in the order of `chances`.
    """
    codes = np.searchsorted(np.asarray(classes), label)
    each = np.column_stack([1 - chances, chances]) if chances.ndim == 1 else chances
    likely = np.clip(each[np.arange(len(codes)), codes], 1e-15, 1.0)
    found = {"accuracy": float((each.argmax(1) == codes).mean()), "log_loss": float(-np.log(likely).mean())}
    if chances.ndim == 1 and 0 < codes.sum() < len(codes):
        found |= {"auc": auc(codes, chances), "ks": ks(codes, chances)}
    return found


def of_numbers(label: Numbers, predictions: Numbers) -> dict[str, float]:
    """`rmse`, `mae` and `r2`."""
    errors = np.asarray(label, np.float64) - predictions
    variance = float(np.var(np.asarray(label, np.float64)))
    found = {"rmse": float(np.sqrt((errors**2).mean())), "mae": float(np.abs(errors).mean())}
    return found | ({"r2": 1 - float((errors**2).mean()) / variance} if variance else {})


def of_counts(label: Numbers, predictions: Numbers) -> dict[str, float]:
    """`rmse`, `mae` and `d2`, the part of the Poisson deviance that is explained."""
    y = np.asarray(label, np.float64)

    def deviance(mean: Numbers) -> float:
        logs = y * np.log(np.maximum(y, 1e-300) / np.maximum(mean, 1e-300))
        return float((2 * (np.where(y > 0, logs, 0.0) - y + mean)).mean())

    found = of_numbers(y, predictions)
    found.pop("r2", None)
    overall = deviance(np.full_like(y, y.mean()))
    return found | ({"d2": 1 - deviance(predictions) / overall} if overall else {})
