"""Names of groups and values: chosen at the sites, agreed at the server, carried as bytes in an array of uint8."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError

MAX_WORDS = 10_000
MAX_LETTERS = 200


def pack_words(words: Sequence[str]) -> Array:
    """Texts as uint8."""
    return np.frombuffer(json.dumps(list(words), ensure_ascii=False).encode(), dtype=np.uint8)


def read_words(array: Array) -> tuple[str, ...]:
    """What `pack_words` wrote.

    Raises:
        ConfigError: something else, or too much of it.
    """
    try:
        words = json.loads(array.tobytes())
    except (ValueError, RecursionError):
        raise ConfigError("words: expected a list of texts, found something that cannot be read") from None
    if not isinstance(words, list) or len(words) > MAX_WORDS:
        raise ConfigError(f"words: expected a list of at most {MAX_WORDS} texts")
    if any(not isinstance(word, str) or not 0 < len(word) <= MAX_LETTERS for word in words):
        raise ConfigError(f"words: expected texts of at most {MAX_LETTERS} letters")
    return tuple(words)


def frequent_words(words: Iterable[str | None], min_group: int) -> tuple[str, ...]:
    """Those that stand in at least `min_group` rows, sorted."""
    counts = Counter(word for word in words if word is not None and len(word) <= MAX_LETTERS)
    return tuple(sorted(word for word, count in counts.items() if count >= min_group))


def wrong_words(arrays: Arrays, names: Sequence[str]) -> str:
    """Why these are not lists of words under exactly these names; empty if they are."""
    if list(arrays) != list(names) or any(a.dtype != np.uint8 or a.ndim != 1 for a in arrays.values()):
        return f"expected lists of words called {', '.join(names)}"
    try:
        for array in arrays.values():
            read_words(array)
    except ConfigError as error:
        return str(error)
    return ""


def joined_words(answers: Iterable[Array]) -> tuple[str, ...]:
    """All words of all sites, sorted.

    Raises:
        ConfigError: too many.
    """
    words = sorted({word for answer in answers for word in read_words(answer)})
    if len(words) > MAX_WORDS:
        raise ConfigError(
            f"words: expected at most {MAX_WORDS} at all sites together, found {len(words)}; declare them"
        )
    return tuple(words)
