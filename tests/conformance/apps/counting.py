"""Analytics that answer numbers alone, round after round: there is never a model."""

# mypy: allow-untyped-defs, allow-untyped-calls

import hanse as hs

app = hs.App(hs.Query(), rounds=3, seed=6, quorum=2)


@app.config
def config(round, site):
    return {"threshold": round / 4}


@app.query
def query(config, site):
    draws = site.rng.random(100)
    return int(site.name[-1]) + 1, {"share": float((draws > config["threshold"]).mean()), "names": [site.name]}
