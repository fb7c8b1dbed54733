"""The agent with a real journal and real workers, against a link that is no network: tasks, and its own life."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from hanse.core.arrays import Arrays
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    TrustError,
)
from hanse.site.agent import Agent
from hanse.workers.launcher import Launcher
from tests.patience import WAIT_S
from tests.unit.site.apps import BY_PHASE, COUNT, COUNT_IN_AN_ARRAY, ZERO
from tests.unit.site.bench import (
    ADD_ONE,
    JOB,
    Bench,
    Blobs,
    Town,
    bench,
    large_model,
    refuse,
    small_model,
    until_file,
)

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
            async with asyncio.timeout(WAIT_S):
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
        with capture_logs() as lines:
            reply = await b.reply(await b.task(ZERO, config={"do": do}))
        assert (reply.error_kind, reply.update) == (kind, None)
        assert told in reply.error
        assert [line["kind"] for line in lines if line["event"] == "task failed"] == [kind]  # its owner is told, too
        assert not any("patient 7" in str(line) for line in lines)
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
        assert (await b.reply(await b.task(ZERO, ordinal=2, deadline_s=WAIT_S))).ok


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


# ---- life ----


async def test_a_revoked_site_ends_with_the_reason(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        b.link.failure = TrustError("site hospital-a was revoked")
        b.link.ends.set()
        with pytest.raises(TrustError, match="revoked"):
            await asyncio.wait_for(asyncio.shield(b.main), WAIT_S)
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
    monkeypatch.setattr("hanse.site.ending.ASK_AGAIN_S", 0.05)
    async with bench(town, site, source=ADD_ONE) as b:
        await b.propose()
        before = len(b.link.sent)
        b.link.accepted(f"decision/{JOB}", "late", "the job is over")
        assert (site / "jobs" / JOB).exists()  # a server that has just started may not know yet
        await b.decision(before=before)
        b.link.accepted(f"decision/{JOB}", "late", "the job is over")
        async with asyncio.timeout(WAIT_S):
            while (await b.agent.control({"op": "status"}))["jobs"]:  # noqa: ASYNC110 - it says nothing when done
                await asyncio.sleep(0.01)
        assert not (site / "jobs" / JOB).exists()


async def test_a_task_that_comes_before_its_job_waits_where_the_job_can_be_asked_for(town: Town, site: Path) -> None:
    """This site came again without a journal: who was it before has taken the proposal."""
    async with bench(town, site) as at:
        at.link.asked = []
        task = await at.task(small_model())
        await at.task(small_model())
        assert (at.link.asked, at.link.sent) == ([JOB], []), "asked for once, and nothing is refused"
        assert (await at.propose())["decision"] == "accept"
        assert (await at.reply(task)).ok
        assert len(at.replies(task)) == 1
    assert at.link.left


async def test_a_task_that_waited_for_a_job_which_is_refused_is_refused(town: Town, site: Path) -> None:
    (site / "policy.yaml").write_text("apps: []\nunlisted_apps: refuse\npeople: any\n")
    async with bench(town, site) as at:
        at.link.asked = []
        task = await at.task()
        assert (await at.propose())["decision"] == "refuse"
        reply = await at.reply(task)
        assert reply.error_kind == "refused"
        assert "has not accepted the job" in reply.error
