"""Companies on AWS, played by an emulator, with no server: what they find together, and a site that dies meanwhile."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.loader import find_app
from hanse.core.codec import decode
from tests.conformance import emulator
from tests.conformance.over_aws import AwsFederation
from tests.patience import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.xdist_group("emulated-aws")]

LINEAR = """
import hanse as hs

app = hs.vertical.LogisticRegression(label="late", key="id", epochs=1, batch_rows=110, test=0.25, seed=3)
"""
TREES = """
import hanse as hs

app = hs.vertical.Boosting(label="late", key="id", num_trees=1, depth=2, cipher="mock", test=0.25, seed=3)
"""
HELD = """
from pathlib import Path
import asyncio

import numpy as np

import hanse as hs
from hanse.channels.protocol import Guarantee, Message, Protocol

TALK = Protocol(
    "talk", ("guest", "host"),
    (Message("numbers", "guest", "host", "float64", (None,)), Message("sum", "host", "guest", "float64", ())),
    Guarantee("none", 0, 0, 0, ()), (),
)
app = hs.RoleApp(TALK, tells={{"sum": "the sum"}}, timeout_s=600, away_s=600)
folder = Path({folder!r})


@app.role("guest")
async def guest(party, site):
    await party.send("host", "numbers", np.arange(300_000.0))
    found = await party.recv("host", "sum")
    return {{"all": np.array([found])}}, {{"sum": float(found)}}


@app.role("host")
async def host(party, site):
    numbers = await party.recv("guest", "numbers")
    (folder / f"{{site.round}}").touch()
    while not (folder / "go").exists():
        await asyncio.sleep(0.05)
    await party.send("guest", "sum", np.float64(numbers.sum()))
    return {{"count": np.array([len(numbers)])}}, {{"sum": float(numbers.sum())}}
"""
STUCK = """
import time
from pathlib import Path

import hanse as hs


class StuckOnce:
    def __init__(self, real):
        self.have, self.load, self.drop_after, self.real = real.have, real.load, real.drop_after, real

    def keep(self, number, arrays, *, since=None):
        self.real.keep(number, arrays, since=since)
        stuck = Path({folder!r}) / "stuck"
        if number == 1 and not stuck.exists():
            stuck.touch()
            while True:
                time.sleep(1)  # until its process is killed


class Trees(hs.vertical.Boosting):
    async def play(self, party, source, hosts, *, kept=None, **more):
        if kept is not None and party.role == "host":
            real, kept = kept, lambda about: StuckOnce(real(about))
        return await super().play(party, source, hosts, kept=kept, **more)


app = Trees(label="late", key="id", num_trees=2, depth=1, cipher="mock", test=0.25, seed=3)
"""
ROLES = {"guest": "bank", "host": "shop", "arbiter": "notary"}
ANY = "{peers: any, reveals: any, unproven: true}"
POLICY = f"apps: any\npeople: any\ndatasets: any\nroles: {{guest: {ANY}, host: {ANY}, arbiter: {ANY}}}\n"


def tables() -> dict[str, dict[str, Any]]:
    x = np.random.default_rng(4).standard_normal((260, 4))
    late = (x @ [-1, 2, -1, 1] > 0).astype(float)  # as it is read from a file
    ids = np.array([f"c{at}" for at in range(260)])
    return {
        "bank": {"id": ids[:240], "income": x[:240, 0], "late": late[:240]},
        "shop": {"id": ids[20:], "visits": x[20:, 1], "basket": x[20:, 2]},
        "notary": {},
    }


@pytest.fixture(scope="module")
def companies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsFederation]:
    home = tmp_path_factory.mktemp("companies")
    declared: dict[str, Mapping[str, Any]] = {}
    for site, table in tables().items():
        path = home / f"{site}.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(table or ["id"])
            rows.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        declared[site] = {"customers": {"kind": "csv", "path": str(path)}}
    preload = {"workers": {"preload": ["hanse.vertical.glm.models", "hanse.vertical.boosting.models"]}}
    with AwsFederation(home / "federation", declared, settings=preload, policy=POLICY) as place:
        yield place


def app_of(text: str, folder: Path) -> Any:
    (folder / "app.py").write_text(text)
    return find_app(folder / "app.py")


def kept(companies: AwsFederation, job: str, role: str) -> Any:
    return decode((companies.directory / ROLES[role] / "outputs" / job / f"{role}.safetensors").read_bytes())


def simulated(app: Any, roles: Mapping[str, str]) -> Any:
    sites = {site: {"customers": table} for site, table in tables().items() if site in roles.values()}
    return hs.simulate(app, sites=sites, roles=roles)


def test_the_intersection_and_a_model_with_a_dealer(companies: AwsFederation, tmp_path: Path) -> None:
    """Shares are drawn anew each time, so weights agree to their truncation; what is no share, to the bit."""
    app = app_of(LINEAR, tmp_path)
    expected = simulated(app, ROLES)
    job = hs.submit(app, companies.federation(), roles=ROLES)
    found = job.result()
    assert found.status == "finished"
    assert found.about["protocol"] == expected.about["protocol"]
    assert found.about["roles"] == "arbiter: notary, guest: bank, host: shop"
    assert set(found.sites) == set(ROLES.values())
    metrics, others = found.rounds[-1].metrics, expected.rounds[-1].metrics
    assert metrics["guest_common"] == others["guest_common"] == 220
    assert metrics["guest_auc"] == pytest.approx(others["guest_auc"], abs=0.01)
    for role in ("guest", "host"):
        mine = kept(companies, job.id, role)
        for name in ("means", "deviations"):
            assert mine[name].tobytes() == expected.arrays[f"{role}/{name}"].tobytes()
        assert np.abs(mine["weights"] - expected.arrays[f"{role}/weights"]).max() < 1e-3
    assert job.status()["status"] == "finished"
    assert job.snapshot().rounds == found.rounds


def test_trees_have_the_bits_that_they_have_in_one_process(companies: AwsFederation, tmp_path: Path) -> None:
    app, roles = app_of(TREES, tmp_path), {"guest": "bank", "host": "shop"}
    expected = simulated(app, roles)
    job = hs.submit(app, companies.federation(), roles=roles)
    found = job.result()
    assert found.rounds[-1].metrics["guest_auc"] == expected.rounds[-1].metrics["guest_auc"]
    for role in roles:
        mine = kept(companies, job.id, role)
        assert {name: array.tobytes() for name, array in mine.items()} == {
            name.partition("/")[2]: array.tobytes()
            for name, array in expected.arrays.items()
            if name.startswith(f"{role}/")
        }


def test_a_killed_site_goes_on_from_the_checkpoint_that_all_have(companies: AwsFederation, tmp_path: Path) -> None:
    """The host is killed when it has kept the first tree; the next session grows the other, and all have the bits."""
    roles = {"guest": "bank", "host": "shop"}
    job = hs.submit(app_of(STUCK.format(folder=str(tmp_path)), tmp_path), companies.federation(), roles=roles)
    wait_until(lambda: (tmp_path / "stuck").exists())
    companies.restart("shop")
    found = job.result()
    expected = simulated(app_of(STUCK.format(folder=str(tmp_path)), tmp_path), roles)
    assert found.rounds[-1].metrics["guest_auc"] == expected.rounds[-1].metrics["guest_auc"]
    for role, site in roles.items():
        mine = kept(companies, job.id, role)
        assert mine
        assert all(array.tobytes() == expected.arrays[f"{role}/{name}"].tobytes() for name, array in mine.items())
        log = companies.directory / site / "app-logs" / f"{job.id}.log"
        wait_until(log.exists)
        assert "goes on from checkpoint 1\n" in log.read_text()


def test_a_site_that_is_killed_costs_a_session_and_nothing_is_left_behind(
    companies: AwsFederation, tmp_path: Path
) -> None:
    """With an array that travels as a blob, which goes when it was read."""
    app, roles = app_of(HELD.format(folder=str(tmp_path)), tmp_path), {"guest": "bank", "host": "shop"}
    before = emulator.calls.copy()
    job = hs.submit(app, companies.federation(), roles=roles)
    wait_until(lambda: (tmp_path / "1").exists())
    companies.restart("shop")
    wait_until(lambda: (tmp_path / "2").exists())
    (tmp_path / "go").touch()
    found = job.result()
    assert found.rounds[-1].metrics["host_sum"] == sum(range(300_000))
    put = [call for call in emulator.calls - before if call.startswith("S3 PUT") and "/channel/guest/host/" in call]
    assert put  # else no blob would have been asked for
    left = [key for key in _objects(companies) if "/channel/" in key]
    assert left == []
    assert (companies.directory / "bank" / "outputs" / job.id / "guest.safetensors").exists()


def _objects(companies: AwsFederation) -> list[str]:
    client = emulator.Session().client("s3")
    found = client.list_objects_v2(Bucket=companies.config.bucket, Prefix=f"v1/{companies.name}/")
    return [each["Key"] for each in found.get("Contents", [])]
