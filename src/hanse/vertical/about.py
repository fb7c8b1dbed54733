"""What a party's saved part says of itself: the JSON object `about` among its arrays, read without trust."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.core.errors import CodecError
from hanse.vertical.parties import MAX_HOSTS


def read_about(raw: Any, what: str, version: int) -> dict[str, Any]:
    """The object, with different texts as `names` of columns.

    Args:
        raw: uint8, `(bytes,)`: JSON in UTF-8; None where there is none.
        what: begins an error's text.
        version: what its `v` must be.

    Raises:
        CodecError: it is something else.
    """
    try:
        about = json.loads(raw.tobytes()) if raw is not None and raw.dtype == np.uint8 else None
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or about.get("v") != version:
        raise CodecError(f"{what}: expected a JSON object with v={version}")
    names = about.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise CodecError(f"{what}: expected different names of columns")
    return about


def hosts_in(about: Mapping[str, Any]) -> int:
    """How many hosts a saved part was trained with, by its field `hosts`; 0 where there is none.

    Raises:
        CodecError: something else.
    """
    found = about.get("hosts", 0)
    if type(found) is not int or not 0 <= found <= MAX_HOSTS:
        raise CodecError(f"model: expected 0 to {MAX_HOSTS} hosts")
    return found
