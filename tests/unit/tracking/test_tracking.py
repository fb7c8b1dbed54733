"""Tracking: every run and number is there, in order and once, whatever the backend does; training never waits."""

import json
import math
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.clients.loader import find_app
from hanse.core.errors import ConfigError, MissingExtraError, RefusedError, StorageError
from hanse.tracking import tracker_from
from hanse.tracking.events import Recorder
from hanse.tracking.outbox import KEPT_MS, Outbox
from hanse.tracking.records import Metric, Record, Run, begin, end, of_reply, of_round
from hanse.tracking.tensorboard import crc32c
from hanse.tracking.tracker import Tracking
from tests.patience import WAIT_S

RUN = Run("demo", "job1", "aggregator")


def an_app(tracking: Any) -> hs.App:
    app = hs.App(rounds=3, initial=[np.zeros(2)], tracking=tracking)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + 1], 5, {"loss": 1.0 / config["round"], "optimizer": "sgd", "steps": [3.0, 2.0]}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return 7, {"accuracy": 0.25 * config["round"], "auc": math.nan}

    return app


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HANSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_simulation_writes_a_run_for_each_site_and_one_for_the_aggregator(tmp_path: Path) -> None:
    tracker = hs.tracking.File(str(tmp_path / "runs"), prefix="demo", params={"optimizer": "sgd"})
    result = hs.simulate(an_app(tracker), ["bergen", "luebeck"], progress=False)
    files = sorted((tmp_path / "runs" / "demo").glob("*.jsonl"))
    job = result.job or files[0].name.split("-")[1]
    assert [file.name for file in files] == [f"demo-{job}-{who}.jsonl" for who in ("aggregator", "bergen", "luebeck")]

    whole = read(files[0])
    assert [row["kind"] for row in whole] == ["begin", "metrics", "metrics", "metrics", "end"]
    assert whole[0]["params"]["strategy"] == "fedavg"
    assert whole[0]["params"]["optimizer"] == "sgd"
    assert whole[0]["params"]["rounds"] == 3
    assert whole[0]["params"]["role"] == "aggregator"
    for record, row in zip(result.rounds, whole[1:4], strict=True):
        told = {name: float(value) for name, value, step in row["metrics"] if step == record.number}
        assert {name: told[name] for name in record.metrics if name != "auc"} == {
            name: value for name, value in record.metrics.items() if name != "auc"
        }
        assert math.isnan(told["auc"])
        assert told["site/bergen/accuracy"] == record.by_site["bergen"]["accuracy"]
    assert whole[-1]["status"] == "finished"

    site = read(files[1])
    assert site[0]["params"]["site"] == "bergen"
    assert site[-1]["status"] == "finished"
    steps = [(step, value) for row in site for name, value, step in row["metrics"] if name == "train_steps"]
    assert steps == [(1, 3.0), (2, 2.0), (3, 3.0), (4, 2.0), (5, 3.0), (6, 2.0)]
    assert [value for row in site for name, value, _ in row["metrics"] if name == "accuracy"] == [0.25, 0.5, 0.75]
    assert {value for row in site for name, value, _ in row["metrics"] if name == "train_num_examples"} == {5.0}


@dataclass(frozen=True)
class Down:
    """A backend that is not there, until `up` is set; then it is a list that refuses some keys."""

    up: threading.Event
    stored: list[Record]
    prefix: str = "demo"
    params: dict[str, Any] = field(default_factory=dict)
    place: str = "down"
    never: tuple[str, ...] = ()

    def open(self) -> "Down":
        return self

    def deliver(self, records: Sequence[Record]) -> None:
        if not self.up.is_set():
            raise ConnectionError("nobody there")
        if any(record.key in self.never for record in records):
            raise RefusedError("no")
        self.stored.extend(records)

    def close(self) -> None:
        pass


STEPS = """
import numpy as np
import hanse as hs

app = hs.App(rounds=2, initial=[np.zeros(1)])

@app.train
def train(arrays, config, site):
    for step in range(2):
        site.track(step=2 * (site.round - 1) + step, batch_loss=1 / (1 + step), note=f"step {step}")
    site.track(local_epochs=3)
    return [arrays["0"] + 1], 1, {}
"""


@pytest.mark.parametrize("engine", ["sequential", "replicas"])
def test_what_a_site_tracks_is_in_its_own_run_by_round_and_step(tmp_path: Path, engine: Any) -> None:
    (tmp_path / "app.py").write_text(STEPS)
    app = find_app(str(tmp_path / "app.py"))
    assert isinstance(app, hs.App)
    app.tracking = hs.tracking.File(str(tmp_path))
    hs.simulate(app, sites=["a", "b"], progress=False, engine=engine)
    for site in ("a", "b"):
        (path,) = tmp_path.rglob(f"*-{site}.jsonl")
        rows = [row for row in read(path) if row["key"].startswith("tracked/")]
        assert [row["key"] for row in rows] == ["tracked/1/train/1", "tracked/2/train/1"]
        for number, row in enumerate(rows, 1):
            first = 2 * (number - 1)
            assert row["params"] == {"note": "step 1"}
            assert row["metrics"] == [
                ["round", number, first],
                ["batch_loss", 1.0, first],
                ["round", number, first + 1],
                ["batch_loss", 0.5, first + 1],
                ["local_epochs", 3.0, number],
            ]
    (whole,) = tmp_path.rglob("*-aggregator.jsonl")
    assert "batch_loss" not in whole.read_text(), "the aggregator is told nothing of it"


def test_what_is_down_stops_nothing_and_has_everything_later_in_order_and_once(tmp_path: Path) -> None:
    up, stored, said = threading.Event(), [], list[str]()
    now = time.time_ns() // 1_000_000
    rounds = [of_round(RUN, now, {"number": number}) for number in range(1, 40)]
    rows = [begin(RUN, now, {}), *rounds, end(RUN, now, "finished")]
    first = Tracking(Down(up, stored), tmp_path / "t.db", say=said.append)
    for row in rows[:30]:
        first.add([row])
    assert first.close(WAIT_S) == 30
    assert not stored
    assert "nobody there" in said[0]
    assert "30 records wait" in said[-1]
    assert len(said) == 2, "the same failure is said once"

    up.set()
    second = Tracking(Down(up, stored), tmp_path / "t.db", say=said.append)
    for row in [*rows[20:], *rows]:  # told again
        second.add([row])
    assert second.close(WAIT_S) == 0
    assert [record.key for record in stored] == [row.key for row in rows]
    third = Tracking(Down(up, stored), tmp_path / "t.db", say=said.append)
    third.add(rows)
    assert third.close(WAIT_S) == 0
    assert len(stored) == len(rows)


class Once(Down):
    """Comes up when it has failed once."""

    def deliver(self, records: Sequence[Record]) -> None:
        try:
            super().deliver(records)
        finally:
            self.up.set()


def test_a_failure_at_the_very_end_is_tried_once_more(tmp_path: Path) -> None:
    stored: list[Record] = []
    tracking = Tracking(Once(threading.Event(), stored), tmp_path / "t.db", say=lambda _: None)
    tracking.add([begin(RUN, 0, {})])
    assert tracking.close(WAIT_S) == 0
    assert [record.kind for record in stored] == ["begin"]


def test_a_client_that_is_still_being_loaded_is_waited_for(tmp_path: Path) -> None:
    opening, loaded = threading.Event(), threading.Event()

    class Heavy(Down):
        def open(self) -> Down:
            opening.set()
            loaded.wait()
            return self

    up, stored = threading.Event(), list[Record]()
    up.set()
    tracking = Tracking(Heavy(up, stored), tmp_path / "t.db", say=lambda _: None)
    tracking.add([begin(RUN, 0, {})])
    opening.wait()
    closing = threading.Thread(target=tracking.close, args=(0.001,))
    closing.start()
    closing.join(0.2)
    assert closing.is_alive(), "much longer than for a backend that takes nothing"
    loaded.set()
    closing.join()
    assert tracking._thread is not None
    tracking._thread.join()
    assert [record.kind for record in stored] == ["begin"]


def test_a_backend_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    hangs, said = threading.Event(), list[str]()

    class Hanging(Down):
        def deliver(self, records: Sequence[Record]) -> None:
            hangs.wait()

    tracking = Tracking(Hanging(threading.Event(), []), tmp_path / "t.db", say=said.append)
    tracking.add([begin(RUN, 0, {})])
    assert tracking.close(0.05) == 1
    assert "1 records wait" in said[-1]
    hangs.set()


def test_a_record_that_is_never_taken_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    up, stored, said = threading.Event(), list[Record](), list[str]()
    up.set()
    tracking = Tracking(Down(up, stored, never=("round/2",)), tmp_path / "t.db", say=said.append)
    tracking.add([of_round(RUN, 2, {"number": n}) for n in range(1, 5)])
    assert tracking.close(WAIT_S) == 0
    assert [record.key for record in stored] == ["round/1", "round/3", "round/4"]
    assert any("round/2 is refused" in line for line in said)


def test_a_buffer_that_cannot_be_written_is_said_and_nothing_else_happens(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    tracking = Tracking(hs.tracking.File(str(tmp_path / "runs")), tmp_path / "file" / "t.db", say=said.append)
    tracking.add([begin(RUN, 1, {})])
    assert tracking.close() == 0
    assert "nothing is tracked" in said[0]


def test_a_simulation_with_a_tracker_that_is_down_gives_the_same_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], cache: Path
) -> None:
    (tmp_path / "taken").write_text("not a folder")
    there = hs.simulate(an_app(None), ["a", "b"], progress=False)
    down = hs.simulate(an_app(hs.tracking.File(str(tmp_path / "taken"))), ["a", "b"], progress=False)
    assert down.arrays["0"].tobytes() == there.arrays["0"].tobytes()
    assert "delivered the next time" in capfd.readouterr().err
    (tmp_path / "taken").unlink()
    hs.simulate(an_app(hs.tracking.File(str(tmp_path / "taken"))), ["a", "b"], progress=False)
    assert len(list((tmp_path / "taken" / "hanse").glob("*.jsonl"))) == 6, "the earlier run is delivered, too"


plain = (
    st.text(max_size=20)
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text(max_size=10), plain, max_size=5),
    st.lists(st.tuples(st.text(max_size=8), st.floats(), st.integers(0, 10**9)), max_size=6),
)
def test_a_record_is_read_as_it_was_written(params: dict[str, Any], metrics: list[tuple[str, float, int]]) -> None:
    record = Record(RUN, "metrics", "k", 5, params, tuple(Metric(*metric) for metric in metrics))
    again = Record.from_json(record.to_json())
    assert (again.run, again.kind, again.key, again.at_ms) == (RUN, "metrics", "k", 5)
    assert [(m.name, struct.pack("<d", m.value), m.step) for m in again.metrics] == [
        (name, struct.pack("<d", math.nan if math.isnan(value) else value), step) for name, value, step in metrics
    ]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=40), st.lists(st.booleans(), max_size=40))
def test_the_outbox_keeps_each_key_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], restarts: list[bool]
) -> None:
    path, got = tmp_path_factory.mktemp("outbox") / "t.db", list[str]()
    outbox = Outbox(path, "p")
    for at, key in enumerate(keys):
        outbox.add([Record(RUN, "metrics", str(key), at)])
        if at < len(restarts) and restarts[at]:
            batch = outbox.waiting(2)
            got += [record.key for _, record in batch]
            outbox.delivered([number for number, _ in batch], 10)
            outbox.close()
            outbox = Outbox(path, "p")
    got += [record.key for _, record in outbox.waiting()]
    outbox.close()
    assert got == list(dict.fromkeys(map(str, keys)))


def test_a_backend_that_takes_nothing_fills_no_disk(tmp_path: Path) -> None:
    path, said = tmp_path / "b.db", 0
    outbox = Outbox(path, "away", max_bytes=256 * 1024)
    for number in range(400):
        try:
            outbox.add([Record(RUN, "metrics", f"round/{number}", 1, {"note": "x" * 2000})])
        except StorageError:
            said += 1
    assert 0 < said < 400
    assert path.stat().st_size <= 256 * 1024
    outbox.delivered([number for number, _ in outbox.waiting(400)], 2)
    assert outbox.add([Record(RUN, "metrics", "round/last", 1)]) == 1
    outbox.close()


def test_what_was_refused_is_forgotten_in_time(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "b.db", "there")
    outbox.add([Record(RUN, "metrics", f"round/{number}", 1) for number in range(3)])
    for number, _ in outbox.waiting()[:2]:
        outbox.refuse(number, "never")
    outbox.delivered([number for number, _ in outbox.waiting()], KEPT_MS + 2)
    assert not outbox.knows(RUN)
    outbox.close()


def test_a_buffer_that_breaks_stops_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    tracking = Tracking(hs.tracking.File(str(tmp_path / "runs")), tmp_path / "b.db", say=said.append)
    assert tracking._outbox is not None
    tracking._outbox._db.execute("DROP TABLE records")
    tracking.add_if_begun(end(RUN, 1, "finished"))
    tracking.add([begin(RUN, 1, {})])
    assert tracking.close() == 0
    assert all("tracking buffer" in line for line in said)
    assert said


def test_two_places_share_a_file_and_do_not_mix(tmp_path: Path) -> None:
    one, other = Outbox(tmp_path / "t.db", "one"), Outbox(tmp_path / "t.db", "other")
    one.add([begin(RUN, 1, {})])
    assert len(one) == 1
    assert len(other) == 0
    assert one.take_turn()
    assert not other.take_turn(), "only one delivers"
    one.close()
    assert other.take_turn()
    other.close()


def test_many_virtual_sites_have_no_runs_of_their_own() -> None:
    recorder = Recorder(hs.tracking.File(), {}, [f"s{n}" for n in range(100)])
    reply = {"what": "reply", "job": "j", "site": "s1", "error": "", "round": 1, "phase": "train"}
    assert recorder.take({**reply, "metrics": {}, "num_examples": 1, "seconds": 0.0}) == []
    (_, row) = recorder.take({"what": "round", "job": "j", "record": {"number": 1, "by_site": {"s1": {"loss": 1.0}}}})
    assert not [metric for metric in row.metrics if metric.name.startswith("site/")]


def test_what_a_site_is_told_is_in_its_run() -> None:
    row = of_reply(
        RUN,
        1,
        key="k",
        round_=3,
        phase="train",
        metrics={},
        num_examples=2,
        seconds=1.5,
        config={"lr": 0.1, "round": 3},
    )
    assert {metric.name: metric.value for metric in row.metrics} == {
        "config/lr": 0.1,
        "train_num_examples": 2,
        "seconds/train": 1.5,
    }


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"kind": "wandb"}, "kind: expected one of file, mlflow, tensorboard, sagemaker; found 'wandb'"),
        ({"kind": "mlflow"}, "expected uri"),
        ({"kind": "mlflow", "uri": "https://ada:secret@mlflow.example"}, "an address without a name or password"),
        ({"kind": "file", "token": "x"}, "'token' is not a setting"),
        ({"kind": "file", "prefix": "a/b"}, "prefix: expected 1 to 48 letters"),
        ({"kind": "file", "params": {"a": [1]}}, "expected names with texts or numbers, found list"),
        ("mlflow", "expected a mapping"),
    ],
)
def test_a_wrong_declaration_is_one_line(value: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tracker_from(value, "site.yaml, line 7: tracking")
    assert "secret" not in str(caught.value)
    assert named in str(caught.value)
    assert str(caught.value).startswith("site.yaml, line 7: tracking")
    assert "\n" not in str(caught.value)


def test_an_app_takes_a_tracker_and_nothing_else() -> None:
    with pytest.raises(ConfigError, match=r"tracking: expected hs.tracking.MLflow"):
        hs.App(tracking="http://localhost:5000")  # type: ignore[arg-type]
    spec = an_app(hs.tracking.MLflow("http://somewhere")).spec()
    assert "somewhere" not in json.dumps(spec.to_json()), "the wish does not travel in the job"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.tracking.mlflow.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"hanse\[mlflow\]"):
        hs.tracking.MLflow("http://x").open()


# ---- TensorBoard ----


def test_crc32c_is_that_of_rfc_3720() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


def test_event_files_are_replaced_and_not_repeated(tmp_path: Path) -> None:
    sink = hs.tracking.TensorBoard(str(tmp_path)).open()
    rows = [begin(RUN, 1000, {"lr": 0.1}), of_round(RUN, 2000, {"number": 1, "metrics": {"loss": 0.5}})]
    sink.deliver(rows)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("events*")}
    sink.deliver(rows)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("events*")} == before
    sink.deliver([of_round(RUN, 3000, {"number": 2})])
    assert len(list(tmp_path.rglob("events*"))) == 2


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard's own reader is not installed")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = hs.tracking.TensorBoard(str(tmp_path)).open()
    values = [0.5, 1e-30, math.inf, math.nan, -2.0]
    rows = [
        of_round(RUN, 1000 * n, {"number": n, "metrics": {"loss": v if math.isfinite(v) else str(v)}})
        for n, v in enumerate(values, 1)
    ]
    sink.deliver([begin(RUN, 1000, {"lr": 0.1}), *rows[:2]])
    sink.deliver([*rows[2:], end(RUN, 9000, "finished")])
    (folder,) = (tmp_path / "demo").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    assert "loss" in found.Tags()["scalars"], found.Tags()
    scalars = found.Scalars("loss")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5]
    assert [event.wall_time for event in scalars] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert scalars[0].value == 0.5
    assert scalars[1].value == pytest.approx(1e-30)
    assert math.isnan(scalars[3].value)
    assert b"| lr | 0.1 |" in found.Tensors("parameters")[0].tensor_proto.string_val[0]


# ---- SageMaker Experiments ----


def test_sagemaker_experiments_have_each_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    rows = [
        begin(RUN, 1_700_000_000_000, {"lr": 0.5, "optimizer": "sgd"}),
        of_round(RUN, 1_700_000_001_000, {"number": 1, "metrics": {f"m{n}": float(n) for n in range(25)}}),
        end(RUN, 1_700_000_002_000, "failed"),
    ]
    with moto.mock_aws():
        for _ in range(2):  # another process, to which everything is delivered again
            hs.tracking.SageMaker("eu-central-1").open().deliver(rows)
        client = boto3.client("sagemaker", region_name="eu-central-1")
        (found,) = client.list_trial_components()["TrialComponentSummaries"]
        assert found["TrialComponentName"] == "demo-job1-aggregator"
        assert [t["TrialName"] for t in client.list_trials(ExperimentName="demo")["TrialSummaries"]] == ["demo-job1"]
        about = client.describe_trial_component(TrialComponentName="demo-job1-aggregator")
        assert about["Parameters"] == {"lr": {"NumberValue": 0.5}, "optimizer": {"StringValue": "sgd"}}
        assert about["Status"]["PrimaryStatus"] == "Failed"
        summaries = {metric["MetricName"]: metric for metric in about["Metrics"]}
        assert len([name for name in summaries if name.startswith("m")]) == 25
        assert summaries["m24"]["Max"] == 24.0
