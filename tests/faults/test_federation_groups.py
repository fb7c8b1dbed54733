"""Members and edges that die while a job of groups goes on: a server, two edges, four members, all real processes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import hanse as hs
from hanse.clients.loader import find_app
from hanse.core.errors import NotFoundError
from hanse.demos import local_federation
from hanse.demos.local_groups import Grouped, grouped
from hanse.edge.edge import named
from hanse.person.jobs import Job, submit
from hanse.site.owner import ask
from tests.faults.controlled import Control, Watch
from tests.nursery import EDGE, MEMBERS, forks

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("federation-groups")]

GROUPS = {"north": ["a", "b"], "south": ["c", "d"]}
APP = """
import os
import socket

import numpy as np

import hanse as hs

app = hs.App(initial=[np.zeros(16, np.float32)], seed=5, groups=hs.Groups(rounds=2, quorum={inner}), **{settings})


@app.train
def train(arrays, config, site):
    with socket.create_connection(("127.0.0.1", {port})) as line:
        line.sendall(f"{label} {{site.name}} {{site.round}} {{os.getpid()}}\\n".encode())
        order = line.makefile().readline().strip()
    if order == "raise":
        raise ValueError("no")
    site.state["calls"] = site.state.get("calls", 0) + 1
    drawn = site.rng.standard_normal(16) * site.state["calls"]
    return [(arrays["0"] * 0.5 + drawn).astype(np.float32)], 1 + site.state["calls"], {{}}


@app.evaluate
def evaluate(arrays, config, site):
    return 3, {{"calls": site.state.get("calls", 0)}}
"""


@dataclass
class Shared:
    """Processes, and what controls the trainings in them."""

    place: Grouped
    control: Control
    folder: Path
    made: list[str] = field(default_factory=list)

    def submit(self, *, inner: int | None = None, **settings: Any) -> tuple[Watch, str, hs.App]:
        label = f"app{len(self.made)}"
        self.made.append(label)
        path = self.folder / f"{label}.py"
        path.write_text(APP.format(inner=inner, settings=settings, port=self.control.port, label=label))
        app = find_app(str(path))
        assert isinstance(app, hs.App)
        return Watch(submit(app, self.place.above.federation())), label, app

    def within(self, group: str, job: str, number: int = 1) -> Watch:
        return Watch(Job(named(job, number, "admin"), self.place.groups[group].federation()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("groups")
    with Control() as control, forks(local_federation, (*MEMBERS, *EDGE)), grouped(folder, GROUPS) as place:
        yield Shared(place, control, folder)


@pytest.fixture
def federation(shared: Shared) -> Iterator[Shared]:
    shared.control.reset()
    yield shared
    shared.control.reset()


def test_a_killed_member_costs_its_rounds_and_comes_back(federation: Shared) -> None:
    control, north = federation.control, federation.place.groups["north"]
    control.hold(("b", 3), ("a", 5))
    watch, label, _ = federation.submit(inner=1, rounds=3)
    control.await_call(label, "b", 3)
    north.kill(north.children["b"])
    record = watch.round(2)
    assert record.folded == ("north", "south")
    assert (record.by_site["north"]["train_group_members"], record.by_site["south"]["train_group_members"]) == (1, 2)
    behind = federation.within("north", watch.job.id)
    third = behind.round(3)
    assert (third.folded, third.failed) == (("a",), {"b": "lost"})

    control.await_call(label, "a", 5)
    north.start_site("b")
    north.wait_for_sites(["b"])
    control.release("a", 5)
    assert watch.round(3).by_site["north"]["train_group_members"] == 2
    assert watch.end()["status"] == "finished"
    assert behind.end()["status"] == "finished"
    assert [round_ for site, round_ in control.trainings(label) if site == "b"] == [1, 2, 3, 6]


def test_a_killed_edge_goes_on_with_the_bits_of_the_simulation(federation: Shared) -> None:
    control, north = federation.control, federation.place.groups["north"]
    control.hold(("a", 3))
    watch, label, app = federation.submit(rounds=3)
    control.await_call(label, "a", 3)
    north.kill(north.server)
    control.release("a", 3)
    north.start_server()
    assert watch.end()["status"] == "finished"
    result = watch.job.snapshot()
    trained = control.trainings(label)
    assert len(trained) == len(set(trained)) == 4 * 3 * 2, "a training was done twice, or not at all"

    expected = hs.simulate_hierarchy(app, GROUPS, progress=False)
    assert result.arrays == expected.arrays
    assert [each.metrics for each in result.rounds] == [each.metrics for each in expected.rounds]
    assert [each.by_site for each in result.rounds] == [each.by_site for each in expected.rounds]


def test_a_group_without_its_edge_is_named_and_skips_what_it_has_missed(federation: Shared) -> None:
    control, north = federation.control, federation.place.groups["north"]
    control.hold(("a", 3), ("c", 5))
    watch, label, _ = federation.submit(rounds=4, quorum=1)
    control.await_call(label, "a", 3)
    north.kill(north.server)
    record = watch.round(2)
    assert (record.folded, record.failed) == (("south",), {"north": "lost"})

    control.await_call(label, "c", 5)  # the third round is under way without it
    north.start_server()
    federation.place.above.wait_for_sites(["north"])
    north.wait_for_sites()
    control.release("a", 3)
    control.release("c", 5)
    assert watch.round(3).folded == ("south",)
    assert watch.round(4).folded == ("north", "south")
    assert watch.end()["status"] == "finished"
    assert federation.within("north", watch.job.id).end()["status"] == "finished"
    rounds = sorted({round_ for site, round_ in control.trainings(label) if site == "a"})
    assert rounds in ([1, 2, 3, 7, 8], [1, 2, 3, 4, 7, 8])  # whether its second round was ended or given up


def test_a_cancelled_job_ends_within_the_groups_too(federation: Shared) -> None:
    control = federation.control
    control.hold(("a", 1), ("c", 1))
    watch, label, _ = federation.submit(rounds=3)
    control.await_call(label, "a", 1)
    control.await_call(label, "c", 1)
    watch.job.cancel()
    assert watch.end()["status"] == "cancelled"
    for group in GROUPS:
        assert federation.within(group, watch.job.id).end()["status"] == "cancelled"


def test_a_group_whose_run_has_failed_is_named_and_begins_anew(federation: Shared) -> None:
    control = federation.control
    control.rule = lambda site, round_: "raise" if (site, round_) == ("a", 3) else "go"
    watch, _, _ = federation.submit(rounds=3, quorum=1, retries=0)
    second = watch.round(2)
    assert second.folded == ("south",)
    assert (
        "the group cannot go on: round 3, phase train: expected 2 replies, found 1 (a: raised" in second.failed["north"]
    )
    assert watch.round(3).folded == ("north", "south")
    assert watch.end()["status"] == "finished"
    behind = federation.within("north", watch.job.id)
    assert behind.end()["status"] == "failed"
    anew = federation.within("north", watch.job.id, 2)
    assert anew.end()["status"] == "finished"
    assert [record.number for record in anew.job.snapshot().rounds if record.folded] == [4, 5, 6]


@pytest.mark.parametrize(
    ("members", "inner", "cause"),
    [
        (["a", "b"], None, "every site has refused the job (2 of 2 sites: a, b: "),
        (["b"], 2, "too many sites have refused to take part: expected 2, 1 of 2 may still (b: apps: "),
    ],
)
def test_owners_who_refuse_are_asked_once_for_a_job_above(
    federation: Shared, members: list[str], inner: int | None, cause: str
) -> None:
    north = federation.place.groups["north"]
    policies = [north.site_directory(member) / "policy.yaml" for member in members]
    before = [path.read_text() for path in policies]
    for path in policies:
        path.write_text("people: any\ndatasets: any\nunlisted_apps: refuse\n")
    try:
        watch, label, _ = federation.submit(inner=inner, rounds=3, quorum=1, retries=0)
        assert watch.end()["status"] == "finished"
        for number in (1, 2, 3):
            record = watch.round(number)
            assert record.folded == ("south",)
            assert f"the group cannot go on: {cause}" in record.failed["north"]
    finally:
        for path, text in zip(policies, before, strict=True):
            path.write_text(text)
    assert {site for site, _ in federation.control.trainings(label)} == {"c", "d"}
    assert federation.within("north", watch.job.id).end()["status"] == "failed"
    with pytest.raises(NotFoundError):
        federation.within("north", watch.job.id, 2).job.status()


def test_an_owner_who_stops_a_job_that_needs_all_ends_its_group_at_once(federation: Shared) -> None:
    control, north = federation.control, federation.place.groups["north"]
    control.hold(("a", 3), ("b", 3))
    watch, label, _ = federation.submit(inner=2, rounds=3, quorum=1, retries=0)
    control.await_call(label, "a", 3)
    control.await_call(label, "b", 3)
    behind = named(watch.job.id, 1, "admin")
    assert ask(north.site_directory("b"), "refuse", job=behind, reason="enough")["decision"] == "refuse"
    assert watch.end()["status"] == "finished"
    assert watch.round(1).folded == ("north", "south")
    for number in (2, 3):
        assert watch.round(number).folded == ("south",)
        assert "1 of 2 may still (b: enough)" in watch.round(number).failed["north"]
