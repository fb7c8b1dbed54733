"""Apps of roles as data: who plays what, protocols joined, declarations read from outside."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.local import local_channels, run_local
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.channels.spec import RoleSpec, assigned
from hanse.core.errors import ConfigError, JobFailed, UnavailableError
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.vertical import correlation
from hanse.vertical.psi import chase_miao, diffie_hellman

PAIR = Protocol(
    "pair",
    ("guest", "host"),
    (Message("number", "guest", "host", "float64", ()), Message("number", "host", "guest", "float64", ())),
    Guarantee("semi-honest", 1, 128, 40, ("a",)),
    (Reveal("host", "guest", "number", "it"),),
)
ROLES = {"guest": "bank", "host": "shop"}


def sum_app(**options: Any) -> hs.RoleApp:
    app = hs.RoleApp(PAIR, tells={"sum": "of both numbers"}, **options)

    async def play(party: Party, site: Any) -> Any:
        other = "host" if party.role == "guest" else "guest"
        own = float(site.load("number"))
        await party.send(other, "number", np.array(own))
        total = own + float(await party.recv(other, "number"))
        return {"values": np.array([total])}, {"sum": total}

    for role in PAIR.roles:
        app.role(role)(play)
    return app


DATA = {"bank": {"number": 1.5}, "shop": {"number": lambda: 2.0}}


def test_an_app_in_one_process() -> None:
    events: list[str] = []
    result = hs.simulate(sum_app(), DATA, roles=ROLES, observer=lambda event: events.append(event["what"]))
    assert result.ok
    assert result.metrics["guest_sum"] == result.metrics["host_sum"] == 3.5
    assert result.rounds[0].by_site["bank"]["sent_messages"] == 1
    assert result.arrays["host/values"].tolist() == [3.5]
    assert events == ["phase", "round", "finished"]


def test_who_has_failed_is_named_and_not_who_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    app = hs.RoleApp(PAIR)

    @app.role("guest")
    async def guest(party: Party, site: Any) -> None:
        await party.recv("host", "number")

    @app.role("host")
    async def host(party: Party, site: Any) -> None:
        raise ValueError("row 4711")

    with pytest.raises(JobFailed, match=r"host shop: ValueError .*the traceback is on standard error") as caught:
        hs.simulate(app, DATA, roles=ROLES)
    assert "4711" not in str(caught.value)
    err = capsys.readouterr().err
    assert err.startswith("site shop, round 1, role:\nTraceback")
    assert err.rstrip().endswith("ValueError: row 4711")
    assert caught.value.result.status == "failed"


def test_only_what_is_told_leaves() -> None:
    app = sum_app()
    assert {(each.to, each.about, each.what) for each in app.protocol.reveals} == {
        ("host", "guest", "number"),
        ("server", "guest", "sum"),
        ("server", "host", "sum"),
    }
    app.protocol = PAIR
    with pytest.raises(JobFailed, match="metric 'sum' is not told"):
        hs.simulate(app, DATA, roles=ROLES)


def test_what_is_wrong_is_said_by_name() -> None:
    app = sum_app()
    with pytest.raises(ConfigError, match=r"expected .*'guest': SITE, 'host': SITE.*found none"):
        hs.simulate(app, DATA)
    with pytest.raises(ConfigError, match="needs a site for each of guest, host; found guest"):
        app.spec({"guest": "bank"})
    serving = replace(PAIR, roles=("guest", "server"), messages=(), reveals=())
    with pytest.raises(ConfigError, match="another name than 'server'"):
        RoleSpec({"guest": "bank", "server": "shop"}, serving)
    with pytest.raises(ConfigError, match="one with two roles"):
        app.spec({"guest": "bank", "host": "bank"})
    with pytest.raises(ConfigError, match="sites of the simulation, found port"):
        hs.simulate(app, DATA, roles={"guest": "bank", "host": "port"})
    with pytest.raises(ConfigError, match="no program for guest, host"):
        hs.RoleApp(PAIR).spec(ROLES)
    with pytest.raises(ConfigError, match="twice"):
        app.role("guest")
    with pytest.raises(ConfigError, match="expected one of guest, host"):
        app.role("arbiter")
    with pytest.raises(ConfigError, match="expected a Protocol"):
        hs.RoleApp("pair")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"roles: expected none for an hs\.App"):
        hs.simulate(hs.App(), ["a"], roles=ROLES)
    for options in ({"timeout_s": 0}, {"deadline_s": float("nan")}, {"retries": -1}, {"threads": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            sum_app(**options).spec(ROLES)


def test_several_hosts_are_numbered() -> None:
    found = assigned({"guest": "bank", "host": ["shop", "telco"]})
    assert found == {"guest": "bank", "host-1": "shop", "host-2": "telco"}
    assert assigned({"guest": ["bank"], "host": "shop"}) == ROLES
    with pytest.raises(ConfigError, match="host"):
        assigned({"host": []})


# ---- parts ----


async def test_the_parts_of_a_joined_protocol_do_not_meet() -> None:
    """The host runs ahead into the second part while the guest is in the first."""
    whole = Protocol.joined("two", {"psi": chase_miao.PROTOCOL, "again": chase_miao.PROTOCOL})
    mine, theirs = list(range(0, 60, 2)), list(range(0, 60, 3))

    async def guest(party: Party) -> Any:
        first = await chase_miao.guest(party.part("psi"), mine)
        return first, await chase_miao.guest(party.part("again"), mine[:10])

    async def host(party: Party) -> Any:
        first = await chase_miao.host(party.part("psi"), theirs)
        return first, await chase_miao.host(party.part("again"), theirs)

    found = await run_local(whole, {"guest": guest, "host": host})
    assert sorted(mine[at] for at in found["guest"][0]) == list(range(0, 60, 6))
    assert sorted(mine[at] for at in found["guest"][1]) == [0, 6, 12, 18]
    assert whole.reveals == chase_miao.PROTOCOL.reveals
    with pytest.raises(ConfigError, match="no part"):
        whole.part("fit")


def test_a_joined_guarantee_is_the_weakest() -> None:
    weak = replace(PAIR, name="weak", guarantee=Guarantee("none", 0, 0, 0, ("b",)))
    joined = Protocol.joined("both", {"a": PAIR, "b": weak, "c": correlation.PROTOCOL})
    assert joined.guarantee.adversary == "none"
    assert joined.guarantee.assumptions[:2] == ("a", "b")
    assert joined.roles == ("guest", "host", "arbiter")
    assert len(joined.reveals) == 1 + len(correlation.PROTOCOL.reveals)


# ---- from outside ----


@pytest.mark.parametrize("protocol", [PAIR, chase_miao.PROTOCOL, diffie_hellman.COUNTING])
def test_declarations_and_jobs_travel(protocol: Protocol) -> None:
    assert Protocol.from_json(json.loads(json.dumps(protocol.describe()))) == protocol
    spec = RoleSpec(ROLES, protocol, seed=7)
    assert RoleSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    from hanse.core.blobs import manifest_of

    request = JobRequest(
        "j", "n", "f", "anna", 0, "a" * 64, manifest_of(b"x"), "", "app.py", "app", run_spec_of(spec),
        sites=spec.sites, roles=spec,
    )  # fmt: skip
    assert JobRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


DEEP: Any = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(st.sampled_from(["name", "roles", "messages", "guarantee", "reveals"]), DEEP)
def test_garbage_in_a_declaration_is_refused(key: str, value: Any) -> None:
    """Or it is a declaration, and travels on as such."""
    whole = json.loads(json.dumps(PAIR.describe())) | {key: value}
    try:
        found = RoleSpec.from_json({"roles": ROLES, "protocol": whole})
    except ConfigError:
        return
    assert RoleSpec.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(DEEP)
def test_garbage_for_a_job_of_roles_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        RoleSpec.from_json(value)
    if not (isinstance(value, int | float) and 0 < value <= 1e9):
        with pytest.raises(ConfigError):
            RoleSpec.from_json({"roles": ROLES, "protocol": PAIR.describe(), "timeout_s": value})


async def test_a_part_under_other_names_for_its_roles() -> None:
    """Two hosts play the same protocol of two with one guest."""
    names = [{"host": f"host-{number}"} for number in (1, 2)]
    whole = Protocol.joined("twice", {f"psi-{each['host']}": chase_miao.PROTOCOL.recast(each) for each in names})
    assert whole.roles == ("guest", "host-1", "host-2")
    assert ("host-2", "guest", "intersection") in {(each.to, each.about, each.what) for each in whole.reveals}

    async def guest(party: Party) -> Any:
        found = []
        for each in names:
            part = party.part(f"psi-{each['host']}", each)
            assert (part.role, part.protocol.roles) == ("guest", ("guest", "host"))
            found.append(sorted(await chase_miao.guest(part, [1, 2, 3, 4])))
        return found

    def host(ids: list[int]) -> Any:
        async def play(party: Party) -> Any:
            return sorted(await chase_miao.host(party.part(f"psi-{party.role}", {"host": party.role}), ids))

        return play

    found = await run_local(whole, {"guest": guest, "host-1": host([3, 1]), "host-2": host([9, 4])})
    assert found == {"guest": [[0, 2], [3]], "host-1": [0, 1], "host-2": [1]}


async def test_who_is_absent_is_missed_at_once() -> None:
    async def guest(party: Party) -> str:
        assert party.absent == {"host"}
        for wait in (party.send("host", "number", np.array(1.0)), party.recv("host", "number")):
            with pytest.raises(UnavailableError, match=r"host (is away|is away before)"):
                await wait
        return "alone"

    assert await run_local(PAIR, {"guest": guest}, absent=["host"]) == {"guest": "alone"}


async def test_who_is_really_waited_for_is_named() -> None:
    """The guest waits for the shop, which waits for a company that sleeps; the guest's time is up first."""
    names = ("guest", "shop", "telco")
    chain = Protocol(
        "chain",
        names,
        tuple(Message("m", one, other, "uint8", ()) for one in names for other in names if one != other),
        PAIR.guarantee,
        (),
    )
    channels = local_channels(names)

    async def waits(role: str, other: str, timeout_s: float) -> str:
        with pytest.raises(UnavailableError) as lost:
            await Party(role, chain, channels[role], timeout_s=timeout_s).recv(other, "m")
        return str(lost.value)

    found = await asyncio.gather(waits("guest", "shop", 0.1), waits("shop", "telco", 0.3))
    assert found[0] == "shop has not sent `m` for 0.1 s; it waits for telco itself"
    assert found[1].startswith("telco has not sent `m` for 0.3 s; last heard")  # it sleeps, and does not say for whom
