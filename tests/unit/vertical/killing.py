"""One session of an app of roles in this process, in which somebody may be killed: at any message, at any checkpoint.

Everything that a role does to the world outside its process is an act: it sends or hears a message, keeps a checkpoint,
counts a query. A kill comes before or after an act. What the sites' disks hold outlives it: checkpoints, and counts of
queries. Time is the scheduler's own (`hanse.channels.schedule`), so that waiting for a deadline takes none.

How a kill looks to the others is one of `WAYS`:

    silence    nothing more comes of the killed role; they find out at their deadline
    word       its peers are told, as by the server that lost its stream, or by the role itself in its last moment
    cut        nobody is killed, but the server is: each loses all others
"""

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hanse.channels.app import RoleApp, RolePlay
from hanse.channels.checkpoints import KEPT, FileCheckpoints
from hanse.channels.frames import LOST, STOPPED, Frame
from hanse.channels.party import Party
from hanse.channels.schedule import ScheduledChannel, run_scheduled
from hanse.channels.spec import RoleSpec
from hanse.channels.spending import FileSpending
from hanse.clients.role_task import check_told
from hanse.clients.roles import taken_apart
from hanse.clients.site import Site
from hanse.core.arrays import Array, Arrays
from hanse.core.ids import TaskId
from hanse.core.records import Task

TIMEOUT_S = 100.0
WAYS = ("silence", "word", "cut")
Roles = Mapping[str, str | Sequence[str]]
Tables = Mapping[str, Mapping[str, Any]]
ByRole = dict[str, Arrays]
Canonical = Callable[[ByRole], ByRole]


class Killed(Exception):
    """Of no kind that a program catches."""


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """What a role does: the `number`-th time that it `send`s or `hear`s (with its peer and the message's name), `keep`s
    (a checkpoint) or `count`s (queries)."""

    role: str
    what: str
    peer: str = ""
    name: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """Of the role that does `act`, before it or after."""

    act: Act
    after: bool
    way: str = "silence"


@dataclass(slots=True)
class Ended:
    """How a session ended.

    Attributes:
        arrays, metrics: of roles that ended well.
        errors: of the others.
        acts: how often each was done; `number` is 0 in all of them.
        hashes: of what was sent, by sender, recipient and name.
        struck: whether the kill came.
        logs: what roles said into their sites' logs.
        elapsed_s: on the scheduler's clock.
    """

    arrays: dict[str, Arrays] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    acts: Counter[Act] = field(default_factory=Counter)
    hashes: dict[tuple[str, str, str], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    struck: bool = False
    logs: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0


@dataclass(slots=True)
class Disks:
    """What sites keep from session to session.

    Attributes:
        folder: an empty one.
        outputs: what roles kept of an earlier job, as `ROLE/NAME`.
    """

    folder: Path
    outputs: Mapping[str, Array] = field(default_factory=dict)

    def checkpoints(self, role: str) -> Path:
        place = self.folder / role
        place.mkdir(exist_ok=True)
        return place

    def queries(self, role: str) -> Path:
        return self.folder / f"{role}.db"

    def state(self) -> str:
        """Which checkpoints there are and how much is counted: on this, and on nothing else, a next session depends."""
        kept = {
            place.name: sorted(file.stem for file in place.iterdir())
            for place in self.folder.iterdir()
            if place.is_dir()
        }
        counted = {path.name: self.counted(path.stem) for path in self.folder.glob("*.db")}
        return f"{sorted(kept.items())} {sorted(counted.items())}"

    def ahead(self) -> list[str]:
        """The roles that have a newer checkpoint than some other."""
        newest = {
            place.name: max((file.stem for file in place.iterdir()), default="")
            for place in self.folder.iterdir()
            if place.is_dir()
        }
        return [role for role, number in sorted(newest.items()) if number > min(newest.values())]

    def copy(self, number: int) -> "Disks":
        """The same in another place."""
        place = self.folder.with_name(f"{self.folder.name}-{number}")
        return Disks(Path(shutil.copytree(self.folder, place)), self.outputs)

    def counted(self, role: str) -> int:
        """Queries that a role has counted."""
        return int(FileSpending(self.queries(role))._open().execute("SELECT TOTAL(number) FROM spent").fetchone()[0])


class _Session:
    """What happens in one session, and whether it is time to kill."""

    def __init__(self, kill: Kill | None) -> None:
        self.kill, self.found = kill, Ended()
        self.is_cut = False

    def act(self, role: str, what: str, peer: str, name: str, *, after: bool, party: Party | None) -> None:
        act = Act(role, what, peer, name)
        at = self.found.acts[act] - after
        if not after:
            self.found.acts[act] += 1
        kill = self.kill
        if kill is None or self.found.struck or (kill.act, kill.after) != (Act(role, what, peer, name, at), after):
            return
        self.found.struck = True
        if kill.way != "cut":
            raise Killed
        assert party is not None
        self.is_cut = True
        channel = party._channel
        assert isinstance(channel, ScheduledChannel)
        roles = party.protocol.roles
        channel._world.flying += [Frame(a, b, LOST, 0, b"") for a in roles for b in roles if a != b]

    def is_lost(self, frame: Frame) -> bool:
        if self.is_cut:
            return frame.name != LOST
        kill = self.kill
        silent = kill is not None and kill.way == "silence" and frame.sender == kill.act.role
        return silent and frame.name == STOPPED and self.found.struck

    def party_of(self) -> type[Party]:
        session = self

        class Watched(Party):
            async def send(self, to: str, name: str, value: Array) -> None:
                session.act(self.role, "send", to, name, after=False, party=self)
                digest = hashlib.sha256(value.tobytes()).digest() if value.nbytes >= 16 else b""
                session.found.hashes[self.role, to, name].append(digest)
                await super().send(to, name, value)
                session.act(self.role, "send", to, name, after=True, party=self)

            async def recv(self, sender: str, name: str) -> Array:
                session.act(self.role, "hear", sender, name, after=False, party=self)
                value = await super().recv(sender, name)
                session.act(self.role, "hear", sender, name, after=True, party=self)
                return value

        return Watched

    def site(self, role: str, party: Party, tables: Mapping[str, Any], disks: Disks, name: str) -> Site:
        session = self

        class Checkpoints(FileCheckpoints):
            def keep(self, number: int, arrays: Arrays, *, since: int | None = None) -> None:
                session.act(role, "keep", "", "", after=False, party=party)
                super().keep(number, arrays, since=since)
                session.act(role, "keep", "", "", after=True, party=party)

        class Spending(FileSpending):
            def spend(self, peer: str, thing: str, number: int, limit: int) -> int:
                session.act(role, "count", peer, "", after=False, party=party)
                left = super().spend(peer, thing, number, limit)
                session.act(role, "count", peer, "", after=True, party=party)
                return left

        class Watched(Site):
            @property
            def checkpoints(self) -> Callable[..., FileCheckpoints]:
                return lambda about, kept=KEPT: Checkpoints(disks.checkpoints(role), about, kept)

        own = {each.partition("/")[2]: array for each, array in disks.outputs.items() if each.startswith(f"{role}/")}
        return Watched(
            name,
            tables.__getitem__,
            self.found.logs.append,
            outputs=lambda: Arrays(own),
            spending=Spending(disks.queries(role)),
        )


def play(app: RoleApp, spec: RoleSpec, tables: Tables, disks: Disks, seed: int, kill: Kill | None = None) -> Ended:
    """One session over what earlier ones left on the disks."""
    session = _Session(kill)
    watched = session.party_of()

    def program(role: str, name: str) -> Callable[[Party], Any]:
        async def run(party: Party) -> Any:
            party.__class__ = watched
            site = session.site(role, party, tables[name], disks, name)
            site.begin(Task(TaskId("job", "main", 1, "role", 0), name, "role", seed=spec.seed), {})
            metrics, arrays = taken_apart(await app.programs[role](party, site), role)
            check_told(metrics, app.protocol, role)
            return metrics, arrays

        return run

    outcome = run_scheduled(
        app.protocol,
        {role: program(role, name) for role, name in spec.roles.items()},
        seed,
        timeout_s=TIMEOUT_S,
        lost=session.is_lost,
    )
    found = session.found
    found.errors, found.elapsed_s = outcome.errors, outcome.elapsed_s
    for role, (metrics, arrays) in outcome.results.items():
        found.metrics[role], found.arrays[role] = metrics, Arrays() if arrays is None else arrays
    return found


def cast(app: RolePlay, roles: Roles) -> tuple[RoleApp, RoleSpec]:
    """An app for these roles, and the job as plain data."""
    spec = app.spec(roles)
    return app.cast(spec.roles), spec


def differences(expected: Ended, found: Ended, near: float, canonical: Canonical = lambda arrays: arrays) -> list[str]:
    """In what the roles that ended well differ from those of another session, in words.

    Args:
        near: how far numbers may be from those that are expected; 0: they have the same bits.
        canonical: brings what roles kept into a form that is the same in every session.
    """
    said = []
    arrays, others = canonical(found.arrays), canonical({role: expected.arrays[role] for role in found.arrays})
    for role, own in arrays.items():
        said += [f"{role}: {name}, which is in one alone" for name in set(own) ^ set(others[role])]
        for name in set(own) & set(others[role]):
            mine, other = own[name], others[role][name]
            if mine.dtype != other.dtype or mine.shape != other.shape:
                said.append(f"{role}: the shape of {name}")
            elif near and mine.dtype.kind == "f":
                far = np.abs(mine - other).max(initial=0)
                said += [f"{role}: {name} by {far:.1e}"] * bool(far > near)
            elif mine.tobytes() != other.tobytes():
                said.append(f"{role}: {name}")
        for name, value in found.metrics[role].items():
            far = abs(value - expected.metrics[role][name])
            said += [f"{role}: metric {name} by {far:.1e}"] * bool(far > near)
    return said
