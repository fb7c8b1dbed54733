"""The batched engine against the sequential one on a CUDA device: both models, cohorts of 50 and of 1,000.

`speedup` is the sequential engine's median round over the batched one's, on the same device and the same work, in turn;
after one round the models agree within 1e-4 of the move. Without a CUDA device a row says so.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._sim_work import Work, missing, speedup
from benchmarks.harness import Row, note
from benchmarks.sim_cnn import sizes

CASES = [("mlp", 50, None), ("mlp", 1_000, 50.0), ("cnn", 50, None), ("cnn", 1_000, 20.0)]
"""Model, cohort, and the target where there is one."""


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    if (row := missing("sim-gpu")) is not None:
        yield row
        return
    import torch

    if not torch.cuda.is_available():
        yield note("sim-gpu", "skipped: no CUDA device", "cases", 0, "")
        return
    for model, cohort, target in CASES:
        if smoke:
            cohort = cohort // 10
        num_sites = max(2 * cohort, 20 if smoke else 1_000)
        work = (
            Work("mlp", 3, cohort, 5, (10,) * num_sites, (64,), device="cuda")
            if model == "mlp"
            else Work("cnn", 3, cohort, 10, sizes(num_sites), (3, 32, 32), device="cuda")
        )
        with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder:
            yield from speedup("sim-gpu", work, Path(folder), target, repeats=1 if smoke else 3)
