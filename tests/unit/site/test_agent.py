"""The agent with a real journal and real workers, against a link that is no network."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.core.arrays import Arrays
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    PolicyError,
    StorageError,
    TrustError,
    UnavailableError,
)
from hanse.core.records import Envelope
from hanse.site.agent import Agent
from hanse.site.control import request
from hanse.site.jobs import JobRunner
from hanse.site.owner import ask
from hanse.trust.audit import verify_log
from hanse.trust.authority import Authority
from hanse.workers.launcher import Launcher
from tests.unit.site.bench import ADD_ONE, JOB, SITE, Bench, Blobs, Town, bench, bundle_of, large_model, small_model

COUNT = """
@app.train
def train(arrays, config, site):
    site.state["n"] = site.state.get("n", 0) + 1
    return arrays, 1, {"n": site.state["n"], "pid": os.getpid()}
"""

COUNT_IN_AN_ARRAY = """
@app.train
def train(arrays, config, site):
    before = site.state.get("all", np.zeros(100_000))
    assert (before == before[0]).all()
    site.state["all"] = before + 1
    if config.get("do") == "raise":
        raise ValueError
    if config.get("do") == "exit":
        os._exit(3)
    return arrays, 1, {"n": float(before[0]) + 1}
"""

BY_PHASE = """
@app.train
def train(arrays, config, site):
    if config.get("do") == "hang":
        open("hanging", "w").close()
        time.sleep(1000)
    if config.get("do") == "exit":
        os._exit(3)
    if config.get("do") == "nan":
        return {name: array * np.nan for name, array in arrays.items()}, 1, {}
    if config.get("do") == "raise":
        raise ValueError("a secret of patient 7")
    if config.get("do") == "print":
        print("hello from the app")
    return arrays, 1, {"pid": os.getpid()}
"""

ZERO = Arrays({"w": np.zeros(3, dtype=np.float32)})


@pytest.fixture(scope="module")
def town() -> Town:
    return Town()


@pytest.fixture
def site(town: Town, tmp_path: Path) -> Path:
    return town.settle(tmp_path / "site")


def refuse(*_: Any, **__: Any) -> None:
    raise StorageError("no room")


async def until_file(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)


# ---- tasks ----


async def test_a_job_is_accepted_and_its_tasks_are_answered(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        assert (await b.propose())["decision"] == "accept"
        assert ("propose", "propose/job1") in b.link.told_done
        model = small_model()
        task = await b.task(model)
        reply = await b.reply(task)
        assert reply.ok, reply.error
        assert np.array_equal(b.arrays(reply)["w"], np.asarray(model["w"]) + 1)
        assert (reply.num_examples, reply.metrics["loss"]) == (3, 0.5)
        assert b.link.holding() == [str(task.id)]
        b.link.accepted(str(task.id), "received", "")
        assert b.link.holding() == []
    assert not (site / "control.sock").exists()


async def test_a_large_model_comes_and_goes_as_a_blob(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        await b.propose()
        model = large_model()
        for ordinal in range(4):
            reply = await b.reply(await b.task(model, ordinal=ordinal))
            assert np.array_equal(b.arrays(reply)["w"], np.asarray(model["w"]) + 1)
            b.link.accepted(str(reply.task), "received", "")
        assert len(list((site / "jobs" / JOB).glob("out-*"))) == 1
        assert len(list((site / "store" / "blobs").glob("job1/main/*/model/*.manifest"))) == 1


async def test_a_model_that_user_code_kept_does_not_change_under_it(town: Town, site: Path) -> None:
    source = """
    kept = []

    @app.train
    def train(arrays, config, site):
        kept.append(arrays["w"])
        return arrays, 1, {"first": float(kept[0].sum())}
    """
    async with bench(town, site, source=source) as b:
        await b.propose()
        for ordinal in range(5):
            model = Arrays({"w": np.full(4_000_000, 1.0 + ordinal, dtype=np.float32)})
            reply = await b.reply(await b.task(model, ordinal=ordinal))
            assert reply.metrics["first"] == 4_000_000
            b.link.accepted(str(reply.task), "received", "")


async def test_a_task_that_comes_again_is_not_executed_again(town: Town, site: Path) -> None:
    async with bench(town, site, source=COUNT) as b:
        await b.propose()
        task = await b.task(ZERO)
        first = await b.reply(task)
        await b.task(ZERO)
        await b.link.until(lambda: len(b.replies(task)) == 2)
        assert b.replies(task) == [first, first]
        b.link.accepted(str(task.id), "received", "")
        await b.task(ZERO)
        assert ("task", str(task.id)) in b.link.told_done
        assert len(b.replies(task)) == 2
        assert (await b.reply(await b.task(ZERO, ordinal=1))).metrics["n"] == 2


async def test_a_task_that_waits_or_runs_is_not_taken_twice(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        hanging = await b.task(ZERO, config={"do": "hang"})
        waiting = await b.task(ZERO, ordinal=1)
        await b.task(ZERO, config={"do": "hang"})
        await b.task(ZERO, ordinal=1)
        assert b.link.holding() == [str(hanging.id), str(waiting.id)]


async def test_answers_and_state_survive_a_new_agent(town: Town, site: Path) -> None:
    blobs = Blobs()
    model = large_model()
    async with bench(town, site, source=COUNT, blobs=blobs) as b:
        await b.propose()
        b.link.accepted(f"decision/{JOB}", "received", "")
        small, large = await b.task(ZERO), await b.task(model, ordinal=1)
        first, second = await b.reply(small), await b.reply(large)
        bundle = b.bundle
    blobs.uploaded.clear()
    async with bench(town, site, source=COUNT, blobs=blobs) as b:
        b.bundle = bundle
        assert sorted(b.link.holding()) == [str(small.id), str(large.id)]
        assert await b.reply(small) == first
        assert await b.reply(large) == second
        assert np.array_equal(b.arrays(second)["w"], model["w"])
        third = await b.reply(await b.task(ZERO, ordinal=2))
        assert third.metrics["n"] == 3
        assert (await b.decision())["decision"] == "accept"


async def test_a_large_state_is_a_file_that_counts_with_its_answer(town: Town, site: Path) -> None:
    model, files = large_model(1.0), site / "jobs" / JOB
    blobs = Blobs()

    async def trained(b: Bench, ordinal: int, **config: Any) -> Any:
        return await b.reply(await b.task(model, ordinal=ordinal, config=config))

    async with bench(town, site, source=COUNT_IN_AN_ARRAY, blobs=blobs) as b:
        await b.propose()
        b.link.accepted(f"decision/{JOB}", "received", "")
        assert [(await trained(b, n)).metrics["n"] for n in range(3)] == [1, 2, 3]
        assert not (await trained(b, 3, do="raise")).ok
        assert not (await trained(b, 4, do="exit")).ok
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.agent._journal, "keep", refuse)
            assert (await trained(b, 8)).error_kind == "lost"  # after its state was written to a file
        small = await b.reply(await b.task(ZERO, ordinal=5))  # a model that travels in its task, the same state
        assert small.metrics["n"] == 4
        bundle = b.bundle
    assert sorted(path.name for path in files.glob("state-*")) == ["state-main-0", "state-main-1"]
    assert sum(path.stat().st_size for path in site.glob("journal.db*")) < 800_000  # one of the six states
    async with bench(town, site, source=COUNT_IN_AN_ARRAY, blobs=blobs) as b:
        b.bundle = bundle
        assert (await trained(b, 6)).metrics["n"] == 5
    for path in files.glob("state-*"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    async with bench(town, site, source=COUNT_IN_AN_ARRAY, blobs=blobs) as b:
        b.bundle = bundle
        damaged = await trained(b, 7)
        assert (damaged.error_kind, "not what was written there" in damaged.error) == ("lost", True)


async def test_a_worker_may_be_replaced_between_any_two_tasks(town: Town, site: Path) -> None:
    async with bench(town, site, source=COUNT) as b:
        await b.propose()
        pids = []
        for ordinal in range(3):
            reply = await b.reply(await b.task(ZERO, ordinal=ordinal))
            assert reply.metrics["n"] == ordinal + 1
            pids.append(int(str(reply.metrics["pid"])))
            os.kill(pids[-1], signal.SIGKILL)
            async with asyncio.timeout(20):
                # a task handed to it before that is noticed would be answered "killed"
                while (await b.agent.control({"op": "status"}))["jobs"][0]["worker_pid"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert len(set(pids)) == 3


@pytest.mark.parametrize(
    ("do", "kind", "told"), [("exit", "exited", "3"), ("nan", "bad_reply", "NaN"), ("raise", "raised", "ValueError")]
)
async def test_user_code_that_fails_is_an_answer(town: Town, site: Path, do: str, kind: str, told: str) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        reply = await b.reply(await b.task(ZERO, config={"do": do}))
        assert (reply.error_kind, reply.update) == (kind, None)
        assert told in reply.error
        assert "patient 7" not in reply.error
        assert (await b.reply(await b.task(ZERO, ordinal=1))).ok
        if do == "raise":
            assert "a secret of patient 7" in (site / "jobs" / JOB / "app.log").read_text()


async def test_a_worker_killed_in_mid_task(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        task = await b.task(ZERO, config={"do": "hang"})
        await until_file(site / "jobs" / JOB / "scratch" / "hanging")
        status = await b.agent.control({"op": "status"})
        assert status["jobs"][0]["running"] == str(task.id)
        os.kill(status["jobs"][0]["worker_pid"], signal.SIGKILL)
        assert (await b.reply(task)).error_kind == "killed"
        assert (await b.reply(await b.task(ZERO, ordinal=1))).ok


async def test_the_deadline_counts_from_delivery(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        hanging = await b.task(ZERO, config={"do": "hang"}, deadline_s=0.5)
        behind = await b.task(ZERO, ordinal=1, deadline_s=0.3)
        reply = await b.reply(hanging)
        assert reply.error_kind == "timeout"
        late = await b.reply(behind)
        assert (late.error_kind, late.seconds) == ("timeout", 0.0)
        assert (await b.reply(await b.task(ZERO, ordinal=2, deadline_s=20.0))).ok


async def test_what_user_code_prints_stays_at_the_site(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        await b.reply(await b.task(ZERO, config={"do": "print"}))
        assert "hello from the app" in (site / "jobs" / JOB / "app.log").read_text()
        assert all(b"hello" not in envelope.body for envelope in b.link.sent)


# ---- release ----


async def test_a_released_task_that_waits_is_dropped(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        hanging = await b.task(ZERO, config={"do": "hang"})
        waiting = await b.task(ZERO, ordinal=1)
        await b.say("release", str(waiting.id))
        assert ("release", str(waiting.id)) in b.link.told_done
        assert b.link.holding() == [str(hanging.id)]


async def test_a_released_task_that_runs_gives_way_to_the_next(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        hanging = await b.task(ZERO, config={"do": "hang"})
        await until_file(site / "jobs" / JOB / "scratch" / "hanging")
        await b.say("release", str(hanging.id))
        assert b.link.holding() == [str(hanging.id)]  # it may go on as long as nothing waits
        assert (await b.reply(await b.task(ZERO, ordinal=1))).ok
        assert b.replies(hanging) == []


async def test_a_released_task_is_given_up_also_if_the_next_came_before(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        hanging = await b.task(ZERO, config={"do": "hang"})
        following = await b.task(ZERO, ordinal=1)
        await until_file(site / "jobs" / JOB / "scratch" / "hanging")
        await b.say("release", str(hanging.id))
        assert (await b.reply(following)).ok
        assert b.replies(hanging) == []


async def test_a_released_task_that_ends_in_time_is_answered(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        await b.propose()
        task = await b.task(ZERO)
        await b.say("release", str(task.id))
        if str(task.id) in b.link.holding():
            assert (await b.reply(task)).ok


# ---- what does not hold ----


async def test_tasks_that_are_refused(town: Town, site: Path) -> None:
    async with bench(town, site, source=COUNT) as b:
        unknown = await b.reply(await b.task(ZERO, job="job9"))
        assert unknown.error_kind == "refused"
        assert "job9" in unknown.error
        await b.propose()
        other = await b.reply(await b.task(ZERO, app="b" * 64))
        assert (other.error_kind, "another app" in other.error) == ("refused", True)
        assert (await b.reply(await b.task(ZERO, ordinal=1))).metrics["n"] == 1
        assert [line["action"] for line in b.audit() if line["outcome"] == "refused"] == ["message.task"] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": "hospital-b"},
        {"recipient": "hospital-b"},
        {"federation": "bremen"},
        {"id": "job1/main/1/train/7"},
        {"body": b"\xff\xff"},
        {"job": "job2"},
    ],
)
async def test_messages_that_do_not_hold_change_nothing(town: Town, site: Path, changes: dict[str, object]) -> None:
    async with bench(town, site, source=COUNT) as b:
        await b.propose()
        good = await b.task(ZERO)
        await b.reply(good)
        sent = len(b.link.sent)
        base = Envelope("server", SITE, "job1/main/1/train/9", "task", good.pack(), "lubeck", JOB, "main")
        fields = {name: getattr(base, name) for name in base.__dataclass_fields__} | changes
        await b.link.deliver(Envelope(**fields), 1)
        assert len(b.link.sent) == sent
        assert ("task", str(fields["id"])) in b.link.told_done
        assert b.audit()[-1]["outcome"] == "refused"
        assert (await b.reply(await b.task(ZERO, ordinal=1))).metrics["n"] == 2


async def test_a_proposal_that_does_not_hold_is_refused(town: Town, site: Path) -> None:
    stranger = town.enrol("person", "anna", Authority.create("lubeck"))
    async with bench(town, site) as b:
        refused = await b.propose(person_record=stranger.issued.record.decode())
        assert refused["decision"] == "refuse"
        wrong: list[tuple[str, dict[str, Any]]] = [("job2", {"entry": "other.py"}), ("job3", {"object": "os"})]
        for job, changes in wrong:
            answer = await b.propose(job=job, **changes)
            assert answer["decision"] == "refuse"
            assert "signed for" in answer["reason"]
        broken = await b.propose(bundle_of("raise RuntimeError('no')\n"), job="job4")
        assert broken["decision"] == "refuse"
        assert "cannot run here" in broken["reason"]
        assert "RuntimeError" in broken["reason"]
        assert not list((site / "jobs").iterdir())
        await b.say("propose", "propose/job5", b"{", "job5")
        assert (await b.decision("job5"))["decision"] == "refuse"


async def test_our_own_fault_is_told_and_not_waited_for(
    town: Town, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fault(self: JobRunner) -> None:
        raise TypeError("patient 17")

    monkeypatch.setattr(JobRunner, "prepare", fault)
    async with bench(town, site) as b:
        answer = await b.propose()
        assert answer["decision"] == "refuse"
        assert answer["reason"] == "the site's software failed: TypeError; its log says more"
        assert not list((site / "jobs").iterdir())


async def test_a_proposal_that_comes_again_is_answered_the_same(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        first = await b.propose()
        again = await b.propose()
        assert again.pop("at_ms") >= first.pop("at_ms")
        assert again == first
        assert [line["action"] for line in b.audit()] == ["job.decide"]
        assert verify_log(site / "audit.jsonl", town.site.keys.signing.public_key()).ok


@pytest.mark.parametrize(
    ("policy", "decision", "told"),
    [
        (None, "refuse", "policy.yaml"),
        ("", "refuse", "policy.yaml"),
        ("apps: any\npeople: [bert]\n", "refuse", "people"),
        ("apps: any\npeopel: any\n", "refuse", "line 2"),
        ("people: any\nunlisted_apps: hold\n", "hold", "owner"),
    ],
)
async def test_the_policy_decides(town: Town, tmp_path: Path, policy: str | None, decision: str, told: str) -> None:
    async with bench(town, town.settle(tmp_path / "site", policy=policy)) as b:
        answer = await b.propose()
        assert answer["decision"] == decision
        assert told in answer["reason"]
        assert b.audit()[-1]["outcome"] == {"refuse": "refused", "hold": "held"}[decision]
        assert (await b.reply(await b.task(ZERO))).error_kind == "refused"


async def test_data_sets_are_granted_by_the_policy(town: Town, tmp_path: Path) -> None:
    source = """
    @app.client
    def client(site):
        rows = site.load("patients")
        class Client:
            def get_parameters(self, config): return [np.zeros(1)]
            def fit(self, parameters, config): return parameters, len(rows["age"]), {}
            def evaluate(self, parameters, config): return 0.0, 1, {}
        return Client()
    """
    config = "datasets: {patients: {kind: csv, path: patients.csv}}\n"
    for number, (allowed, ok) in enumerate((("[patients]", True), ("[]", False))):
        directory = town.settle(
            tmp_path / f"site{number}", policy=f"apps: any\npeople: any\ndatasets: {allowed}\n", config=config
        )
        (directory / "patients.csv").write_text("age\n1\n2\n")
        async with bench(town, directory, source=source) as b:
            await b.propose()
            reply = await b.reply(await b.task(ZERO))
            assert reply.ok == ok, reply.error
            assert reply.num_examples == (2 if ok else 0)
            assert ok or "not granted" in reply.error


# ---- the owner ----


async def test_a_held_job_waits_for_its_owner(town: Town, tmp_path: Path) -> None:
    directory = town.settle(tmp_path / "site", policy="people: any\nunlisted_apps: hold\n")
    async with bench(town, directory) as b:
        assert (await b.propose())["decision"] == "hold"
        pending = await asyncio.to_thread(request, directory, {"op": "pending"})
        assert [(job["job"], job["person"], job["app"]) for job in pending["jobs"]] == [(JOB, "anna", b.bundle.id)]
        await b.link.until(lambda: ("propose", f"propose/{JOB}") in b.link.told_done)
        assert "App(rounds=2)" in (directory / "jobs" / JOB / "bundle" / "app.py").read_text()  # for its owner to read
        before = len(b.link.sent)
        approved = await asyncio.to_thread(ask, directory, "approve", job=JOB)
        assert approved["decision"] == "accept"
        assert (await b.decision(before=before))["decision"] == "accept"
        assert (await b.reply(await b.task(ZERO))).ok
        before = len(b.link.sent)
        refused = await asyncio.to_thread(ask, directory, "refuse", job=JOB, reason="enough")
        assert refused["reason"] == "enough"
        assert (await b.decision(before=before))["decision"] == "refuse"
        assert (await b.reply(await b.task(ZERO, ordinal=1))).error_kind == "refused"
        with pytest.raises(ConfigError, match="refused already"):
            await asyncio.to_thread(ask, directory, "approve", job=JOB)
        with pytest.raises(NotFoundError, match="job7"):
            await asyncio.to_thread(ask, directory, "approve", job="job7")
        assert [line["actor"].partition("/")[0] for line in b.audit()] == ["site", "owner", "owner", "server"]
        assert (directory / "control.sock").stat().st_mode & 0o777 == 0o600


async def test_what_the_owner_decides_without_an_agent_holds_when_it_starts(town: Town, tmp_path: Path) -> None:
    directory = town.settle(tmp_path / "site", policy="people: any\nunlisted_apps: hold\n")
    blobs = Blobs()
    async with bench(town, directory, blobs=blobs) as b:
        await b.propose()
        b.link.accepted(f"decision/{JOB}", "received", "")
        bundle = b.bundle
    assert [job["job"] for job in ask(directory, "pending")["jobs"]] == [JOB]
    assert ask(directory, "approve", job=JOB)["decision"] == "accept"
    assert ask(directory, "pending") == {"jobs": []}
    assert ask(directory, "status")["running"] is False
    with pytest.raises(UnavailableError, match="no agent"):
        ask(directory, "stop")
    async with bench(town, directory, blobs=blobs) as b:
        b.bundle = bundle
        assert (await b.decision())["decision"] == "accept"
        assert (await b.reply(await b.task(ZERO))).ok


async def test_stop_and_status(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        status = await asyncio.to_thread(ask, site, "status")
        assert (status["running"], status["site"], status["connected"]) == (True, SITE, True)
        with pytest.raises(ConfigError, match="expected status"):
            await asyncio.to_thread(ask, site, "dance")
        assert await asyncio.to_thread(ask, site, "stop") == {"stopping": True}
        await asyncio.wait_for(b.main, 20)


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"op": "approve", "job": 3}\n'])
async def test_commands_that_are_none(town: Town, site: Path, line: bytes) -> None:
    async with bench(town, site):
        reader, writer = await asyncio.open_unix_connection(str(site / "control.sock"))
        writer.write(line)
        writer.write_eof()
        answer = json.loads(await reader.readline())
        writer.close()
        assert answer["ok"] is False


# ---- jobs ----


async def test_the_end_of_a_job_leaves_its_log_only(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose()
        await b.reply(await b.task(large_model(), config={"do": "print"}))
        status = await b.agent.control({"op": "status"})
        pid = status["jobs"][0]["worker_pid"]
        for folder in (site / "jobs", site / "jobs" / JOB, site / "jobs" / JOB / "scratch"):
            assert folder.stat().st_mode & 0o777 == 0o700
        await b.task(ZERO, ordinal=1, config={"do": "hang"})
        await b.say("end", f"end/{JOB}", b'{"job":"job1","status":"completed"}')
        await b.link.until(lambda: ("end", f"end/{JOB}") in b.link.told_done)
        assert not Path(f"/proc/{pid}/stat").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
        assert not (site / "jobs" / JOB).exists()
        assert "hello from the app" in (site / "app-logs" / f"{JOB}.log").read_text()
        assert not list((site / "store" / "blobs").glob("job1/**/*.manifest"))
        assert (b.link.holding(), (await b.agent.control({"op": "status"}))["jobs"]) == ([], [])
        await b.say("end", "end/job2", b"{}", "job2")
        await b.link.until(lambda: ("end", "end/job2") in b.link.told_done)
        for _ in range(2):  # nobody begins it here once more, whoever signed it
            again = await b.propose()
            assert (again["decision"], "has ended" in again["reason"]) == ("refuse", True)
        assert (await b.reply(await b.task(ZERO, ordinal=2))).error_kind == "refused"
        assert (await b.propose(job="job3"))["decision"] == "accept"


async def test_jobs_share_the_places_for_workers(town: Town, tmp_path: Path) -> None:
    directory = town.settle(tmp_path / "site", config="workers: {limit: 2}\n")
    async with bench(town, directory, source=COUNT) as b:
        jobs = [f"job{number}" for number in range(4)]
        for job in jobs:
            assert (await b.propose(job=job))["decision"] == "accept"
        for ordinal in range(3):
            tasks = [await b.task(ZERO, job=job, ordinal=ordinal) for job in jobs]
            for task in tasks:
                assert (await b.reply(task)).metrics["n"] == ordinal + 1
        status = await b.agent.control({"op": "status"})
        alive = [job for job in status["jobs"] if job["worker_pid"] is not None]
        assert 1 <= len(alive) <= 2


async def test_a_job_that_hangs_does_not_stop_another(town: Town, site: Path) -> None:
    async with bench(town, site, source=BY_PHASE) as b:
        await b.propose(job="job1")
        await b.propose(job="job2")
        await b.task(ZERO, job="job1", config={"do": "hang"})
        assert (await b.reply(await b.task(ZERO, job="job2"))).ok


# ---- transfers ----


async def test_transfers_go_on_after_a_broken_connection(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        await b.propose()
        b.blobs.failures = [UnavailableError("gone"), UnavailableError("gone")]
        model = large_model()
        reply = await b.reply(await b.task(model))
        assert np.array_equal(b.arrays(reply)["w"], np.asarray(model["w"]) + 1)
        b.blobs.downloads = 0
        b.link.connected.clear()
        task = await b.task(model, ordinal=1)
        await asyncio.sleep(0.1)
        assert b.blobs.downloads == 0  # nothing is tried without a connection
        b.link.connected.set()
        assert (await b.reply(task)).ok


async def test_an_upload_waits_for_room_at_the_server(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        await b.propose()
        model = large_model()
        b.blobs.put(f"{JOB}/main/0/model", b"")
        task = await b.task(model, ordinal=3)
        await b.reply(task)
        b.blobs.failures = []
        following = await b.task(model, ordinal=4)
        await b.link.until(lambda: b.blobs.downloads >= 3)
        b.blobs.failures = [StorageError("full"), StorageError("full")]
        reply = await b.reply(following)
        assert reply.ok, reply.error


async def test_an_upload_that_is_refused_is_an_error_by_name(town: Town, site: Path) -> None:
    async with bench(town, site, source=COUNT) as b:
        await b.propose()
        for ordinal, error in enumerate((PolicyError("not yours"), IntegrityError("changed"))):

            async def refuse(*_: object, error: Exception = error, **__: object) -> None:
                raise error

            b.link.connection.upload = refuse
            reply = await b.reply(await b.task(large_model(), ordinal=ordinal))
            assert (reply.error_kind, reply.update) == ("lost", None)
            assert str(error) in reply.error


async def test_a_reply_that_the_server_cannot_keep_is_sent_again(
    town: Town, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanse.site.replies.LATER_S", 0.05)
    async with bench(town, site) as b:
        await b.propose()
        task = await b.task(ZERO)
        await b.reply(task)
        b.link.accepted(str(task.id), "later", "disk full")
        await b.link.until(lambda: len(b.replies(task)) == 2)
        assert b.link.holding() == [str(task.id)]


async def test_a_disk_that_refuses_the_journal(town: Town, site: Path) -> None:
    async with bench(town, site, source=COUNT) as b:
        await b.propose()
        assert (await b.reply(await b.task(ZERO))).metrics["n"] == 1
        journal = b.agent._journal._db
        (pages,) = journal.execute("PRAGMA page_count").fetchone()
        big = Arrays({"w": np.zeros(12_000, dtype=np.float32)})
        journal.execute(f"PRAGMA max_page_count = {pages}")
        failed = await b.reply(await b.task(big, ordinal=1))
        assert (failed.error_kind, "journal" in failed.error) == ("lost", True)
        journal.execute("PRAGMA max_page_count = 1000000")
        assert (await b.reply(await b.task(big, ordinal=2))).metrics["n"] == 2


# ---- life ----


async def test_a_revoked_site_ends_with_the_reason(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        b.link.failure = TrustError("site hospital-a was revoked")
        b.link.ends.set()
        with pytest.raises(TrustError, match="revoked"):
            await asyncio.wait_for(asyncio.shield(b.main), 20)
        assert b.audit()[-1]["details"]["reason"] == "site hospital-a was revoked"


async def test_one_agent_a_directory(town: Town, site: Path) -> None:
    async with bench(town, site):
        launcher = Launcher.start()
        try:
            with pytest.raises(ConflictError):
                Agent(site, launcher=launcher)
        finally:
            launcher.stop()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("name: other\n", "hospital-a"),
        ("datasets: {p: {kind: xls, path: p}}\n", "csv"),
        ("datasets: {p: {kind: csv}}\n", "needs path"),
    ],
)
async def test_a_configuration_that_cannot_be(town: Town, tmp_path: Path, config: str, told: str) -> None:
    directory = town.settle(tmp_path / "site", config=config)
    launcher = Launcher.start()
    try:
        with pytest.raises(ConfigError, match=r"site\.yaml") as caught:
            Agent(directory, launcher=launcher)
        assert told in str(caught.value)
    finally:
        launcher.stop()


async def test_a_job_that_ended_while_the_site_was_away(
    town: Town, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanse.site.agent.ASK_AGAIN_S", 0.05)
    async with bench(town, site, source=ADD_ONE) as b:
        await b.propose()
        before = len(b.link.sent)
        b.link.accepted(f"decision/{JOB}", "late", "the job is over")
        assert (site / "jobs" / JOB).exists()  # a server that has just started may not know yet
        await b.decision(before=before)
        b.link.accepted(f"decision/{JOB}", "late", "the job is over")
        async with asyncio.timeout(20):
            while (await b.agent.control({"op": "status"}))["jobs"]:  # noqa: ASYNC110 - it says nothing when done
                await asyncio.sleep(0.01)
        assert not (site / "jobs" / JOB).exists()
