"""Four organisations, one model: trained and asked as jobs, with commands as they are typed, each in its own folder."""

import csv
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import hanse as hs
from hanse.clients.loader import find_app
from hanse.core.codec import decode
from hanse.vertical.glm.saved import decode_part
from tests.e2e.commands import HAS_PROC, Desk, Running, free_ports
from tests.patience import wait_until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e")]

TRAIN = """
import hanse as hs

app = hs.vertical.LogisticRegression(label="late", key="id", epochs=8, batch_rows=64, test=0.25, seed=3)
"""
TREES = """
import hanse as hs

app = hs.vertical.Boosting(label="late", key="id", num_trees=2, depth=2, cipher="mock", test=0.25, seed=3)
"""
HELD = """
import time
from pathlib import Path

import hanse as hs

folder = Path({folder!r})


class Held:
    def __init__(self, real):
        self.have, self.load, self.drop_after, self.real = real.have, real.load, real.drop_after, real

    def keep(self, number, arrays, *, since=None):
        self.real.keep(number, arrays, since=since)
        while number in {numbers} and not (folder / f"go-{{number}}").exists():
            time.sleep(0.05)


class Model(hs.vertical.{model}):
    async def play(self, party, source, hosts, *, kept=None, **more):
        if kept is not None and party.role == "guest":
            real, kept = kept, lambda about: Held(real(about))
        return await super().play(party, source, hosts, kept=kept, **more)


app = Model(label="late", key="id", seed=3, retries=20, **{settings})
"""
"""A training whose guest waits at these checkpoints until it may go on."""
SCORE = """
import hanse as hs

model = hs.vertical.LogisticRegression(label="late", key="id")
app = hs.vertical.Scoring(model, trained_by={job!r}, dataset={dataset!r}, if_offline={if_offline!r}, away_s=1)
"""
ROLES = {"bank": "guest", "shop": "host-1", "telco": "host-2", "notary": "arbiter"}
ROLES_TO_SITES = {"guest": "bank", "host": ["shop", "telco"], "arbiter": "notary"}
COLUMNS = {"bank": ["income"], "shop": ["visits", "basket"], "telco": ["calls"], "notary": []}
PEOPLE = {"bank": range(0, 240), "shop": range(20, 260), "telco": range(0, 250), "notary": range(0)}
COMMON = 220


def columns() -> dict[str, Any]:
    """Everybody's values, by the number of the person."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((260, 4)) * [900, 1, 30, 5] + [2500, 4, 60, 0]
    scaled = (x - x.mean(0)) / x.std(0)
    late = scaled @ [-1, 2, -1, 1] + 0.5 * rng.standard_normal(260) > 0
    return {"income": x[:, 0], "visits": x[:, 1], "basket": x[:, 2], "calls": x[:, 3], "late": late.astype(int)}


def table(site: str, people: Any) -> dict[str, Any]:
    """What a site knows of some of its people, in an order of its own."""
    rows = np.random.default_rng(len(site)).permutation([each for each in people if each in PEOPLE[site]])
    known = columns()
    names = [*COLUMNS[site], *(["late"] if site == "bank" else [])]
    return {"id": np.array([f"c{at}" for at in rows]), **{name: known[name][rows] for name in names}}


class Town:
    """Four organisations, each in its folder."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        invited = [word for site in ROLES for word in ("--site", site)]
        made = desk.ask("federation", "init", "town", *invited, "--port", free_ports(3))
        self.file = desk.folder / made["federation_file"]
        self.server = self.start_server()
        for site, token in made["tokens"].items():
            desk.run("site", "join", "-", "--directory", site, stdin=token)
            self.own(site)
        self.sites = {site: self.start(site) for site in ROLES}

    def own(self, site: str) -> None:
        """What an owner does."""
        folder, datasets = self.desk.folder / site, {"customers": range(260), "applicant": [100]}
        for name, people in datasets.items():
            found = table(site, people if site == "bank" else range(260))
            with (folder / f"{name}.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(found)
                rows.writerows(zip(*(column.tolist() for column in found.values()), strict=True))
        settings = yaml.safe_load((folder / "site.yaml").read_text())
        settings["datasets"] = {name: {"kind": "csv", "path": f"{name}.csv"} for name in datasets}
        settings["workers"] = {"preload": ["hanse.vertical.glm.models", "hanse.vertical.boosting.models"]}
        (folder / "site.yaml").write_text(yaml.safe_dump(settings))
        role = ROLES[site].partition("-")[0]
        allowed = {"peers": "any", "reveals": "any", "unproven": True}  # trees without their cipher have no proof
        policy = {"apps": "any", "people": "any", "datasets": "any", "roles": {role: allowed}}
        (folder / "policy.yaml").write_text(yaml.safe_dump(policy))

    def start_server(self) -> Running:
        server = self.desk.start("server", "start", "--directory", "town")
        server.await_line("server ready")
        return server

    def kill(self, victim: str) -> None:
        """kill -9 and, what is no worker, start again."""
        site, _, worker = victim.partition("'")
        if victim == "server":
            self.server.end(signal.SIGKILL)
            self.server = self.start_server()
        elif worker:
            status = self.desk.ask("site", "status", "--directory", site)
            os.kill(max(each["worker_pid"] for each in status["jobs"] if each["worker_pid"]), signal.SIGKILL)
        else:
            self.sites[site].end(signal.SIGKILL)
            self.sites[site] = self.start(site)

    def start(self, site: str) -> Running:
        running = self.desk.start("site", "start", "--directory", site)
        running.await_line("connected")
        return running

    def submit(self, app: str, *, arbiter: bool) -> Any:
        """Submit an app as a file of its own; the job."""
        (self.desk.folder / "app.py").write_text(app)
        roles: dict[str, Any] = {
            "guest": "bank",
            "host": ["shop", "telco"],
            **({"arbiter": "notary"} if arbiter else {}),
        }
        return hs.submit(find_app(self.desk.folder / "app.py"), self.file, roles=roles)

    def run(self, app: str, *, arbiter: bool) -> Any:
        """Submit and wait; the result."""
        return self.submit(app, arbiter=arbiter).result()

    def outputs(self, job: str, site: str) -> bytes:
        """What a site has kept of a job."""
        return (self.desk.folder / site / "outputs" / job / f"{ROLES[site]}.safetensors").read_bytes()

    def told(self, job: Any) -> str:
        """Everything that is known of a job that does not go on."""
        said = [str(dict(job.status())), "".join(self.server.lines[-10:])]
        for site, running in self.sites.items():
            log = self.desk.folder / site / "jobs" / job.id / "app.log"
            status = self.desk.ask("site", "status", "--directory", site)["jobs"]
            said += [f"{site}: {status}", "".join(running.lines[-6:]), log.read_text() if log.exists() else ""]
        return "\n".join(said)

    def checkpoint(self, site: str, job: str) -> int:
        """The newest that a site has of a job; −1 without one."""
        found = (self.desk.folder / site / "jobs" / job / "checkpoints").glob("*.safetensors")
        return max((int(path.stem) for path in found), default=-1)

    def gone_on_from(self, site: str, job: str) -> list[int]:
        """Checkpoints from which later sessions of a job that is over went on, by the site's own log of it."""
        log = self.desk.folder / site / "app-logs" / f"{job}.log"
        wait_until(log.exists)
        return [int(number) for number in re.findall(r"goes on from checkpoint (\d+)", log.read_text())]


def test_four_organisations_train_and_score(desk: Desk) -> None:
    town = Town(desk)
    trained = town.run(TRAIN, arbiter=True)
    metrics = trained.rounds[-1].by_site
    assert metrics["bank"]["common"] == COMMON
    assert metrics["bank"]["auc"] > 0.9
    assert "auc" not in metrics["shop"]
    job = trained.job
    parts = {site: decode_part(town.outputs(job, site)) for site in ("bank", "shop", "telco")}
    assert not (desk.folder / "notary" / "outputs").exists()

    # The file that was submitted, with the same tables in one process: the same rows, so the same training but for the
    # last bit of each truncation, which the dealer's secret randomness decides.
    sites: dict[str, Any] = {site: {"customers": table(site, range(260))} for site in ROLES}
    simulated = hs.simulate(find_app(desk.folder / "app.py"), sites, roles=ROLES_TO_SITES)
    for site, (part, _) in parts.items():
        assert np.array_equal(simulated.arrays[f"{ROLES[site]}/means"], part.columns.means)
        assert np.abs(simulated.arrays[f"{ROLES[site]}/weights"] - part.weights).max() < 1e-3

    # Joint scores are those of whoever held all parts and all tables.
    scored = town.run(SCORE.format(job=job, dataset="customers", if_offline="refuse"), arbiter=False)
    found = decode(town.outputs(scored.job, "bank"))
    people = table("bank", range(260))["id"][found["places"]]
    assert len(people) == COMMON

    def offline(sites: list[str]) -> Any:
        known, rows = columns(), [int(each[1:]) for each in people]
        z = sum(parts[site][0].part(np.column_stack([known[name][rows] for name in COLUMNS[site]])) for site in sites)
        return 1 / (1 + np.exp(-np.asarray(z)[:, 0]))

    expected = offline(["bank", "shop", "telco"])
    assert np.abs(found["predictions"] - expected).max() < 1e-9
    assert not (desk.folder / "shop" / "outputs" / scored.job).exists()

    # Trees are integers: the same bits, wherever they grow.
    grown = town.run(TREES, arbiter=False)
    forest = hs.simulate(find_app(desk.folder / "app.py"), sites, roles={"guest": "bank", "host": ["shop", "telco"]})
    assert grown.rounds[-1].by_site["bank"]["auc"] == forest.metrics["guest_auc"] > 0.8
    for site in ("bank", "shop", "telco"):
        kept = decode(town.outputs(grown.job, site))
        names = set(kept) - {"about"}  # which writes a class of a CSV file as 1.0
        assert len(names) > 3
        for name in names:
            assert kept[name].tobytes() == forest.arrays[f"{ROLES[site]}/{name}"].tobytes(), name

    single = town.run(SCORE.format(job=job, dataset="applicant", if_offline="refuse"), arbiter=False)
    one = decode(town.outputs(single.job, "bank"))
    assert abs(one["predictions"][0] - expected[people.tolist().index("c100")]) < 1e-9

    # Without the telephone company: refused by name, or scored as if all its customers were average.
    town.sites["telco"].end()
    refused = town.run(SCORE.format(job=job, dataset="customers", if_offline="default"), arbiter=False)
    assert set(refused.rounds[-1].by_site) == {"bank", "shop"}
    found = decode(town.outputs(refused.job, "bank"))
    people = table("bank", range(260))["id"][found["places"]]
    assert np.abs(found["predictions"] - offline(["bank", "shop"])).max() < 1e-9
    kept = {each.name for each in Path(desk.folder / "bank" / "outputs" / job).iterdir()}
    assert kept == {"guest.safetensors", "job.json"}


SPLIT = """
import hanse as hs

app = hs.vertical.SplitNetwork(label="late", key="id", bottom=(8, 4), top=(4,), epochs=3, test=0.25, seed=3)
"""


@pytest.mark.slow
def test_a_split_network_between_organisations(desk: Desk) -> None:
    """The same bits as in one process, and scores with the parts that sites kept."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    torch.set_num_threads(1)  # as in workers
    town = Town(desk)
    trained = town.run(SPLIT, arbiter=False)
    assert trained.ok
    sites: dict[str, Any] = {site: {"customers": table(site, range(260))} for site in ROLES}
    roles = {"guest": "bank", "host": ["shop", "telco"]}
    simulated = hs.simulate(find_app(desk.folder / "app.py"), sites, roles=roles)
    assert trained.rounds[-1].by_site["bank"]["auc"] == simulated.metrics["guest_auc"] > 0.5
    for site in ("bank", "shop", "telco"):
        for name, value in decode(town.outputs(trained.job, site)).items():
            if name != "about":  # classes of a CSV file are floats
                assert np.array_equal(simulated.arrays[f"{ROLES[site]}/{name}"], value), name
    score = SPLIT + f'app = hs.vertical.Scoring(app, trained_by="{trained.job}")\n'
    scored = town.run(score, arbiter=False)
    found = decode(town.outputs(scored.job, "bank"))
    assert len(found["predictions"]) == COMMON
    assert ((found["predictions"] > 0) & (found["predictions"] < 1)).all()


@pytest.mark.skipif(not HAS_PROC, reason="finds workers through /proc")
def test_killed_in_mid_training_they_go_on_from_the_last_checkpoint(desk: Desk) -> None:
    """kill -9 of a guest, a host's worker, the server, another host and the arbiter; nothing begins from nothing."""
    town = Town(desk)
    sites: dict[str, Any] = {site: {"customers": table(site, range(260))} for site in ROLES}

    def held(model: str, numbers: list[int], **settings: Any) -> str:
        for number in numbers:
            (desk.folder / f"go-{number}").unlink(missing_ok=True)
        return HELD.format(folder=str(desk.folder), model=model, numbers=numbers, settings=settings)

    def kill_at(job: Any, number: int, victim: str) -> None:
        """Once the guest has this checkpoint, where it waits."""
        wait_until(lambda: town.checkpoint("bank", job.id) >= number, lambda: town.told(job))
        town.kill(victim)
        (desk.folder / f"go-{number}").touch()

    victims = ("bank", "shop's worker", "server", "telco")
    moments = [3 + 5 * at for at in range(len(victims))]
    job = town.submit(held("Boosting", moments, num_trees=20, depth=2, cipher="mock"), arbiter=False)
    for number, victim in zip(moments, victims, strict=True):
        kill_at(job, number, victim)
    assert job.result().ok
    resumed = town.gone_on_from("bank", job.id)
    assert len(resumed) >= len(victims)
    assert all(number >= 5 * at + 1 for at, number in enumerate(resumed[: len(victims)]))
    undisturbed = hs.simulate(
        find_app(desk.folder / "app.py"), sites, roles={"guest": "bank", "host": ["shop", "telco"]}
    )
    for site in ("bank", "shop", "telco"):
        kept = decode(town.outputs(job.id, site))
        for name in set(kept) - {"about"}:
            assert kept[name].tobytes() == undisturbed.arrays[f"{ROLES[site]}/{name}"].tobytes(), name

    job = town.submit(held("LogisticRegression", [3], epochs=20, batch_rows=64), arbiter=True)
    kill_at(job, 3, "notary")
    assert job.result().ok
    assert min(town.gone_on_from("bank", job.id)) >= 2
    undisturbed = hs.simulate(find_app(desk.folder / "app.py"), sites, roles=ROLES_TO_SITES)
    weights = decode(town.outputs(job.id, "shop"))["weights"]
    assert np.abs(weights - undisturbed.arrays["host-1/weights"]).max() < 1e-3  # the dealer's last bits differ
