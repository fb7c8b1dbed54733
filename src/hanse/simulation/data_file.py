"""Virtual sites' data in one file that replicas map into memory: arrays as they are, what holds them as JSON.

    8 bytes    length of the index
    index      {"site": {"data set": node}}, JSON
    arrays     canonical safetensors, by number

A node is ["v", plain value], ["a", number of an array], ["t", nodes] for a tuple, ["l", nodes] for a list, or
["d", {key: node}]. Other objects are refused by name: nothing is pickled. A callable is called when the file is made.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.arrays import DTYPE_NAMES, Arrays
from hanse.core.codec import decode, encode_parts
from hanse.core.errors import ConfigError
from hanse.rounds.names import Listed
from hanse.simulation.sites import DataSets, Population


def write(path: Path, population: Population) -> None:
    """Write the data of all sites.

    Raises:
        ConfigError: an object that cannot be written, by site and data set.
    """
    arrays: dict[str, Any] = {}
    index = {
        site: {name: _node(value, arrays, f"{name!r} of {site}") for name, value in population.data_of(site).items()}
        for site in population.names
    }
    text = json.dumps(index, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in encode_parts(Arrays(arrays)):
            file.write(part)


class FileData(Population):
    """The sites of such a file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        length = int.from_bytes(content[:8], "little")
        self._index: dict[str, dict[str, Any]] = json.loads(bytes(content[8 : 8 + length]))
        self._arrays = decode(content[8 + length :])
        self.names = Listed(())
        self.data = None

    def data_of(self, site: str) -> DataSets:
        """See `Population.data_of`."""
        return {name: self._read(node) for name, node in self._index[site].items()}

    def _read(self, node: Any) -> Any:
        kind, value = node
        if kind == "a":
            return self._arrays[str(value)]
        if kind == "d":
            return {key: self._read(item) for key, item in value.items()}
        if kind in "tl":
            items = [self._read(item) for item in value]
            return tuple(items) if kind == "t" else items
        return value


def _node(value: Any, arrays: dict[str, Any], what: str) -> Any:
    if callable(value):
        value = value()
    if isinstance(value, np.ndarray) and value.dtype in DTYPE_NAMES:
        arrays[str(len(arrays))] = value
        return ["a", len(arrays) - 1]
    if isinstance(value, tuple | list):
        return ["t" if isinstance(value, tuple) else "l", [_node(item, arrays, what) for item in value]]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return ["d", {key: _node(item, arrays, what) for key, item in value.items()}]
    if value is None or type(value) in (bool, int, float, str):
        return ["v", value]
    raise ConfigError(
        f"sites: replicas are given arrays, numbers, strings and tuples, lists and dicts of these, found "
        f"{type(value).__name__} in {what}; give hs.Population(..., data=a function in the app's module) instead"
    )
