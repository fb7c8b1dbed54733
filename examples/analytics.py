"""Federated statistics: what do four clinics' admissions look like, by sex? No row leaves a clinic, nor a small number.

In this process: `python examples/analytics.py`. Across organisations: `hanse run examples/analytics.py`; a site whose
policy has `analytics:` answers without anybody's code, since the question is plain data.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

question = hs.analytics.Describe(["age", "days"], data="admissions", by="sex", min_group=10)
app = hs.App(question)


def clinics():
    """Four clinics of different sizes; the smallest has too few women to say anything about them."""
    rng = np.random.default_rng(7)
    sites = {}
    for name, size, share in (("luebeck", 240, 0.5), ("bergen", 130, 0.6), ("riga", 90, 0.4), ("visby", 30, 0.2)):
        rows = np.zeros(size, dtype=[("age", "f8"), ("days", "f8"), ("sex", "U1")])
        rows["age"] = np.round(rng.normal(58, 17, size).clip(18, 99))
        rows["days"] = np.ceil(rng.gamma(2, 3, size))
        rows["sex"] = np.where(rng.random(size) < share, "f", "m")
        sites[name] = {"admissions": rows}
    return sites


if __name__ == "__main__":
    print(hs.ask(clinics(), question))
    by_age = hs.analytics.Histogram("age", [18, 40, 60, 80, 100], data="admissions", by="sex")
    print(hs.ask(clinics(), by_age))
