"""HierFAVG against the paper's pseudocode in plain Python, a closed form, and FedAvg where both are the same."""

from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.codec import encoded_size
from hanse.core.errors import ConfigError, JobFailed
from hanse.core.seeds import generator
from hanse.core.spec import RunSpec
from hanse.rounds.report.measures import format_bytes
from hanse.strategies.groups import Groups, is_within, of_members, within

GROUPS = {"north": ["a", "b", "c"], "south": ["d"], "west": ["e", "f"]}
SITES = [name for members in GROUPS.values() for name in members]
CENTRES = {name: generator(place).normal(size=3).tolist() for place, name in enumerate(SITES)}
CURVATURE = {name: 0.5 + place / 4 for place, name in enumerate(SITES)}
EXAMPLES = {name: 3 + 2 * place for place, name in enumerate(SITES)}
LR, STEPS = 0.1, 3


def app_of(
    edge_rounds: int, curvature: Any = CURVATURE, noise: float = 0.0, dtype: Any = np.float64, **options: Any
) -> hs.App:
    groups = hs.Groups(edge_rounds, options.pop("edge_strategy", hs.FedAvg()), options.pop("edge_quorum", None))
    app = hs.App(options.pop("strategy", None), initial={"w": np.zeros(3, dtype)}, seed=9, groups=groups, **options)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        w = arrays["w"].astype(np.float64)
        for _ in range(STEPS):
            w = w - LR * curvature[site.name] * (w - np.array(CENTRES[site.name]))
        site.state["calls"] = site.state.get("calls", 0) + 1
        w = w + noise * site.rng.normal(size=3) * site.state["calls"]
        return {"w": w.astype(dtype)}, EXAMPLES[site.name], {"calls": site.state["calls"], "round": config["round"]}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return EXAMPLES[site.name], {"loss": float(np.square(arrays["w"] - CENTRES[site.name]).sum())}

    return app


def hier_favg(rounds: int, edge_rounds: int) -> list[float]:
    """Liu et al. 2020, Algorithm 1, with κ1 = STEPS and κ2 = edge_rounds."""
    w = [0.0] * 3
    for _ in range(rounds):
        edges = []
        for members in GROUPS.values():
            at_edge = list(w)
            d_edge = sum(EXAMPLES[name] for name in members)
            for _ in range(edge_rounds):
                total = [0.0] * 3
                for name in members:
                    w_i = list(at_edge)
                    for _ in range(STEPS):
                        w_i = [x - LR * CURVATURE[name] * (x - c) for x, c in zip(w_i, CENTRES[name], strict=True)]
                    total = [t + EXAMPLES[name] * x / d_edge for t, x in zip(total, w_i, strict=True)]
                at_edge = total
            edges.append((d_edge, at_edge))
        d = sum(d_edge for d_edge, _ in edges)
        w = [sum(d_edge * x[j] for d_edge, x in edges) / d for j in range(3)]
    return w


@pytest.mark.parametrize("edge_rounds", [1, 2, 5])
@pytest.mark.parametrize("rounds", [1, 4])
def test_hier_favg(rounds: int, edge_rounds: int) -> None:
    result = hs.simulate_hierarchy(app_of(edge_rounds, rounds=rounds), GROUPS, progress=False)
    assert np.allclose(result.arrays["w"], hier_favg(rounds, edge_rounds), rtol=1e-12)
    assert result.sites == tuple(GROUPS)
    last = result.rounds[-1]
    assert last.by_site["north"]["train_examples"] == sum(EXAMPLES[name] for name in GROUPS["north"])
    assert last.metrics["train_calls"] == last.metrics["train_round"] == rounds * edge_rounds
    losses = [EXAMPLES[n] * np.square(result.arrays["w"] - CENTRES[n]).sum() for n in SITES]
    assert last.metrics["loss"] == pytest.approx(sum(losses) / sum(EXAMPLES.values()))


def test_what_went_within_the_groups_is_told(tmp_path: Any) -> None:
    """Every member gets a model and gives an update, 2 x 3 times; the server, and so a mean, sees none of it."""
    result = hs.simulate_hierarchy(app_of(3, rounds=2), GROUPS, progress=False)
    size = encoded_size(result.arrays.layout)
    for record in result.rounds:
        within = {group: record.by_site[group]["train_group_bytes"] for group in GROUPS}
        assert within == {group: 3 * 2 * size * len(members) for group, members in GROUPS.items()}
        assert record.group_bytes == 3 * 2 * size * len(SITES)
        assert not [name for name in record.metrics if "group" in name]
    page = result.report(tmp_path / "report.html").read_text()
    assert f"within the groups {format_bytes(2 * 3 * 2 * size * len(SITES))}" in page


def test_closed_form_where_all_curve_alike() -> None:
    """Every round of every group is w ← ρ w + (1 − ρ) c̄_ℓ, so after T server rounds w = (1 − ρ^(κ2 T)) c̄."""
    alike = dict.fromkeys(SITES, 1.0)
    result = hs.simulate_hierarchy(app_of(4, alike, rounds=3), GROUPS, progress=False)
    total = sum(EXAMPLES.values())
    mean = sum(EXAMPLES[name] / total * np.array(CENTRES[name]) for name in SITES)
    rho = (1 - LR) ** STEPS
    assert np.allclose(result.arrays["w"], (1 - rho ** (4 * 3)) * mean, rtol=1e-12)


def test_one_group_is_fedavg_of_all_rounds_bit_for_bit() -> None:
    """The same members, states, streams and sums; the mean of one update is that update in float32."""
    options: dict[str, Any] = {"noise": 0.1, "dtype": np.float32, "evaluate_every": 0}
    app = app_of(1, rounds=6, **options)
    app.groups = None
    flat = hs.simulate(app, SITES, progress=False)
    grouped = hs.simulate_hierarchy(app_of(3, rounds=2, **options), {"all": SITES}, progress=False)
    assert grouped.arrays == flat.arrays


@pytest.mark.parametrize("codec", [hs.BFloat16(), hs.Int8(8), hs.TopK(0.4)], ids=repr)
def test_both_links_are_compressed(codec: Any) -> None:
    exact = hs.simulate_hierarchy(app_of(2, rounds=12), GROUPS, progress=False).arrays["w"]
    found = hs.simulate_hierarchy(app_of(2, rounds=12, compression=codec), GROUPS, progress=False)
    assert np.abs(found.arrays["w"] - exact).max() < 0.2
    assert (found.arrays["w"] != exact).any()


def test_other_strategies_above_and_below() -> None:
    options: dict[str, Any] = {"strategy": hs.FedAvgM(momentum=0.5), "edge_strategy": hs.FedMedian()}
    result = hs.simulate_hierarchy(app_of(1, rounds=2, **dict(options)), GROUPS, progress=False)
    steps = {}
    for name in SITES:
        rho = (1 - LR * CURVATURE[name]) ** STEPS
        steps[name] = (1 - rho) * np.array(CENTRES[name])
    medians = [np.median([steps[name] for name in members], axis=0) for members in GROUPS.values()]
    counts = [sum(EXAMPLES[name] for name in members) for members in GROUPS.values()]
    first = np.average(medians, axis=0, weights=counts)
    one = hs.simulate_hierarchy(app_of(1, rounds=1, **dict(options)), GROUPS, progress=False)
    assert np.allclose(one.arrays["w"], first)
    assert not np.allclose(result.arrays["w"], first)


def failing(bad: str, edge_quorum: int | None = None) -> hs.App:
    app = app_of(2, rounds=2, quorum=1, evaluate_every=0, edge_quorum=edge_quorum)
    inner = app.client_side.train

    def train(arrays: Any, config: Any, site: Any) -> Any:
        if site.name == bad:
            raise ValueError("data")
        return inner(arrays, config, site)  # type: ignore[misc]

    app.client_side = type(app.client_side)(train=train)
    return app


def test_a_member_that_fails_is_left_out_if_the_quorum_holds() -> None:
    result = hs.simulate_hierarchy(failing("b", 2), {"x": ["a", "b", "c"]}, progress=False)
    assert result.rounds[-1].by_site["x"]["train_examples"] == EXAMPLES["a"] + EXAMPLES["c"]
    assert result.rounds[-1].by_site["x"]["train_group_members"] == 2


def test_a_group_without_its_quorum_fails_by_name() -> None:
    result = hs.simulate_hierarchy(failing("b"), {"x": ["a", "b"], "y": ["c"]}, progress=False)
    record = result.rounds[-1]
    assert record.folded == ("y",)
    assert "expected answers of 2 members, found 1: b: ValueError" in record.failed["x"]
    with pytest.raises(JobFailed, match="expected answers of 1 members, found 0"):
        hs.simulate_hierarchy(failing("c"), {"y": ["c"]}, progress=False)


def test_the_first_model_and_configuration_are_the_members() -> None:
    app = hs.App(rounds=1, groups=hs.Groups(rounds=2))
    app.parameters(lambda site: [np.full(2, 5.0)])
    app.train(lambda arrays, config, site: ([arrays["0"] + config["add"]], 1, {}))
    app.config(lambda round, site: {"add": round * 10.0 + len(site)})
    result = hs.simulate_hierarchy(app, {"g": ["a"], "h": ["bb"]}, progress=False)
    # rounds 1 and 2 of each group: 10 + 20, and the length of the member's name twice; the mean of 2 and 4 is 3
    assert result.arrays["0"].tolist() == [5.0 + 30 + 3] * 2


def test_members_load_their_own_data() -> None:
    app = hs.App(rounds=1, initial=[np.zeros(1)], groups=hs.Groups(rounds=1))
    app.train(lambda arrays, config, site: ([site.load("x")], 1, {}))
    groups = {"g": {"a": {"x": np.ones(1)}, "b": {"x": lambda: np.full(1, 3.0)}}, "h": {"c": {"x": np.full(1, 8.0)}}}
    result = hs.simulate_hierarchy(app, groups, progress=False)
    assert result.arrays["0"].tolist() == [4.0]  # (2 members at 2, one at 8)


@pytest.mark.parametrize(
    ("groups", "options", "words"),
    [
        ({}, {}, "found none in any"),
        ({"g": []}, {}, "found none in g"),
        ({"g": ["a"], "h": ["a"]}, {}, "found a in several"),
        ({"g": ["a"]}, {"rounds": 0}, "groups.rounds: expected a whole number from 1, found 0"),
        ({"g": ["a"], "h": ["b", "c"]}, {"quorum": 2}, "groups.quorum: expected 1 to 1"),
        ({"g": ["a"]}, {"quorum": 0}, "groups.quorum: expected a whole number from 1, found 0"),
        ({"g": ["a"]}, {"strategy": hs.FedAdam()}, "FedAdam keeps a state"),
        ({"g": ["a"]}, {"strategy": hs.FedBuff(2)}, "FedBuff keeps a state between rounds, has no model or waits"),
        ({"g": ["a"]}, {"strategy": hs.Scaffold()}, "Scaffold has a part at the sites"),
        ({"g": ["a"]}, {"strategy": hs.FedAvg}, "expected a built-in one such as hs.FedAvg.., found FedAvg"),
        ({"G!": ["a"]}, {}, "expected 1 to 63 characters"),
    ],
)
def test_what_cannot_be_run_in_groups(groups: Any, options: Any, words: str) -> None:
    def run() -> None:
        app = hs.App(rounds=1, initial=[np.zeros(1)], groups=hs.Groups(**options))
        app.train(lambda arrays, config, site: (arrays, 1, {}))
        hs.simulate_hierarchy(app, groups, progress=False)

    with pytest.raises(ConfigError, match=words):
        run()


@pytest.mark.parametrize("strategy", [hs.Scaffold(), hs.FedBuff(2), hs.IFCA(2)], ids=repr)
def test_what_the_server_cannot_do_with_groups(strategy: Any) -> None:
    with pytest.raises(ConfigError, match="strategy: "):
        hs.App(strategy, groups=hs.Groups())
    with pytest.raises(ConfigError, match="strategy: "):
        hs.App(groups=hs.Groups()).variant(strategy=strategy)


def test_groups_are_plain_data_in_the_job_and_simulated_by_name() -> None:
    app = app_of(3, rounds=4, edge_quorum=2, edge_strategy=hs.FedMedian())
    spec = app.spec()
    assert RunSpec.from_json(spec.to_json()) == spec
    assert Groups.from_json(spec.groups or {}) == app.groups
    assert "groups" not in RunSpec().to_json()  # an older site takes a job without them
    inner = within(spec)
    assert (inner.rounds, inner.strategy, inner.min_sites, inner.quorum) == (12, "fedmedian", 2, 2)
    assert is_within(inner)
    assert not is_within(spec)
    assert of_members(inner).deadline_s == spec.deadline_s
    with pytest.raises(ConfigError, match=r"write hs\.simulate_hierarchy"):
        hs.simulate(app, ["a"])
