"""Apps that the agents of these tests work with: their client side, as it is put into a bundle."""

import numpy as np

from hanse.core.arrays import Arrays

COUNT = """
@app.train
def train(arrays, config, site):
    site.state["n"] = site.state.get("n", 0) + 1
    return arrays, 1, {"n": site.state["n"], "pid": os.getpid()}
"""

COUNT_IN_AN_ARRAY = """
@app.train
def train(arrays, config, site):
    before = site.state.get("all", np.zeros(100_000))
    assert (before == before[0]).all()
    site.state["all"] = before + 1
    if config.get("do") == "raise":
        raise ValueError
    if config.get("do") == "exit":
        os._exit(3)
    return arrays, 1, {"n": float(before[0]) + 1}
"""

BY_PHASE = """
@app.train
def train(arrays, config, site):
    if config.get("do") == "hang":
        open("hanging", "w").close()
        time.sleep(1000)
    if config.get("do") == "exit":
        os._exit(3)
    if config.get("do") == "nan":
        return {name: array * np.nan for name, array in arrays.items()}, 1, {}
    if config.get("do") == "raise":
        raise ValueError("a secret of patient 7")
    if config.get("do") == "print":
        print("hello from the app")
    return arrays, 1, {"pid": os.getpid()}
"""

ZERO = Arrays({"w": np.zeros(3, dtype=np.float32)})
