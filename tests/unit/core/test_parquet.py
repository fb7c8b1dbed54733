"""Parquet files by columns: as pyarrow reads them whole, in batches and beyond memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.core import parquet, scratch
from hanse.core.errors import ConfigError

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `arrow`")


@pytest.fixture(params=[True, False], ids=["statistics", "no statistics"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from pyarrow import parquet as writer

    monkeypatch.setattr(parquet, "BATCH_VALUES", 490)
    monkeypatch.setattr(scratch, "LARGE_BYTES", 1024)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = pyarrow.table(
        {
            "id": [f"person {at}" for at in range(1000)],
            "big": pyarrow.array(range(2**60, 2**60 + 1000), pyarrow.int64()),
            "holed": pyarrow.array([None if at == 900 else at for at in range(1000)], pyarrow.int32()),
            "half": pyarrow.array([at / 2 if at % 3 else None for at in range(1000)], pyarrow.float32()),
            "yes": [at % 2 == 0 for at in range(1000)],
            "words": [None if at == 3 else "a" for at in range(1000)],
            "kind": pyarrow.array(["x", "y"] * 500).dictionary_encode(),
        }
    )
    writer.write_table(table, tmp_path / "d.parquet", row_group_size=300, write_statistics=request.param)
    return tmp_path / "d.parquet"


def test_columns_are_those_of_the_file(file: Path) -> None:
    found = parquet.read_parquet(file, "d")
    assert list(found) == ["id", "big", "holed", "half", "yes", "words", "kind"]
    assert found["id"].tolist() == [f"person {at}" for at in range(1000)]
    assert found["id"].dtype.kind == found["kind"].dtype.kind == "U"
    assert found["big"].dtype == np.int64
    assert found["big"].tolist() == list(range(2**60, 2**60 + 1000))
    assert found["holed"].dtype == np.float64
    assert np.flatnonzero(np.isnan(found["holed"])).tolist() == [900]
    assert np.flatnonzero(np.isnan(found["half"])).tolist() == list(range(0, 1000, 3))
    assert found["yes"].tolist() == [at % 2 == 0 for at in range(1000)]
    assert found["words"].tolist()[:5] == ["a", "a", "a", None, "a"]
    assert [each.name for each in file.parent.iterdir()] == ["d.parquet"]


def test_what_is_not_wanted_is_not_read(file: Path) -> None:
    found = parquet.read_parquet(file, "d", lambda names: [names[2], names[0]])
    assert list(found) == ["holed", "id"]


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing PAR1", b"PAR1" + bytes(100)])
def test_what_is_no_parquet_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match="d: not a parquet file"):
        parquet.read_parquet(tmp_path / "d.parquet", "d")


@pytest.mark.parametrize("columns", [{"a": [[1], [2]]}, {"a": [{"b": 1}]}])
def test_nested_columns_are_refused(columns: dict[str, Any], tmp_path: Path) -> None:
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match="found 1 that are nested"):
        parquet.read_parquet(tmp_path / "d.parquet", "d")
