"""Quality of trees on public data, split by columns: the pooled booster's trees, known figures, XGBoost on these bins.

Trees do not depend on the cipher (see test_boosting), so these take the one that costs nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.vertical.boosting.columns import binned
from hanse.vertical.boosting.pooled import pooled
from hanse.vertical.metrics import auc
from hanse.vertical.tables import read_table

SHARED = Path(__file__).parents[4] / "shared" / "data" / "fate"
pytestmark = [
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the example data of FATE in ../shared/data/fate"),
    pytest.mark.long,
]


def path(name: str, role: str) -> Path:
    return next(iter(sorted(SHARED.glob(f"{name}_hetero_{role}.csv*"))))


def aligned(result: Any, guest: Path, hosts: list[Path]) -> tuple[list[Any], Any]:
    """All parties' tables in the order of the training, and the label."""
    model = result.model
    table = read_table(guest, key=model.key, label=model.label)
    assert table.ids is not None
    ids = table.ids[result.rows].tolist()
    tables = [table.take(result.rows)]
    for source in hosts:
        one = read_table(source, key=model.key)
        assert one.ids is not None
        places = {each: at for at, each in enumerate(one.ids.tolist())}
        tables.append(one.take(np.array([places[each] for each in ids])))
    return tables, tables[0].label


@pytest.mark.parametrize(
    ("name", "options", "hosts", "least"),
    [
        pytest.param("default_credit", {"num_trees": 30, "depth": 4}, ["host"], {"auc": 0.789}, id="default_credit"),
        pytest.param("vehicle_scale", {"num_trees": 40}, ["host"], {"accuracy": 0.9}, id="vehicle, four classes"),
        pytest.param(
            "motor",
            {"objective": "regression", "label": "motor_speed", "key": "idx", "min_bin_rows": 5},
            ["host_1", "host_2"],
            {"r2": 0.99},
            id="motor, regression, two hosts",
        ),
        pytest.param(
            "ionosphere_scale", {"label": "label", "key": "sid"}, ["host"], {"auc": 0.99}, id="ionosphere, missing"
        ),
        pytest.param("breast", {}, ["host"], {"auc": 0.999}, id="breast"),
    ],
)
def test_the_pooled_trees(name: str, options: dict[str, Any], hosts: list[str], least: dict[str, float]) -> None:
    guest, others = path(name, "guest"), [path(name, host) for host in hosts]
    model = hs.vertical.Boosting(**{"cipher": "mock", "num_trees": 30, "depth": 3} | options)
    result = hs.vertical.simulate(model, guest, others)
    tables, label = aligned(result, guest, others)
    columns = [binned(table.values, table.names, model.max_bins) for table in tables]
    found = pooled(columns, model.respond(label), model.settings())
    assert found.digest == result.digest
    assert np.array_equal(found.grown.margins.T, result.scores)
    if name.startswith("ionosphere"):
        assert np.isnan(tables[0].values).any()
    for metric, value in least.items():
        assert result.metrics[metric] >= value


def test_as_good_as_xgboost_on_the_same_bins() -> None:
    xgboost = pytest.importorskip("xgboost", reason="needs the extra `xgboost`")
    guest, host = path("default_credit", "guest"), path("default_credit", "host")
    model = hs.vertical.Boosting(cipher="mock", num_trees=50, depth=3, learning_rate=0.1, min_bin_rows=1)
    result = hs.vertical.simulate(model, guest, host)
    tables, label = aligned(result, guest, [host])
    bins = np.concatenate([binned(each.values, each.names, 32).bins for each in tables]).T.astype(np.float32)
    other = xgboost.train(
        {
            "objective": "binary:logistic",
            "max_depth": 3,
            "eta": 0.1,
            "tree_method": "hist",
            "max_bin": 64,
            "nthread": 1,
        },
        xgboost.DMatrix(bins, label=label),
        num_boost_round=50,
    )
    theirs = auc(label, np.asarray(other.predict(xgboost.DMatrix(bins)), np.float64))
    assert abs(result.metrics["auc"] - theirs) <= 0.002
