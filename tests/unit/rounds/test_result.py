import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.arrays import Arrays
from hanse.core.codec import canonical_json, encode
from hanse.core.errors import CodecError, IntegrityError, NotFoundError
from hanse.core.records import Value
from hanse.rounds.record import RoundRecord, mean_metrics, metric_name, server_metrics, site_metrics
from hanse.rounds.result import Result

RECORD = RoundRecord(
    number=2,
    folded=("b", "a"),
    late=("c",),
    failed={"d": "raised ValueError"},
    metrics={"loss": 0.5, "train_loss": 0.25, "server_auc": math.nan},
    by_site={"a": {"loss": 0.5, "auc": math.nan, "note": "ok", "hits": [1, 2]}, "b": {"loss": math.inf}},
    seconds_by_phase={"train": 1.5, "evaluate": 0.5},
    bytes={"down": 100, "up": 50},
    model="0" * 64,
)
ARRAYS = Arrays({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1.5, dtype=ml_dtypes.bfloat16)})


def result(**changes: object) -> Result:
    values: dict[str, object] = {
        "status": "finished",
        "arrays": ARRAYS,
        "rounds": (RoundRecord(1, metrics={"loss": 0.75}), RECORD),
        "job": "j1",
        "sites": ("a", "b", "c", "d"),
        "seconds": 2.5,
        "fingerprints": {"a": "x"},
        "about": {"app": "demo"},
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def same(one: RoundRecord, other: RoundRecord) -> bool:
    """NaN equals NaN; mappings have no order."""
    return one.to_json() == other.to_json()


class TestMeans:
    def test_weighted_by_examples_and_named_by_phase(self) -> None:
        answers = [(1, {"loss": 1.0}), (3, {"loss": 2.0})]
        assert mean_metrics("evaluate", answers) == {"loss": 1.75}
        assert mean_metrics("train", answers) == {"train_loss": 1.75}
        assert mean_metrics("mask", answers) == {"mask_loss": 1.75}

    def test_a_metric_that_one_site_lacks_is_the_mean_of_the_others(self) -> None:
        assert mean_metrics("evaluate", [(1, {"loss": 1.0, "auc": 0.5}), (9, {"loss": 1.0})])["auc"] == 0.5

    def test_where_nobody_counted_all_weigh_the_same(self) -> None:
        assert mean_metrics("evaluate", [(0, {"loss": 1.0}), (0, {"loss": 2.0})]) == {"loss": 1.5}

    def test_nan_is_undefined_there_and_infinity_counts(self) -> None:
        found = mean_metrics("evaluate", [(5, {"auc": math.nan, "loss": math.inf}), (1, {"auc": 0.5, "loss": 1.0})])
        assert found == {"auc": 0.5, "loss": math.inf}
        assert math.isnan(mean_metrics("evaluate", [(5, {"auc": math.nan})])["auc"])
        assert math.isnan(mean_metrics("evaluate", [(1, {"x": math.inf}), (1, {"x": -math.inf})])["x"])

    def test_beyond_float64(self) -> None:
        assert mean_metrics("evaluate", [(10**15, {"x": 1e300}), (10**15, {"x": 1e300})])["x"] == math.inf

    def test_only_numbers_are_averaged(self) -> None:
        metrics: dict[str, Value] = {"n": 2, "flag": True, "word": "x", "raw": b"x", "many": [1.0]}
        assert mean_metrics("evaluate", [(1, metrics)]) == {"n": 2.0}
        assert site_metrics("train", metrics) == {
            "train_n": 2, "train_flag": True, "train_word": "x", "train_many": [1.0],
        }  # fmt: skip
        assert server_metrics(metrics) == {"server_n": 2.0}

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e12, 1e12)), min_size=1, max_size=8), st.randoms())
    def test_order_of_sites_changes_no_bit(self, pairs: list[tuple[int, float]], random: object) -> None:
        answers = [(count, {"loss": value}) for count, value in pairs]
        mixed = list(answers)
        random.shuffle(mixed)  # type: ignore[attr-defined]
        assert repr(mean_metrics("evaluate", answers)) == repr(mean_metrics("evaluate", mixed))

    def test_names(self) -> None:
        assert [metric_name(phase, "loss") for phase in ("evaluate", "train", "query")] == [
            "loss", "train_loss", "query_loss",
        ]  # fmt: skip


class TestRoundRecord:
    def test_there_and_back_as_canonical_json(self) -> None:
        again = RoundRecord.from_json(json.loads(canonical_json(RECORD.to_json())))
        assert same(again, RECORD)
        assert again.seconds == 2.0

    def test_a_later_version_may_say_more(self) -> None:
        assert RoundRecord.from_json({"number": 1, "weather": "fair"}) == RoundRecord(1)

    @pytest.mark.parametrize(
        "value",
        [
            None,
            [],
            {},
            {"number": True},
            {"number": "1"},
            {"number": 1, "folded": "abc"},
            {"number": 1, "folded": [1]},
            {"number": 1, "failed": []},
            {"number": 1, "failed": {"a": 1}},
            {"number": 1, "metrics": {"loss": "low"}},
            {"number": 1, "metrics": {"loss": 10**400}},
            {"number": 1, "metrics": {"loss": True}},
            {"number": 1, "by_site": {"a": 1}},
            {"number": 1, "by_site": {"a": {"m": {}}}},
            {"number": 1, "bytes": {"up": 1.5}},
            {"number": 1, "model": 1},
        ],
    )
    def test_anything_else_is_refused_by_name(self, value: object) -> None:
        with pytest.raises(CodecError, match="round record"):
            RoundRecord.from_json(value)


class TestResult:
    def test_metrics_are_the_last_rounds(self) -> None:
        assert result().metrics["loss"] == 0.5
        assert result(rounds=()).metrics == {}
        assert result().ok
        assert not result(status="failed").ok

    def test_save_and_load(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "model.safetensors"
        assert result().save(path) == path
        again = Result.load(str(path))
        assert again.to_json() == result().to_json()
        assert type(again.rounds[1].by_site["a"]["auc"]) is float
        assert again.arrays == ARRAYS
        assert sorted(file.name for file in path.parent.iterdir()) == ["model.safetensors", "model.safetensors.json"]

    def test_the_model_file_is_canonical_and_any_reader_opens_it(self, tmp_path: Path) -> None:
        path = result(arrays=Arrays({"w": np.ones((2, 2), np.float32)})).save(tmp_path / "m.safetensors")
        assert path.read_bytes() == encode(Arrays({"w": np.ones((2, 2), np.float32)}))
        np.testing.assert_array_equal(safetensors.numpy.load_file(path)["w"], np.ones((2, 2)))

    def test_without_a_model(self, tmp_path: Path) -> None:
        failed = Result("failed", error="no site")
        assert Result.load(failed.save(tmp_path / "m")) == failed

    def test_saving_again_replaces(self, tmp_path: Path) -> None:
        path = result().save(tmp_path / "m")
        result(job="j2").save(path)
        assert Result.load(path).job == "j2"

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="nothing is not there"):
            Result.load(tmp_path / "nothing")
        path = result().save(tmp_path / "m")
        (tmp_path / "m.json").unlink()
        with pytest.raises(NotFoundError, match=r"m\.json is not there"):
            Result.load(path)

    def test_damage_is_noticed(self, tmp_path: Path) -> None:
        path = result().save(tmp_path / "m")
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="is not the model"):
            Result.load(path)
        path.write_bytes(good[:-1])
        with pytest.raises(CodecError):
            Result.load(path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"v": 2}', "\x80", "[" * 100_000])
    def test_a_broken_record_is_refused(self, tmp_path: Path, text: str) -> None:
        path = result().save(tmp_path / "m")
        (tmp_path / "m.json").write_text(text, encoding="latin-1")
        with pytest.raises(CodecError, match=r"m\.json"):
            Result.load(path)

    def test_a_pickle_is_refused(self, tmp_path: Path) -> None:
        path = result().save(tmp_path / "m")
        path.write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n." + b" " * 64)
        with pytest.raises(CodecError):
            Result.load(path)

    def test_rows(self) -> None:
        rows = result().to_rows()
        assert [(row["round"], row["level"], row["site"], row["fate"]) for row in rows] == [
            (1, "round", "all", ""),
            (2, "site", "a", "folded"),
            (2, "site", "b", "folded"),
            (2, "site", "c", "late"),
            (2, "site", "d", "failed"),
            (2, "round", "all", ""),
        ]
        assert rows[4]["reason"] == "raised ValueError"
        assert rows[1]["loss"] == 0.5
        assert rows[-1] | {"server_auc": 0} == {
            "round": 2, "level": "round", "site": "all", "fate": "", "reason": "", "num_folded": 2, "seconds": 2.0,
            "seconds_train": 1.5, "seconds_evaluate": 0.5, "bytes_down": 100, "bytes_up": 50,
            "loss": 0.5, "train_loss": 0.25, "server_auc": 0,
        }  # fmt: skip

    def test_a_metric_cannot_hide_a_column(self) -> None:
        record = RoundRecord(1, folded=("a",), by_site={"a": {"site": 7, "round": 9}})
        (row, _) = result(rounds=(record,)).to_rows()
        assert (row["site"], row["round"], row["metric_site"], row["metric_round"]) == ("a", 1, 7, 9)

    def test_report_is_written(self, tmp_path: Path) -> None:
        page = result().report(tmp_path / "report.html")
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_a_notebook_shows_is_a_line_whatever_the_number_of_sites() -> None:
    sites = tuple(f"site-{number}" for number in range(10_000))
    record = RoundRecord(3, folded=sites, failed={"x": "lost"}, metrics={"loss": 1 / 3})
    many = Result("failed", ARRAYS, (record,), error="too few", sites=sites, fingerprints=dict.fromkeys(sites, "f"))
    assert repr(record) == "RoundRecord(3, 10000 folded, 0 late, 1 failed, metrics={loss: 0.3333})"
    assert repr(many).startswith("Result(failed, 1 rounds, 10000 sites, metrics={loss: 0.3333}, Arrays(w float32")
    assert repr(many).endswith("error='too few')")
