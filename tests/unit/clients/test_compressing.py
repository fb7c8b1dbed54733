"""Compression from the app to the round's record, against a slow reference of error feedback, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.aggregation import ArraySource, decoded
from hanse.clients.compressing import LEFT_OUT, compressed
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, JobFailed, TaskError
from hanse.core.spec import RunSpec

TARGETS = {f"s{k}": [math.sin(7 * k + j) * (j + 1) for j in range(40)] for k in range(5)}
CODECS = [hs.Int8(16), hs.BFloat16(), hs.TopK(0.1), hs.RandomK(0.3)]


def app_of(strategy: Any = None, lr: float = 0.1, dtype: Any = np.float64, **options: Any) -> hs.App:
    app = hs.App(strategy, initial={"w": np.zeros(40, dtype)}, **options)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        w = arrays["w"]
        return {"w": (w + lr * (np.array(TARGETS[site.name]) - w)).astype(dtype)}, 1 + len(site.name), {}

    return app


def run(app: hs.App) -> Any:
    return hs.simulate(app, list(TARGETS), progress=False)


def sparsified_with_memory(rounds: int, fraction: float, lr: float) -> list[float]:
    """Stich et al. 2018, Algorithm 1, a round's delta for each gradient step, in plain Python."""
    size = 40
    w, memory = [0.0] * size, {site: [0.0] * size for site in TARGETS}
    for _ in range(rounds):
        total = [0.0] * size
        for site, target in TARGETS.items():
            wanted = [lr * (t - x) + m for t, x, m in zip(target, w, memory[site], strict=True)]
            best = sorted(range(size), key=lambda i: (-abs(wanted[i]), i))[: math.ceil(fraction * size)]
            for i in best:
                total[i] += wanted[i] / len(TARGETS)
            memory[site] = [0.0 if i in best else value for i, value in enumerate(wanted)]
        w = [a + b for a, b in zip(w, total, strict=True)]
    return w


def test_topk_is_sparsified_sgd_with_memory() -> None:
    found = run(app_of(rounds=30, compression=hs.TopK(0.1))).arrays["w"]
    assert np.allclose(found, sparsified_with_memory(30, 0.1, 0.1), rtol=1e-12, atol=1e-12)


def test_what_is_left_out_is_not_lost() -> None:
    """Without the memory the small coordinates would never be sent."""
    rng = np.random.default_rng(0)
    state: dict[str, Any] = {}
    total, sent_total = np.zeros(50, np.float32), np.zeros(50, np.float32)
    for step in range(40):
        delta = Arrays({"w": (rng.normal(size=50) * np.arange(50)).astype(np.float32), "n": np.array([step])})
        made = compressed(delta, hs.TopK(0.1), state, key=step)
        total += delta["w"]
        sent_total += decoded(ArraySource(made), delta.layout, hs.TopK(0.1)).block(0, 0, 50)
        assert list(state) == [LEFT_OUT + "w"]
        assert np.allclose(total, sent_total + state[LEFT_OUT + "w"], atol=1e-3)
    assert (sent_total != 0).sum() > 25  # a tenth of 50 at a time, and not always the same


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize(
    "strategy",
    [hs.FedAvg(), hs.FedAvgM(), hs.FedAdam(server_lr=0.1), hs.FedMedian(), hs.FedTrimmedMean(), hs.FedKrum(1, keep=3),
     hs.FedNormBound(100.0)],
    ids=lambda strategy: type(strategy).__name__,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_shape_of_strategy_folds_what_was_decoded(strategy: Any, codec: Any, dtype: Any) -> None:
    """The reference is a run without compression whose sites answer base + decoded themselves."""
    if codec.remembers:
        codec = hs.TopK(0.45) if dtype == np.float64 else hs.TopK(0.3)
    result = run(app_of(strategy, dtype=dtype, rounds=1, compression=codec, seed=3))
    sent = sites_would_send(codec, 3, dtype)
    app = hs.App(strategy, rounds=1, initial={"w": np.zeros(40, dtype)})

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return {"w": sent[site.name]}, 1 + len(site.name), {}

    expected = run(app).arrays["w"]
    assert np.allclose(result.arrays["w"], expected, rtol=1e-6 if dtype == np.float32 else 1e-12)
    assert np.abs(expected).max() > 0.01


def test_a_record_says_what_was_saved() -> None:
    app = hs.App(rounds=2, initial=[np.zeros(30_000, np.float32)], compression=hs.Int8(), evaluate_every=0)
    app.train(lambda arrays, config, site: ([arrays["0"] + 1], 1, {}))
    result = hs.simulate(app, ["a", "b"], progress=False)
    for record in result.rounds:
        assert record.bytes["up"] + record.bytes["saved"] == record.bytes["down"] > 240_000
        assert record.bytes["up"] < 61_000
        assert record.moved_bytes == record.bytes["up"] + record.bytes["down"]
    rows = [row for row in result.to_rows() if row["level"] == "round"]
    assert [row["bytes_saved"] for row in rows] == [record.bytes["saved"] for record in result.rounds]
    assert dict(result._facts())["Moved"] == "480.5 kB to the sites, 121.2 kB from them (359.3 kB saved by compression)"


def sites_would_send(codec: Any, seed: int, dtype: Any) -> dict[str, Any]:
    from hanse.core.seeds import key_of

    made = {}
    for site, target in TARGETS.items():
        delta = Arrays({"w": (0.1 * np.array(target)).astype(dtype)})
        key = key_of(seed, round_=1, phase="train", site=site, purpose="compression")
        update = compressed(delta, codec, {}, key)
        made[site] = decoded(ArraySource(update), delta.layout, codec).block(0, 0, 40).astype(dtype)
    return made


class Product(hs.Strategy):
    """A fold of values that must not be given deltas."""

    def reducer(self) -> Any:
        class Multiply:
            def zero(self, n: int) -> Any:
                return np.ones(n)

            def add(self, acc: Any, block: Any, weight: float) -> None:
                acc *= block

            def merge(self, a: Any, b: Any) -> Any:
                a *= b
                return a

            def finish(self, acc: Any, total_weight: float, out: Any) -> None:
                out[:] = acc

        return Multiply()


class Squares(hs.Strategy):
    """An optimiser that wants the mean of values, and is given that of deltas."""

    def update(self, model: Any, reduced: Any, state: Any, scalars: Any) -> Any:
        return reduced * reduced


def test_an_optimiser_of_values_gets_values() -> None:
    app = hs.App(Squares(), rounds=2, initial={"w": np.full(40, 1.5, np.float32)}, compression=hs.BFloat16())
    app.train(lambda arrays, config, site: ({"w": arrays["w"] + np.float32(0.25)}, 1, {}))
    result = hs.simulate(app, ["a", "b"], progress=False)
    assert result.arrays["w"].tolist() == [(1.75**2 + 0.25) ** 2] * 40


class Listed(hs.NumPyStrategy):
    """Every update at once."""

    def aggregate_fit(self, round_: int, results: Any) -> Any:
        assert all(arrays[0].dtype == np.float32 for _, arrays, _ in results)
        return [np.prod([arrays[0] for _, arrays, _ in results], axis=0)]


@pytest.mark.parametrize("strategy", [Product(), Listed()], ids=lambda strategy: type(strategy).__name__)
def test_a_rule_of_values_gets_values(strategy: Any) -> None:
    app = hs.App(strategy, rounds=2, initial={"w": np.full(40, 1.5, np.float32)}, compression=hs.BFloat16())

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return {"w": arrays["w"] + np.float32(0.25)}, 1, {}

    result = hs.simulate(app, ["a", "b"], progress=False)
    assert result.arrays["w"].tolist() == [(1.75**2 + 0.25) ** 2] * 40


def test_initial_parameters_travel_as_they_are() -> None:
    app = hs.App(rounds=1, compression=hs.Int8(8))

    @app.parameters
    def parameters(site: Any) -> Any:
        return {"w": np.linspace(0, 1, 40, dtype=np.float32)}

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert arrays["w"].tolist() == np.linspace(0, 1, 40, dtype=np.float32).tolist()
        return arrays, 1, {}

    assert run(app).arrays["w"].tolist() == np.linspace(0, 1, 40, dtype=np.float32).tolist()


def test_bits_do_not_depend_on_the_number_or_order_of_sites_beside() -> None:
    app = app_of(rounds=2, compression=hs.Int8(8))
    forwards = hs.simulate(app, list(TARGETS), progress=False)
    backwards = hs.simulate(app, list(reversed(TARGETS)), progress=False)
    assert forwards.arrays == backwards.arrays
    other = hs.simulate(app_of(rounds=2, compression=hs.Int8(8), seed=1), list(TARGETS), progress=False)
    assert other.arrays != forwards.arrays


# ---- what is refused ----


def test_a_hostile_site_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from hanse.clients import execute

    honest = execute.compressed

    def hostile(delta: Any, codec: Any, state: Any, key: int) -> Any:
        made = {name: array.copy() for name, array in honest(delta, codec, state, key).items()}
        if calls.append(key) or len(calls) == 2:
            made["place/w"][1] = made["place/w"][0]
        return Arrays(made)

    calls: list[int] = []
    monkeypatch.setattr(execute, "compressed", hostile)
    result = run(app_of(rounds=1, quorum=3, compression=hs.TopK(0.1)))
    record = result.rounds[-1]
    assert len(record.folded) == 4
    ((site, reason),) = record.failed.items()
    assert site not in record.folded
    assert "array 'w' expected strictly increasing places below 40, found one that is repeated" in reason


def test_a_site_that_does_not_compress_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from hanse.clients import execute

    monkeypatch.setattr(execute, "compressed", lambda delta, codec, state, key: delta)
    with pytest.raises(JobFailed, match="compressed with int8: expected 2 arrays, found 1"):
        run(app_of(rounds=1, quorum=1, retries=0, compression=hs.Int8(8)))


def test_values_that_cannot_be_sent_are_the_site_s_failure() -> None:
    app = hs.App(rounds=1, retries=0, initial=[np.zeros(40)], compression=hs.TopK(0.1), allow_nonfinite=True)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + math.nan], 1, {}

    with pytest.raises(JobFailed, match="array '0' has values that are not finite"):
        run(app)
    with pytest.raises(TaskError, match=r"see hs\.App"):
        compressed(Arrays({"0": np.full(40, np.inf)}), hs.Int8(8), {}, 1)


def test_a_failed_task_leaves_the_memory_as_it_was() -> None:
    app = hs.App(rounds=3, retries=3, quorum=1, initial=[np.zeros(40)], compression=hs.TopK(0.1))

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        seen.append(float(np.abs(site.state.get(LEFT_OUT + "0", np.zeros(1))).sum()))
        if config["round"] == 2 and len(seen) == 2:
            return [arrays["0"] + math.nan], 1, {}
        return [arrays["0"] + np.arange(40.0)], 1, {}

    seen: list[float] = []
    hs.simulate(app, ["a"], progress=False)
    assert len(seen) == 4
    assert seen[0] == 0.0
    assert seen[1] == seen[2] > 0  # asked again after the failure: from the state before it


@pytest.mark.parametrize("wrong", ["int8", hs.Int8, {"name": "int8"}, 8])
def test_what_is_no_codec(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"compression: expected hs.Int8\(\)"):
        hs.App(compression=wrong)


def test_a_query_has_nothing_to_compress() -> None:
    app = hs.App(compression=hs.Int8())
    app.query(lambda config, site: {})
    with pytest.raises(ConfigError, match="compression: expected none"):
        app.spec()


def test_spec_is_plain_data() -> None:
    spec = app_of(compression=hs.TopK(0.25)).spec()
    assert spec.compression == {"name": "topk", "fraction": 0.25}
    assert RunSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ConfigError, match=r"run.compression: expected dict, found str"):
        RunSpec.from_json({"compression": "int8"})
