"""An app without a server: the same client side, against the same app with one."""

from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError, JobFailed
from hanse.peer.graph import from_edges, metropolis_hastings

TARGETS = {f"s{k}": np.random.default_rng(k).normal(size=6) for k in range(5)}


def app_of(dtype: Any = np.float64, **options: Any) -> hs.App:
    options.setdefault("initial", {"w": np.zeros((2, 3), dtype), "n": np.zeros(2, np.int64), "b": np.zeros(1, dtype)})
    app = hs.App(seed=5, **options)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        site.state["tasks"] = site.state.get("tasks", 0) + 1
        noise = site.rng.normal(0, 0.1, (2, 3))
        w = arrays["w"] + 0.3 * (site.load("target").reshape(2, 3) + noise - arrays["w"])
        new = {"w": w.astype(dtype), "n": arrays["n"] + 1, "b": arrays["b"] + 1}
        return new, 1 + len(site.name), {"tasks": site.state["tasks"], "lr": config.get("lr", 0.0)}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return 4, {"loss": float(np.square(arrays["w"] - site.load("target").reshape(2, 3)).sum())}

    return app


DATA = {name: {"target": target} for name, target in TARGETS.items()}


@pytest.mark.parametrize("topology", [hs.Gossip("complete"), hs.RingAllReduce(), hs.RingAllReduce("equal")], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_where_all_average_with_all_it_is_fedavg(topology: Any, dtype: Any) -> None:
    """Same streams for the same site and round, so noise included; all weigh the same, as all count the same."""
    found = hs.simulate_peers(app_of(dtype, rounds=4), DATA, topology)
    expected = hs.simulate(app_of(dtype, rounds=4), DATA, progress=False)
    ulp = {np.float32: 1e-6, np.float64: 1e-13, np.float16: 4e-3}[dtype]
    for name in ("w", "b"):
        assert np.allclose(found.arrays[name], expected.arrays[name], rtol=ulp, atol=ulp)
    assert found.arrays.layout == expected.arrays.layout
    assert found.arrays["n"].tolist() == [4, 4]
    assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=100 * ulp)
    assert found.metrics["train_tasks"] == 4
    assert found.metrics["disagreement"] < 1e-2 if dtype == np.float16 else found.metrics["disagreement"] < 10 * ulp


@pytest.mark.parametrize("codec", [hs.Int8(), hs.BFloat16(), hs.TopK(0.3), hs.RandomK(0.3)], ids=repr)
def test_compressed_gossip_comes_to_what_gossip_does_with_fewer_bytes(codec: Any) -> None:
    targets = {name: np.random.default_rng(k).normal(size=3000) for k, name in enumerate(DATA)}

    def run(**options: Any) -> Any:
        app = hs.App(rounds=40, initial={"w": np.zeros(3000, np.float32)}, evaluate_every=0, **options)

        @app.train
        def train(arrays: Any, config: Any, site: Any) -> Any:
            lr = 0.5 * 0.85**site.round
            return {"w": (arrays["w"] + lr * (targets[site.name] - arrays["w"])).astype(np.float32)}, 1, {}

        return hs.simulate_peers(app, list(DATA), hs.Gossip("ring"))

    plain, packed = run(), run(compression=codec)
    assert np.linalg.norm(packed.arrays["w"] - plain.arrays["w"]) < 0.1 * np.linalg.norm(plain.arrays["w"])
    assert packed.metrics["disagreement"] < 0.2 * np.linalg.norm(plain.arrays["w"])
    before, after = (result.rounds[0].bytes for result in (plain, packed))
    assert after["saved"] == pytest.approx(before["up"] - after["up"], abs=10 * 300)  # headers on ten links
    assert after["up"] < 0.65 * before["up"]
    assert run(compression=codec).arrays["w"].tobytes() == packed.arrays["w"].tobytes()


def test_a_record_tells_of_every_peer() -> None:
    result = hs.simulate_peers(app_of(rounds=3, evaluate_every=2), DATA, hs.Gossip("ring"))
    assert [record.number for record in result.rounds] == [1, 2, 3]
    assert result.rounds[0].folded == tuple(DATA)
    assert "loss" in result.rounds[1].metrics
    assert "loss" not in result.rounds[0].metrics
    assert result.rounds[2].by_site["s3"]["train_tasks"] == 3
    distances = [np.linalg.norm([result.models[s]["w"] - result.arrays["w"] for s in DATA]) / np.sqrt(len(DATA))]
    assert result.rounds[2].metrics["disagreement"] == pytest.approx(distances[0])
    assert result.rounds[2].bytes["up"] > 5 * 2 * 8 * 7
    assert set(result.models) == set(DATA)
    assert result.result.report  # a run's result as any


def test_rounds_are_told_while_they_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then draws as on a terminal
    events: list[dict[str, Any]] = []
    result = hs.simulate_peers(app_of(rounds=2), DATA, hs.RingAllReduce(), progress=True, observer=events.append)
    phases = ["phase", *["reply"] * 5, "round"]
    assert [event["what"] for event in events] == [*phases, *phases, "finished"]
    assert [event["record"] for event in events if event["what"] == "round"] == [r.to_json() for r in result.rounds]
    assert {event["site"] for event in events if event["what"] == "reply"} == set(DATA)
    assert "2/2" in capsys.readouterr().err


def test_a_given_graph_and_matrix() -> None:
    edges = [("s0", "s1"), ("s1", "s2"), ("s2", "s3"), ("s3", "s4")]
    mixing = metropolis_hastings(from_edges(DATA, edges))
    by_edges = hs.simulate_peers(app_of(rounds=3), DATA, hs.Gossip(edges))
    by_matrix = hs.simulate_peers(app_of(rounds=3), DATA, hs.Gossip(from_edges(DATA, edges), mixing=mixing))
    assert by_edges.models == by_matrix.models
    other = hs.simulate_peers(app_of(rounds=3), DATA, hs.Gossip("ring"))
    assert other.models != by_edges.models


def test_cyclic_and_config_by_round() -> None:
    app = app_of(rounds=2)
    app.config(lambda round, site: {"lr": round / 10})
    result = hs.simulate_peers(app, DATA, hs.Cyclic())
    assert len({model["w"].tobytes() for model in result.models.values()}) == 1
    assert result.arrays["b"].tolist() == [10.0]
    assert result.metrics["train_lr"] == pytest.approx(0.2)


def test_the_first_model_can_be_asked_for() -> None:
    app = hs.App(rounds=1)

    @app.parameters
    def parameters(site: Any) -> Any:
        asked.append(site.name)
        return [np.full(3, 7.0)]

    app.train(lambda arrays, config, site: ([arrays["0"] + 1], 1, {}))
    asked: list[str] = []
    result = hs.simulate_peers(app, ["a", "b", "c"], hs.RingAllReduce())
    assert len(asked) == 1
    assert result.arrays["0"].tolist() == [8.0] * 3


def test_sites_are_given_as_in_any_simulation() -> None:
    population = hs.Population(list(DATA), data=DATA.__getitem__)
    found = [hs.simulate_peers(app_of(rounds=1), sites, hs.RingAllReduce()).arrays for sites in (DATA, population)]
    assert found[0] == found[1]
    bare = hs.App(rounds=2, initial=[np.zeros(1)])
    bare.train(lambda arrays, config, site: ([arrays["0"] + 1], 1, {}))
    assert list(hs.simulate_peers(bare, 3, progress=False).models) == ["site-0", "site-1", "site-2"]


def test_a_peer_that_fails_is_named() -> None:
    app = hs.App(rounds=3, initial=[np.zeros(2)])

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        if site.name == "b" and config["round"] == 2:
            raise ValueError("data")
        return [arrays["0"] + 1], 1, {}

    with pytest.raises(JobFailed, match=r"peer b, round 2, train: raised: ValueError") as caught:
        hs.simulate_peers(app, ["a", "b", "c"])
    assert caught.value.result.status == "failed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": hs.FedAdam(server_lr=0.1)}, "expected no strategy, since there is no server, found fedadam"),
        ({"sample": 0.5}, "found sample, which needs a server"),
        ({"stop": hs.EarlyStop("loss")}, "found stop"),
        ({"initial": [np.zeros(3, np.int64)]}, "at least one array of floats"),
    ],
)
def test_settings_that_need_a_server_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        hs.simulate_peers(app_of(**options), DATA)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hs.Gossip("star"), "ring, complete, random or edges, found 'star'"),
        (lambda: hs.Gossip(mix="never"), "after or before"),
        (lambda: hs.Gossip(gamma=0), "gamma: expected a number above 0, at most 1, found 0"),
        (lambda: hs.Gossip(gamma="much"), "gamma"),
        (lambda: hs.simulate_peers(app_of(compression=hs.Int8()), DATA, hs.RingAllReduce()), "found compression"),
        (lambda: hs.simulate_peers(app_of(compression=hs.Int8()), DATA, hs.Gossip(mix="before")), "found compression"),
        (lambda: hs.RingAllReduce("size"), "examples or equal"),
        (lambda: hs.simulate_peers(app_of(), ["a"]), "two peers at least, found 1"),
        (lambda: hs.simulate_peers(app_of(), "ab"), "sites: expected a mapping"),
        (lambda: hs.simulate_peers(app_of(), ["a", "b", "a"]), "distinct names, found 'a' twice"),
        (lambda: hs.simulate_peers(app_of(), DATA, hs.Gossip("random", degree=7)), "there is none"),
        (lambda: hs.simulate_peers(app_of(), DATA, hs.Gossip([("s0", "s1")])), "cut off: s2, s3, s4"),
        (lambda: hs.simulate_peers(app_of(), DATA, hs.Gossip(from_edges("ab", [("a", "b")]))), "expected the 5 sites"),
        (lambda: hs.simulate_peers(app_of(), DATA, hs.Gossip(mixing={"s0": {"s0": 1.0}})), "mixing: expected"),
    ],
)
def test_what_is_no_topology(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
