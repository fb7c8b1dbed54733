"""What an edge does about a group's run that is not at work when the federation above asks for something."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hanse.core.errors import TaskError
from hanse.edge import edge as edges
from hanse.edge.edge import Edge, named
from hanse.rounds.hosts.group import Order
from hanse.rounds.machine.members import REFUSED
from hanse.server.jobs import ALL_REFUSED

JOB = "0k3v00000000above"
ORDER = Order("train", 1, {})


class Group:
    """The group's server: its jobs by name, none of which is at work."""

    def __init__(self, **jobs: dict[str, Any]) -> None:
        self.known = jobs
        self.begun: list[str] = []
        self.taken_up: list[str] = []
        self.jobs = SimpleNamespace(active={}, reading=self, is_known=self.is_known, take_up=self.take_up)

    async def is_known(self, job: str) -> bool:
        return job in self.known

    async def describe(self, job: str) -> dict[str, Any]:
        return self.known[job]

    async def take_up(self, job: str) -> None:
        self.taken_up.append(job)


def edge_of(group: Group, monkeypatch: pytest.MonkeyPatch) -> Edge:
    person = SimpleNamespace(identity=SimpleNamespace(name="admin"))
    monkeypatch.setattr(edges, "Membership", SimpleNamespace(load=lambda folder, **_: person))
    monkeypatch.setattr(edges, "Server", lambda *args, **options: group)
    edge = Edge(Path(), Path(), Path(), None)  # type: ignore[arg-type]
    edge.agent = SimpleNamespace(app_of=lambda job: ("proposal", b"bundle"))  # type: ignore[assignment]

    async def submit(name: str, *app: Any) -> None:
        group.begun.append(name)
        group.known[name] = {"status": "failed", "error": "round 1: too few"}

    monkeypatch.setattr(edge, "_submit", submit)
    return edge


@pytest.mark.parametrize(
    ("status", "error", "begun", "taken_up"),
    [
        ("failed", "round 3, phase train: expected 2 replies, found 1", 2, 0),
        ("failed", f"{ALL_REFUSED} (a: people: expected admin)", 0, 0),
        ("failed", f"round 2, phase train: {REFUSED}: expected 2, 1 of 2 may still (a: people: no)", 0, 0),
        ("failed", f"{REFUSED}: expected 2, 1 of 2 may still (a: people: no)", 0, 0),
        ("failed", f"round 2, phase train: expected 2 replies, found 1 (a: raised: {REFUSED})", 2, 0),
        ("failed", f"site a: refused: the group cannot go on: {ALL_REFUSED} (b: people: no)", 2, 0),
        ("stopped", "its driver stopped (StorageError): resume it, or cancel it", 0, 2),
        ("cancelled", "cancelled by admin", 0, 0),
        ("finished", "", 0, 0),
    ],
)
async def test_what_is_done_when_it_is_asked_twice(
    status: str, error: str, begun: int, taken_up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = named(JOB, 1, "admin")
    group = Group(**{first: {"status": status, "error": error}})
    edge = edge_of(group, monkeypatch)
    for _ in range(2):
        with pytest.raises(TaskError, match="the group cannot go on: "):
            await edge._ask(JOB, ORDER)
    assert group.begun == [named(JOB, number, "admin") for number in range(2, 2 + begun)]
    assert group.taken_up == [first] * taken_up
