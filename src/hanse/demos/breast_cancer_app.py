"""The app of `./run demo`, as a user would write it: logistic regression over hospitals that keep their patients."""

from typing import Any

from sklearn.linear_model import LogisticRegression

import hanse as hs

app = hs.App(hs.FedAvg(), rounds=20, quorum=3)


@app.client
def client(site: Any) -> Any:
    """Once per worker, at the hospital: its patients and its side of the training."""
    X, y = site.load("patients")
    return hs.sklearn(LogisticRegression(), X, y, classes=[0, 1], test=0.2)
