"""How many threads a worker computes with: numpy's BLAS, OpenMP and torch, set in one place.

The number of threads changes how sums are split and so their bits; it comes from the job's spec (default 1).
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

_threads: int | None = None


def set_threads(count: int) -> None:
    """Compute with `count` threads from here on, in libraries that are loaded and in those that will be."""
    global _threads
    for variable in VARIABLES:
        os.environ[variable] = str(count)
    if not _limit_pools(count):
        _limit_numpy(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
    _threads = count


def num_threads() -> int:
    """What `set_threads` was given last; otherwise what the environment says, or the number of cores."""
    if _threads is not None:
        return _threads
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() else _num_cores()


@cache
def _num_cores() -> int:
    return os.cpu_count() or 1


def _limit_pools(count: int) -> bool:
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs
    except ImportError:
        return False
    threadpool_limits(limits=count)
    return True


def _limit_numpy(count: int) -> None:
    # Without threadpoolctl (it comes with scikit-learn) the OpenBLAS inside numpy's wheel is told directly.
    numpy = sys.modules.get("numpy")
    if numpy is None or not numpy.__file__:
        return
    folder = Path(numpy.__file__).parent
    for library in [*folder.parent.glob("numpy.libs/*openblas*"), *folder.glob(".dylibs/*openblas*")]:
        loaded = ctypes.CDLL(str(library))
        for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads"):
            if hasattr(loaded, name):
                getattr(loaded, name)(ctypes.c_int(count))
                break
