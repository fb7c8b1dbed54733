"""A group's own run, led from above: the real driver over memory, orders and members played by the test."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import decode, encode
from hanse.core.errors import ConfigError, TaskError, UnavailableError
from hanse.core.records import BlobRef, Reply, Task
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.driver.run import Run
from hanse.rounds.hosts.group import KEY, RECEIVE, WAITS, Answered, GroupHost, Order
from hanse.rounds.hosts.host import PlanRequest, ReduceRequest
from hanse.rounds.hosts.local import LocalHost
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.groups import Groups, of_members, within
from tests.unit.rounds.bench import Bench, rest

ROUNDS = 3
"""κ: a group's for one above."""
ABOVE = 6
MEMBERS = {"a": 1, "b": 2}
"""Examples of each."""


class Inner(LocalHost):
    async def close(self) -> None: ...


class Group(Bench):
    """A bench whose run is a group's."""

    def __init__(self, *, initial: str = "given", quorum: int | None = None) -> None:
        above = RunSpec(rounds=ABOVE, initial=initial, groups=Groups(ROUNDS, quorum=quorum).to_json())
        super().__init__(FedAvg(), within(above))
        self.there: tuple[str, ...] = tuple(MEMBERS)
        self.group: GroupHost = None  # type: ignore[assignment]
        self.answered: set[int] = set()
        self.failing: set[tuple[str, int]] = set()

    def host(self) -> Any:
        inner = Inner(FedAvg(), of_members(self.spec), self.store.blobs, threads=1)
        self.group = GroupHost(inner, self.store.blobs, ROUNDS, self.wake)
        return self.group

    def wake(self) -> None:
        self.waking = asyncio.ensure_future(self.run.sites_changed(self.there))

    async def begin(self) -> "Group":
        self.run = await Run.create(machine.begin("j", "c", self.spec), self.seams(), self.host(), self.clock)
        await self.run.start()
        await self.run.sites_changed(self.there)
        return self

    async def again(self) -> None:
        """The edge was killed: another takes over, and knows nothing but the record."""
        await self.run.close()
        await self.restart(*self.there)
        await self.run.sites_changed(self.there)

    def open(self) -> list[Task]:
        """Tasks that nobody has answered."""
        wanted = {o for o, slot in self.run.state.open.items() if not slot.answer}
        return [task for ordinal, task in sorted(self.tasks().items()) if ordinal in wanted]

    async def work(self, task: Task) -> None:
        """A member does what it is asked."""
        reply = Reply(task.id, task.site, num_examples=MEMBERS[task.site], fingerprint="f")
        if (task.site, task.id.round) in self.failing:
            reply = Reply.failed(task.id, task.site, "raised", "no")
        elif task.call == "evaluate":
            reply = replace(reply, metrics={"sum": float(model_of(task)["w"].sum()), "r": task.config["round"]})
        else:
            content = encode(trained(model_of(task) if task.model else None, task.site, task.id.round))
            reply = replace(reply, update=BlobRef.inline(content))
        await self.run.take(reply)
        await self.run.settle()
        await rest()

    async def ask(self, order: Order, cuts: Iterable[int] = ()) -> Answered:
        """What the group answers; the edge is killed after so many pieces of work in it."""
        at = sorted(cuts)
        asking = asyncio.ensure_future(self.group.ask(order))
        await rest()
        done = 0
        while not asking.done():
            if at and done >= at[0]:
                at.pop(0)
                asking.cancel()
                await self.again()
                asking = asyncio.ensure_future(self.group.ask(order))
                await rest()
                await self.clock.forward(5)  # what was to be tried again is
                continue
            tasks = self.open()
            assert tasks, f"nobody has anything to do: {self.run.state.stage} {self.run.state.error}"
            await self.work(tasks[0])
            done += 1
        return await asking


def model_of(task: Task) -> Arrays:
    assert task.model is not None
    assert task.model.content is not None
    return decode(task.model.content)


def trained(model: Arrays | None, site: str, round_: int) -> Arrays:
    w = np.array([0.5, 0.25]) if model is None else model["w"] / 2 + np.array([ord(site), round_])
    return Arrays([("w", w)])


def order(call: str, round_: int, w: Iterable[float] | None, **config: Any) -> Order:
    if w is None:
        return Order(call, round_, config)
    content = encode(Arrays([("w", np.array(list(w)))]))
    return Order(call, round_, config, manifest_of(content), lambda: rechunk([content]))


def expected(w: np.ndarray, round_: int) -> np.ndarray:
    """κ rounds of plain averaging, by the numbers that round `round_` above gives them."""
    for number in range((round_ - 1) * ROUNDS + 1, round_ * ROUNDS + 1):
        values = [MEMBERS[site] * (w / 2 + np.array([ord(site), number])) for site in MEMBERS]
        w = sum(values[1:], values[0]) / sum(MEMBERS.values())
    return w


async def values_of(bench: Group, answered: Answered) -> np.ndarray:
    assert answered.model is not None
    manifest = await bench.store.blobs.manifest(*answered.model)
    return decode(bytes(bench.store.blobs.read(*answered.model, 0, manifest.size)))["w"]


ORDERS = st.lists(st.tuples(st.sampled_from(["train", "evaluate", "both"]), st.booleans()), min_size=1, max_size=ABOVE)


@settings(max_examples=25, deadline=None)
@given(ORDERS, st.lists(st.integers(0, 8), max_size=2))
def test_whatever_is_asked_and_whenever_the_edge_dies(asked: list[tuple[str, bool]], cuts: list[int]) -> None:
    """Rounds that are asked for, rounds that the group misses, kills anywhere: the answers are those of the rounds."""

    async def go() -> None:
        bench = await Group().begin()
        w = np.array([8.0, -4.0])
        for round_, (calls, missed) in enumerate(asked, 1):
            if missed:
                continue
            if calls != "evaluate":
                answered = await bench.ask(order("train", round_, w), cuts)
                assert np.allclose(await values_of(bench, answered), expected(w, round_), rtol=1e-14)
                size = manifest_of(encode(Arrays([("w", w)]))).size
                said = {"group_members": 2, "group_bytes": ROUNDS * 2 * 2 * size}
                assert (answered.num_examples, answered.metrics, answered.fingerprint) == (3, said, "f")
            w = w * 3 + round_  # what the server above makes of all groups
            if calls != "train":
                answered = await bench.ask(order("evaluate", round_, w), cuts)
                assert (answered.num_examples, answered.model) == (3, None)
                assert answered.metrics["sum"] == pytest.approx(w.sum())
                assert answered.metrics["r"] == round_ * ROUNDS
        trainings = [(task.site, task.id.round) for task in bench.tasks().values() if task.call == "train"]
        assert len(trainings) == len(set(trainings)), "a round was trained twice"
        bench.group.finish()
        await rest()
        assert bench.run.finished.result() == "finished"

    asyncio.run(go())


async def test_what_was_answered_is_answered_again_and_no_member_works_twice() -> None:
    bench = await Group().begin()
    first = await bench.ask(order("train", 1, [1.0, 2.0], lr=0.5))
    count = len(bench.tasks())
    assert {task.config["lr"] for task in bench.tasks().values()} == {0.5}
    await bench.again()
    assert await bench.ask(order("train", 1, [1.0, 2.0], lr=0.5)) == first
    assert len(bench.tasks()) == count


async def test_a_group_that_has_gone_on_says_so() -> None:
    bench = await Group().begin()
    await bench.ask(order("train", 2, [1.0, 2.0]))
    with pytest.raises(TaskError, match="has gone on to round 6"):
        await bench.ask(order("train", 1, [1.0, 2.0]))
    with pytest.raises(TaskError, match="was not to be asked for an initial model"):
        await bench.ask(order("parameters", 0, None))


async def test_what_is_asked_in_mid_round_is_taken_up_once_that_round_is_over() -> None:
    """The server above has closed its round without this group, and asks the next: the rest is skipped."""
    bench = await Group().begin()
    given_up = asyncio.ensure_future(bench.group.ask(order("train", 1, [1.0, 1.0])))
    await rest()
    await bench.work(bench.open()[0])
    given_up.cancel()
    answered = await bench.ask(order("train", 3, [2.0, 2.0]))
    assert np.allclose(await values_of(bench, answered), expected(np.array([2.0, 2.0]), 3))
    assert sorted({task.id.round for task in bench.tasks().values()}) == [1, 7, 8, 9]


async def test_the_first_model_is_a_members() -> None:
    bench = await Group(initial="ask").begin()
    answered = await bench.ask(order("parameters", 0, None))
    assert (await values_of(bench, answered)).tolist() == [0.5, 0.25]
    assert (answered.num_examples, answered.metrics, answered.fingerprint) == (0, {}, "f")
    await bench.again()
    assert await bench.ask(order("parameters", 0, None)) == answered
    await bench.ask(order("train", 1, [0.5, 0.25]))


async def test_members_that_fail_are_left_out_and_too_many_end_the_groups_run() -> None:
    bench = await Group(quorum=1).begin()
    bench.failing = {("a", 2), ("a", 3)}
    answered = await bench.ask(order("train", 1, [1.0, 1.0]))
    assert (answered.num_examples, answered.metrics["group_members"]) == (2, 1)
    bench.failing = {(site, 4) for site in MEMBERS}
    asking = asyncio.ensure_future(bench.group.ask(order("train", 2, [1.0, 1.0])))
    await rest()
    while not bench.run.finished.done():
        await bench.work(bench.open()[0])
    assert bench.run.finished.result() == "failed"
    assert "round 4, phase train: expected 1 replies, found 0" in bench.run.state.error
    asking.cancel()


async def test_nothing_is_planned_until_something_is_asked() -> None:
    bench = await Group().begin()
    assert (bench.run.state.stage, bench.run.state.error) == ("starved", WAITS)
    request = PlanRequest(1, 0, ("a", "b"), (), (), False)
    with pytest.raises(ConfigError, match=WAITS):
        await bench.group.plan(request)
    with pytest.raises(UnavailableError):  # killed between having planned to receive and having received
        await bench.group.reduce(ReduceRequest(1, RECEIVE, "metrics", (), 0, None, (), "j/c/1/model", {KEY: {}}))


async def test_a_member_that_is_not_there_holds_nobody_up_and_takes_part_once_it_is() -> None:
    bench = Group()
    bench.there = ()
    await bench.begin()
    await bench.run.sites_changed(("a",), undecided=1)
    assert bench.run.state.stage == "waiting"  # the other one is there, too, and may still accept
    bench.there = ("a",)
    answered = await bench.ask(order("train", 1, [1.0, 1.0]))
    assert (answered.num_examples, answered.metrics["group_members"]) == (1, 1)
    bench.there = ("a", "b")
    answered = await bench.ask(order("train", 2, [1.0, 1.0]))
    assert np.allclose(await values_of(bench, answered), expected(np.array([1.0, 1.0]), 2))
