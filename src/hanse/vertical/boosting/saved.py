"""A party's part of trained trees as arrays, for canonical safetensors: no code.

Arrays `about` (JSON as bytes), the party's own splits, and at the guest the trees. Reading runs nothing and checks
everything.
"""

from typing import Any

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError
from hanse.trees.objectives import objective_of
from hanse.vertical.about import hosts_in, read_about
from hanse.vertical.answers import check_epsilon
from hanse.vertical.boosting.forest import LEAF, Forest, Questions
from hanse.vertical.boosting.response import Response
from hanse.vertical.boosting.scoring import PartyTrees

VERSION = 1
_QUESTIONS = {"column": np.int64, "bin": np.int64, "threshold": np.float64, "missing_left": np.bool_}
_FOREST = {
    "party": np.int64,
    "question": np.int64,
    "asked_column": np.int64,
    "value": np.float64,
    "gain": np.float64,
    "heavier_left": np.bool_,
    "weight": np.float64,
}


def part_arrays(part: PartyTrees, response: Response | None = None) -> Arrays:
    """A part as arrays; at the guest with its response, of which the rows are left out."""
    about: dict[str, Any] = {"v": VERSION, "names": list(part.names), "hosts": part.num_hosts}
    arrays: dict[str, Array] = {name: getattr(part.questions, name) for name in _QUESTIONS}
    if part.forest is not None:
        if response is None:
            raise ConfigError("model: expected the guest's response with its trees, found none")
        about |= {"objective": response.objective.name, "classes": list(response.classes)}
        if response.label_epsilon is not None:
            about["label_epsilon"] = response.label_epsilon
        arrays["base"] = part.forest.base
        arrays |= {name: getattr(part.forest, name.replace("asked_", "")) for name in _FOREST}
    return Arrays({"about": np.frombuffer(canonical_json(about), np.uint8), **arrays})


def part_in(arrays: Arrays) -> tuple[PartyTrees, Response | None]:
    """Read what `part_arrays` made.

    Raises:
        CodecError: it is something else.
    """
    at_guest = "base" in arrays
    wanted = ["about", *_QUESTIONS, *(["base", *_FOREST] if at_guest else [])]
    if list(arrays) != wanted:
        raise CodecError(f"trees: expected the arrays {', '.join(wanted)}")
    about = read_about(arrays["about"], "trees", VERSION)
    names = tuple(about["names"])
    questions = _questions(arrays, len(names))
    if not at_guest:
        return PartyTrees(names, questions, num_hosts=hosts_in(about)), None
    response = _response(about)
    return PartyTrees(names, questions, _forest(arrays, response, len(questions.column)), hosts_in(about)), response


def _questions(arrays: Arrays, num_columns: int) -> Questions:
    found = {name: np.array(arrays[name]) for name in _QUESTIONS}
    count = found["column"].shape
    if len(count) != 1 or any(
        found[name].shape != count or found[name].dtype != kind for name, kind in _QUESTIONS.items()
    ):
        raise CodecError("trees: expected column, bin, threshold and missing_left for each split")
    if ((found["column"] < 0) | (found["column"] >= num_columns)).any() or np.isnan(found["threshold"]).any():
        raise CodecError("trees: expected splits on columns that there are, by numbers")
    return Questions(**found)


def _response(about: dict[str, Any]) -> Response:
    classes = about.get("classes")
    if not isinstance(classes, list) or not all(isinstance(each, str | int | float | bool) for each in classes):
        raise CodecError("trees: expected classes that are text or numbers")
    name = str(about.get("objective"))
    try:
        objective = objective_of(name, max(2, len(classes)))
    except ConfigError:
        raise CodecError("trees: expected an objective and its classes") from None
    if (name == "regression") != (not classes):
        raise CodecError("trees: expected classes for a classification only")
    epsilon = about.get("label_epsilon")
    try:
        if epsilon is not None:
            check_epsilon(epsilon)
    except ConfigError:
        raise CodecError("trees: expected a label_epsilon that may be") from None
    if epsilon is not None and not classes:
        raise CodecError("trees: expected a label_epsilon of a classification only")
    return Response(objective, np.empty(0), tuple(classes), epsilon)


def _forest(arrays: Arrays, response: Response, num_own: int) -> Forest:
    base = np.array(arrays["base"])
    found = {name: np.array(arrays[name]) for name in _FOREST}
    shape = found["party"].shape
    outputs = response.objective.num_outputs
    if len(shape) != 2 or any(
        found[name].shape != shape or found[name].dtype != kind for name, kind in _FOREST.items()
    ):
        raise CodecError("trees: expected arrays of one shape for the trees")
    nodes = shape[1]
    if not nodes or nodes & (nodes + 1) or shape[0] % outputs:
        raise CodecError("trees: expected whole rounds of complete trees")
    if base.shape != (outputs,) or base.dtype != np.float64:
        raise CodecError("trees: expected a base for each output")
    if not all(np.isfinite(each).all() for each in (base, found["value"], found["gain"], found["weight"])):
        raise CodecError("trees: expected finite numbers")
    party, question = found["party"], found["question"]
    if (party < LEAF).any() or (party[:, nodes // 2 :] != LEAF).any() or (question < 0).any():
        raise CodecError("trees: expected leaves at the greatest depth")
    if (question[party == 0] >= num_own).any():
        raise CodecError("trees: expected questions of the guest that there are")
    return Forest(base, column=found.pop("asked_column"), **found)
