"""The one door to gmpy2, which is an extra: importing this floor needs none."""

from functools import cache
from typing import Any

from hanse.core.errors import MissingExtraError


@cache
def gmpy2_module() -> Any:
    """gmpy2.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gmpy2
    except ImportError:
        raise MissingExtraError("gmpy2", "vertical") from None
    return gmpy2
