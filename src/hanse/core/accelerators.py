"""Torch on a CUDA device, told once to compute the same bits every time: what equal bits cost there.

Deterministic kernels wherever PyTorch has them (where it has none it warns and names the operation, and equal bits are
not promised), cuDNN picks its kernels without trying them out, and products of float32 keep all their digits, without
TF32. Set when the first random stream is seeded, before any code of the app, which may set it otherwise.
"""

import os
import sys
from functools import cache
from typing import Any

CUBLAS_WORKSPACE = ":4096:8"
"""Room in which cuBLAS gives the same bits every time; it reads this when it first starts."""


@cache
def has_accelerator() -> bool:
    """Whether torch, which is imported, has a device besides the CPU; CUDA is made repeatable before this answers."""
    torch: Any = sys.modules["torch"]
    accelerator = getattr(torch, "accelerator", torch.cuda)
    if torch.cuda.is_available():
        make_repeatable(torch)
    return bool(accelerator.is_available())


def make_repeatable(torch: Any) -> None:
    """See the module's text."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nobody reads it
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
