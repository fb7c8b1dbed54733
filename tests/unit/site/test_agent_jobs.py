"""Jobs at an agent: what its owner has decided and decides, and what the end of a job leaves."""

import asyncio
import json
from pathlib import Path

import pytest

from hanse.core.codec import encode
from hanse.core.errors import (
    ConfigError,
    NotFoundError,
    UnavailableError,
)
from hanse.site.control import request
from hanse.site.owner import ask
from tests.patience import WAIT_S
from tests.unit.site.apps import BY_PHASE, COUNT, ZERO
from tests.unit.site.bench import (
    JOB,
    SITE,
    Blobs,
    Town,
    bench,
    large_model,
)

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


async def test_enough_of_a_jobs_id_will_do(town: Town, tmp_path: Path) -> None:
    directory = town.settle(tmp_path / "site", policy="people: any\nunlisted_apps: hold\n")
    async with bench(town, directory) as b:
        for job in ("kiel-1", "kiel-2", "lund-1"):
            await b.propose(job=job)
        with pytest.raises(ConfigError, match="kiel fits 2 jobs; give more of the id: kiel-1, kiel-2"):
            await b.agent.control({"op": "refuse", "job": "kiel"})
        with pytest.raises(ConfigError, match="at least 4 characters"):
            await b.agent.control({"op": "approve", "job": "lun"})
        assert (await b.agent.control({"op": "approve", "job": "lund"}))["job"] == "lund-1"
        await b.decision("lund-1")
    assert ask(directory, "refuse", job="iel-1")["job"] == "kiel-1"  # no agent runs
    with pytest.raises(NotFoundError, match="riga: not known at this site"):
        ask(directory, "approve", job="riga")


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


HOLDING = "people: any\nunlisted_apps: hold\n"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.site.policy_file.LOOK_S", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("policy", "decision", "reason"),
    [
        ("people: any\napps: any\n", "accept", ""),
        ("people: [berta]\napps: any\n", "refuse", "people: anna is not on the site's list"),
        (HOLDING + "strategies: [fedadam]\n", "refuse", "strategies: fedavg is not on the site's list"),
    ],
)
async def test_a_held_job_is_judged_again_when_the_policy_changes(
    town: Town, tmp_path: Path, policy: str, decision: str, reason: str
) -> None:
    directory = town.settle(tmp_path / "site", policy=HOLDING)
    async with bench(town, directory) as b:
        assert (await b.propose())["decision"] == "hold"
        before = len(b.link.sent)
        (directory / "policy.yaml").write_text(policy)
        found = await b.decision(before=before)
        assert (found["decision"], found["reason"]) == (decision, reason)
        assert (await b.reply(await b.task(ZERO))).ok == (decision == "accept")
        assert [line["actor"].partition("/")[0] for line in b.audit()][:2] == ["site", "site"]
        assert await b.agent.control({"op": "pending"}) == {"jobs": []}


@pytest.mark.usefixtures("quick")
async def test_a_policy_that_cannot_be_read_leaves_a_held_job_held(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = town.settle(tmp_path / "site", policy=HOLDING)
    judged = asyncio.Event()
    async with bench(town, directory) as b:
        assert (await b.propose())["decision"] == "hold"
        deciding = b.agent._deciding
        judge = deciding._judge
        monkeypatch.setattr(deciding, "_judge", lambda job, content: (judged.set(), judge(job, content))[1])
        (directory / "policy.yaml").write_text("people: 3\n")
        await asyncio.wait_for(judged.wait(), 60)
        before = len(b.link.sent)
        assert [job["job"] for job in (await b.agent.control({"op": "pending"}))["jobs"]] == [JOB]
        (directory / "policy.yaml").write_text("people: any\napps: any\n")
        assert (await b.decision(before=before))["decision"] == "accept"


async def test_a_held_job_is_judged_again_when_the_agent_starts(town: Town, tmp_path: Path) -> None:
    directory = town.settle(tmp_path / "site", policy=HOLDING)
    blobs = Blobs()
    async with bench(town, directory, blobs=blobs) as b:
        await b.propose()
        b.link.accepted(f"decision/{JOB}", "received", "")
        bundle = b.bundle
    (directory / "policy.yaml").write_text(f"people: any\napps: [{bundle.id}]\n")
    async with bench(town, directory, blobs=blobs) as b:
        b.bundle = bundle
        await b.link.until(lambda: b.agent._journal.job(JOB).decision == "accept")
        assert (await b.reply(await b.task(ZERO))).ok


async def test_stop_and_status(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        status = await asyncio.to_thread(ask, site, "status")
        assert (status["running"], status["site"], status["connected"]) == (True, SITE, True)
        with pytest.raises(ConfigError, match="expected status"):
            await asyncio.to_thread(ask, site, "dance")
        assert await asyncio.to_thread(ask, site, "stop") == {"stopping": True}
        await asyncio.wait_for(b.main, WAIT_S)


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


async def test_an_end_that_comes_twice_at_once_is_one_end(town: Town, tmp_path: Path) -> None:
    """The second, without the model, must not overtake the first, which still fetches it."""
    site = town.settle(tmp_path / "keeping", config="keep_models: true\n")
    async with bench(town, site) as b:
        ended: list[tuple[str, str, bool]] = []
        b.agent._ending._on_end = lambda job, status, ran: ended.append((job, status, ran))
        await b.propose()
        content = encode(large_model())
        blob = b.blobs.put(f"{JOB}/main/1/model", content)
        model = {"scope": blob.scope, "size": blob.manifest.size, "hashes": blob.manifest.hashes.hex()}
        for more in ({"status": "finished", "model": model}, {"status": "over"}):
            await b.say("end", f"end/{JOB}", json.dumps({"v": 1, "job": JOB, **more}).encode())
        await b.link.until(lambda: ("end", f"end/{JOB}") in b.link.told_done)
        await b.say("end", "end/job2", b"{}", "job2")
        await b.link.until(lambda: ("end", "end/job2") in b.link.told_done)
        assert [each for each in ended if each[0] == JOB] == [(JOB, "finished", True)]
        assert (site / "outputs" / JOB / "model.safetensors").read_bytes() == content


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
