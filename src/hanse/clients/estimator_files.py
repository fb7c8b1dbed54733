"""Trained scikit-learn estimators as files: skops, which holds no code; joblib on request, which is a pickle.

skops stores an estimator as JSON and arrays in a zip; reading it constructs scikit-learn's own types and refuses
others. A joblib file runs whatever its author wrote into it, so Hanse writes one only when its name asks for it, with a
warning, and never reads one.
"""

import warnings
from pathlib import Path
from typing import Any

from hanse.core.errors import CodecError, ConfigError, MissingExtraError, NotFoundError


def save_estimator(estimator: Any, path: str | Path) -> Path:
    """Write a fitted estimator.

    Args:
        path: `NAME.skops`; or `NAME.joblib`, with a warning.

    Raises:
        ConfigError: another ending. MissingExtraError: skops is not installed.
    """
    path = Path(path)
    if path.suffix == ".joblib":
        import joblib

        warnings.warn(
            f"{path.name} is a pickle: whoever loads it runs what its author put there; write NAME.skops instead",
            stacklevel=2,
        )
        joblib.dump(estimator, path)
        return path
    if path.suffix != ".skops":
        raise ConfigError(f"{path.name}: expected a name that ends in .skops (or .joblib), found {path.suffix!r}")
    _skops().dump(estimator, path)
    return path


def load_estimator(path: str | Path) -> Any:
    """Read what `save_estimator` wrote to `NAME.skops`. Nothing in the file is executed.

    Raises:
        ConfigError: another ending. NotFoundError: no such file.
        CodecError: not such a file, or with types that are not scikit-learn's or numpy's.
    """
    path = Path(path)
    if path.suffix != ".skops":
        raise ConfigError(f"{path.name}: expected a .skops file; other files could run code when they are loaded")
    if not path.is_file():
        raise NotFoundError(f"{path}: not found")
    io = _skops()
    try:
        unknown = io.get_untrusted_types(file=path)
        if not unknown:
            return io.load(path)
    except Exception as error:  # of a damaged file skops raises whatever its parts do
        raise CodecError(f"{path.name}: expected an estimator, found {type(error).__name__}") from None
    raise CodecError(f"{path.name}: expected types of scikit-learn and numpy only, found {', '.join(unknown)[:200]}")


def _skops() -> Any:
    try:
        import skops.io
    except ImportError:
        raise MissingExtraError("skops", "skops") from None
    return skops.io
