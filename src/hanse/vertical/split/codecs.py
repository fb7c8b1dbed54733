"""How an embedding travels: as it is, as bfloat16, as int8, or the largest numbers of each row.

Gradients come back for what the guest saw, as if the host had sent its embedding unchanged (Y. Bengio, N. Léonard,
A. Courville, 2013: straight through); of the largest numbers, for these alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.vertical.split.settings import Settings

Numbers = npt.NDArray[np.float32]


class Codec(Protocol):
    """One way."""

    @property
    def messages(self) -> Mapping[str, str]:
        """Name of each message → dtype; all have a row for each row."""

    def encode(self, embedding: Numbers) -> dict[str, Array]:
        """The content of each message."""

    def decode(self, content: Mapping[str, Array], width: int) -> Numbers | None:
        """The embedding `(n, width)`, or None where the content does not fit."""

    def gathered(self, gradient: Numbers, content: Mapping[str, Array]) -> Numbers:
        """What of the gradient travels back."""

    def scattered(self, gradient: Numbers, content: Mapping[str, Array], width: int) -> Numbers | None:
        """The gradient by the embedding, from what travelled; None where it does not fit."""


@dataclass(frozen=True, slots=True)
class _Dense:
    messages: Mapping[str, str]
    dtype: np.dtype[np.generic]

    def encode(self, embedding: Numbers) -> dict[str, Array]:
        return {"embedding": embedding.astype(self.dtype)}

    def decode(self, content: Mapping[str, Array], width: int) -> Numbers | None:
        found = content["embedding"]
        return found.astype(np.float32) if found.shape[1] == width else None

    def gathered(self, gradient: Numbers, content: Mapping[str, Array]) -> Numbers:
        return gradient

    def scattered(self, gradient: Numbers, content: Mapping[str, Array], width: int) -> Numbers | None:
        return gradient if gradient.shape[1] == width else None


@dataclass(frozen=True, slots=True)
class _Int8(_Dense):
    """Each row as integers from −127 to 127 times its scale, rounded half to even."""

    def encode(self, embedding: Numbers) -> dict[str, Array]:
        scales = np.abs(embedding).max(axis=1, keepdims=True) / np.float32(127)
        whole = np.rint(embedding / np.where(scales > 0, scales, np.float32(1)))
        return {"embedding": np.clip(whole, -127, 127).astype(np.int8), "scales": scales}

    def decode(self, content: Mapping[str, Array], width: int) -> Numbers | None:
        whole, scales = content["embedding"], content["scales"]
        if whole.shape[1] != width or scales.shape != (len(whole), 1):
            return None
        decoded: Numbers = whole.astype(np.float32) * scales
        return decoded


@dataclass(frozen=True, slots=True)
class _TopK:
    """The numbers of largest absolute value of each row; of equal ones the first."""

    messages: Mapping[str, str]
    kept: float

    def encode(self, embedding: Numbers) -> dict[str, Array]:
        count = self._count(embedding.shape[1])
        places = np.sort(np.argsort(-np.abs(embedding), axis=1, kind="stable")[:, :count], axis=1)
        return {"embedding": np.take_along_axis(embedding, places, 1), "places": places.astype(np.uint16)}

    def decode(self, content: Mapping[str, Array], width: int) -> Numbers | None:
        values, places = content["embedding"], content["places"].astype(np.int64)
        if values.shape != places.shape or values.shape[1] != self._count(width):
            return None
        if (places >= width).any() or (np.diff(places, axis=1) <= 0).any():
            return None
        return _spread(values, places, width)

    def gathered(self, gradient: Numbers, content: Mapping[str, Array]) -> Numbers:
        return np.take_along_axis(gradient, content["places"].astype(np.int64), 1)

    def scattered(self, gradient: Numbers, content: Mapping[str, Array], width: int) -> Numbers | None:
        places = content["places"].astype(np.int64)
        return _spread(gradient, places, width) if gradient.shape == places.shape else None

    def _count(self, width: int) -> int:
        return max(1, ceil(self.kept * width))


def _spread(values: Numbers, places: npt.NDArray[np.int64], width: int) -> Numbers:
    whole = np.zeros((len(values), width), np.float32)
    np.put_along_axis(whole, places, values, 1)
    return whole


def codec_of(settings: Settings) -> Codec:
    """The one that the settings name."""
    if settings.compression == "topk":
        return _TopK({"embedding": "float32", "places": "uint16"}, settings.kept)
    if settings.compression == "int8":
        return _Int8({"embedding": "int8", "scales": "float32"}, np.dtype(np.int8))
    dtype = np.dtype(np.float32 if settings.compression == "none" else ml_dtypes.bfloat16)
    return _Dense({"embedding": dtype.name}, dtype)
