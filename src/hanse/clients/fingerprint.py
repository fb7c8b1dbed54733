"""The numerics fingerprint of this worker: two workers with the same one give the same bits for the same work.

It holds what is known to change bits: versions of the numerical libraries, what the CPU can do (BLAS and numpy pick
kernels by it), the number of compute threads, and a hash of a small probe (a matrix product, exponentials, a few
steps of gradient descent), which notices what versions do not say. It is a strong hint and no proof.
"""

import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata

import numpy as np

from hanse.clients.threads import num_threads

LIBRARIES = {"numpy": "np", "scikit-learn": "skl", "torch": "torch"}


def fingerprint() -> str:
    """One line of at most 128 characters; equal lines mean equal bits as far as we can tell."""
    return _of_threads(num_threads())


@cache
def _of_threads(count: int) -> str:
    return f"{_libraries()} t{count} cpu:{_cpu()} probe:{_probe(count)}"


@cache
def _libraries() -> str:
    parts = [f"py{platform.python_version()}"]
    for name, short in LIBRARIES.items():
        try:
            # what is installed, not what is imported: a warm worker must equal a fresh one
            parts.append(f"{short}{metadata.version(name)[:20]}")
        except metadata.PackageNotFoundError:
            continue
    return " ".join(parts)


@cache
def _cpu() -> str:
    # numpy's own list of what it dispatches on; private, so its absence only makes the fingerprint coarser
    core = sys.modules.get("numpy._core._multiarray_umath")
    features: dict[str, bool] = getattr(core, "__cpu_features__", {})
    present = sorted(name for name, has in features.items() if has)
    kernels = os.environ.get("OPENBLAS_CORETYPE", "")
    return _digest(f"{sys.platform} {platform.machine()} {kernels} {' '.join(present)}".encode())


@cache
def _probe(threads: int) -> str:
    rows = np.random.Generator(np.random.Philox(key=1)).standard_normal((96, 64))
    labels = (rows[:, 0] > 0).astype(np.float64)
    weights = np.zeros(64)
    for _ in range(4):
        weights -= 0.1 * rows.T @ (1 / (1 + np.exp(-(rows @ weights))) - labels)
    single = rows.astype(np.float32)
    product = single @ single.T
    return _digest(weights.tobytes() + product.tobytes() + np.tanh(single).tobytes() + np.log1p(np.exp(rows)).tobytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:10]
