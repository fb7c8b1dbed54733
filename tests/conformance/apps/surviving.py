"""A question of several phases whose model changes its shape: names of groups, times of events, counts."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.analytics.Survival("time", "event", data="follow-up", by="arm", min_group=3), quorum=3)


def clinics():
    rng = np.random.default_rng(11)
    sites = {}
    for place in range(4):
        rows = np.zeros(60 + place, dtype=[("time", "f8"), ("event", "i8"), ("arm", "U7")])
        rows["time"] = rng.exponential(9, len(rows))
        rows["event"] = rng.random(len(rows)) < 0.6
        rows["arm"] = rng.choice(["placebo", "verum"], len(rows))
        sites[f"clinic-{place}"] = {"follow-up": rows}
    return sites
