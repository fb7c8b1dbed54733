"""The same schedules for roles without a server: functions are killed, messages late, repeated and in any order, sites
crash while they play. Whatever happens, every role hears every message of its last session once and in order.
"""

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass

import structlog

from hanse.backends.grpc import relay as wire
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.channels.spec import RoleSpec
from hanse.clients.role_task import Part
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import canonical_json
from hanse.core.errors import HanseError
from hanse.core.ids import SERVER, bundle_scope
from hanse.core.records import Reply, Task
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.trust.bundle import make_bundle
from hanse.trust.bundle_signature import sign_bundle
from tests.faults.explorer.enrolled import FEDERATION, JOB, PERSON, member, signed
from tests.faults.explorer.function_cases import Case, Outcome, Violation
from tests.faults.explorer.function_sites import Site
from tests.faults.explorer.functions import World

QUOTA = re.compile("on their way|expected a number of the next|the blob that it had")
ROLES = ("guest", "host-1", "host-2")
SIZES = (0, 40, 1000, 150_000)
"""Of messages; the last travels as a blob."""


@dataclass(frozen=True)
class RolesCase(Case):
    """One schedule of roles."""

    messages: int = 4


def draw(seed: int) -> RolesCase:
    rng = random.Random(f"roles {seed}")
    return RolesCase(
        seed=seed,
        sites=rng.choice((2, 3)),
        watched=rng.random() < 0.5,
        kill=rng.choice((0.0, 0.02, 0.1)),
        repeat=rng.choice((0.0, 0.3, 0.6)),
        late=rng.choice((0.0, 0.3)),
        crash=rng.choice((0.0, 0.0, 0.3)),
        batch=rng.choice((1, 2, 10)),
        messages=rng.choice((1, 4, 9)),
    )


def explore(case: RolesCase) -> Counter[str]:
    """Run one schedule and check it.

    Raises:
        Violation: something that must hold does not.
    """
    world = RolesWorld(case)
    with structlog.testing.capture_logs() as lines:
        found = world.play()
    refused = [line["reason"] for line in lines if QUOTA.search(line.get("reason", ""))]
    if refused:
        raise Violation(f"who keeps to the protocol was refused: {refused[:3]}")
    if found.status != "finished":
        raise Violation(f"expected the roles to finish, found {found.status}: {found.error}")
    if found.rounds != ((1, tuple(sorted(world.sites)), ()),):
        raise Violation(f"expected every site in the record, found {found.rounds}")
    return world.totals + Counter(killed=found.killed)


class RolesWorld(World):
    """Everything of one schedule."""

    def __init__(self, case: RolesCase) -> None:
        super().__init__(case)
        self.totals: Counter[str] = Counter()
        self.messages = case.messages

    def make_site(self, name: str) -> Site:
        return RoleSite(self, name)

    async def _submit(self) -> None:
        anna = member("person", PERSON)
        bundle = make_bundle({"app.py": b"app = None\n"}, module="app")
        manifest = manifest_of(bundle.content)
        await self.blobs.put(bundle_scope(JOB), manifest, rechunk([bundle.content]))
        roles = dict(zip(ROLES, self.sites, strict=False))
        pairs = [(one, other) for one in roles for other in roles if one != other]
        said = tuple(Message("m", one, other, "uint8", (None,)) for one, other in pairs)
        protocol = Protocol("talk", tuple(roles), said, Guarantee("none", 0, 0, 0, ()), ())
        spec = RoleSpec(roles, protocol, retries=30)
        signature = sign_bundle(anna.keys.signing, bundle_id=bundle.id, federation=FEDERATION, person=PERSON)
        request = JobRequest(
            JOB, "test", FEDERATION, PERSON, 1, bundle.id, manifest, signature.decode(), "app.py", "app",
            run_spec_of(spec), sites=tuple(sorted(self.sites)), roles=spec,
        )  # fmt: skip
        body = {"v": 1, "request": request.to_json(), "signature": request.sign(anna.keys.signing).hex()}
        envelope = signed(PERSON, "submit", "submit/1", canonical_json(body), by=anna)
        for _ in range(2 if self.happens(self.case.repeat) else 1):
            await self.inbox.send(SERVER, envelope)

    async def _outcome(self) -> Outcome:
        found = await super()._outcome()
        left = [scope for scope, kept in self.blobs._scopes.items() if kept and "/channel/" in scope]
        rows = [*await self.ledger.query("reply/"), *await self.ledger.query("quota/")]
        if left or rows:
            raise Violation(f"left behind: blobs {left}, rows {[key for key, _, _ in rows]}")
        return found


class RoleSite(Site):
    """A site that plays. Which sessions it has begun survives its crashes, as the index of one-time material does."""

    world: RolesWorld

    def __init__(self, world: RolesWorld, name: str) -> None:
        super().__init__(world, name)
        self._begun: set[str] = set()
        self._is_down = False

    def start(self) -> None:
        self._is_down = False
        super().start()

    def crash(self) -> None:
        if not self._is_down:
            self._is_down = True
            self.world.totals["crashes"] += 1
            super().crash()

    async def _work(self, task: Task) -> None:
        world, name = self.world, str(task.id)
        await asyncio.sleep(world.rng.random() * 2)
        if world.happens(world.case.crash):
            world.loop.call_later(world.rng.random() * 10, self.crash)
        if name not in self.journal:
            part = Part.unpack(task.payload)
            try:
                if part.session in self._begun:
                    raise Violation("begun before")
                self._begun.add(part.session)
                world.totals["sessions"] += 1
                heard = await self._play(part)
                reply = Reply(task.id, self.name, metrics={"heard": float(heard)})
            except (HanseError, Violation) as error:
                if "message" in str(error):
                    world.problems.append(str(error))
                reply = Reply.failed(task.id, self.name, "lost", str(error))
            self.journal[name] = reply
            self.counted[name] += 1
        self._busy.discard(name)
        assert self.link is not None
        self.link.send(signed(self.name, "reply", name, self.journal[name].pack(), by=self.member))

    async def _play(self, part: Part) -> int:
        """Say so many messages to everybody, hear as many from each, and take leave."""
        assert self.link is not None
        stream = await self.link.connection.relay(part.session, part.role, part.sites)
        roles = sorted(part.sites)
        own = roles.index(part.role)
        others = [place for place in range(len(roles)) if place != own]
        heard = dict.fromkeys(others, 0)
        try:
            for number in range(self.world.messages):
                for place in others:
                    await stream.write(wire.head(wire.DATA, own, place) + said(part.session, own, number))
                await asyncio.sleep(self.world.rng.random())
            while any(count < self.world.messages for count in heard.values()):
                message = await stream.read()
                if message is None:
                    raise Violation("the session is over")
                kind, sender, content = message[0], message[1], message[3:]
                if kind != wire.DATA:
                    raise Violation("a peer is over")
                if content != said(part.session, sender, heard[sender]):
                    raise Violation(f"{part.role} heard another message {heard[sender]} than {roles[sender]} said")
                heard[sender] += 1
            for place in others:
                await stream.write(wire.head(wire.END, own, place))
            await stream.half_close()
            while await stream.read() is not None:
                pass
        finally:
            stream.cancel()
        return sum(heard.values())


def said(session: str, place: int, number: int) -> bytes:
    """What a role says: different in every session."""
    return f"{session} {place} {number} ".encode() + b"x" * SIZES[(place + number) % len(SIZES)]
