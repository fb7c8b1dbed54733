"""A party's part of a model as one file: canonical safetensors, no code.

Arrays `about` (JSON as bytes), `weights`, `means`, `deviations`. The guest's part also says how predictors become
predictions. Reading runs nothing and checks everything.
"""

from typing import Any

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.codec import canonical_json, decode, encode
from hanse.core.errors import CodecError
from hanse.vertical.about import hosts_in, read_about
from hanse.vertical.glm.columns import Columns
from hanse.vertical.glm.families import FAMILIES, Response
from hanse.vertical.glm.scoring import PartyModel

VERSION = 1


def part_arrays(part: PartyModel, response: Response | None = None) -> Arrays:
    """A part as arrays; at the guest with its response, of which the rows are left out."""
    about: dict[str, Any] = {"v": VERSION, "names": list(part.columns.names), "clip": part.columns.clip}
    about["hosts"] = part.num_hosts
    if response is not None:
        about |= {
            "family": response.family.name,
            "classes": list(response.classes),
            "offset": response.offset,
            "scale": response.scale,
        }
    arrays: dict[str, Array] = {
        "about": np.frombuffer(canonical_json(about), np.uint8),
        "weights": part.weights,
        "means": part.columns.means,
        "deviations": part.columns.deviations,
    }
    return Arrays(arrays)


def encode_part(part: PartyModel, response: Response | None = None) -> bytes:
    """`part_arrays` as bytes."""
    return encode(part_arrays(part, response))


def decode_part(content: bytes) -> tuple[PartyModel, Response | None]:
    """Read what `encode_part` wrote.

    Raises:
        CodecError: it is something else.
    """
    return part_in(decode(content))


def part_in(arrays: Arrays) -> tuple[PartyModel, Response | None]:
    """Read what `part_arrays` made.

    Raises:
        CodecError: it is something else.
    """
    if list(arrays) != ["about", "weights", "means", "deviations"]:
        raise CodecError("model: expected the arrays about, weights, means and deviations")
    weights, means, deviations = (np.array(arrays[name]) for name in ("weights", "means", "deviations"))
    about = read_about(arrays["about"], "model", VERSION)
    names, clip = about["names"], about.get("clip")
    fitting = weights.ndim == 2 and means.shape == deviations.shape == (len(weights),) == (len(names),)
    floats = all(each.dtype == np.float64 and np.isfinite(each).all() for each in (weights, means, deviations))
    if not fitting or not floats or not weights.size or not (deviations > 0).all():
        raise CodecError("model: expected finite weights, means and deviations above 0 of one number of columns")
    if clip is not None and not (isinstance(clip, float | int) and clip > 0):
        raise CodecError("model: expected a clip above 0 or none")
    empty = np.empty((0, len(names)))
    part = PartyModel(Columns(empty, tuple(names), means, deviations, clip), weights, hosts_in(about))
    return part, _response(about, weights.shape[1]) if "family" in about else None


def _response(about: dict[str, Any], outputs: int) -> Response:
    family, classes = FAMILIES.get(str(about["family"])), about.get("classes")
    offset, scale = about.get("offset"), about.get("scale")
    if family is None or not isinstance(classes, list) or not all(isinstance(n, float | int) for n in (offset, scale)):
        raise CodecError("model: expected a family, classes, offset and scale")
    if not all(isinstance(each, str | int | float | bool) for each in classes):
        raise CodecError("model: expected classes that are text or numbers")
    wanted = {1: 2}.get(outputs, outputs) if family.name in ("logistic", "softmax") else 0
    if len(classes) != wanted or (family.name == "softmax" and outputs == 1):
        raise CodecError(f"model: expected {wanted} classes for its weights, found {len(classes)}")
    return Response(family, np.empty((0, outputs)), tuple(classes), float(str(offset)), float(str(scale)))
