"""Companies and what they share: commands as they would type them, in folders of their own; each process killed."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.core.codec import decode
from tests.e2e.commands import HAS_PROC, Desk, Running, free_ports
from tests.patience import wait_until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e")]

APP = """
import hanse as hs

app = hs.vertical.Intersection(dataset="customers", key="id")
"""
DIRECTORY = """
import hanse as hs

directory = hs.vertical.Directory(dataset="customers", key="id", budget=200)
app = directory
"""
HELD_APP = """
import asyncio
from pathlib import Path

import hanse as hs
from hanse.channels.protocol import Protocol
from hanse.vertical.psi import chase_miao

TWICE = Protocol.joined("twice", {{"first": chase_miao.PROTOCOL, "second": chase_miao.PROTOCOL}})
app = hs.RoleApp(TWICE, tells={{"common": "how many both have"}}, away_s={away_s}, timeout_s=600)
folder = Path({folder!r})


async def play(party, site, program):
    ids = site.load("customers")["id"].astype(int)
    await program(party.part("first"), ids)
    (folder / f"{{site.name}}-{{site.round}}").touch()
    while not (folder / "go").exists():
        await asyncio.sleep(0.05)
    places = await program(party.part("second"), ids)
    return {{"places": places}}, {{"common": len(places)}}


@app.role("guest")
async def guest(party, site):
    return await play(party, site, chase_miao.guest)


@app.role("host")
async def host(party, site):
    return await play(party, site, chase_miao.host)
"""
PEERS_APP = """
import time
from pathlib import Path

import numpy as np

import hanse as hs

folder = Path({folder!r})
inner = hs.App(rounds=6, seed=4, evaluate_every=6)


class Client(hs.NumPyClient):
    def __init__(self, site):
        self.site = site
        self.visits = site.load("customers")["visits"].astype(np.float32)

    def get_parameters(self, config):
        return [np.full(3, len(self.visits), np.float32)]

    def fit(self, parameters, config):
        self.site.state["seen"] = self.site.state.get("seen", 0) + 1
        (folder / f"{{self.site.name}}-{{config['round']}}").touch()
        while config["round"] == 4 and not (folder / "go").exists():
            time.sleep(0.05)
        start = parameters[0] + self.site.rng.normal(0, 0.1, 3).astype(np.float32)
        return [start + np.float32(0.1 * self.site.state["seen"])], 1 + len(self.visits), {{}}

    def evaluate(self, parameters, config):
        return float(np.square(parameters[0]).sum()), 1, {{}}


inner.client(Client)
app = hs.Peers(inner, hs.Gossip("ring"))
"""
IDS = {"bank": range(0, 300, 2), "shop": range(0, 300, 3)}
ROLES = {"bank": "guest", "shop": "host", "notary": "arbiter"}
REVEALS = "size, intersection, rows, common, shape, correlation, columns, membership, queries"
COMMON = len(range(0, 300, 6))
POLICY = """
apps: any
people: any
datasets: [customers]
roles:
  {role}:
    peers: [{peer}]
    reveals: [{reveals}]
"""


class Companies:
    """A federation of a bank, a shop and a notary, each in its own folder."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        invited = [word for site in ROLES for word in ("--site", site)]
        made = desk.ask("federation", "init", "city", *invited, "--port", free_ports(3))
        self.file = desk.folder / made["federation_file"]
        self.server = self.start_server()
        for site, token in made["tokens"].items():
            desk.run("site", "join", "-", "--directory", site, stdin=token)
            self._own(desk.folder / site, site)
            self.allow(site)
        self.sites = {site: self.start(site) for site in ROLES}

    def start_server(self) -> Running:
        server = self.desk.start("server", "start", "--directory", "city")
        server.await_line("server ready")
        return server

    def start(self, site: str) -> Running:
        running = self.desk.start("site", "start", "--directory", site)
        running.await_line("connected")
        return running

    def ask(self, *arguments: object) -> Any:
        return self.desk.ask(*arguments, "--federation", self.file)

    def submit(self, app: str = APP, sites: Iterable[str] = IDS) -> str:
        (self.desk.folder / "app.py").write_text(app)
        roles = [word for site in sites for word in ("--role", f"{ROLES[site]}={site}")]
        return self.desk.run("run", "app.py", *roles, "--detach", "--federation", self.file).strip()

    def hold(self, away_s: float = 600.0) -> str:
        """Submit an app whose programs wait for `go` in the middle of their session, and wait until both do."""
        shutil.rmtree(self.desk.folder / "held", ignore_errors=True)
        (self.desk.folder / "held").mkdir()
        job = self.submit(HELD_APP.format(away_s=away_s, folder=str(self.desk.folder / "held")))
        held = [self.desk.folder / "held" / f"{site}-1" for site in IDS]
        wait_until(lambda: all(path.exists() for path in held), lambda: self.ask("job", "show", job))
        return job

    def go(self) -> None:
        """Let them play."""
        (self.desk.folder / "held" / "go").touch()

    def until(self, job: str, *statuses: str) -> dict[str, Any]:
        """Ask until the job has one of these statuses."""
        found: dict[str, Any] = {}

        def is_there() -> bool:
            found.update(self.ask("job", "show", job))
            return found["status"] in statuses

        wait_until(is_there, lambda: f"expected {statuses}, found {found}")
        return found

    def places(self, site: str, role: str, job: str) -> list[int]:
        """The identifiers that a site found to be common, in its order."""
        content = (self.desk.folder / site / "outputs" / job / f"{role}.safetensors").read_bytes()
        return [list(IDS[site])[at] for at in decode(content)["places"].tolist()]

    def check(self, job: str) -> None:
        """Both have the intersection, in one order."""
        found = self.ask("job", "result", job)
        assert found["status"] == "finished", found
        metrics = found["rounds"][-1]["by_site"]
        assert metrics["bank"]["common"] == metrics["shop"]["common"] == COMMON
        assert self.places("bank", "guest", job) == self.places("shop", "host", job)
        assert sorted(self.places("bank", "guest", job)) == list(range(0, 300, 6))

    def allow(self, site: str, reveals: str = REVEALS) -> None:
        """What an owner allows; an agent that runs reads it anew."""
        peers = ", ".join(sorted(set(ROLES) - {site}))
        policy = POLICY.format(role=ROLES[site], peer=peers, reveals=reveals)
        (self.desk.folder / site / "policy.yaml").write_text(policy)

    @staticmethod
    def _own(folder: Path, site: str) -> None:
        """What an owner does: put the data there, and say so."""
        with (folder / "customers.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "since", "visits"])
            rows.writerows([number, 1900 + number % 100, number % 7] for number in IDS.get(site, []))
        text = (folder / "site.yaml").read_text()
        (folder / "site.yaml").write_text(
            text.replace("datasets: {}", "datasets:\n  customers: {kind: csv, path: customers.csv}")
        )


@pytest.fixture(scope="module")
def companies(shared_desk: Desk) -> Companies:
    return Companies(shared_desk)


@pytest.fixture
def desk(companies: Companies) -> Desk:
    return companies.desk


def test_two_companies_one_intersection(companies: Companies, desk: Desk) -> None:
    job = companies.submit()
    companies.until(job, "finished")
    companies.check(job)
    shown = companies.ask("job", "show", job)
    assert (shown["roles"], shown["protocol"]) == ({"guest": "bank", "host": "shop"}, "vertical/intersection")
    assert "finished" in desk.run("job", "logs", job, "--federation", companies.file)
    assert companies.ask("job", "list")["jobs"][0]["strategy"] == "roles"

    # The file that was submitted gives the same in one process.
    import hanse as hs
    from hanse.cli.output import number
    from hanse.clients.loader import find_app

    app = find_app(desk.folder / "app.py")
    sites = {site: {"customers": {"id": np.array(ids)}} for site, ids in IDS.items()}
    result = hs.simulate(app, sites, roles={"guest": "bank", "host": "shop"})
    found = companies.ask("job", "result", job)["rounds"][-1]["metrics"]
    assert result.metrics == found
    told = [line.split() for line in desk.run("job", "result", job, "--federation", companies.file).splitlines()]
    assert all([name, number(value)] in told for name, value in found.items())
    mine = [list(IDS["bank"])[at] for at in result.arrays["guest/places"].tolist()]
    assert sorted(mine) == sorted(companies.places("bank", "guest", job))

    text = desk.run("explain", "app.py")
    assert "who is a customer" in text
    assert "server  guest  common" in text
    explained = json.loads(desk.run("explain", "app.py", "--json"))
    assert {each["what"] for each in explained["reveals"]} == {"size", "intersection", "rows", "common"}
    assert explained["guarantee"]["adversary"] == "semi-honest"


def test_three_companies_and_two_protocols(companies: Companies, desk: Desk) -> None:
    """Intersection, then correlation over what is common, with a third site that deals: four processes."""
    job = companies.submit(APP.replace("Intersection", "Correlation"), ROLES)
    companies.until(job, "finished")
    common = np.arange(0, 300, 6)
    columns = np.stack([1900 + common % 100, common % 7]).astype(float)
    expected = np.corrcoef(columns, columns)[:2, 2:]
    for site in ("bank", "shop"):
        content = (desk.folder / site / "outputs" / job / f"{ROLES[site]}.safetensors").read_bytes()
        assert np.abs(decode(content)["correlation"] - expected).max() < 1e-5
    assert not (desk.folder / "notary" / "outputs").exists()


def test_a_policy_refuses_what_would_be_revealed(companies: Companies) -> None:
    companies.allow("shop", "size")
    job = companies.submit()
    error = companies.until(job, "failed")["error"]
    companies.allow("shop")
    assert "has refused the job" in error
    assert "reveals: intersection" in error


def test_a_directory_is_asked_until_its_budget_is_used_up(companies: Companies, desk: Desk) -> None:
    """The bank has 150 identifiers and may ask 200 times: once. Another job, worker and agent count on."""
    pytest.importorskip("gmpy2", reason="directories need gmpy2 (extra `vertical`)")
    made = companies.submit(DIRECTORY)
    companies.until(made, "finished")
    lookup = f"{DIRECTORY}app = hs.vertical.Lookup(directory, made_by={made!r}, dataset='customers')\n"
    job = companies.submit(lookup)
    companies.until(job, "finished")
    assert companies.places("bank", "guest", job) == list(range(0, 300, 6))
    assert not (desk.folder / "shop" / "outputs" / job).exists()
    companies.sites["shop"].end(signal.SIGKILL)
    companies.sites["shop"] = companies.start("shop")
    error = companies.until(companies.submit(lookup), "failed")["error"]
    assert "bank has used 150 of 200 of what it was given and asks for 150 more" in error


@pytest.mark.skipif(not HAS_PROC, reason="finds workers through /proc")
def test_each_process_killed_and_the_same_result(companies: Companies, desk: Desk) -> None:
    """In the middle of the first session, when one of its protocols is over. The second session has the same result."""
    for victim in ("bank", "shop", "bank's worker", "shop's worker", "server"):
        kill_in_the_middle(desk, companies, victim)


def kill_in_the_middle(desk: Desk, companies: Companies, victim: str) -> None:
    job = companies.hold()
    if victim == "server":
        companies.server.end(signal.SIGKILL)
        companies.server = companies.start_server()
    elif victim in companies.sites:
        companies.sites[victim].end(signal.SIGKILL)
        companies.sites[victim] = companies.start(victim)
    else:
        site = victim.partition("'")[0]
        at_work = desk.ask("site", "status", "--directory", site)["jobs"]
        os.kill(next(each["worker_pid"] for each in at_work if each["job"] == job), signal.SIGKILL)
    companies.go()
    companies.until(job, "finished")
    companies.check(job)
    assert (desk.folder / "held" / "bank-2").exists()  # another session


@pytest.mark.skipif(not HAS_PROC, reason="finds workers through /proc")
def test_peers_train_without_a_server_in_the_middle_and_go_on_where_one_was_killed(
    companies: Companies, desk: Desk
) -> None:
    import hanse as hs
    from hanse.clients.loader import find_app

    held = desk.folder / "peers"
    held.mkdir()
    (desk.folder / "app.py").write_text(PEERS_APP.format(folder=str(held)))
    for site in ROLES:
        others = ", ".join(sorted(set(ROLES) - {site}))
        policy = POLICY.format(role=site, peer=others, reveals="model, loss, accuracy, rounds")
        (desk.folder / site / "policy.yaml").write_text(policy + "    unproven: true\n")
    sites = [word for site in ROLES for word in ("--site", site)]
    job = desk.run("run", "app.py", *sites, "--detach", "--federation", companies.file).strip()

    def is_held() -> bool:
        shown = companies.ask("job", "show", job)
        assert shown["status"] in ("waiting", "running"), shown["error"]
        return all((held / f"{site}-4").exists() for site in ROLES)

    wait_until(is_held)
    for first in held.glob("*-1"):
        first.unlink()
    at_work = desk.ask("site", "status", "--directory", "shop")["jobs"]
    os.kill(next(each["worker_pid"] for each in at_work if each["job"] == job), signal.SIGKILL)
    (held / "go").touch()
    companies.until(job, "finished")
    assert not list(held.glob("*-1"))  # nobody began from nothing
    for site in ROLES:
        companies.allow(site)

    sets = {site: {"customers": {"visits": np.array([number % 7 for number in IDS.get(site, [])])}} for site in ROLES}
    expected = hs.simulate_peers(find_app(f"{desk.folder / 'app.py'}:inner"), sets, hs.Gossip("ring"))
    told = companies.ask("job", "result", job)["rounds"][-1]["by_site"]
    for site in ROLES:
        content = (desk.folder / site / "outputs" / job / f"{site}.safetensors").read_bytes()
        assert decode(content)["0"].tobytes() == expected.models[site]["0"].tobytes()
        assert told[site]["loss"] == expected.rounds[-1].by_site[site]["loss"]


def test_a_site_that_stays_away_is_named(companies: Companies) -> None:
    """The last: nobody starts the shop again."""
    job = companies.hold(away_s=2)
    companies.sites["shop"].end(signal.SIGKILL)
    error = companies.until(job, "failed")["error"]
    assert "host shop has been away for 2 s" in error
