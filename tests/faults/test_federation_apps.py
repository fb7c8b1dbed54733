"""What people's code does to a site, and what owners and people decide in mid-job: real processes, mutual TLS."""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from hanse.core.errors import JobFailed
from hanse.site.owner import ask as ask_owner
from tests.faults.controlled import Controlled, await_end, controlled

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("federation-apps")]

MISDEEDS = {
    "raise": ("raised: ", "ValueError"),
    "exit": ("exited: ", "3"),
    "nan": ("bad_reply: ", "NaN"),
    "shape": ("bad_reply: ", "(1, 16)"),
    "dtype": ("bad_reply: ", "float64"),
    "nothing": ("bad_reply: ", "train"),
    "kill": ("killed: ", "SIGKILL"),
}
"""What the app does at a site → how the reply begins, and a word of it."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    with controlled(tmp_path_factory.mktemp("apps")) as made:
        yield made


@pytest.fixture
def federation(shared: Controlled) -> Iterator[Controlled]:
    """All processes are there before and after, the same ones: an app's misdeeds end no agent."""
    shared.control.reset()
    pids = {name: child.pid for name, child in shared.running.children.items()}
    yield shared
    shared.control.reset()
    assert {name: child.pid for name, child in shared.running.children.items() if child.alive} == pids
    assert shared.running.server.alive


def misdeeds(federation: Controlled, order: dict[int, str]) -> None:
    """Site c does something else than it should in these rounds; killed workers are killed by the caller."""
    federation.control.rule = lambda site, round_: (
        None if order.get(round_) == "kill" and site == "c" else order.get(round_, "go") if site == "c" else "go"
    )


def test_misdeeds_are_errors_by_name_and_the_strategy_goes_on(federation: Controlled) -> None:
    control = federation.control
    order = dict(enumerate([*MISDEEDS, "print"], start=1))
    misdeeds(federation, order)
    last = len(order) + 1
    watch, label = federation.submit(rounds=last, quorum=2, min_sites=3, on_error="continue")
    killed = next(number for number, what in order.items() if what == "kill")
    os.kill(control.await_call(label, "c", killed).pid, signal.SIGKILL)
    for number, what in order.items():
        record = watch.round(number)
        if what == "print":
            assert record.folded == ("a", "b", "c"), record
            continue
        begins, word = MISDEEDS[what]
        assert record.folded == ("a", "b"), (what, record)
        assert list(record.failed) == ["c"], (what, record)
        assert record.failed["c"].startswith(begins), (what, record.failed)
        assert word in record.failed["c"], (what, record.failed)
        assert "ward 7" not in record.failed["c"]  # what an exception says could be data
    assert watch.round(last).folded == ("a", "b", "c")
    assert watch.end()["status"] == "finished"
    logs = federation.running.site_directory("c")
    kept = sum(path.stat().st_size for path in logs.rglob("*.log*"))
    print(f"\nof 100 MB that an app printed, {kept / 1e6:.1f} MB were kept")
    assert kept < 20e6


@pytest.mark.parametrize("what", MISDEEDS)
def test_misdeeds_end_a_job_that_must_not_bear_them(federation: Controlled, what: str) -> None:
    misdeeds(federation, {2: what})
    watch, label = federation.submit(rounds=3, quorum=2, min_sites=3, on_error="fail")
    if what == "kill":
        os.kill(federation.control.await_call(label, "c", 2).pid, signal.SIGKILL)
    end = watch.end()
    begins, word = MISDEEDS[what]
    assert end["status"] == "failed"
    assert "site c" in end["error"]
    assert begins.rstrip(": ") in end["error"] or word in end["error"], end
    assert word in end["error"], end
    with pytest.raises(JobFailed, match="site c") as caught:
        watch.job.result()
    assert [record.number for record in caught.value.result.rounds] == [1, 2]
    assert caught.value.result.arrays["0"].size == 16  # the model of the last round that came to its end


def test_code_that_hangs_past_the_deadline(federation: Controlled) -> None:
    """The site ends it a little before the deadline, so that the server hears of the cause in time.

    By a second, which a machine that stands still may swallow: then the deadline itself is the cause.
    """
    control = federation.control
    misdeeds(federation, {1: "hang"})
    settings = {"rounds": 3, "min_sites": 3, "deadline_s": 20.0}
    enough = federation.submit(quorum=2, **settings)
    wanting = federation.submit(quorum=3, retries=0, **settings)
    fatal = federation.submit(quorum=2, on_error="fail", **settings)
    calls = [control.await_call(label, "c", 1) for _, label in (enough, wanting, fatal)]
    record = enough[0].round(1)
    assert record.folded == ("a", "b")
    assert re.fullmatch("timeout: the task took longer than its .*|no reply", record.failed["c"]), record.failed
    assert enough[0].round(3).folded == ("a", "b", "c")
    assert enough[0].end()["status"] == "finished"

    end = wanting[0].end()
    assert end["status"] == "failed"
    print(f"\na hang: {record.failed}; without a quorum: {end['error']}")
    cause = "round 1, phase train: expected 3 replies, found 2 .*c: (timeout|no reply by the deadline)"
    assert re.search(cause, end["error"]), end

    end = fatal[0].end()
    if end["status"] == "failed":
        assert re.search("site c: timeout: the task took longer than its", end["error"]), end
    else:
        assert fatal[0].round(1).failed == {"c": "no reply"}
    for call in calls:
        await_end(call.pid)


def test_a_cancelled_job_ends_its_workers(federation: Controlled) -> None:
    control = federation.control
    control.hold(*((site, 2) for site in "abc"))
    watch, label = federation.submit(rounds=3, min_sites=3)
    pids = [control.await_call(label, site, 2).pid for site in "abc"]
    began = time.monotonic()
    watch.job.cancel()
    assert watch.end()["status"] == "cancelled"
    for pid in pids:
        await_end(pid)
    print(f"\nworkers were gone {time.monotonic() - began:.2f} s after the job was cancelled")


def test_two_jobs_side_by_side(federation: Controlled) -> None:
    """Each waits in its second round for the other to come there: neither blocks the other, nor changes its bits."""
    control = federation.control
    alone = federation.submit(rounds=4, min_sites=3, seed=1)[0].job.result().arrays["0"].tobytes()
    control.hold(*((site, 2) for site in "abc"))
    jobs = [federation.submit(rounds=4, min_sites=3, seed=seed) for seed in (1, 2)]
    for _, label in jobs:
        for site in "abc":
            control.await_call(label, site, 2)
    for site in "abc":
        control.release(site, 2)
    results = [watch.job.result().arrays["0"].tobytes() for watch, _ in jobs]
    assert results[0] == alone
    assert results[1] != alone
    for _, label in jobs:
        assert Counter(control.trainings(label)) == Counter({(s, r): 1 for s in "abc" for r in range(1, 5)})


# ---- owners ----


def policy(federation: Controlled, site: str, text: str) -> None:
    """What a site's owner allows from now on."""
    (federation.running.site_directory(site) / "policy.yaml").write_text(text)


@pytest.fixture
def owners(federation: Controlled) -> Iterator[Controlled]:
    before = (federation.running.site_directory("a") / "policy.yaml").read_text()
    yield federation
    for site in "abc":
        policy(federation, site, before)


HOLD = "people: any\ndatasets: any\nunlisted_apps: hold\n"
REFUSE = "people: any\ndatasets: any\nunlisted_apps: refuse\n"


def test_a_held_job_runs_where_its_owner_approves_it_and_says_who_refused(owners: Controlled) -> None:
    policy(owners, "b", HOLD)
    policy(owners, "c", REFUSE)
    watch, label = owners.submit(rounds=2, min_sites=2)
    assert watch.decision("b", "hold")["reason"]
    refused = watch.decision("c", "refuse")
    assert "not on the site's list" in refused["reason"]
    watch.decision("a", "accept")
    home = owners.running.site_directory("b")
    [held] = ask_owner(home, "pending")["jobs"]
    assert held["job"] == watch.job.id
    sites = watch.job.status()["sites"]
    assert {name: about["decision"] for name, about in sites.items()} == {"a": "accept", "b": "hold", "c": "refuse"}
    assert sites["c"]["reason"] == refused["reason"]
    assert not owners.control.trainings(label)

    ask_owner(home, "approve", job=watch.job.id)
    assert watch.end()["status"] == "finished"
    assert Counter(owners.control.trainings(label)) == Counter({(s, r): 1 for s in "ab" for r in (1, 2)})


def test_a_job_that_nobody_accepts_fails_by_name(owners: Controlled) -> None:
    for site in "ab":
        policy(owners, site, REFUSE)
    policy(owners, "c", HOLD)
    watch, label = owners.submit(rounds=1, min_sites=1, deadline_s=20.0)
    end = watch.end()
    print(f"\n{end['error']}")
    assert end["status"] == "failed"
    for word in ("a", "b", "c", "refuse", "not on the site's list"):
        assert word in end["error"], end
    assert not owners.control.trainings(label)


def test_a_job_that_all_refuse_ends_at_once(owners: Controlled) -> None:
    for site in "abc":
        policy(owners, site, REFUSE)
    watch, label = owners.submit(rounds=1, min_sites=1)  # its deadline is an hour
    end = watch.end()
    assert end["status"] == "failed"
    assert re.search("3 of 3 sites: a, b, c: .* is not on the site's list", end["error"]), end
    assert not owners.control.trainings(label)
