"""`hs.vertical.SplitNetwork` as a user calls it, and its quality on public data against pooled networks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.codec import decode
from hanse.core.errors import ConfigError, UnavailableError
from hanse.vertical import metrics
from hanse.vertical.glm.dealer import data_roles
from hanse.vertical.tables import read_table

torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")

SHARED = Path(__file__).parents[4] / "shared" / "data" / "fate"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def people(rows: int = 500) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A guest and two hosts, in other orders; the label is an exclusive or over two hosts' columns."""
    rng = np.random.default_rng(0)
    ids, x = np.array([f"p{at}" for at in range(rows)]), rng.standard_normal((rows, 5)) * [1, 10, 0.1, 5, 1]
    y = np.where((x[:, 1] > 0) != (x[:, 3] > 0), "yes", "no")

    def cut(**columns: Any) -> dict[str, Any]:
        order = rng.permutation(rows)[: rows - 20]
        return {"id": ids[order], **{name: column[order] for name, column in columns.items()}}

    return cut(age=x[:, 0], y=y), [cut(sales=x[:, 1], visits=x[:, 2]), cut(calls=x[:, 3], noise=x[:, 4])]


MODEL: dict[str, Any] = {"epochs": 25, "batch_rows": 64, "learning_rate": 0.01}


def test_three_parties_train_what_no_linear_model_can(tmp_path: Path) -> None:
    guest, hosts = people()
    model = hs.vertical.SplitNetwork(bottom=(16, 8), top=(16,), **MODEL)
    result = hs.vertical.simulate(model, guest, hosts)
    assert result.metrics["auc"] > 0.95
    assert result.response.classes == ("no", "yes")
    assert set(guest["id"][result.rows]) == set(guest["id"]) & set(hosts[0]["id"]) & set(hosts[1]["id"])
    told = {each.what for each in result.reveals}
    assert {"intersection", "labels", "embeddings", "scored_rows", "shape"} <= told

    rows, chances = result.predict(guest, hosts)
    assert metrics.auc(guest["y"][rows] == "yes", chances) == pytest.approx(result.metrics["auc"], abs=1e-6)
    one = {name: column[rows[:1]] for name, column in guest.items()}
    assert result.predict(one, hosts)[1][0] == pytest.approx(chances[0], abs=1e-6)
    with pytest.raises(UnavailableError):
        result.predict(guest, [hosts[0], None])
    few, without = result.predict(guest, [hosts[0], None], if_offline="default")
    assert metrics.auc(guest["y"][few] == "yes", without) < 0.8

    result.save(tmp_path)
    roles = data_roles(2)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(f"{role}.safetensors" for role in roles)
    outputs = []
    for role, table in zip(roles, (guest, *hosts), strict=True):
        part, response = model.decoded(decode((tmp_path / f"{role}.safetensors").read_bytes()))
        assert part.role == role
        assert (response is None) == (role != "guest")
        places = {name: at for at, name in enumerate(table["id"])}
        taken = [places[name] for name in guest["id"][result.rows]]
        values = np.column_stack([table[name] for name in part.columns.names])[taken]
        outputs.append(part.embedding(values))
    guest_part, _ = model.decoded(decode((tmp_path / "guest.safetensors").read_bytes()))
    with torch.no_grad():
        assert np.abs(guest_part.top(torch.cat(outputs, 1)).numpy() - result.scores).max() < 1e-6


def test_networks_of_one_s_own_for_each_role_and_several_classes() -> None:
    guest, hosts = people(300)
    guest["y"] = np.array(["a", "b", "c"])[np.digitize(guest["age"], [-0.5, 0.5])]

    def deep(width: int) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(width, 6), torch.nn.LayerNorm(6), torch.nn.GELU())

    bottom: dict[str, Any] = dict(zip(data_roles(2), [deep, (4,), (3, 2)], strict=True))
    model = hs.vertical.SplitNetwork(bottom=bottom, top=lambda n, m: torch.nn.Linear(n, m), **{**MODEL, "epochs": 15})
    result = hs.vertical.simulate(model, guest, hosts)
    assert result.metrics["accuracy"] > 0.8
    chances = result.predict(guest, hosts)[1]
    assert chances.shape[1] == 3
    assert np.abs(chances.sum(1) - 1).max() < 1e-6
    with pytest.raises(ConfigError, match="expected a network for"):
        hs.vertical.simulate(hs.vertical.SplitNetwork(bottom={"guest": (3,)}), guest, hosts)


ROLES: Any = {"guest": "bank", "host": ["shop", "telco"]}
APP = hs.vertical.SplitNetwork(epochs=2, batch_rows=64, test=0.25, bottom=lambda width: torch.nn.Linear(width, 4))


def test_as_a_job_and_in_later_scoring() -> None:
    """The same app through the shell of jobs: the same bits as `hs.vertical.simulate`; scored with the kept parts."""
    guest, hosts = people()
    sites = {"bank": {"customers": guest}, "shop": {"customers": hosts[0]}, "telco": {"customers": hosts[1]}}
    job = hs.simulate(APP, sites, roles=ROLES)
    together = hs.vertical.simulate(APP, guest, hosts)
    assert job.metrics["guest_auc"] == together.metrics["auc"]
    for role, part in together.parts.items():
        arrays = {name.partition("/")[2]: each for name, each in job.arrays.items() if name.startswith(f"{role}/")}
        for name, value in part.bottom.state_dict().items():
            assert np.array_equal(arrays[f"bottom/{name}"], value.numpy())
    scored = hs.simulate(hs.vertical.Scoring(APP, trained_by=job.job), sites, roles=ROLES, outputs=job)
    rows, chances = together.predict(guest, hosts)
    assert np.array_equal(scored.arrays["guest/places"], rows)
    assert scored.arrays["guest/predictions"] == pytest.approx(chances, abs=1e-6)
    declared = APP.spec(ROLES).protocol
    assert {(each.to, each.what) for each in declared.reveals} >= {("host-1", "labels"), ("server", "log_loss")}
    assert declared.guarantee.adversary == "none"
    assert "lambda" in repr(APP)
    assert "0x" not in repr(APP)
    with pytest.raises(ConfigError, match="weight: expected none"):
        hs.vertical.SplitNetwork(weight="w")


def test_numbers() -> None:
    guest, hosts = people(300)
    guest["y"] = 50 + 3 * np.abs(guest["age"])
    model = hs.vertical.SplitNetwork(loss="mse", **{**MODEL, "epochs": 25})
    result = hs.vertical.simulate(model, guest, hosts[0])
    assert result.metrics["r2"] > 0.9
    rows, found = result.predict(guest, hosts[0])
    assert np.abs(found - guest["y"][rows]).mean() < 1


# ---- quality ----


def path(name: str, role: str) -> Path:
    return next(iter(sorted(SHARED.glob(f"{name}_hetero_{role}.csv*"))))


def cut(table: Any, rows: Any, **more: Any) -> dict[str, Any]:
    return {"id": table.ids[rows], **dict(zip(table.names, table.values[rows].T, strict=True)), **more}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the example data of FATE in ../shared/data/fate")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("breast", {"epochs": 20, "batch_rows": 64}),
        ("default_credit", {"epochs": 3, "batch_rows": 256, "clip": 6.0}),
    ],
)
def test_as_good_as_a_pooled_network_on_rows_that_neither_saw(name: str, options: dict[str, Any]) -> None:
    """The pooled one has a single first layer over all columns, which may mix them earlier."""
    guest, host = read_table(path(name, "guest"), key="id", label="y"), read_table(path(name, "host"), key="id")
    places = {each: at for at, each in enumerate(host.ids.tolist())}  # type: ignore[union-attr]
    host = host.take(np.array([places[each] for each in guest.ids.tolist()]))  # type: ignore[union-attr]
    order = np.random.default_rng(0).permutation(guest.num_rows)
    test, rest = order[: guest.num_rows // 3], order[guest.num_rows // 3 :]
    assert guest.label is not None
    gaps = []
    for seed in range(2 if name == "breast" else 1):
        model = hs.vertical.SplitNetwork(bottom=(32, 16), top=(16,), seed=seed, **options)
        result = hs.vertical.simulate(model, cut(guest, rest, y=guest.label[rest]), cut(host, rest))
        rows, chances = result.predict(cut(guest, test), cut(host, test))
        split = metrics.auc(guest.label[test][rows], chances)
        pooled = np.column_stack([guest.values, host.values])
        clip = options.get("clip", np.inf)
        scaled = np.clip((pooled - pooled[rest].mean(0)) / pooled[rest].std(0), -clip, clip).astype(np.float32)
        gaps.append(split - metrics.auc(guest.label[test], _pooled(scaled, guest.label, rest, test, options, seed)))
    assert np.mean(gaps) >= -0.005, gaps


def _pooled(x: Any, y: Any, rest: Any, test: Any, options: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    net = torch.nn.Sequential(
        linear(x.shape[1], 64), relu(), linear(64, 32), relu(), linear(32, 16), relu(), linear(16, 1)
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=0.003)
    x, y = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))[:, None]
    for _ in range(options["epochs"]):
        for batch in torch.from_numpy(rest)[torch.randperm(len(rest))].split(options["batch_rows"]):
            optimiser.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(net(x[batch]), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        return net(x[torch.from_numpy(test)])[:, 0].numpy().astype(np.float64)
