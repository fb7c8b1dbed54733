"""Tables larger than the memory that the process may have: the same model, from columns that lie in files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.patience import WAIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")

PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy as np
import hanse as hs
from hanse.core import scratch
from hanse.vertical.boosting import columns as bins

kind, folder, extra_mb = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if kind != "bins in memory":
    scratch.LARGE_BYTES, scratch.BLOCK_BYTES = 1 << 20, 1 << 20
if kind == "parquet":
    import pyarrow.parquet

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
rng = np.random.default_rng(0)
a = {f"a{at}": np.load(folder / f"a{at}.npy", mmap_mode="r") for at in range(80)}
b = {f"b{at}": np.load(folder / f"b{at}.npy", mmap_mode="r") for at in range(80)}
y = np.load(folder / "y.npy")
np.ones((512, 512)) @ np.ones((512, 512))  # BLAS takes its buffers when it is first used
if extra_mb:
    used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
    limit = (used << 10) + (extra_mb << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if kind == "parquet":
    b = folder / "b.parquet"
else:
    a = {"y": y, **a}
found = {}
if kind == "glm":
    model = hs.vertical.LogisticRegression(key=None, epochs=1, batch_rows=2048, test=0.1)
    result = hs.vertical.simulate(model, a, b)
    found = {"auc": result.metrics["auc"], "num": len(result.scores), "weights": result.coefficients["host"]["b0"]}
else:
    from hanse.vertical.tables import read_table
    table = read_table(b, key=None)
    made = bins.binned(table.values, table.names, 32)
    found = {"sums": made.bins[:4].sum(axis=1).tolist(), "mb": table.values.nbytes >> 20}
print(json.dumps(found))
"""
ROWS = 100_000
"""Of 80 columns at each party: 64 MB each, of which a training without files holds each several times over."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, place = np.random.default_rng(0), tmp_path_factory.mktemp("tables")
    z = np.zeros(ROWS)
    for name in ("a", "b"):
        for at in range(80):
            column = rng.standard_normal(ROWS)
            z += column * (at < 3)
            np.save(place / f"{name}{at}.npy", column)
    np.save(place / "y.npy", (z + rng.standard_normal(ROWS) > 0).astype(np.int64))
    return place


def played(kind: str, folder: Path, extra_mb: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(folder), str(extra_mb)],
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
        | {"TMPDIR": str(folder), "PATH": "/usr/bin", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        capture_output=True,
        text=True,
        timeout=4 * WAIT_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def binned(folder: Path) -> dict[str, Any]:
    """With 30 MB beyond what the interpreter takes, half of one table."""
    return played("bins", folder, 30)


@pytest.mark.slow
def test_three_roles_train_in_less_memory_than_one_table_takes(folder: Path) -> None:
    """All three in one process, with 60 MB beyond what the interpreter takes; they hold 128 MB of columns alone."""
    found = played("glm", folder, 60)
    assert found["num"] == ROWS // 10
    assert found["auc"] > 0.95
    assert found["weights"] > 0.5
    assert sorted(each.suffix for each in folder.iterdir() if each.suffix != ".npy") == []


def test_columns_are_binned_in_less_memory_than_the_table_takes(folder: Path, binned: dict[str, Any]) -> None:
    assert binned["mb"] == 61
    for at, total in enumerate(binned["sums"]):
        column = np.load(folder / f"b{at}.npy")
        edges = np.sort(column)[-(-np.arange(1, 32) * ROWS // 32) - 1]
        assert total == sum((column > edge).sum() for edge in edges)
    with pytest.raises(AssertionError, match="MemoryError"):
        played("bins in memory", folder, 30)


@pytest.mark.slow
def test_a_parquet_file_larger_than_memory_is_binned(folder: Path, binned: dict[str, Any]) -> None:
    """183 MB of numbers, with 170 MB beyond what the interpreter takes, of which pyarrow takes most at any size."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `arrow`")
    from pyarrow import parquet

    table = pyarrow.table({f"b{at}": np.load(folder / f"b{at}.npy") for at in range(80)})
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with parquet.ParquetWriter(folder / "b.parquet", table.schema, **plain) as file:
        for _ in range(3):
            file.write_table(table, row_group_size=1 << 14)
    try:
        found = played("parquet", folder, 170)
    finally:
        (folder / "b.parquet").unlink()
    assert found["mb"] == 183
    assert found["sums"] == [3 * each for each in binned["sums"]]
