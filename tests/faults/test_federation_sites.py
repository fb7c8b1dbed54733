"""Sites that die, fall silent, are cut off, revoked or out of date while a job goes on: real processes, mutual TLS."""

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hanse.backends.grpc.client import Connection, Credentials
from hanse.backends.grpc.link import Link
from hanse.backends.local.ports import free_ports
from hanse.core.records import Envelope
from hanse.demos.local_federation import LocalFederation
from hanse.server.members import directory_of
from hanse.trust.authority import Authority
from hanse.trust.certificates import current_ms
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership
from tests.faults.controlled import Controlled, await_end, controlled
from tests.faults.proxy import Proxy
from tests.patience import WAIT_S

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("federation-sites")]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """Between site d and the server."""
    with Proxy() as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, proxy: Proxy) -> Iterator[Controlled]:
    with controlled(tmp_path_factory.mktemp("sites"), "a b c d", proxies={"d": proxy}) as made:
        yield made


@pytest.fixture
def federation(shared: Controlled) -> Iterator[Controlled]:
    shared.control.reset()
    yield shared
    shared.control.reset()


def test_a_killed_site_is_noticed_and_used_again(federation: Controlled) -> None:
    running, control = federation.running, federation.control
    control.hold(("c", 2), ("a", 3))
    watch, label = federation.submit(rounds=5, quorum=2, min_sites=4)
    call = control.await_call(label, "c", 2)

    killed = time.time()
    running.kill(running.children["c"])
    closed, record = watch.round_at(2)
    [(noticed, details)] = federation.audit("site.lost", "c", killed - 0.01)
    print(f"\nkill -9 a site: noticed after {noticed - killed:.3f} s, the round closed after {closed - killed:.3f} s")
    assert (
        details["reason"] == "connection closed"
    )  # milliseconds, where nothing else computes; a lease takes ten seconds
    assert record.folded == ("a", "b", "d")
    assert record.failed == {"c": "lost"}
    await_end(call.pid)  # its worker ends with it

    control.await_call(label, "a", 3)
    running.start_site("c")
    running.wait_for_sites(["c"])
    control.release("a", 3)
    assert watch.round(4).folded == ("a", "b", "c", "d")
    assert watch.end()["status"] == "finished"


def test_silent_sites_are_noticed_their_replies_come_late_and_they_are_used_again(
    federation: Controlled, proxy: Proxy
) -> None:
    """Site c is stopped, the network of site d swallows every packet; both at one time, since each takes a lease."""
    running, control = federation.running, federation.control
    control.hold(("c", 2), ("d", 2), ("a", 3))
    watch, label = federation.submit(rounds=5, quorum=2, min_sites=4)
    control.await_call(label, "c", 2)
    control.await_call(label, "d", 2)

    silent = time.time()
    running.children["c"].signal(signal.SIGSTOP)
    proxy.swallow()
    closed, record = watch.round_at(2)
    assert record.folded == ("a", "b")
    assert record.failed == {"c": "lost", "d": "lost"}
    for site, what in (("c", "SIGSTOP a site"), ("d", "swallowed packets")):
        [(noticed, details)] = federation.audit("site.lost", site, silent - 0.01)
        print(f"\n{what}: noticed after {noticed - silent:.2f} s, the round closed after {closed - silent:.2f} s")
        assert "lease" in details["reason"]  # ten seconds, and what a busy machine adds

    control.await_call(label, "a", 3)
    control.release("c", 2)
    control.release("d", 2)
    running.children["c"].signal(signal.SIGCONT)
    proxy.let_pass()
    for site in ("c", "d"):
        watch.reply(site, 2)
    running.wait_for_sites(["c", "d"])
    control.release("a", 3)
    third = watch.round(3)
    assert (third.folded, sorted(third.late)) == (("a", "b"), ["c", "d"])
    assert watch.round(4).folded == ("a", "b", "c", "d")
    assert watch.end()["status"] == "finished"


def test_a_revoked_site_leaves_in_mid_job_and_the_others_go_on(federation: Controlled) -> None:
    running, control = federation.running, federation.control
    control.hold(("b", 2))
    watch, label = federation.submit(rounds=4, quorum=2, min_sites=4)
    control.await_call(label, "b", 2)
    revoked = time.time()
    ask(running, "revoke", kind="site", name="b")
    closed, record = watch.round_at(2)
    assert record.folded == ("a", "c", "d")
    assert record.failed == {"b": "lost"}
    [(_, details)] = federation.audit("site.lost", "b", revoked - 0.01)
    assert details["reason"] == "connection closed"  # and not when its lease would have ended
    print(f"\na revoked site's round closed after {closed - revoked:.3f} s")
    assert watch.end()["status"] == "finished"
    assert [round_ for site, round_ in control.trainings(label) if site == "b"] == [1, 2]
    site = running.children["b"]
    assert site.process is not None
    assert site.process.wait(WAIT_S) != 0
    assert "revoked" in federation.log(site)

    running.start_site("b")  # it does not come back by itself either
    assert running.children["b"].process.wait(WAIT_S) != 0
    assert "b" not in running.there()


def test_a_certificate_renews_before_its_end_and_an_expired_one_is_refused(federation: Controlled) -> None:
    running = federation.running
    home = running.site_directory("c")
    running.kill(running.children["c"])
    certify_for(running, "c", life_s=300.0)  # of an hour: it is to be renewed at once
    before = Membership.load(home).identity
    running.start_site("c")
    running.wait_for_sites(["c"])
    end = time.monotonic() + WAIT_S
    while (renewed := Membership.load(home).identity).serial == before.serial:
        assert time.monotonic() < end, federation.log(running.children["c"])[-2000:]
        time.sleep(0.05)  # the site's own file; nothing announces it to us
    assert renewed.not_after_ms > before.not_after_ms + 86_400_000
    watch, label = federation.submit(rounds=1, quorum=1, min_sites=1)
    assert watch.end()["status"] == "finished"
    assert ("c", 1) in federation.control.trainings(label)

    running.kill(running.children["c"])
    certify_for(running, "c", life_s=-1.0)
    running.start_site("c")
    assert running.children["c"].process is not None
    assert running.children["c"].process.wait(WAIT_S) != 0
    assert "expired" in federation.log(running.children["c"])
    assert "c" not in running.there()


async def test_a_session_ends_with_its_certificate(federation: Controlled) -> None:
    """Of a site that does not renew, as ours would."""
    running = federation.running

    async def ignore(envelope: Envelope, count: int) -> None:
        pass

    for life_s in (6.0, 30.0, 90.0):  # as long as it takes to connect
        member = certify_for(running, "c", life_s=life_s, save=False)
        credentials = Credentials(member.certificate_pem, member.keys.tls_pem(), member.authority_pem)
        link = Link(
            functools.partial(Connection, running.config.address, credentials),
            deliver=ignore,
            accepted=lambda *_: None,
        )
        holding = asyncio.ensure_future(link.run())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(link.connected.wait(), life_s)
            break
        holding.cancel()
    assert link.connected.is_set()
    began, ends = time.time(), member.identity.not_after_ms / 1000
    while not (lost := [at for at, _ in federation.audit("site.lost", "c", began) if at >= ends - 0.1]):
        assert (
            time.time() < began + WAIT_S
        )  # the killed site's last session may still replace ours, which then comes back
        await asyncio.sleep(0.05)
    print(f"\na session ended {lost[0] - ends:.2f} s after its certificate")
    assert "c" not in await asyncio.to_thread(running.there)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


def test_a_site_that_could_not_renew_in_time_says_so_and_ends(federation: Controlled, proxy: Proxy) -> None:
    running = federation.running
    running.kill(running.children["d"])
    certify_for(running, "d", life_s=4.0)
    proxy.target = free_ports(1)[0]  # nobody is there
    running.start_site("d")
    assert running.children["d"].process is not None
    assert running.children["d"].process.wait(WAIT_S) != 0
    end = federation.log(running.children["d"])[-500:]
    assert "expired" in end, end


def ask(running: LocalFederation, op: str, **body: Any) -> dict[str, Any]:
    """One question of the admin."""

    async def asked() -> dict[str, Any]:
        async with running.federation().connect() as session:
            return await session.ask(op, **body)

    return asyncio.run(asked())


def certify_for(running: LocalFederation, site: str, *, life_s: float, save: bool = True) -> Membership:
    """A certificate for a site's own keys that holds for so long from now, put where the site finds it."""
    home = running.site_directory(site)
    authority = Authority.load(directory_of(running.server.directory))
    keys = MemberKeys.load(home / "keys")
    request = SigningRequest.request(keys, federation=authority.federation, kind="site", name=site)
    now_ms = current_ms()
    began_ms = now_ms - 3_600_000
    issued = authority.issue(
        request, kind="site", name=site, now_ms=began_ms, days=(now_ms + life_s * 1000 - began_ms) / 86_400_000
    )
    made = Membership.check(
        keys,
        certificate_pem=issued.certificate_pem,
        authority_pem=authority.certificate_pem,
        signed_record=issued.record,
        address=running.config.address,
        now_ms=began_ms,
    )
    if save:
        made.save(home)
    return made
