"""Two strategies unlike FedAvg on the real driver: phases with payloads of their own, and asynchronous buffering."""

import json
import math

import pytest

from hanse.core.spec import RunSpec
from tests.unit.rounds.bench import START, Bench
from tests.unit.rounds.toys import ToyFedBuff, ToySecureSum

SITES = ("a", "b", "c", "d")


def number(value: int) -> bytes:
    return value.to_bytes(2, "big")


async def secure_sum(*, restart: bool) -> Bench:
    spec = RunSpec(rounds=1, quorum=2, initial="given", deadline_s=10.0)
    bench = await Bench(ToySecureSum(), spec).start(*SITES)
    await bench.answer(0, payload=number(5))
    await bench.answer(2, payload=number(7))
    await bench.answer(3, payload=number(11))
    if restart:
        await bench.restart(*SITES)
    await bench.clock.forward(10)  # b says nothing
    if restart:
        await bench.restart(*SITES)
    for ordinal, task in list(bench.tasks().items())[4:]:
        payload = json.loads(task.payload)
        await bench.answer(ordinal, *([payload["mine"] / sum(payload["all"].values())] * 4))
    return bench


@pytest.mark.parametrize("restart", [False, True])
async def test_survivors_of_the_first_phase_are_the_cohort_of_the_second(restart: bool) -> None:
    bench = await secure_sum(restart=restart)
    second = {task.site: json.loads(task.payload) for task in bench.tasks().values() if task.id.phase == "train"}
    everybody = {"a": 5, "c": 7, "d": 11}
    assert second == {site: {"mine": mine, "all": everybody} for site, mine in everybody.items()}
    assert await bench.run.finished == "finished"
    (record,) = await bench.records()
    assert record.folded == ("a", "c", "d")
    assert record.failed == {"b": "no reply"}
    arrays = (await bench.run.result()).arrays
    assert arrays["w"].tolist() == pytest.approx([(5 + 7 + 11) / 23 / 3] * 3)


async def test_a_restart_between_the_phases_changes_no_bit() -> None:
    calm, disturbed = await secure_sum(restart=False), await secure_sum(restart=True)
    assert calm.run.state.model is not None
    assert disturbed.run.state.model is not None
    assert calm.run.state.model == disturbed.run.state.model


# ---- FedBuff ----

Script = list[tuple[int, tuple[float, float, float, float]]]
SCRIPT: Script = [
    (2, (0.1, 2.0**40, -3.0, 1.0)),
    (0, (0.7, -(2.0**-30), 1e-9, 2.0)),  # K = 2: round 1
    (4, (1.0, 1.0, 1.0, 4.0)),
    (1, (-5.0, 2.0**39, 0.3, 8.0)),  # round 2, with b's update to the model before round 1
    (3, (0.5, 0.5, 0.5, 0.5)),  # d's, two rounds old
    (6, (1 / 3, 1 / 7, 1 / 11, 1 / 13)),
]


async def fedbuff(script: Script, restart_after: frozenset[int] = frozenset(), rounds: int = 3) -> Bench:
    spec = RunSpec(rounds=rounds, initial="given", evaluate_every=0, deadline_s=100.0)
    bench = await Bench(ToyFedBuff(k=2, concurrency=4), spec).start(*SITES)
    for step, (ordinal, values) in enumerate(script):
        bench.clock.ms += 7
        assert await bench.answer(ordinal, *values) == "received"
        if step in restart_after:
            await bench.restart(*SITES)
    return bench


def step_by_hand(model: list[float], updates: list[tuple[float, tuple[float, ...]]]) -> list[float]:
    """Algorithm 1 of the paper, line 12, in plain floats: w + Σ s(τ) Δ / Σ s(τ), in order of receipt."""
    total = sum(weight for weight, _ in updates)
    return [w + sum(weight * delta[i] for weight, delta in updates) / total for i, w in enumerate(model)]


async def test_k_updates_make_a_step_with_weights_by_staleness() -> None:
    bench = await fedbuff(SCRIPT)
    assert await bench.run.finished == "finished"
    deltas = dict(SCRIPT)
    model = [float(x) for x in START["w"]]
    model = step_by_hand(model, [(1.0, deltas[2]), (1.0, deltas[0])])
    model = step_by_hand(model, [(1.0, deltas[4]), (1 / math.sqrt(2), deltas[1])])
    model = step_by_hand(model, [(1 / math.sqrt(3), deltas[3]), (1.0, deltas[6])])
    assert (await bench.run.result()).arrays["w"].tolist() == model
    assert [record.folded for record in await bench.records()] == [("c", "a"), ("a", "b"), ("d", "a")]


async def test_free_sites_are_asked_anew_with_the_new_model_and_busy_ones_keep_theirs() -> None:
    bench = await fedbuff(SCRIPT[:2])
    tasks = bench.tasks()
    assert {ordinal: (task.site, task.id.round) for ordinal, task in tasks.items()} == {
        0: ("a", 1),
        1: ("b", 1),
        2: ("c", 1),
        3: ("d", 1),
        4: ("a", 2),
        5: ("c", 2),
    }
    assert bench.model(3)["w"].tolist() == START["w"].tolist()
    assert bench.model(4)["w"].tolist() != START["w"].tolist()


@pytest.mark.parametrize("restart_after", [{0}, {1}, {2, 3}, {0, 1, 2, 3, 4, 5}])
async def test_a_restart_gives_the_same_bits_with_the_recorded_order_of_receipt(restart_after: set[int]) -> None:
    calm, disturbed = await fedbuff(SCRIPT), await fedbuff(SCRIPT, frozenset(restart_after))
    assert await disturbed.run.finished == "finished"
    assert disturbed.run.state.model == calm.run.state.model
    assert [record.model for record in await disturbed.records()] == [record.model for record in await calm.records()]


async def test_another_order_of_receipt_is_another_result() -> None:
    """Otherwise the test above proves nothing."""
    deltas = dict(SCRIPT)
    first = await fedbuff([(ordinal, deltas[ordinal]) for ordinal in (2, 0, 1)])
    second = await fedbuff([(ordinal, deltas[ordinal]) for ordinal in (2, 1, 0)])
    assert [record.folded for record in await first.records()] == [("c", "a")]
    assert [record.folded for record in await second.records()] == [("c", "b")]
    assert first.run.state.model != second.run.state.model


async def test_a_base_model_is_kept_while_a_task_refers_to_it() -> None:
    bench = await fedbuff([], rounds=9)
    tasks = iter((0, 1, 4, 5, 6, 7, 8, 9))
    for _ in range(4):  # c and d do not answer their tasks of round 1: the initial model
        for _ in range(2):
            await bench.answer(next(tasks), 1.0, 1.0, 1.0, 1.0)
    assert bench.run.state.round == 5
    assert bench.scopes("/model") == ["j/c/0/model", "j/c/3/model", "j/c/4/model"]
    bench.run.turns.asking.models._refs.clear()
    await bench.restart(*SITES)
    assert bench.model(3)["w"].tolist() == START["w"].tolist()
    await bench.answer(3, 1.0, 1.0, 1.0, 1.0)
    for _ in range(4):
        wanted = [ordinal for ordinal, slot in bench.run.state.open.items() if not slot.answer]
        await bench.answer(wanted[0], 1.0, 1.0, 1.0, 1.0)
    assert "j/c/0/model" not in bench.scopes("/model")
