"""What a user calls: training by tables, joint scoring, saved parts, importance and plots."""

import xml.etree.ElementTree as ElementTree
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.party import Party
from hanse.channels.schedule import run_scheduled
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError, ConfigError, RefusedError, UnavailableError
from hanse.vertical import metrics
from hanse.vertical.boosting import scoring
from hanse.vertical.boosting.models import Result
from hanse.vertical.boosting.saved import part_arrays, part_in

MODEL: dict[str, Any] = {"num_trees": 6, "depth": 3, "cipher": "mock", "min_bin_rows": 5}


def people(rows: int = 300, kind: str = "classification") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A guest and two hosts who each know other people, too, in other orders, and not everything of everybody."""
    rng = np.random.default_rng(0)
    ids = np.array([f"p{at}" for at in range(rows)])
    x = rng.standard_normal((rows, 5))
    z = x @ [1.0, -2.0, 1.0, 0.5, 0.0] + np.abs(x[:, 1])
    y = {
        "classification": np.where(z > 0.5, "yes", "no"),
        "three": np.array(["a", "b", "c"])[np.digitize(z, [0.0, 1.5])],
        "regression": 100 * z - 7,
    }[kind]
    x[rng.random(x.shape) < 0.15] = np.nan

    def cut(keep: Any, names: dict[str, int], **more: Any) -> dict[str, Any]:
        order = rng.permutation(np.flatnonzero(keep))
        columns = {name: x[order, at] for name, at in names.items()}
        return {"id": ids[order], **columns, **{name: column[order] for name, column in more.items()}}

    at = np.arange(rows)
    guest = cut(at < 280, {"age": 0}, y=y)
    return guest, [cut(at >= 20, {"sales": 1, "visits": 2}), cut(at % 50 != 0, {"calls": 3, "noise": 4})]


@cache
def trained(kind: str = "classification", **options: Any) -> tuple[Result, dict[str, Any], list[dict[str, Any]]]:
    guest, hosts = people(kind=kind)
    objective = "regression" if kind == "regression" else "classification"
    model = hs.vertical.Boosting(**MODEL | {"objective": objective} | options)
    result: Result = hs.vertical.simulate(model, guest, hosts)
    return result, guest, hosts


def test_three_parties_train_and_score_together() -> None:
    result, guest, hosts = trained()
    common = set(guest["id"]) & set(hosts[0]["id"]) & set(hosts[1]["id"])
    assert {guest["id"][at] for at in result.rows} == common
    assert result.metrics["auc"] > 0.95
    assert result.classes == ("no", "yes")
    importance = result.importance
    assert set(importance["host-1"]) == {"sales", "visits"}
    assert importance["host-1"]["sales"] == max(gain for each in importance.values() for gain in each.values())
    assert np.isclose(sum(sum(each.values()) for each in importance.values()), result.forest.gain.sum())
    assert {each.what for each in result.reveals} >= {"bin_sums", "node_members", "split_answers", "intersection"}


@pytest.mark.parametrize("kind", ["classification", "three", "regression"])
def test_joint_scores_are_those_of_training_to_the_last_bit(kind: str) -> None:
    result, guest, hosts = trained(kind)
    rows, predicted = result.predict({k: v for k, v in guest.items() if k != "y"}, hosts)
    order, again = np.argsort(guest["id"][rows]), np.argsort(guest["id"][result.rows])
    assert np.array_equal(predicted[order], result.model.predicted(result.response, result.scores)[again])
    one = {name: column[rows[:1]] for name, column in guest.items()}
    found, single = result.predict(one, hosts)
    assert found.tolist() == [0]
    assert np.array_equal(single[0], predicted[0])


def test_training_ends_with_the_margins_that_scoring_finds() -> None:
    """Scores walk the trees by thresholds, training by bins."""
    result, guest, hosts = trained(held_out=0.2, patience=2, num_trees=40)
    assert len(result.losses) < 40
    assert result.forest.num_trees == len(result.losses) - 2 == int(np.argmin(result.losses)) + 1
    assert len(result.rows) == int(0.2 * len(set(guest["id"]) & set(hosts[0]["id"]) & set(hosts[1]["id"])))
    said = result.model.predicted(result.response, result.scores) > 0.5
    assert result.metrics["accuracy"] == ((guest["y"][result.rows] == "yes") == said).mean()  # of the rows held out


def test_a_host_that_is_offline() -> None:
    result, guest, hosts = trained()
    with pytest.raises(UnavailableError, match="host-2"):
        result.predict(guest, [hosts[0], None])
    rows, predicted = result.predict(guest, [hosts[0], None], if_offline="default")
    assert metrics.auc(guest["y"][rows] == "yes", predicted) > 0.85
    none_there = result.predict(guest, [None, None], if_offline="default")[1]
    assert len(none_there) == len(guest["id"])
    assert 1 < len(np.unique(none_there)) < len(np.unique(predicted))
    with pytest.raises(ConfigError, match="refuse"):
        result.predict(guest, hosts, if_offline="guess")  # type: ignore[arg-type]


def test_saved_parts_score_as_before(tmp_path: Path) -> None:
    result, _, _ = trained("three")
    result.save(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"{role}.safetensors" for role in sorted(result.parts)]
    for role, part in result.parts.items():
        content = (tmp_path / f"{role}.safetensors").read_bytes()
        read, response = result.model.decoded(decode(content))
        assert encode(result.model.encoded(read, response)) == content
        assert (response is None) == (role != "guest")
        assert read.names == part.names
    host_file = (tmp_path / "host-1.safetensors").read_bytes()
    assert b"value" not in host_file
    assert b"sales" not in (tmp_path / "guest.safetensors").read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_spoilt_parts_are_refused_or_read(data: Any) -> None:
    result = trained()[0]
    part = result.parts["guest"]
    arrays = dict(part_arrays(part, result.response).items())
    name = data.draw(st.sampled_from(sorted(arrays)))
    array = np.array(arrays[name])
    how = data.draw(st.sampled_from(["drop", "shorter", "dtype", "wild"]))
    if how == "drop":
        del arrays[name]
    elif how == "shorter":
        arrays[name] = array[:-1]
    elif how == "dtype":
        arrays[name] = array.astype(np.float32)
    else:
        place = data.draw(st.integers(0, array.size - 1))
        wild = data.draw(st.sampled_from([-7, 3, 99])) if array.dtype.kind in "iub" else np.inf
        array.reshape(-1)[place] = np.array(wild).astype(array.dtype)
        arrays[name] = array
    try:
        found, _ = part_in(Arrays(arrays))
    except CodecError:
        return
    assert how == "wild"
    assert found.forest is not None
    lefts = [np.zeros((4, 200), np.bool_)] * 128
    assert found.forest.margins(4, lefts).shape == (1, 4)


def test_the_page_of_trees(tmp_path: Path) -> None:
    result, _, _ = trained()
    made = result.plot_trees(tmp_path / "trees.html")
    assert (tmp_path / "trees.html").read_text(encoding="utf-8") == made
    drawings = [part.split("</svg>")[0] + "</svg>" for part in made.split("<svg")[1:]]
    assert len(drawings) == 6
    for tree, drawing in enumerate(drawings):
        drawn = ElementTree.fromstring("<svg" + drawing)
        boxes = drawn.findall("rect")
        splits = int((result.forest.party[tree] >= 0).sum())
        assert len(boxes) == 2 * splits + 1
        assert drawing.count("<path") == 2 * splits
        ends = [(int(box.attrib["y"]), float(box.attrib["x"]), float(box.attrib["width"])) for box in boxes]
        for (y, x, width), (next_y, next_x, _) in pairwise(sorted(ends)):
            assert y < next_y or x + width <= next_x  # no box lies on another
        texts = [text.text or "" for text in drawn.findall("text")][::2]
        assert all(7 * len(text) <= width for text, (_, _, width) in zip(texts, ends, strict=True))
    assert "sales ≤" in made
    assert "http" not in made


# ---- scoring over channels ----


def test_answers_that_do_not_fit_are_refused() -> None:
    result, _, _ = trained()
    guest_part, host_part = result.parts["guest"], result.parts["host-1"]
    table = np.zeros((3, 1))

    def play(answer: Any, rows: Any = None, limit: int = 10) -> Any:
        asked = np.arange(3) if rows is None else rows

        async def other(party: Party) -> None:
            if answer is None:
                await scoring.host(party, host_part, np.zeros((3, 2)), max_rows=limit)
            else:
                await party.recv("guest", "rows")
                await party.send("guest", "lefts", answer)

        async def third(party: Party) -> None:
            await party.recv("guest", "rows")
            await party.send("guest", "lefts", np.zeros((3, 9), np.uint8))

        programs: dict[str, Any] = {
            "guest": lambda party: scoring.guest(party, guest_part, table[: len(asked)], asked),
            "host-1": other,
            "host-2": third,
        }
        return run_scheduled(scoring.protocol(2), programs, 0).errors

    assert isinstance(play(np.zeros((2, 9), np.uint8))["guest"], RefusedError)
    assert isinstance(play(np.zeros((3, 0), np.uint8))["guest"], RefusedError)
    assert "1 to 2 rows" in str(play(None, limit=2)["host-1"])
    assert isinstance(play(None, rows=np.array([0, 1, 3]))["host-1"], RefusedError)
    assert play(None) == {}


def test_no_more_answers_are_unpacked_than_there_are_questions() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (4, 1 << 16), np.uint8)
    found = scoring._unpacked(raw, 4, 11, "host")
    assert (found.shape, found.dtype) == ((4, 11), np.bool_)
    assert (found == np.unpackbits(raw, axis=1)[:, :11]).all()
    assert scoring._unpacked(raw[:, :0], 4, 0, "host").shape == (4, 0)


def test_labels_and_columns_at_the_wrong_place() -> None:
    guest, hosts = people()
    model = hs.vertical.Boosting(**MODEL)
    with pytest.raises(ConfigError, match="belongs to the guest"):
        hs.vertical.simulate(model, guest, hosts[0] | {"y": hosts[0]["sales"]})
    with pytest.raises(ConfigError, match="column 'y' as the label"):
        hs.vertical.simulate(model, {k: v for k, v in guest.items() if k != "y"}, hosts)
    with pytest.raises(ConfigError, match="not for trees"):
        model.program("guest", start=1)
    with pytest.raises(ConfigError, match="objective: expected one of"):
        hs.vertical.Boosting(objective="rank")


def test_cross_validation_chooses_depth_and_rounds() -> None:
    """The label is a product of two parties' columns: one question is not enough, and noise makes many rounds worse."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((600, 3))
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)) ^ (rng.random(600) < 0.25)
    model = hs.vertical.Boosting(
        key=None, num_trees=25, depths=[1, 3], cross_validate=3, cipher="mock", min_bin_rows=5, learning_rate=0.5
    )
    result = hs.vertical.simulate(model, {"y": y.astype(int), "a": x[:, 0]}, {"b": x[:, 1], "noise": x[:, 2]})
    assert result.selection is not None
    assert result.selection.depth == 3
    assert 1 <= result.selection.num_trees < 20
    assert result.forest.num_trees == result.selection.num_trees
    assert result.selection.losses.shape == (2, 25)
    assert result.selection.loss == result.selection.losses.min() == result.metrics["cv_loss"]
    assert (result.metrics["cv_depth"], result.metrics["cv_trees"]) == (3, result.selection.num_trees)
    assert "selected" in {each.what for each in result.reveals}
    assert set(result.metrics) <= set(model.measures())
