"""`site.state` as bytes: plain values as JSON, arrays as canonical safetensors, nothing that runs.

8 bytes   little-endian length n of the JSON, n + 8 a multiple of 64
n bytes   {"values": {...}, "v": 1} padded with spaces (NaN and infinities are written as Python's json does)
the rest  the arrays by name
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.core.arrays import Arrays
from hanse.core.codec import ALIGNMENT, decode, encode_parts
from hanse.core.errors import CodecError, UpdateError

VERSION = 1


def encode_state(state: Mapping[str, Any]) -> bytes:
    """Bytes of a state: str → None, bool, int, float, str, ndarray, or lists and dicts of these without arrays.

    Raises:
        CodecError: anything else, by key and type.
    """
    values: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise CodecError(f"site.state: expected str keys, found {type(key).__name__}")
        if isinstance(value, np.ndarray):
            arrays[key] = value
        else:
            values[key] = _plain(key, value)
    text = json.dumps({"v": VERSION, "values": values}, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    try:
        return b"".join((len(text).to_bytes(8, "little"), text, *encode_parts(Arrays(arrays))))
    except UpdateError as error:
        raise CodecError(f"site.state: {error}") from None


def decode_state(content: bytes | memoryview | None) -> dict[str, Any]:
    """Read what `encode_state` wrote; None is an empty state. Arrays are the caller's own, writable.

    Raises:
        CodecError: anything else.
    """
    if content is None:
        return {}
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(bytes(content[8 : 8 + length]))
        version, values = header["v"], header["values"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CodecError("site state: not what this software wrote") from None
    if version != VERSION or not isinstance(values, dict):
        raise CodecError(f"site state: expected version {VERSION}, found {str(version)[:20]}")
    arrays = decode(memoryview(content)[8 + length :])
    return {**values, **{name: array.copy() for name, array in arrays.items()}}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(key, item) for name, item in value.items()}
    raise CodecError(
        f"site.state[{key[:60]!r}]: expected a number, string, bool, None, an ndarray, or a list or dict of plain "
        f"values; found {type(value).__name__}"
    )
