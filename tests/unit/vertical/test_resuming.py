"""A session that broke is begun anew from the newest checkpoint that all have: the same model, under fresh masks."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.channels import resuming
from hanse.channels.checkpoints import FileCheckpoints
from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.core.errors import HanseError, RefusedError
from hanse.vertical.model import Model, Played
from hanse.vertical.parties import host_roles
from tests.patience import WAIT_S
from tests.unit.vertical.test_jobs import town

LINEAR = {"epochs": 5, "batch_rows": 60, "l2": 0.01, "momentum": 0.5, "test": 0.2}
CASES: dict[str, tuple[Model, int, float]] = {  # model, hosts, how far weights may be from those of an undisturbed run
    "dealer": (hs.vertical.LogisticRegression(**LINEAR, tolerance=1e-9), 2, 1e-3),
    "own-gradient": (
        hs.vertical.LogisticRegression(**{**LINEAR, "epochs": 3, "batch_rows": 300}, protocol="own-gradient"),
        1,
        1e-3,
    ),
    "arbiter": (
        hs.vertical.LogisticRegression(
            **{**LINEAR, "epochs": 3, "batch_rows": 300}, protocol="arbiter", tolerance=1e-9
        ),
        2,
        1e-3,
    ),
    "dealer-free": (
        hs.vertical.LogisticRegression(**{**LINEAR, "epochs": 3, "batch_rows": 300}, protocol="dealer-free"),
        1,
        1e-3,
    ),
    "trees": (hs.vertical.Boosting(num_trees=4, depth=2, cipher="mock"), 2, 0.0),
    "cross-validation": (
        hs.vertical.Boosting(num_trees=5, learning_rate=0.1, depths=(1, 2), cross_validate=2, cipher="mock"),
        1,
        0.0,
    ),
    "early end": (hs.vertical.Boosting(num_trees=9, depth=2, cipher="mock", held_out=0.3, patience=1), 1, 0.0),
}
SITES = {"guest": "bank", "host": "shop", "host-1": "shop", "host-2": "telco"}


class Crash(Exception):
    pass


class Crashing(FileCheckpoints):
    """Ends its role at the checkpoint `number`, before or after it is written."""

    def __init__(self, folder: Path, about: bytes, number: int, *, before: bool) -> None:
        super().__init__(folder, about)
        self.number, self.before = number, before

    def keep(self, number: int, arrays: Any, *, since: int | None = None) -> None:
        if number == self.number and self.before:
            raise Crash
        super().keep(number, arrays, since=since)
        if number == self.number:
            raise Crash


async def session(
    model: Model, num_hosts: int, folder: Path | None, crash: tuple[str, int, bool] | None = None
) -> tuple[dict[str, Played], list[str]]:
    """Play once over what earlier sessions kept; the crash is a role, a number, and whether before it is written."""
    hosts, said, tables = host_roles(num_hosts), [], town()
    programs: dict[str, Any] = {}
    for role in ("guest", *hosts):
        place = None if folder is None else folder / role
        if place is not None:
            place.mkdir(exist_ok=True)

        def kept(about: bytes, *, place: Any = place, role: str = role) -> FileCheckpoints:
            if crash is not None and crash[0] == role:
                return Crashing(place, about, crash[1], before=crash[2])
            return FileCheckpoints(place, about)

        source = tables[SITES[role]]["customers"]
        programs[role] = partial(
            model.play, source=source, hosts=hosts, kept=None if folder is None else kept, log=said.append
        )
    protocol = model.whole(hosts)
    if "arbiter" in protocol.roles:
        programs["arbiter"] = model.deal
    found = await run_local(protocol, programs, timeout_s=WAIT_S)
    return {role: each for role, each in found.items() if role != "arbiter"}, said


def arrays_of(model: Model, played: dict[str, Played]) -> dict[str, Any]:
    return {
        f"{role}/{name}": value
        for role, each in played.items()
        for name, value in model.encoded(each.part, each.response).items()
    }


@pytest.mark.parametrize("case", CASES)
async def test_the_model_is_that_of_an_undisturbed_run(case: str, tmp_path: Path) -> None:
    model, num_hosts, tolerance = CASES[case]
    undisturbed, said = await session(model, num_hosts, None)
    assert said == []
    last = host_roles(num_hosts)[-1]
    is_slow = case in ("own-gradient", "arbiter", "dealer-free")
    for at, crash in enumerate([("guest", 2, True), (last, 2, False)][: 1 if is_slow else 2]):
        folder = tmp_path / str(at)
        folder.mkdir()
        with pytest.raises((Crash, HanseError)):
            await session(model, num_hosts, folder, crash)
        again, said = await session(model, num_hosts, folder)
        assert len(said) == num_hosts + 1, crash
        expected, found = arrays_of(model, undisturbed), arrays_of(model, again)
        assert set(expected) == set(found)
        for name, value in expected.items():
            if tolerance and name.endswith("weights"):
                assert np.abs(value - found[name]).max() < tolerance, (crash, name)
            else:
                assert value.tobytes() == found[name].tobytes(), (crash, name)
    if not is_slow:  # a session over one that came to its end does next to nothing again, and ends alike
        once_more, said = await session(model, num_hosts, folder)
        (number,) = {int(line.rpartition(" ")[2]) for line in said}
        assert number >= 3
        assert set(arrays_of(model, once_more)) == set(expected)


async def test_checkpoints_of_another_table_or_model_are_not_gone_on_from(tmp_path: Path) -> None:
    model, num_hosts, _ = CASES["trees"]
    await session(model, num_hosts, tmp_path)
    before = set((tmp_path / "guest").iterdir())
    _, said = await session(hs.vertical.Boosting(num_trees=2, depth=1, cipher="mock"), num_hosts, tmp_path)
    assert said == []
    assert [path.stem.lstrip("0") for path in sorted((tmp_path / "guest").iterdir())] == ["", "1", "2"]
    assert len(before) == 3


async def test_who_names_a_checkpoint_that_is_not_there_is_refused() -> None:
    declared = resuming.protocol("guest", ("host",))

    async def names(party: Party) -> None:
        await party.recv("host", "have")
        await party.send("host", "agreed", np.array(7))

    async def tells(party: Party) -> None:
        await party.send("guest", "have", np.array([[3, 1]], np.int64))
        await party.recv("guest", "agreed")

    with pytest.raises(RefusedError, match="expected a checkpoint that this side has"):
        await run_local(declared, {"guest": names, "host": lambda party: resuming.follow(party, [(0, 6)], "guest")})
    with pytest.raises(RefusedError, match="host: expected at most 64 ranges"):
        await run_local(declared, {"guest": lambda party: resuming.lead(party, []), "host": tells})


async def test_what_one_party_reached_alone_is_never_mixed_with_a_later_session(tmp_path: Path) -> None:
    model, num_hosts, tolerance = CASES["dealer"]
    undisturbed, _ = await session(model, num_hosts, None)
    last = host_roles(num_hosts)[-1]
    for crash in (
        ("guest", 2, True),
        (last, 2, True),
    ):  # the host keeps 2 of the first session, the guest of the second
        with pytest.raises((Crash, HanseError)):
            await session(model, num_hosts, tmp_path, crash)
    again, _ = await session(model, num_hosts, tmp_path)
    expected, found = arrays_of(model, undisturbed), arrays_of(model, again)
    for name, value in expected.items():
        if name.endswith("weights"):
            assert np.abs(value - found[name]).max() < tolerance, name


async def test_a_checkpoint_of_trees_holds_no_number_of_each_row_for_each_tree(tmp_path: Path) -> None:
    model = hs.vertical.Boosting(num_trees=12, depth=2, cipher="mock", held_out=0.3, patience=12)
    await session(model, 1, tmp_path)
    rows = len(town()["bank"]["customers"]["id"])
    sizes = {int(path.stem): path.stat().st_size for path in (tmp_path / "guest").iterdir()}
    last = max(sizes)
    assert last >= 12
    assert sizes[last] - sizes[last - 1] < 8 * rows < sizes[last]
