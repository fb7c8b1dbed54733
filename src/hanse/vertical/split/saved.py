"""A party's part of a split network as arrays: canonical safetensors, no code.

`about` (JSON as bytes), `means`, `deviations`, `bottom/…`, at the guest `top/…` and `default/ROLE`. What the networks
look like is the model's to say: whoever reads a part brings the model that it was trained with. Reading runs nothing
that was read, and checks everything.
"""

from typing import Any

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError
from hanse.vertical.about import read_about
from hanse.vertical.glm.columns import Columns
from hanse.vertical.glm.families import FAMILIES, Response
from hanse.vertical.split.networks import Bottom, Top, load_state, made_bottom, made_top, state_arrays, width_of
from hanse.vertical.split.scoring import SplitPart

VERSION = 1


def encoded(part: SplitPart, response: Response | None) -> Arrays:
    """A part as arrays; the guest's with its response, of which the rows are left out."""
    about: dict[str, Any] = {
        "v": VERSION,
        "role": part.role,
        "names": list(part.columns.names),
        "clip": part.columns.clip,
    }
    arrays: dict[str, Array] = {"about": np.empty(0, np.uint8)}
    arrays |= {"means": part.columns.means, "deviations": part.columns.deviations}
    arrays |= state_arrays(part.bottom, "bottom/")
    if response is not None:
        about |= {
            "family": response.family.name,
            "classes": list(response.classes),
            "outputs": response.num_outputs,
            "offset": response.offset,
            "scale": response.scale,
        }
        arrays |= state_arrays(part.top, "top/")
        arrays |= {f"default/{name}": default for name, default in part.defaults.items()}
    arrays["about"] = np.frombuffer(canonical_json(about), np.uint8)
    return Arrays(arrays)


def role_in(arrays: Arrays) -> str:
    """Whose part it is.

    Raises:
        CodecError: it is none.
    """
    return str(_about(arrays)["role"])


def decoded(arrays: Arrays, bottom: Bottom, top: Top) -> tuple[SplitPart, Response | None]:
    """Read what `encoded` made.

    Args:
        bottom: of the role that the part is of, as it was trained.
        top: as it was trained.

    Raises:
        CodecError: it is something else, or of other networks.
    """
    about = _about(arrays)
    names, clip = about["names"], about.get("clip")
    means, deviations = (np.array(arrays.get(name, np.empty(0))) for name in ("means", "deviations"))
    if any(each.dtype != np.float64 or each.shape != (len(names),) for each in (means, deviations)):
        raise CodecError("model: expected means and deviations of its columns")
    if not np.isfinite(means).all() or not np.isfinite(deviations).all() or not (deviations > 0).all():
        raise CodecError("model: expected finite means, and deviations above 0")
    if clip is not None and not (type(clip) in (int, float) and clip > 0):
        raise CodecError("model: expected a clip above 0 or none")
    columns = Columns(np.empty((0, len(names))), tuple(names), means, deviations, clip)
    module = made_bottom(bottom, len(names), 0, about["role"])
    load_state(module, arrays, "bottom/")
    if "family" not in about:
        return SplitPart(about["role"], columns, module), None
    response = _response(about)
    defaults = {
        name.removeprefix("default/"): np.array(each) for name, each in arrays.items() if name.startswith("default/")
    }
    if not all(each.dtype == np.float32 and each.ndim == 1 and np.isfinite(each).all() for each in defaults.values()):
        raise CodecError("model: expected finite embeddings for hosts that are away")
    own = width_of(module, len(names), "model")
    above = made_top(top, own + sum(map(len, defaults.values())), response.num_outputs, 0)
    load_state(above, arrays, "top/")
    return SplitPart("guest", columns, module, above, defaults), response


def _about(arrays: Arrays) -> dict[str, Any]:
    about = read_about(arrays.get("about"), "model", VERSION)
    if type(about.get("role")) is not str:
        raise CodecError("model: expected a role")
    if not about["names"]:
        raise CodecError("model: expected names of columns")
    return about


def _response(about: dict[str, Any]) -> Response:
    family, classes, outputs = FAMILIES.get(str(about["family"])), about.get("classes"), about.get("outputs")
    offset, scale = about.get("offset"), about.get("scale")
    if family is None or not isinstance(classes, list) or not all(type(n) in (int, float) for n in (offset, scale)):
        raise CodecError("model: expected a family, classes, offset and scale")
    if not all(isinstance(each, str | int | float | bool) for each in classes):
        raise CodecError("model: expected classes that are text or numbers")
    wanted = {0: 1, 2: 1}.get(len(classes), len(classes))
    if type(outputs) is not int or outputs != wanted or (family.name in ("logistic", "softmax")) != bool(classes):
        raise CodecError("model: expected as many outputs as its classes need")
    return Response(family, np.empty((0, outputs)), tuple(classes), float(str(offset)), float(str(scale)))
