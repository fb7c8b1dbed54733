"""Tensors as arrays and back, bit for bit, also in the dtypes that numpy lacks; and torch itself, where it is there."""

from typing import Any

import ml_dtypes
import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import MissingExtraError, UpdateError

# torch's dtypes that numpy lacks, by name: as which integers their bits pass, and what ml-dtypes calls them
_BITS = {
    "torch.bfloat16": ("int16", np.dtype(ml_dtypes.bfloat16)),
    "torch.float8_e5m2": ("uint8", np.dtype(ml_dtypes.float8_e5m2)),
    "torch.float8_e4m3fn": ("uint8", np.dtype(ml_dtypes.float8_e4m3fn)),
}


def array_of_tensor(tensor: Any) -> Array:
    """A tensor as an array; without a copy where it is contiguous and on the CPU.

    Raises:
        UpdateError: a dtype that numpy and ml-dtypes lack.
    """
    tensor = tensor.detach().cpu().contiguous()
    bits = _BITS.get(str(tensor.dtype))
    try:
        if bits is None:
            return np.asarray(tensor.numpy())
        return np.asarray(tensor.view(getattr(imported(), bits[0])).numpy()).view(bits[1])
    except TypeError:
        raise UpdateError(f"hs.torch: expected a dtype that numpy or ml-dtypes has, found {tensor.dtype}") from None


def tensor_of_array(array: Array) -> Any:
    """An array as a tensor to read from: it shares the memory of a writable array, and copies any other."""
    source = array if array.flags.writeable else array.copy()
    for name, (integers, dtype) in _BITS.items():
        if source.dtype == dtype:
            torch_ = imported()
            return torch_.from_numpy(source.view(integers)).view(getattr(torch_, name.removeprefix("torch.")))
    return imported().from_numpy(source)


def travelling(module: Any, *, keep_vars: bool = False) -> list[tuple[str, Any]]:
    """What of a module travels, by name: its state dict without bool entries.

    Args:
        keep_vars: give the parameters and buffers themselves, not detached ones.
    """
    state = module.state_dict(keep_vars=keep_vars)
    return [(name, tensor) for name, tensor in state.items() if str(tensor.dtype) != "torch.bool"]


def imported() -> Any:
    """The module `torch`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    return torch
