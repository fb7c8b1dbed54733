"""An app that fails at every site."""

from typing import Any

import numpy as np

import hanse as hs

app = hs.App(rounds=1, initial=[np.zeros(2)])


@app.train
def train(arrays: Any, config: Any, site: Any) -> Any:
    raise TypeError(site.name)
