"""Jobs of roles over the wire: a real server and streams; sites that play without a worker, and some that cheat."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from hanse.backends.grpc import relay as wire_format
from hanse.backends.grpc.protocol import CutOffError
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.channels.spec import RoleSpec
from hanse.channels.stream import StreamChannel
from hanse.clients.role_task import CALL, Part
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    HanseError,
    NotFoundError,
    PolicyError,
    RefusedError,
    TaskError,
    TrustError,
    UnavailableError,
)
from hanse.core.records import BlobRef, Reply, Task
from hanse.pipeline.request import run_spec_of
from hanse.site.material import MaterialIndex
from hanse.site.proposals import Proposal
from hanse.site.relay import Bridge, worker_pair
from hanse.site.roles import RoleSide, keep_arrays
from hanse.site.roles import play as play_as_agent
from hanse.trust.member_record import verify_record
from hanse.trust.sessions import SessionContext, SessionEnd
from hanse.workers.answers import Done
from tests.faults.wire_federation import FEDERATION, Site, Wire, federation, submit
from tests.patience import WAIT_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAIR = Protocol(
    "pair",
    ("guest", "host"),
    (Message("block", "guest", "host", "float64", (None,)), Message("sum", "host", "guest", "float64", ())),
    Guarantee("none", 0, 0, 0, ()),
    (Reveal("host", "guest", "block", "all of it"),),
)
SPEC = RoleSpec({"guest": "healthy", "host": "evil"}, PAIR, away_s=0.5, retries=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    async with federation(tmp_path_factory.mktemp("roles")) as wire:
        await wire.enrol("site", "evil")
        await wire.enrol("site", "third")
        yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(shared: Wire) -> AsyncIterator[Wire]:
    yield shared
    await shared.check_health()
    assert shared.server._relays._sessions == {}  # nothing is left open


async def begin(wire: Wire, spec: RoleSpec = SPEC) -> str:
    async with wire.session("researcher") as session:
        person = wire.people["researcher"]
        return await submit(session, person, spec=run_spec_of(spec), roles=spec, sites=spec.sites)


async def accept(job: str, *sites: Site) -> list[Task]:
    """All accept; what each is asked."""
    for site in sites:
        await site.until("propose", job)
        assert (await site.decide(job))[0] == "received"
    return [await site.task(job) for site in sites]


async def ended(wire: Wire, job: str) -> dict[str, Any]:
    async with wire.session("researcher") as session, asyncio.timeout(WAIT_S):
        async for event in session.watch(job):
            if event["what"] == "finished":
                return await session.ask("result", job=job)
    raise AssertionError("the job has no end")


async def play(site: Site, task: Task) -> float:
    """Play a role as an agent and a worker would, in one."""
    part = Part.unpack(task.payload)
    ends = {}
    for role, name in part.sites.items():
        record = verify_record(part.records[role].encode(), site.member.authority_pem)
        assert record.name == name
        ends[role] = SessionEnd(role, name, record.sealing_key)
    context = SessionContext(FEDERATION, task.id.job, task.id.component, part.session, "00" * 32)
    connection = site.wire.connect(site.member)
    ours, theirs = worker_pair()
    bridge = Bridge(
        await connection.relay(part.session, part.role),
        ours, PAIR, part.role, ends=ends, context=context, key=site.member.keys.sealing,
    )  # fmt: skip
    bridging = asyncio.ensure_future(bridge.run())
    channel = StreamChannel(theirs)
    party = Party(part.role, PAIR, channel, timeout_s=WAIT_S)
    try:
        if part.role == "guest":
            await party.send("host", "block", np.arange(400_000.0))
            return float(await party.recv("host", "sum"))
        block = await party.recv("guest", "block")
        await party.send("guest", "sum", np.array(block.sum()))
        return float(block.sum())
    finally:
        await channel.close()
        await asyncio.wait([bridging], timeout=WAIT_S)
        await connection.close()
        bridging.result()


async def test_a_job_of_two_roles(wire: Wire) -> None:
    assert wire.healthy is not None
    async with wire.site("evil") as host:
        guest = wire.healthy
        job = await begin(wire)
        tasks = await accept(job, guest, host)
        assert [(task.call, task.id.round) for task in tasks] == [(CALL, 1), (CALL, 1)]
        sums = await asyncio.gather(play(guest, tasks[0]), play(host, tasks[1]))
        assert sums == [np.arange(400_000.0).sum()] * 2
        for site, task, value in zip((guest, host), tasks, sums, strict=True):
            assert await site.reply(Reply(task.id, site.name, metrics={"sum": value})) == ("received", "")
        result = await ended(wire, job)
        assert result["status"] == "finished"
        assert result["rounds"][0]["by_site"]["evil"] == {"sum": sums[0]}


async def test_none_starts_before_all_have_accepted(wire: Wire) -> None:
    assert wire.healthy is not None
    job = await begin(wire)
    await wire.healthy.until("propose", job)
    await wire.healthy.decide(job)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await wire.healthy.task(job)
    async with wire.site("evil") as host:
        await host.until("propose", job)
        assert (await host.decide(job, "refuse"))[0] == "received"
    result = await ended(wire, job)
    assert result["error"].startswith("host evil has refused the job")


async def test_a_lost_site_is_awaited_and_then_named(wire: Wire) -> None:
    assert wire.healthy is not None
    job = await begin(wire)
    async with wire.site("evil") as host:
        await accept(job, wire.healthy, host)
    result = await ended(wire, job)
    assert result["error"] == "host evil has been away for 0.5 s; the last session: host evil was lost"


async def test_a_site_that_returns_gets_a_new_session_and_old_answers_are_late(wire: Wire) -> None:
    assert wire.healthy is not None
    guest = wire.healthy
    job = await begin(wire, RoleSpec(SPEC.roles, PAIR, away_s=600, retries=1))
    async with wire.site("evil") as host:
        first = await accept(job, guest, host)
    async with wire.site("evil") as host:
        await guest.until("release", job)
        second = [await guest.task(job), await host.task(job)]
        assert [task.id.round for task in second] == [2, 2]
        assert Part.unpack(second[0].payload).session != Part.unpack(first[0].payload).session
        assert (await guest.reply(Reply(first[0].id, "healthy", metrics={"sum": 1.0})))[0] == "late"
        with pytest.raises((NotFoundError, CutOffError)):  # gRPC hides why a call ended that is sent to at that moment
            await play(guest, first[0])
        for site, task in zip((guest, host), second, strict=True):
            assert (await site.reply(Reply(task.id, site.name)))[0] == "received"
        assert (await ended(wire, job))["status"] == "finished"


async def test_a_program_s_failure_is_the_job_s(wire: Wire) -> None:
    assert wire.healthy is not None
    job = await begin(wire)
    async with wire.site("evil") as host:
        guest_task, host_task = await accept(job, wire.healthy, host)
        lost = Reply.failed(guest_task.id, "healthy", "lost", "host evil stopped before it sent `sum`")
        await wire.healthy.reply(lost)
        await host.reply(Reply.failed(host_task.id, "evil", "raised", "ValueError at app.py:9 in host"))
        assert (await ended(wire, job))["error"] == "host evil: ValueError at app.py:9 in host"


async def _overrun(stream: Any) -> None:
    """Send more than there is room for, until the server has had enough."""
    for _ in range(20):
        await stream.write(wire_format.head(wire_format.DATA, 1, 0) + bytes(1 << 20))
    await stream.read()


async def test_streams_that_are_not_the_site_s_own(wire: Wire) -> None:
    """Another site's role, a second stream, no session, no opening, garbage, more than there is room for."""
    assert wire.healthy is not None
    job = await begin(wire)
    async with wire.site("evil") as host:
        guest_task, host_task = await accept(job, wire.healthy, host)
        session = Part.unpack(guest_task.payload).session
        evil, third = (wire.connect(wire.sites[name]) for name in ("evil", "third"))
        for connection, role, error in (
            (third, "guest", PolicyError),
            (evil, "guest", PolicyError),
            (evil, "x" * 5000, PolicyError),
        ):
            with pytest.raises(error):
                await (await connection.relay(session, role)).read()
        with pytest.raises(NotFoundError):
            await (await evil.relay("no/main/1", "host")).read()
        stream = await evil.relay(session, "host")
        with pytest.raises(HanseError, match="has been opened before"):
            await (await evil.relay(session, "host")).read()
        with pytest.raises(HanseError):
            await _overrun(stream)
        replies = [Reply(guest_task.id, "healthy"), Reply(host_task.id, "evil")]
        for site, reply in zip((wire.healthy, host), replies, strict=True):
            await site.reply(reply)
        assert (await ended(wire, job))["status"] == "finished"
        for connection in (evil, third):
            await connection.close()


class Agent:
    """A site's own side: the code that agents run, around a role program that runs here."""

    def __init__(self, site: Site, proposal: Proposal, folder: Path, **metrics: float) -> None:
        self.site, self.proposal, self.metrics = site, proposal, metrics
        self.side = RoleSide(lambda: site.member, MaterialIndex(folder / f"{site.name}.db"), folder / "outputs")

    async def play(self, task: Task) -> Done:
        async def execute(sock: socket.socket) -> Done:
            channel = StreamChannel(sock)
            role = Part.unpack(task.payload).role
            party = Party(role, PAIR, channel, timeout_s=WAIT_S)
            if role == "guest":
                await party.send("host", "block", np.arange(10.0))
                await party.recv("host", "sum")
            else:
                await party.send("guest", "sum", np.array((await party.recv("guest", "block")).sum()))
            await channel.close()
            content = encode(Arrays({"values": np.arange(3)}))
            return Done(
                Reply(task.id, self.site.name, metrics=self.metrics, update=BlobRef.inline(content)), b"", None, False
            )

        connection = self.site.wire.connect(self.site.member)
        try:
            return await play_as_agent(self.side, self.proposal, task, connection, execute)
        finally:
            await connection.close()


async def test_what_agents_do(wire: Wire, tmp_path: Path) -> None:
    """Both play; no session twice; nothing but what is told; no task that is not the signed job's; arrays stay."""
    assert wire.healthy is not None
    told = replace(
        PAIR, reveals=(*PAIR.reveals, Reveal("server", "guest", "total", ""), Reveal("server", "host", "total", ""))
    )
    spec = RoleSpec(SPEC.roles, told)
    job = await begin(wire, spec)
    async with wire.site("evil") as host:
        pairs = []
        for site in (wire.healthy, host):
            proposal = Proposal.parse((await site.until("propose", job)).body)
            proposal.verify(authority_pem=site.member.authority_pem, federation=FEDERATION)
            await site.decide(job)
            pairs.append((site, proposal))
        tasks = [await site.task(job) for site, _ in pairs]
        agents = [Agent(site, proposal, tmp_path, total=1.0) for site, proposal in pairs]

        part = Part.unpack(tasks[0].payload)
        for wrong in (
            replace(part, role="host"),
            replace(part, session=f"{job}/main/2"),
            replace(part, timeout_s=1e9),
            replace(part, sites={"guest": "healthy", "host": "third"}),
            replace(part, records={**part.records, "host": part.records["guest"]}),
            replace(part, records={}),
            replace(part, sites={"guest": "healthy"}),  # nobody's role is optional here
        ):
            with pytest.raises((RefusedError, TrustError)):
                await agents[0].play(replace(tasks[0], payload=wrong.pack()))
        with pytest.raises(RefusedError, match="another seed"):
            await agents[0].play(replace(tasks[0], seed=spec.seed + 1))

        done = await asyncio.gather(*(agent.play(task) for agent, task in zip(agents, tasks, strict=True)))
        reply = keep_arrays(agents[0].side, agents[0].proposal, "guest", done[0], None)
        assert reply.update is None
        kept = tmp_path / "outputs" / job / "guest.safetensors"
        assert decode(kept.read_bytes())["values"].tolist() == [0, 1, 2]
        assert kept.stat().st_mode & 0o077 == 0
        with pytest.raises(ConflictError, match="used before"):
            await agents[0].play(tasks[0])
        for site, task in zip((wire.healthy, host), tasks, strict=True):
            await site.reply(Reply(task.id, site.name))
        await ended(wire, job)

    job = await begin(wire, spec)
    async with wire.site("evil") as host:
        tasks = await accept(job, wire.healthy, host)
        proposals = [replace(each[1], request=replace(each[1].request, job=job)) for each in pairs if each[1].request]
        agents = [
            Agent(site, replace(proposal, job=job), tmp_path, total=1.0, rows=7.0)
            for site, proposal in zip((wire.healthy, host), proposals, strict=True)
        ]
        found = await asyncio.gather(
            *(agent.play(task) for agent, task in zip(agents, tasks, strict=True)), return_exceptions=True
        )
        assert all(isinstance(each, TaskError) and "'rows' is not told" in str(each) for each in found), found
        await wire.healthy.reply(Reply.failed(tasks[0].id, "healthy", "bad_reply", "x"))
        await ended(wire, job)


async def test_metrics_that_would_fill_the_record(wire: Wire) -> None:
    assert wire.healthy is not None
    job = await begin(wire)
    async with wire.site("evil") as host:
        tasks = await accept(job, wire.healthy, host)
        await host.reply(Reply(tasks[1].id, "evil", metrics={f"m{i}": "x" * 100 for i in range(1000)}))
        assert "metrics: expected at most" in (await ended(wire, job))["error"]


async def test_requests_that_do_not_hold(wire: Wire) -> None:
    person = wire.people["researcher"]
    for spec, sites, words in (
        (RoleSpec({"guest": "healthy", "host": "nobody"}, PAIR), None, "sites of the federation, found nobody"),
        (SPEC, ("healthy",), "the sites that play roles"),
    ):
        async with wire.session("researcher") as session:
            with pytest.raises(ConfigError, match=words):
                await submit(session, person, spec=run_spec_of(spec), roles=spec, sites=sites or spec.sites)


async def test_cancelled_by_a_person(wire: Wire) -> None:
    assert wire.healthy is not None
    job = await begin(wire)
    async with wire.site("evil") as host:
        tasks = await accept(job, wire.healthy, host)
        playing = asyncio.ensure_future(play(wire.healthy, tasks[0]))
        relayed = wire.server._relays.find(Part.unpack(tasks[0].payload).session)
        await until(lambda: relayed._ends)
        async with wire.session("researcher") as session:
            await session.ask("cancel", job=job)
        with pytest.raises(UnavailableError):
            await playing
        assert (await ended(wire, job))["status"] == "cancelled"
        assert json.loads((await host.until("end", job)).body)["status"] == "cancelled"
