"""Virtual sites with rows of everything, and the same rows pooled."""

from typing import Any

import numpy as np

import hanse as hs
from hanse.analytics import Answer, Question

Rows = dict[str, Any]


def patients(seed: int = 0, sizes: tuple[int, ...] = (300, 40, 211)) -> dict[str, dict[str, Rows]]:
    """Ages (whole), a real number far from zero, a sex, a stage, times and events; some are missing."""
    rng = np.random.default_rng(seed)
    made = {}
    for place, n in enumerate(sizes):
        bmi = rng.normal(1e6 + place, 4, n)
        bmi[rng.random(n) < 0.1] = np.nan
        made[f"site-{place}"] = {
            "patients": {
                "age": rng.integers(20, 90, n),
                "bmi": bmi,
                "sex": rng.choice(["f", "m"], n),
                "stage": rng.choice(["i", "ii", "iii"], n, p=[0.6, 0.38, 0.02]),
                "time": np.round(rng.exponential(20, n), 1),
                "event": rng.integers(0, 2, n),
            }
        }
    return made


def pooled(sites: dict[str, dict[str, Rows]]) -> Rows:
    tables = [data["patients"] for data in sites.values()]
    return {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]}


def asked(sites: dict[str, dict[str, Rows]], question: Question) -> tuple[Answer, Any]:
    """The answer, and the run's result."""
    result = hs.simulate(hs.App(question), sites, progress=False)
    return question.answer(result.arrays), result
