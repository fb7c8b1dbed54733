"""What an agent does not take: messages that do not hold, transfers that break, disks that refuse."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.core.arrays import Arrays
from hanse.core.errors import (
    IntegrityError,
    PolicyError,
    StorageError,
    UnavailableError,
)
from hanse.core.records import Envelope
from hanse.site.jobs import JobRunner
from hanse.trust.audit import verify_log
from hanse.trust.authority import Authority
from tests.unit.site.apps import COUNT, ZERO
from tests.unit.site.bench import (
    JOB,
    SITE,
    Town,
    bench,
    bundle_of,
    large_model,
)

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


async def test_a_proposal_whose_decision_cannot_be_written_comes_again(
    town: Town, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over queues it would be gone otherwise, and the job would wait for this site until its deadline."""
    async with bench(town, site, source=COUNT) as b:
        deciding = b.agent._deciding

        def full(*_: object) -> None:
            raise StorageError("full")

        with monkeypatch.context() as patched:
            patched.setattr(deciding, "_settle", full)
            b.blobs.put(f"{JOB}/bundle", b.bundle.content)
            await b.say("propose", f"propose/{JOB}", json.dumps(town.proposal(b.bundle)).encode())
            await asyncio.wait([deciding._undecided[JOB]])
        assert ("propose", f"propose/{JOB}") not in b.link.told_done
        assert b.agent.is_idle, "no worker waits for a job that nobody has accepted"
        assert (await b.propose())["decision"] == "accept"
        await b.link.until(lambda: ("propose", f"propose/{JOB}") in b.link.told_done)
