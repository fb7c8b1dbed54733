"""The owner's declarations: what each kind gives, and what a wrong one says."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.core.errors import ConfigError, MissingExtraError, PolicyError
from hanse.workers.datasets import Datasets, check_declaration, paths_of

CSV = "age, weight ,sick\n40,70.5,0\n50,?,1\n\n60,81,1\n"


def load(folder: Path, content: str | bytes, name: str = "patients.csv", **declaration: Any) -> Any:
    """Write a file and load it as declared."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Datasets({"patients": {"kind": "csv", "path": name, **declaration}}, base=folder).load("patients")


def test_csv_with_a_target(tmp_path: Path) -> None:
    X, y = load(tmp_path, CSV, target="sick", missing="nan")
    assert (X.dtype, X.shape, y.dtype) == (np.float64, (3, 2), np.int64)
    np.testing.assert_array_equal(X, [[40, 70.5], [50, np.nan], [60, 81]])
    np.testing.assert_array_equal(y, [0, 1, 1])
    X, y = load(tmp_path, CSV, target="sick", missing="drop")
    np.testing.assert_array_equal(X, [[40, 70.5], [60, 81]])
    np.testing.assert_array_equal(y, [0, 1])
    X, y = load(tmp_path, CSV, target="weight", columns=["age"], missing="drop")
    np.testing.assert_array_equal(X, [[40], [60]])
    np.testing.assert_array_equal(y, [70.5, 81])


def test_csv_without_a_target_is_columns(tmp_path: Path) -> None:
    columns = load(tmp_path, "id;name\n007;Ann\n8;\n", delimiter=";", missing="nan")
    assert list(columns) == ["id", "name"]
    np.testing.assert_array_equal(columns["id"], [7.0, 8.0])
    assert columns["name"].tolist() == ["Ann", ""]


def test_numbers_in_one_block_and_text_in_another_is_text_as_written(tmp_path: Path) -> None:
    rows = "\n".join(f"0{number}" for number in range(20_000))
    column = load(tmp_path, f"code\n{rows}\nA1\n")["code"]
    assert column[7] == "07"
    assert column[-1] == "A1"
    numbers = load(tmp_path, f"code\n{rows}\n")["code"]
    np.testing.assert_array_equal(numbers, np.arange(20_000.0))


@pytest.mark.parametrize(
    ("content", "declaration", "message"),
    [
        (CSV, {"target": "sick"}, "missing in weight; declare `missing: nan`"),
        (CSV, {"target": "ill"}, "no column 'ill'; found age, weight, sick"),
        (CSV, {"columns": ["age", "x"]}, "no column 'x'"),
        (CSV, {"target": "weight", "missing": "nan"}, "values of the target weight are missing"),
        (CSV, {"missing": "guess"}, "expected error, nan or drop"),
        (CSV, {"colums": []}, "unknown colums"),
        ("a,b\n1\n", {}, "expected 2 columns, found 1 in one of the lines up to 2"),
        ("a,a\n1,2\n", {}, "distinct column names"),
        ("", {}, "distinct column names"),
        ("a,b\n1,Secret\n", {"target": "a"}, "found text in b"),
        (b"a,b\n\xff\xfe\x00,1\n", {}, "not a CSV file in UTF-8"),
    ],
)
def test_wrong_csv(tmp_path: Path, content: str | bytes, declaration: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, content, **declaration)
    assert "Secret" not in str(caught.value)


def test_npz(tmp_path: Path) -> None:
    rows, labels = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])
    np.savez(tmp_path / "data.npz", rows=rows, labels=labels)
    np.savez(tmp_path / "objects.npz", rows=np.array([{"a": 1}], dtype=object))

    def read(**declaration: Any) -> Any:
        return Datasets({"d": {"kind": "npz", "path": "data.npz", **declaration}}, base=tmp_path).load("d")

    assert set(read()) == {"rows", "labels"}
    X, y = read(x="rows", y="labels")
    np.testing.assert_array_equal(X, rows)
    np.testing.assert_array_equal(y, labels)
    with pytest.raises(ConfigError, match="expected an array 'Rows', found labels, rows"):
        read(x="Rows", y="labels")
    with pytest.raises(ConfigError, match="never unpickled"):
        read(path="objects.npz")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 not a zip")
    np.save(tmp_path / "single.npy", rows)
    for name in ("junk.npz", "single.npy"):
        with pytest.raises(ConfigError, match=r"not an \.npz"):
            read(path=name)


def test_python_is_the_owners_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def patients(limit):\n    return list(range(limit))\n")
    declared = {"kind": "python", "path": "mine.py", "function": "patients", "arguments": {"limit": 3}}
    assert Datasets({"d": declared}, base=tmp_path).load("d") == [0, 1, 2]
    with pytest.raises(ConfigError, match="no function 'others'"):
        Datasets({"d": {**declared, "function": "others"}}, base=tmp_path).load("d")
    read = {**declared, "read": ["/archive/db.sqlite"]}
    assert paths_of(read, tmp_path) == (tmp_path / "mine.py", Path("/archive/db.sqlite"))


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nothing PAR1")
    datasets = Datasets({"d": {"kind": "parquet", "path": "d.parquet", "target": "y"}}, base=tmp_path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'hanse\[arrow\]'"):
            datasets.load("d")
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match="not a parquet file"):
        datasets.load("d")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1.0, None], "y": [0, 1]}), tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match="missing in a"):
        datasets.load("d")


def test_streamed_columns_are_those_that_are_loaded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.workers.streamed.PIECE_ROWS", 3)
    content = "id;name\n" + "\n".join(f"{at:03d};n{at} \n" for at in range(8))
    whole = load(tmp_path, content, delimiter=";")
    for kind, column in (("numbers", "id"), ("text", "name")):
        stream = load(tmp_path, content, delimiter=";", streamed=kind, columns=[column])
        assert list(stream) == [column]
        for _ in range(2):  # as often as one wants
            pieces = list(stream[column].pieces())
            assert max(map(len, pieces)) <= 3
            assert [value for piece in pieces for value in piece] == whole[column].tolist()
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": list(range(8)), "hole": ["a", None] * 4}), tmp_path / "d.parquet")
    declared = {"kind": "parquet", "path": "d.parquet", "streamed": "numbers"}
    streams = Datasets({"d": declared}, base=tmp_path).load("d")
    assert [value for piece in streams["id"].pieces() for value in piece] == list(range(8))
    with pytest.raises(ConfigError, match="missing in hole"):
        list(streams["hole"].pieces())
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'hanse\[arrow\]'"):
            Datasets({"d": declared}, base=tmp_path).load("d")
    content = bytearray((tmp_path / "d.parquet").read_bytes())
    content[4:40] = b"\xff" * 36  # a page's head
    (tmp_path / "d.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match="not a parquet file"):
        list(Datasets({"d": declared}, base=tmp_path).load("d")["id"].pieces())


@pytest.mark.parametrize(
    ("content", "declaration", "message"),
    [
        ("id\n1\nx\n", {"streamed": "numbers"}, "whole numbers in id; declare `streamed: text`"),
        ("id\n1.5\n", {"streamed": "numbers"}, "whole numbers in id"),
        ("id,b\n,1\n", {"streamed": "text"}, "missing in id"),
        ("id,b\n1\n", {"streamed": "text"}, "expected 2 columns, found others in one of the lines up to 2"),
        ("id,id\n", {"streamed": "text"}, "distinct column names"),
        (b"id\n\xff\n", {"streamed": "text"}, "not a CSV file in UTF-8"),
        ("id\n", {"streamed": "text", "columns": ["x"]}, "no column 'x'"),
        ("id\n", {"streamed": "words"}, "streamed: expected text or numbers"),
        ("id\n", {"streamed": "text", "target": "id"}, "neither target nor missing"),
    ],
)
def test_what_a_stream_cannot_be(
    tmp_path: Path, content: str | bytes, declaration: dict[str, Any], message: str
) -> None:
    def read() -> None:
        for stream in load(tmp_path, content, **declaration).values():
            list(stream.pieces())

    with pytest.raises(ConfigError, match=message):
        read()


def test_only_what_is_granted() -> None:
    datasets = Datasets({"a": {"kind": "csv", "path": "a.csv"}}, declared=("a", "b"))
    with pytest.raises(PolicyError, match="'b': not granted to this job"):
        datasets.load("b")
    with pytest.raises(PolicyError, match=r"'\.\./c': not declared at this site; granted to this job: a"):
        datasets.load("../c")
    with pytest.raises(ConfigError, match="found none that can be read"):
        datasets.load("a")


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({}, "kind: expected one of csv, npz, parquet, python; found None"),
        ({"kind": "pickle", "path": "x"}, "found 'pickle'"),
        ({"kind": "csv"}, "a csv needs path"),
        ({"kind": "python", "path": "x"}, "a python needs function"),
        ({"kind": "csv", "path": "x", "function": "f"}, "unknown function"),
        ({"kind": "csv", "path": "x", "columns": 5}, "columns: expected a list, found int"),
        ({"kind": "csv", "path": "x", "delimiter": "ab"}, "delimiter: expected one character, found 'ab'"),
        ({"kind": "csv", "path": "~nobody-of-this-name/x"}, "~nobody-of-this-name/x: nobody of that name"),
        ({"kind": "python", "path": "x", "function": "f", "read": 5}, "read: expected a list, found int"),
    ],
)
def test_wrong_declarations(declaration: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_declaration("d", declaration)
