"""Canonical safetensors: given order, compact JSON, data beginning at a multiple of 64 bytes.

    8 bytes      little-endian length n of the header, n + 8 a multiple of 64
    n bytes      {"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},…} padded with spaces
    the data     arrays one after another without holes, little-endian, C order

Equal arrays give equal bytes, any safetensors reader can open them, and nothing in them is code. Format:
https://github.com/huggingface/safetensors (a page long). `__metadata__` is refused: it would make equal arrays
differ. Decoding checks lengths, dtypes, shapes and totals before it makes an array, and copies nothing.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from hanse.core.arrays import DTYPE_NAMES, DTYPES, Arrays, ArraySpec, Layout
from hanse.core.errors import CodecError

ALIGNMENT = 64
MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_DIMENSIONS = 32
MAX_KNOWN_BYTES = 64 * 1024
"""Headers up to this size are remembered with what they say."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8, and no NaN or infinity: equal values give equal bytes.

    Raises:
        ValueError: a NaN or an infinity. TypeError: not a JSON value.
    """
    return _CANONICAL.encode(value).encode()


@lru_cache(maxsize=16)  # every update of a job has the same
def header_of(layout: Layout) -> bytes:
    """The first bytes of the canonical form: length, JSON, padding."""
    header: dict[str, Any] = {}
    start = 0
    for spec in layout.specs:
        stop = start + spec.nbytes
        header[spec.name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def encoded_size(layout: Layout) -> int:
    """Bytes of the canonical form."""
    return len(header_of(layout)) + layout.nbytes


def encode_parts(arrays: Arrays) -> Iterator[memoryview]:
    """The canonical form as a header and one view an array; nothing is copied."""
    yield memoryview(header_of(arrays.layout))
    for array in arrays.values():
        if array.nbytes:
            yield array.reshape(-1).view(np.uint8).data


def encode(arrays: Arrays) -> bytes:
    """The canonical form in one piece; for small arrays."""
    return b"".join(encode_parts(arrays))


def parse_header(content: memoryview | bytes, *, total: int | None = None) -> tuple[Layout, int]:
    """Read the layout and where the data begins.

    Args:
        content: the beginning of an encoded blob, at least its whole header.
        total: the blob's size in bytes, when `content` is only its beginning.

    Raises:
        CodecError: anything that is not the canonical form, named.
    """
    view = memoryview(content)
    total = len(view) if total is None else total
    if len(view) < 8:
        raise CodecError(f"arrays: expected at least 8 bytes, found {len(view)}")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER_BYTES or 8 + length > len(view) or (8 + length) % ALIGNMENT:
        raise CodecError(
            f"arrays: expected an aligned header of at most {min(MAX_HEADER_BYTES, len(view) - 8)} bytes, "
            f"found {length}"
        )
    raw = bytes(view[: 8 + length])
    layout = _known_layout(raw) if len(raw) <= MAX_KNOWN_BYTES else _layout_in(raw)
    if 8 + length + layout.nbytes != total:
        raise CodecError(f"arrays: header promises {8 + length + layout.nbytes} bytes, found {total}")
    return layout, 8 + length


def _layout_in(raw: bytes) -> Layout:
    """What a header (with its length in front and its padding) says."""
    try:
        header = json.loads(raw[8:], object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"arrays: header is not JSON: {type(error).__name__}") from None
    if not isinstance(header, dict):
        raise CodecError("arrays: header is not a JSON object")
    specs: list[ArraySpec] = []
    start = 0
    for name, entry in header.items():
        spec, start = _read_entry(name, entry, start)
        specs.append(spec)
    layout = Layout(tuple(specs))
    try:
        is_canonical = header_of(layout) == raw
    except UnicodeEncodeError:
        is_canonical = False
    if not is_canonical:
        raise CodecError("arrays: header is not in canonical form")
    return layout


# All updates of a job have one header: it is read once, not once for every update.
_known_layout = lru_cache(maxsize=64)(_layout_in)


def decode(content: memoryview | bytes) -> Arrays:
    """Arrays as read-only views of `content`.

    Raises:
        CodecError: anything that is not the canonical form, named.
    """
    layout, start = parse_header(content)
    return view_arrays(memoryview(content)[start:], layout)


def view_arrays(data: memoryview, layout: Layout) -> Arrays:
    """Arrays as views of `data`, the content behind the header. As writable as `data`."""
    arrays: list[np.ndarray[Any, Any]] = []
    start = 0
    for spec in layout.specs:
        piece = data[start : start + spec.nbytes]
        arrays.append(np.frombuffer(piece, dtype=spec.dtype).reshape(spec.shape))
        start += spec.nbytes
    return Arrays.viewed(layout, arrays)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise CodecError("arrays: a name occurs twice in the header")
    return result


def _read_entry(name: str, entry: Any, start: int) -> tuple[ArraySpec, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CodecError(f"arrays: entry {name[:60]!r} needs exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CodecError(f"arrays: entry {name[:60]!r} has an unknown dtype")
    shape = entry["shape"]
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
    ):
        raise CodecError(f"arrays: entry {name[:60]!r} has an impossible shape")
    stop = start + prod(shape) * dtype.itemsize
    # numpy refuses an empty array, too, whose other sides are too long.
    if (
        stop >= 2**63
        or prod(max(side, 1) for side in shape) * dtype.itemsize >= 2**63
        or entry["data_offsets"] != [start, stop]
        or any(type(n) is not int for n in entry["data_offsets"])
    ):
        raise CodecError(f"arrays: entry {name[:60]!r} has offsets that do not fit its shape")
    return ArraySpec(name, dtype, tuple(shape)), stop
