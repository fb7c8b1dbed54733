"""Compiling a loop with numba, kept on disk for the next process where there is a place for it.

numba keeps what it compiled beside the source file, or in the user's cache folder, and refuses to compile at all where
it may write to neither, as in a container whose files are read-only.
"""

from collections.abc import Callable
from typing import Any


def njit(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with its cache if there is a place for one, otherwise without: then each process compiles anew.

    Args:
        signature: of types; none to compile at the first call, for what it is called with.
        options: of `numba.njit`.
    """
    import numba  # heavy and optional

    compile_: Any = numba.njit

    def compiled(loop: Callable[..., Any]) -> Any:
        try:
            return compile_(*signature, cache=True, **options)(loop)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return compile_(*signature, **options)(loop)

    return compiled
