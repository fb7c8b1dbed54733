"""The owner's data sets: `{patients: {kind: csv, path: patients.csv, target: sick}}` and how each kind is read.

    csv      path, target?, columns?, delimiter = ",", missing = error | nan | drop, streamed = text | numbers ?
    npz      path, x?, y?                 (x, y) where both names are given, otherwise a dict; never pickled objects
    parquet  path, target?, columns?, missing, streamed       needs pyarrow (extra `arrow`)
    python   path, function, arguments?   the owner's own function, called as function(**arguments)

With a `target`, csv and parquet give `(X, y)`: X float64 `(rows, columns)`, y float64 or, if every value is whole,
int64. Without, a dict of column name → array, or → `Stream` where they are `streamed`. The declaration is the owner's
and so is the loader; an app only says a name. Columns that are too large for memory lie in the temporary folder
(`hanse.core.scratch`). Messages name columns and lines, never a value.
"""

import csv
import importlib.util
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core import scratch
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, PolicyError, StorageError
from hanse.core.parquet import read_parquet
from hanse.workers import streamed
from hanse.workers.load import Declaration

Columns = dict[str, Array]

_MISSING_WORDS = {"", "na", "n/a", "nan", "null", "none", "?"}
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "csv": ({"path"}, {"target", "columns", "delimiter", "missing", "streamed"}),
    "npz": ({"path"}, {"x", "y"}),
    "parquet": ({"path"}, {"target", "columns", "missing", "streamed"}),
    "python": ({"path", "function"}, {"arguments", "read"}),
}
_BLOCK_ROWS = 16_384


class Datasets:
    """The data sets granted to one job at one site.

    Args:
        granted: the owner's declarations of those that the job may load.
        declared: names of all that exist, granted or not.
        base: where relative paths start.
    """

    def __init__(
        self, granted: Mapping[str, Declaration], *, declared: Sequence[str] = (), base: Path | None = None
    ) -> None:
        self._granted = granted
        self._declared = tuple(declared)
        self._base = base or Path()

    def load(self, name: str) -> Any:
        """Read one data set.

        Raises:
            PolicyError: not granted, or not declared. ConfigError: its declaration or its file is wrong.
            MissingExtraError: parquet without pyarrow. Exception: whatever the owner's own function raises.
        """
        if name not in self._granted:
            raise PolicyError(self._refusal(name))
        declaration = check_declaration(name, self._granted[name])
        path = path_of(declaration, self._base)
        if not path.is_file():
            raise ConfigError(f"data set {name}: expected a file at its declared path, found none that can be read")
        return _LOADERS[declaration["kind"]](name, path, declaration)

    def _refusal(self, name: str) -> str:
        shown = name[:60]
        if name in self._declared:
            return f"data set {shown!r}: not granted to this job; the site's owner grants it in the policy"
        granted = ", ".join(sorted(self._granted)) or "none"
        return f"data set {shown!r}: not declared at this site; granted to this job: {granted}"


def check_declaration(name: str, declaration: Declaration) -> Declaration:
    """Check one declaration, without opening its file; for the owner's configuration.

    Raises:
        ConfigError: unknown kind or field, or one missing.
    """
    kind = declaration.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ConfigError(f"data set {name}: kind: expected one of {', '.join(_FIELDS)}; found {kind!r:.40}")
    needed, optional = _FIELDS[kind]
    given = set(declaration) - {"kind"}
    if needed - given:
        raise ConfigError(f"data set {name}: a {kind} needs {', '.join(sorted(needed - given))}")
    if given - needed - optional:
        known = ", ".join(sorted(needed | optional))
        raise ConfigError(f"data set {name}: unknown {', '.join(sorted(given - needed - optional))}; known: {known}")
    missing = declaration.get("missing", "error")
    if missing not in ("error", "nan", "drop"):
        raise ConfigError(f"data set {name}: missing: expected error, nan or drop; found {missing!r:.40}")
    for field in {"columns", "read"} & given:
        if not isinstance(declaration[field] or (), list | tuple):
            raise ConfigError(f"data set {name}: {field}: expected a list, found {type(declaration[field]).__name__}")
    delimiter = declaration.get("delimiter", ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ConfigError(f"data set {name}: delimiter: expected one character, found {delimiter!r:.40}")
    for path in (declaration["path"], *(declaration.get("read") or ())):
        try:
            Path(str(path)).expanduser()
        except RuntimeError:
            raise ConfigError(f"data set {name}: {str(path)[:200]}: nobody of that name has a home here") from None
    kept_whole = {"target", "missing"} & given
    if "streamed" in given and (declaration["streamed"] not in streamed.KINDS or kept_whole):
        raise ConfigError(
            f"data set {name}: streamed: expected {' or '.join(streamed.KINDS)}, and neither target nor missing"
        )
    return declaration


def path_of(declaration: Declaration, base: Path) -> Path:
    """The declared file."""
    return base / Path(str(declaration["path"])).expanduser()


def paths_of(declaration: Declaration, base: Path) -> tuple[Path, ...]:
    """Everything that reading a data set opens: its file, and what a `python` declaration lists under `read`."""
    more = declaration.get("read") or ()
    return (path_of(declaration, base), *(base / Path(str(path)).expanduser() for path in more))


def check_columns(name: str, declaration: Declaration, base: Path) -> None:
    """Look in the first line of a declared CSV file for the columns that the declaration names; other kinds pass.

    Raises:
        ConfigError: a column that is not there, or no such line. StorageError: the file cannot be read.
    """
    if declaration["kind"] != "csv":
        return
    try:
        with path_of(declaration, base).open(newline="", encoding="utf-8-sig") as file:
            _wanted(
                name, _header(name, csv.reader(file, delimiter=str(declaration.get("delimiter", ",")))), declaration
            )
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"data set {name}: not a CSV file in UTF-8 ({type(error).__name__})") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StorageError(f"data set {name}: its file cannot be read: {reason}") from None


def _header(name: str, rows: Iterator[list[str]]) -> list[str]:
    header = [column.strip() for column in next(rows, [])]
    if not header or len(set(header)) != len(header):
        raise ConfigError(f"data set {name}: expected a first line of distinct column names")
    return header


def _load_csv(name: str, path: Path, declaration: Declaration) -> Any:
    if "streamed" in declaration:
        delimiter = str(declaration.get("delimiter", ","))
        return streamed.csv_columns(
            name, path, declaration["streamed"], delimiter, lambda header: _wanted(name, header, declaration)
        )
    texts: set[str] = set()
    while True:
        growing = _read_csv(name, path, declaration, texts)
        mixed = {column for column, kinds in growing.kinds.items() if len(kinds) > 1}
        if not mixed:
            break
        texts |= mixed  # numbers in one block and text in another: read once more, as text
    return _finish(name, growing.columns(), declaration)


def _read_csv(name: str, path: Path, declaration: Declaration, texts: set[str]) -> scratch.Growing:
    """Read block by block, so that the text of no more than a block is in memory; columns in `texts` stay text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter=str(declaration.get("delimiter", ",")))
            header = _header(name, rows)
            places = {column: header.index(column) for column in _wanted(name, header, declaration)}
            growing = scratch.Growing(places)
            while block := list(itertools.islice(rows, _BLOCK_ROWS)):
                filled = [row for row in block if row]
                if any(len(row) != len(header) for row in filled):
                    found = next(len(row) for row in filled if len(row) != len(header))
                    raise ConfigError(
                        f"data set {name}: expected {len(header)} columns, found {found} "
                        f"in one of the lines up to {rows.line_num}"
                    )
                values = {column: [row[place] for row in filled] for column, place in places.items()}
                growing.append(
                    {column: _texts(each) if column in texts else _numbers(each) for column, each in values.items()}
                )
            return growing
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"data set {name}: not a CSV file in UTF-8 ({type(error).__name__})") from None


def _numbers(texts: list[str]) -> Array:
    """float64 where every text is a number or missing (NaN); otherwise the texts."""
    try:
        return np.array(texts, dtype=np.float64)
    except ValueError:
        pass
    try:
        return np.array([np.nan if text.strip().lower() in _MISSING_WORDS else float(text) for text in texts])
    except ValueError:
        return _texts(texts)


def _texts(texts: list[str]) -> Array:
    return np.array([text.strip() for text in texts], dtype=np.str_)


def _load_parquet(name: str, path: Path, declaration: Declaration) -> Any:
    if "streamed" in declaration:
        return streamed.parquet_columns(
            name, path, declaration["streamed"], lambda header: _wanted(name, header, declaration)
        )
    columns = read_parquet(path, f"data set {name}", lambda header: _wanted(name, header, declaration))
    return _finish(name, columns, declaration)


def _load_npz(name: str, path: Path, declaration: Declaration) -> Any:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"data set {name}: not an .npz of plain arrays ({type(error).__name__}); objects are never unpickled"
        ) from None
    x, y = declaration.get("x"), declaration.get("y")
    if x is None and y is None:
        return arrays
    for key in (x, y):
        if key not in arrays:
            raise ConfigError(
                f"data set {name}: expected an array {key!r:.60}, found {', '.join(sorted(arrays))[:200]}"
            )
    if len(arrays[x]) != len(arrays[y]):
        raise ConfigError(f"data set {name}: {len(arrays[x])} rows of {x} and {len(arrays[y])} of {y}")
    return arrays[x], arrays[y]


def _load_python(name: str, path: Path, declaration: Declaration) -> Any:
    spec = importlib.util.spec_from_file_location(f"_hanse_dataset_{name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"data set {name}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, str(declaration["function"]), None)
    if not callable(function):
        raise ConfigError(f"data set {name}: its file has no function {declaration['function']!r:.60}")
    return function(**declaration.get("arguments", {}))


def _wanted(name: str, header: Sequence[str], declaration: Declaration) -> list[str]:
    wanted = list(declaration.get("columns") or header)
    target = declaration.get("target")
    if target is not None and target not in wanted:
        wanted.append(target)
    absent = [column for column in wanted if column not in header]
    if absent:
        raise ConfigError(
            f"data set {name}: no column {', '.join(map(repr, absent))[:200]}; found {', '.join(header)[:400]}"
        )
    return wanted


def _finish(name: str, columns: Columns, declaration: Declaration) -> Any:
    """Apply the policy on missing values; split into (X, y) where a target is named."""
    policy = declaration.get("missing", "error")
    absent = {column: _is_missing(array) for column, array in columns.items()}
    holed = [column for column, mask in absent.items() if mask.any()]
    if holed and policy == "error":
        raise ConfigError(
            f"data set {name}: values are missing in {', '.join(holed)[:400]}; "
            "declare `missing: nan` or `missing: drop`"
        )
    if holed and policy == "drop":
        keep = ~np.any([absent[column] for column in holed], axis=0)
        kept = np.flatnonzero(keep)
        columns = {column: scratch.take(array, kept) for column, array in columns.items()}
    target = declaration.get("target")
    if target is None:
        return columns
    text = [column for column, array in columns.items() if array.dtype.kind not in "biuf"]
    if text:
        raise ConfigError(
            f"data set {name}: expected numbers, found text in {', '.join(text)[:400]}; leave it out with `columns`, "
            "or declare a `python` loader"
        )
    y = columns.pop(target)
    if np.isnan(y.astype(np.float64)).any():
        raise ConfigError(f"data set {name}: values of the target {target} are missing; declare `missing: drop`")
    rows = (
        np.stack([array.astype(np.float64) for array in columns.values()], axis=1) if columns else np.empty((len(y), 0))
    )
    return np.ascontiguousarray(rows), _whole(y)


def _is_missing(array: Array) -> npt.NDArray[np.bool_]:
    if array.dtype.kind == "f":
        return np.isnan(array)
    if array.dtype.kind in "UO":
        return np.array([value is None or str(value).lower() in _MISSING_WORDS for value in array], dtype=bool)
    return np.zeros(len(array), dtype=bool)


def _whole(y: Array) -> Array:
    whole = y.dtype.kind != "f" or bool(np.all(np.isfinite(y) & (y == np.trunc(y)) & (np.abs(y) < 2**53)))
    return y.astype(np.int64) if whole else y.astype(np.float64)


_LOADERS: dict[str, Callable[[str, Path, Declaration], Any]] = {
    "csv": _load_csv,
    "npz": _load_npz,
    "parquet": _load_parquet,
    "python": _load_python,
}
