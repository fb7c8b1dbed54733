"""One app of groups, both runtimes, the same bits: `hs.simulate_hierarchy`, and server, edges and members as processes.

Compared are the final arrays byte for byte, and what each round's record says, as in `test_same_bits`.
"""

import runpy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.loader import load_app
from hanse.demos import local_federation
from hanse.demos.local_groups import Behind, Grouped, grouped
from hanse.edge.edge import named
from tests.conformance.over_aws import CREDENTIALS, AwsFederation
from tests.conformance.test_same_bits import EXAMPLES, declaration, said
from tests.nursery import EDGE, MEMBERS, forks

APPS = Path(__file__).parent / "apps"
GROUPS = {"north": ("bergen", "visby", "turku"), "south": ("luebeck",)}


def regions() -> Any:
    return runpy.run_path(str(EXAMPLES / "groups.py"))["regions"]()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grouped]:
    folder = tmp_path_factory.mktemp("groups")
    loader = folder / "owners_loader.py"
    loader.write_text("")
    data = {
        name: {"measurements": declaration(folder / name, sets["measurements"], loader)}
        for members in regions().values()
        for name, sets in members.items()
    }
    with forks(local_federation, (*MEMBERS, *EDGE)), grouped(folder, GROUPS, data) as made:
        yield made


def stateful(**changed: Any) -> hs.App:
    """The app of `test_same_bits`, for groups."""
    app = load_app(APPS, "stateful.py", "app")
    assert isinstance(app, hs.App)
    app.groups = hs.Groups(3)
    app._spec = replace(app._spec, **{"rounds": 3, "evaluate_every": 2} | changed)
    return app


def compressed() -> hs.App:
    """Both links compressed with error feedback, which an edge keeps in a file; models beside their messages."""
    app = load_app(APPS, "grouped.py", "app")
    assert isinstance(app, hs.App)
    return app


@pytest.mark.slow
@pytest.mark.parametrize("make", [stateful, compressed])
def test_simulation_and_groups_of_real_sites_give_the_same_bits(make: Callable[[], hs.App], place: Grouped) -> None:
    app = make()
    expected = said(hs.simulate_hierarchy(app, GROUPS, progress=False))
    found = said(hs.submit(app, place.above.federation()).result())
    assert found["status"] == "finished"
    assert found == expected


class AwsAbove(AwsFederation):
    """A federation without a server, whose sites are edges that another starts."""

    def _start(self, child: Any) -> None: ...


@pytest.mark.long
def test_groups_below_a_federation_without_a_server_give_the_same_bits(tmp_path: Path) -> None:
    app = stateful(quorum=2, rounds=2)
    groups = {"north": ("bergen", "visby"), "south": ("luebeck",)}
    with ExitStack() as stack:
        above = stack.enter_context(AwsAbove(tmp_path / "above", {name: {} for name in groups}))
        stack.enter_context(forks(local_federation, (*MEMBERS, *EDGE)))
        for name, members in groups.items():
            data: dict[str, Any] = {each: {} for each in members}
            place = Behind(tmp_path / name, data, name=name, durability="process", environment=CREDENTIALS)
            place.site = above.directory / name
            stack.enter_context(place)
        found = said(hs.submit(app, above.federation()).result())
    assert found == said(hs.simulate_hierarchy(app, groups, progress=False))


@pytest.mark.slow
def test_the_example(place: Grouped, tmp_path: Path) -> None:
    """Its members load their own data; turku, which has none, fails by name, and its group's quorum bears it."""
    content = (EXAMPLES / "groups.py").read_text().replace("hs.Groups(rounds=3)", "hs.Groups(rounds=3, quorum=1)")
    (tmp_path / "groups.py").write_text(content)
    app = load_app(tmp_path, "groups.py", "app")
    assert isinstance(app, hs.App)
    expected = hs.simulate_hierarchy(app, regions(), progress=False)
    result = hs.submit(app, place.above.federation()).result()
    assert result.arrays == expected.arrays
    assert np.abs(result.arrays["w"] - [2.0, -1.0, 0.5]).max() < 0.05
    assert [each.by_site["north"]["train_group_members"] for each in result.rounds] == [2] * 6
    behind = hs.job(named(result.job, 1, "admin"), place.groups["north"].federation()).snapshot()
    assert set(behind.rounds[0].failed) == {"turku"}
