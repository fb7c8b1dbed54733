"""What the driver promises beyond the machine: rows, fences, disks, timers, and what it leaves behind."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from hanse.backends.memory import MemoryLedger
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode
from hanse.core.errors import ConflictError, PolicyError, StorageError, UnavailableError
from hanse.core.ids import TaskId, upload_scope
from hanse.core.records import BlobRef, Envelope, Reply
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.driver.patience import RETRY_MS
from hanse.rounds.driver.run import Run
from hanse.rounds.seams import Seams
from hanse.strategies import Ask, Close, Context, PhasePlan, Strategy
from hanse.strategies.fedavg import FedAvg
from tests.unit.rounds.bench import START, Bench, rest
from tests.unit.rounds.toys import ToyFedBuff

ONES = (1.0, 1.0, 1.0, 1.0)


def spec(**options: object) -> RunSpec:
    return RunSpec(**{"rounds": 2, "initial": "given", "evaluate_every": 0, "deadline_s": 60.0, **options})  # type: ignore[arg-type]


async def two_sites(**options: object) -> Bench:
    return await Bench(FedAvg(), spec(**options)).start("a", "b")


def status(bench: Bench) -> str:
    return bench.run.finished.result() if bench.run.finished.done() else "at work"


# ---- the whole way ----


async def test_a_run_from_start_to_end() -> None:
    bench = await two_sites()
    for ordinal in range(4):
        assert await bench.answer(ordinal, *ONES, metrics={"loss": 0.5}) == "received"
    assert status(bench) == "finished"
    result = await bench.run.result()
    assert result.arrays["w"].tolist() == [1.0, 1.0, 1.0]
    assert [(r.number, r.folded, r.metrics) for r in result.rounds] == [
        (1, ("a", "b"), {"train_loss": 0.5}),
        (2, ("a", "b"), {"train_loss": 0.5}),
    ]
    assert [event["what"] for event in bench.events].count("reply") == 4


async def test_nothing_is_left_but_records_and_two_models() -> None:
    bench = await two_sites(rounds=5)
    for ordinal in range(10):
        reply = bench.reply(ordinal, *ONES, stored=True)
        assert reply.update is not None
        content = encode(Arrays([("w", [1.0, 1.0, 1.0]), ("n", START["n"] * 0 + 1)]))
        await bench.store.blobs.put(reply.update.scope, reply.update.manifest, rechunk([content]))
        assert (await bench.run.take(reply))[0] == "received"
        await bench.run.settle()
        await rest()
    assert status(bench) == "finished"
    assert bench.rows("reply/") == []
    assert len(bench.rows("round/")) == 5
    assert bench.scopes("") == ["j/c/4/model", "j/c/5/model"]


async def test_updates_are_kept_where_the_job_wants_them() -> None:
    bench = await two_sites(rounds=1, keep_updates=True)
    await bench.answer(0, *ONES)
    await bench.answer(1, *ONES)
    assert len(bench.rows("reply/")) == 2


async def test_a_site_may_write_only_while_its_round_lasts() -> None:
    bench = await two_sites(rounds=3)
    scope, manifest = upload_scope(bench.tasks()[0].id, "a"), manifest_of(b"x")
    await bench.store.links.put("a", scope, manifest)
    await bench.answer(0, *ONES)
    await bench.answer(1, *ONES)
    with pytest.raises(PolicyError):
        await bench.store.links.put("a", scope, manifest)


# ---- replies ----


async def test_a_reply_is_checked_before_it_is_kept() -> None:
    bench = await two_sites()
    good = bench.reply(0, *ONES)
    other = Reply(good.task, "b", update=good.update)
    assert await bench.run.take(other) == ("refused", "the task is another site's")
    assert good.update is not None
    outside = Reply(good.task, "a", update=BlobRef(good.update.manifest, "j/c/1/up/b"))
    assert await bench.run.take(outside) == ("refused", "the update lies outside the site's own scope")
    missing = bench.reply(0, *ONES, stored=True)
    assert await bench.run.take(missing) == ("refused", "the update has not been uploaded")
    assert bench.rows("reply/") == []
    assert (await bench.run.take(good))[0] == "received"
    assert (await bench.run.take(good))[0] == "duplicate"


async def test_two_copies_at_the_same_moment_are_received_once() -> None:
    bench = await two_sites()
    reply = bench.reply(0, *ONES)
    outcomes = await asyncio.gather(*(bench.run.take(reply) for _ in range(5)))
    assert sorted(outcome for outcome, _ in outcomes) == ["duplicate"] * 4 + ["received"]


@pytest.mark.parametrize("size", [70_000, 3_000_000])
async def test_a_long_payload_is_received_and_read_again(size: int) -> None:
    bench = await two_sites(rounds=1)
    payload = bytes(range(256)) * (size // 256)
    await bench.answer(0, *ONES, payload=payload)
    await bench.restart("a", "b")
    assert bench.run.driving.standing.replies[0].payload == payload
    await bench.answer(1, *ONES)
    assert status(bench) == "finished"
    assert bench.scopes("/up") == []


class Moody(MemoryLedger):
    """A ledger that refuses when told to, before or after it has done its work."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse: dict[str, list[str]] = {}

    async def create(self, key: str, value: bytes) -> bool:
        return await self._moodily("create", super().create, key, value)  # type: ignore[no-any-return]

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        return await self._moodily("set", super().compare_and_set, key, value, version)  # type: ignore[no-any-return]

    async def _moodily(self, kind: str, call, *args):  # type: ignore[no-untyped-def]
        mood = self.refuse.get(kind, []).pop(0) if self.refuse.get(kind) else ""
        if mood == "before":
            raise StorageError("no room")
        done = await call(*args)
        if mood == "after":
            raise StorageError("no room")
        return done


async def moody(**options: object) -> tuple[Bench, Moody]:
    bench = Bench(FedAvg(), spec(**options))
    bench.store.ledger = ledger = Moody()
    await bench.start("a", "b")
    return bench, ledger


@pytest.mark.parametrize("mood", ["before", "after"])
async def test_a_reply_that_the_disk_refused_counts_when_it_comes_again(mood: str) -> None:
    bench, ledger = await moody(rounds=1)
    ledger.refuse["create"] = [mood]
    with pytest.raises(StorageError):
        await bench.run.take(bench.reply(0, *ONES))
    assert await bench.answer(0, *ONES) == "received"
    assert await bench.answer(1, *ONES) == "received"
    assert status(bench) == "finished"


@pytest.mark.parametrize("moods", [["before"], ["after"], ["before", "after", "before"]])
async def test_a_write_that_the_disk_refused_is_tried_again(moods: list[str]) -> None:
    bench, ledger = await moody(rounds=1)
    ledger.refuse["set"] = list(moods)
    await bench.answer(0, *ONES)
    working = asyncio.ensure_future(bench.answer(1, *ONES))
    await rest()
    assert status(bench) == "at work"
    await bench.clock.forward(len(moods) * RETRY_MS / 1000)
    assert await working == "received"
    assert status(bench) == "finished"


async def test_a_task_that_could_not_be_sent_is_sent_later() -> None:
    bench = Bench(FedAvg(), spec())
    bench.sent.refuse = 3
    await bench.start("a", "b")
    assert bench.tasks() == {}
    await bench.clock.forward(2 * RETRY_MS / 1000)
    assert set(bench.tasks()) == {0, 1}


# ---- restarts ----


@pytest.mark.parametrize("answered", [0, 1, 2, 3])
async def test_a_restart_asks_only_those_who_have_not_answered(answered: int) -> None:
    bench = await two_sites()
    for ordinal in range(answered):
        await bench.answer(ordinal, *ONES)
    bench.sent.envelopes.clear()
    await bench.restart("a", "b")
    open_now = [ordinal for ordinal, slot in bench.run.state.open.items() if not slot.answer]
    assert sorted(bench.tasks()) == open_now
    for ordinal in range(answered, 4):
        await bench.answer(ordinal, *ONES)
    assert status(bench) == "finished"


async def test_what_compression_saves_is_known_after_a_restart() -> None:
    bench = await two_sites(compression={"name": "bfloat16"})
    model = bench.tasks()[0].model
    assert model is not None
    saved = bench.run.driving.standing.traffic.saved_of(model.id, 1)
    assert saved == model.manifest.size - 1
    await bench.restart("a", "b")
    bench.run.turns.asking.models._refs.clear()  # a visit asks for none, as all tasks are out
    assert bench.run.driving.standing.traffic.saved_of(model.id, 1) == saved


async def test_a_run_that_is_over_tells_it_again_after_a_restart() -> None:
    bench = await two_sites(rounds=1)
    await bench.run.cancel("ada")
    assert status(bench) == "cancelled"
    await bench.restart()
    assert await bench.run.finished == "cancelled"
    assert (await bench.run.take(bench.reply(0, *ONES)))[0] == "duplicate"


async def test_whoever_was_taken_over_acknowledges_nothing_and_writes_nothing() -> None:
    bench = await two_sites()
    old = await bench.restart("a", "b")
    with pytest.raises(UnavailableError):
        await old.take(bench.reply(0, *ONES))
    with pytest.raises(ConflictError):
        await old.finished
    # The row is there: it counts when the site sends it to the one in charge.
    assert len(bench.rows("reply/")) == 1
    assert await bench.answer(0, *ONES) == "received"
    assert await bench.answer(1, *ONES) == "received"
    assert bench.run.state.round == 2


async def test_whoever_was_taken_over_cannot_write() -> None:
    bench = await two_sites()
    old = await bench.restart("a", "b")
    content = await bench.store.ledger.get("run/j/c")
    await old.cancel("ada")
    with pytest.raises(ConflictError):
        await old.finished
    assert await bench.store.ledger.get("run/j/c") == content


async def test_what_comes_before_the_run_is_resumed_waits() -> None:
    bench = await two_sites()
    run = await Run.load("j", "c", bench.seams(), bench.clock, lambda spec: bench.host())
    taking = asyncio.ensure_future(run.take(bench.reply(0, *ONES)))
    await run.sites_changed(["a"])
    await rest()
    assert not run.state.sites
    assert bench.rows("reply/") == []
    await run.resume(["a", "b"])
    assert run.state.sites == ("a",)
    assert (await taking)[0] == "received"


async def test_what_waited_for_a_driver_that_could_not_resume_is_told_to_come_again() -> None:
    bench = await two_sites()
    run = await Run.load("j", "c", bench.seams(), bench.clock, lambda spec: bench.host())
    taking = asyncio.ensure_future(run.take(bench.reply(0, *ONES)))
    await bench.restart("a", "b")
    with pytest.raises(ConflictError):
        await run.resume(["a", "b"])
    with pytest.raises(UnavailableError):
        await taking
    assert isinstance(run.finished.exception(), ConflictError)


async def test_a_second_run_of_one_name_is_refused() -> None:
    bench = await two_sites()
    with pytest.raises(ConflictError):
        await Run.create(machine.begin("j", "c", bench.spec), bench.seams(), bench.host(), bench.clock)


# ---- long records ----


@dataclass(frozen=True)
class LongPayloads(Strategy):
    """Every site gets a few kilobytes of its own."""

    name: ClassVar[str] = "long-payloads"

    def plan(self, context: Context) -> PhasePlan:
        asks = tuple(Ask(site, "train", payload=site.encode() * 1000) for site in context.sites)
        return PhasePlan(asks, Close(len(asks), len(asks)))


async def test_a_long_record_becomes_a_blob_and_can_be_resumed() -> None:
    sites = [f"site-{n:03d}" for n in range(50)]
    bench = await Bench(LongPayloads(), spec()).start(*sites)
    row, _ = await bench.store.ledger.get("run/j/c")
    assert set(json.loads(row)) == {"driver", "spilled"}
    bench.sent.envelopes.clear()
    await bench.restart(*sites)
    assert bench.tasks()[49].payload == b"site-049" * 1000
    assert len(bench.scopes("/record/")) == 1
    for ordinal in range(50):
        await bench.answer(ordinal, *ONES)
    assert bench.run.state.round == 2
    assert len(bench.scopes("/record/")) == 1


async def test_a_round_of_many_sites_keeps_its_details_in_a_blob() -> None:
    sites = [f"site-{n:03d}" for n in range(300)]
    bench = await Bench(FedAvg(), spec(rounds=1)).start(*sites)
    for ordinal in range(300):
        reply = bench.reply(ordinal, *ONES, metrics={f"metric_{n}": 0.5 for n in range(10)})
        await bench.run.take(reply)
    await bench.run.settle()
    assert status(bench) == "finished"
    row = json.loads((await bench.store.ledger.get("round/j/c/00000001"))[0])
    assert row["by_site"] == {}
    scope, blob, size = row["whole"]
    whole = json.loads(bytes(bench.store.blobs.read(scope, blob, 0, size)))
    assert len(whole["by_site"]) == len(whole["fates"]) == 300
    (record,) = await bench.records()
    assert len(record.by_site) == len(record.folded) == 300


async def test_a_round_of_more_sites_than_a_row_can_name_is_kept() -> None:
    bench = await Bench(FedAvg(), spec(rounds=1)).start()
    names = {f"{'long' * 10}-{n:04d}": "" for n in range(2000)}
    row = {"number": 7, "folded": list(names), "late": [], "failed": {}, "by_site": {}, "metrics": {}, "fates": []}
    await bench.run.driving.keeping.round_row(row)
    (record,) = await bench.records()
    assert record.folded == tuple(names)


# ---- order ----


class Slow(Bench):
    """Writes wait for a disk that promises order; details of rounds are put into blobs only when the gate opens."""

    def __init__(self, strategy: Strategy, spec: RunSpec) -> None:
        super().__init__(strategy, spec)
        self.gate = asyncio.Event()
        self.begun: list[str] = []

    def seams(self) -> Seams:
        begun, put = self.begun, self.store.blobs.put

        class Watched(MemoryLedger):
            async def create(self, key: str, value: bytes) -> bool:
                begun.append(key)
                return await super().create(key, value)

            async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
                begun.append(key)
                return await super().compare_and_set(key, value, version)

        async def put_later(scope: str, *rest: Any) -> None:
            if "/rounds/" in scope:
                await self.gate.wait()
            await put(scope, *rest)

        self.store.blobs.put = put_later  # type: ignore[method-assign]  # a disk that is slow
        ledger, unhurried = Watched(), Watched()
        ledger._rows = unhurried._rows = self.store.ledger._rows
        return Seams(ledger, self.store.blobs, self.sent, self.store.links, overlap=True, unhurried=unhurried)


async def test_a_long_record_of_a_round_is_on_its_way_before_the_next_run_record() -> None:
    """The next one leaves it out: were that there first, a server that died then would have lost the round."""
    sites = [f"site-{n:03d}" for n in range(40)]
    bench = await Slow(FedAvg(), spec()).start(*sites)
    replies = [bench.reply(n, *ONES, metrics={f"metric_{m}": 0.5 for m in range(120)}) for n in range(40)]
    for reply in replies:
        await bench.run.take(reply)
    await bench.run.settle()
    assert bench.run.state.round == 2
    bench.begun.clear()
    for n in range(40, 80):
        await bench.run.take(bench.reply(n, *ONES))
    ending = asyncio.ensure_future(bench.run.settle())
    for _ in range(20):
        await rest()
    assert "run/j/c" not in bench.begun
    bench.gate.set()
    await ending
    await bench.run.finished
    assert bench.begun.index("round/j/c/00000001") < bench.begun.index("run/j/c")


class Streaming(Bench):
    """A place of its own whose sites hang on streams: what is sent goes out when the loop has its turn."""

    def seams(self) -> Seams:
        bench, keep = self, self.sent.send

        async def send(to: str, envelope: Envelope, *, durable: bool = True) -> None:
            await keep(to, envelope, durable=durable)
            bench.events.append({"what": f"made {envelope.id}"})
            asyncio.get_running_loop().call_soon(bench.events.append, {"what": f"out {envelope.id}"})

        self.sent.send = send  # type: ignore[method-assign]
        return Seams(self.store.ledger, self.store.blobs, self.sent, self.store.links, private=True)


async def test_a_task_is_on_its_way_before_the_next_is_made_and_before_the_round_is_put_away() -> None:
    bench = await Streaming(FedAvg(), spec()).start("a", "b")
    bench.events.clear()
    await bench.answer(0, *ONES)
    await bench.answer(1, *ONES)
    told = [event["what"] for event in bench.events if event["what"].startswith(("made", "out", "round"))]
    a, b = "j/c/2/train/2", "j/c/2/train/3"
    assert told == [f"made {a}", f"out {a}", f"made {b}", f"out {b}", "round"]


async def test_two_rounds_that_end_in_one_turn_are_both_recorded() -> None:
    bench = await Bench(ToyFedBuff(k=1, concurrency=4), spec(rounds=3)).start("a", "b", "c")
    for ordinal in (1, 0, 2):
        await bench.run.take(bench.reply(ordinal, *ONES))
    await bench.run.settle()
    assert [record.folded for record in await bench.records()] == [("b",), ("a",), ("c",)]
    rows = [json.loads((await bench.store.ledger.get(key))[0]) for key in bench.rows("round/")]
    assert [row["fates"] for row in rows] == [[[1, "b", "folded"]], [[0, "a", "folded"]], [[2, "c", "folded"]]]


class SlowHost:
    """A worker process that takes its time to plan."""

    def __init__(self, bench: Bench) -> None:
        self.real = bench.host()
        self.go = asyncio.Event()
        self.reduce, self.evaluate = self.real.reduce, self.real.evaluate

    async def plan(self, request):  # type: ignore[no-untyped-def]
        await self.go.wait()
        return await self.real.plan(request)


async def test_a_site_that_comes_while_it_is_planned_is_not_overlooked() -> None:
    bench = Bench(FedAvg(), spec(quorum=2, min_sites=1))
    host = SlowHost(bench)
    bench.host = lambda: host  # type: ignore[method-assign,assignment,return-value]
    starting = asyncio.ensure_future(bench.start("a"))
    await rest()
    await bench.run.sites_changed(["a", "b"])
    host.go.set()
    await starting
    assert set(bench.tasks()) == {0, 1}


async def test_the_clock_is_asked_for_few_calls() -> None:
    bench = await two_sites(rounds=50, quorum=1, over_select=0.0, grace_s=1.0)
    for ordinal in range(100):
        await bench.answer(ordinal, *ONES)
    assert status(bench) == "finished"
    assert len(bench.clock.waiting) <= 3


async def test_the_deadline_ends_a_phase_by_itself() -> None:
    bench = await two_sites(rounds=2, quorum=1, deadline_s=30.0)
    await bench.answer(1, *ONES)
    await bench.clock.forward(30.0)
    assert bench.run.state.round == 2
    await bench.clock.forward(30.0)
    assert status(bench) == "failed"
    assert "expected 1 replies, found 0 (2 of 2 sites: a, b: no reply by the deadline)" in bench.run.state.error


# ---- errors ----


@dataclass(frozen=True)
class Broken(FedAvg):
    name: ClassVar[str] = "broken"

    def plan(self, context: Context) -> PhasePlan:
        raise ZeroDivisionError


async def test_an_error_nobody_foresaw_ends_the_driving_and_not_the_caller() -> None:
    bench = await Bench(Broken(), spec()).start("a", "b")
    with pytest.raises(ZeroDivisionError):
        await bench.run.finished
    with pytest.raises(UnavailableError):
        await bench.run.take(Reply(TaskId("j", "c", 1, "train", 0), "a"))


async def test_closing_leaves_a_record_that_can_be_loaded() -> None:
    bench = await two_sites()
    await bench.answer(0, *ONES)
    await bench.run.close()
    assert bench.run.finished.cancelled()
    await bench.restart("a", "b")
    await bench.answer(1, *ONES)
    assert bench.run.state.round == 2
