"""What a server checks of a job before anything is written: its sites, and what sites that are groups can do."""

from dataclasses import replace
from typing import Any

import pytest

from hanse.backends.memory import MemoryBlobs
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.errors import ConfigError
from hanse.core.ids import bundle_scope, new_job_id
from hanse.core.spec import RunSpec
from hanse.pipeline.offering import check_request, check_sites
from hanse.pipeline.request import JobRequest
from hanse.strategies.groups import Groups, within
from hanse.trust.bundle import make_bundle

BUNDLE = make_bundle({"app.py": b"import hanse as hs\n\napp = hs.App(rounds=1)\n"}, module="app", object_name="app")
GROUPS = Groups(2).to_json()


def request_of(**spec: Any) -> JobRequest:
    manifest = manifest_of(BUNDLE.content)
    asked = RunSpec(**{"initial": "none", "groups": GROUPS, **spec})
    return JobRequest(new_job_id("anna"), "app", "city", "anna", 1, BUNDLE.id, manifest, "-", "app.py", "app", asked)


async def check(request: JobRequest, *, leader: str | None = None) -> None:
    blobs = MemoryBlobs()
    await blobs.put(bundle_scope(request.job), request.bundle, rechunk([BUNDLE.content]))
    await check_request(request, blobs, federation="city", leader=leader)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"strategy": "custom"}, "run.strategy: expected a built-in one beside groups, found custom"),
        ({"strategy": "scaffold"}, "Scaffold has a part at the sites"),
        ({"strategy": "fedbuff", "params": {"buffer": 2}}, "expected a built-in one that moves a model in rounds"),
        ({"groups": {**GROUPS, "rounds": 0}}, "groups.rounds: expected a whole number from 1, found 0"),
        ({"groups": {**GROUPS, "strategy": "fedadam", "params": {}}}, "FedAdam keeps a state"),
        ({"groups": {"rounds": 2}}, "run.groups: expected rounds, strategy, params and quorum"),
        ({"groups": {**GROUPS, "deadline_s": "soon"}}, "run.groups.deadline_s: expected seconds above 0, found soon"),
        ({"groups": {**GROUPS, "deadline_s": 60.0}}, "expected an edge .* for a group's own run, found none here"),
    ],
)
async def test_what_cannot_be_had_with_groups(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        await check(request_of(**spec))


async def test_a_job_of_groups_above_and_a_groups_own_run_at_an_edge() -> None:
    request = request_of()
    await check(request)
    await check(replace(request, spec=within(request.spec)), leader="anna")


@pytest.mark.parametrize(
    ("sites", "spec", "words"),
    [
        (("riga", "nosuch"), {}, "sites: expected some of bergen, riga, found nosuch"),
        (("riga",), {"quorum": 2}, "quorum: expected at most the 1 sites that are asked, found 2"),
        (("riga",), {"min_sites": 2}, "min_sites: expected at most the 1 sites"),
    ],
)
def test_sites_that_a_job_names_are_there_and_enough(sites: tuple[str, ...], spec: dict[str, Any], words: str) -> None:
    request = replace(request_of(groups=None, **spec), sites=sites)
    with pytest.raises(ConfigError, match=words):
        check_sites(request, ["bergen", "riga"])
    check_sites(replace(request, sites=None), [])  # who is not named may be enrolled later
    check_sites(replace(request, sites=("bergen", "riga")), ["bergen", "riga"])


async def test_an_edge_leads_nobodys_job_but_its_own_persons() -> None:
    """It would wait until somebody cancelled it: nothing is ever asked of it."""
    request = request_of()
    with pytest.raises(ConfigError, match="own run of the edge's person admin alone, found one of anna"):
        await check(replace(request, spec=within(request.spec)), leader="admin")
    await check(request, leader="admin")
