"""What a site's code says with `site.track`: numbers and texts of one step, for its own tracker; never part of a reply.

They travel from the worker to its agent beside the reply, as JSON, and are read there as what a stranger sent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanse.core.errors import CodecError

MAX_VALUES = 10_000
"""Numbers and texts of one task."""
MAX_NAME, MAX_TEXT = 200, 250
MAX_BYTES = MAX_VALUES * (6 * (MAX_NAME + MAX_TEXT) + 64)
"""JSON writes a character in six bytes at most."""
MAX_STEP = 2**53
Plain = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Tracked:
    """One call of `site.track`.

    Args:
        step: as the site's code counts steps over the whole job; None for the round.
    """

    step: int | None
    values: Mapping[str, Plain]


def plain(name: str, value: Any) -> Plain:
    """A number or a text; numpy's and torch's values without dimensions are converted. Whole numbers have 64 bits.

    Raises:
        CodecError: anything else, or too long a name.
    """
    if len(name) > MAX_NAME:
        raise CodecError(f"site.track: expected names of at most {MAX_NAME} characters, found {len(name)}")
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise CodecError(f"site.track: expected {name[:60]!r} to be a number of at most 64 bits, found a larger one")
    if isinstance(value, bool | int | float):
        return value
    raise CodecError(f"site.track: expected {name[:60]!r} to be a number or a text, found {type(value).__name__}")


def encode_tracked(tracked: Sequence[Tracked]) -> bytes:
    """As bytes; NaN and infinities as Python's json writes them."""
    return json.dumps([[each.step, dict(each.values)] for each in tracked], separators=(",", ":")).encode()


def decode_tracked(content: bytes) -> tuple[Tracked, ...]:
    """Read what `encode_tracked` wrote.

    Raises:
        CodecError: something else, or more than `MAX_VALUES`.
    """
    try:
        rows = json.loads(content) if len(content) <= MAX_BYTES else None
        if not isinstance(rows, list):
            raise TypeError
        found = tuple(Tracked(_step(step), {_name(n): plain(n, value) for n, value in v.items()}) for step, v in rows)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise CodecError("what site.track said: expected steps with numbers and texts, found something else") from None
    if sum(len(each.values) for each in found) > MAX_VALUES:
        raise CodecError(f"what site.track said: expected at most {MAX_VALUES} values")
    return found


def _step(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value < MAX_STEP):
        raise ValueError
    step: int | None = value
    return step


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
