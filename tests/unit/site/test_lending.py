"""What a role kept is lent to later jobs of the same person among the same sites, and to others only by its owner."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hanse.channels.spec import RoleSpec
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import RefusedError
from hanse.core.ids import TaskId
from hanse.core.records import BlobRef, Reply
from hanse.site.policy import Allowed
from hanse.site.proposals import Proposal
from hanse.site.roles import ABOUT, RoleSide, agreement, discard_arrays, keep_arrays, lend_outputs
from hanse.workers.answers import Done
from hanse.workers.isolation import Isolation
from hanse.workers.load import OUTPUTS
from tests.unit.site.test_policy import PAIR, played


def asked(job: str, *, person: str = "anna", outputs_of: str = "", guest: str = "bank") -> Proposal:
    found = played()
    assert found.request is not None
    spec = RoleSpec({"guest": guest, "host": "shop"}, PAIR, outputs_of=outputs_of)
    return replace(found, job=job, person=person, request=replace(found.request, roles=spec))


def done(values: Any) -> Done:
    update = BlobRef.inline(encode(Arrays(values)))
    return Done(Reply(TaskId("j", "main", 1, "role", 0), "shop", update=update), b"", None, False)


def kept_by_anna(folder: Path) -> RoleSide:
    side = RoleSide(cast(Any, None), cast(Any, None), folder / "outputs")
    reply = keep_arrays(side, asked("j1"), "host", done({"secret": np.arange(3)}), None)
    assert reply.update is None
    return side


def lent(side: RoleSide, proposal: Proposal, scratch: Path, lends: Allowed = frozenset(), role: str = "host") -> Any:
    scratch.mkdir()
    lend_outputs(side, proposal, role, scratch, Isolation(), lends)
    path = scratch / OUTPUTS
    return decode(path.read_bytes())["secret"].tolist() if path.exists() else None


def test_to_the_same_person_among_the_same_sites(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        side = kept_by_anna(tmp_path)
        assert lent(side, asked("j2", outputs_of="j1"), tmp_path / "a") == [0, 1, 2]
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in (side.outputs, side.outputs / "j1")} == {0o700}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"host.safetensors", ABOUT, OUTPUTS}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    for at, other in enumerate((asked("j2"), asked("j2", outputs_of="j0"))):
        assert lent(side, other, tmp_path / f"b{at}") is None
    assert lent(side, asked("j2", outputs_of="j1"), tmp_path / "c", role="guest") is None


def test_to_another_person_only_if_the_owner_says_so(tmp_path: Path) -> None:
    side = kept_by_anna(tmp_path)
    bert = asked("j2", person="bert", outputs_of="j1")
    for at, lends in enumerate((frozenset[str](), frozenset({"bert"}))):  # it is anna whose outputs may be used
        with pytest.raises(RefusedError, match="j1 is not a job of bert") as caught:
            lent(side, bert, tmp_path / f"a{at}", lends)
        assert "anna" not in str(caught.value)
    assert lent(side, bert, tmp_path / "b", frozenset({"anna"})) == [0, 1, 2]
    assert lent(side, bert, tmp_path / "c", None) == [0, 1, 2]


def test_not_where_another_site_plays_a_role(tmp_path: Path) -> None:
    side = kept_by_anna(tmp_path)
    with pytest.raises(RefusedError, match="expected the sites of j1"):
        lent(side, asked("j2", outputs_of="j1", guest="rival"), tmp_path / "a", None)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"v": 1}', b'{"v": 1, "person": 3, "roles": {}}'])
def test_not_where_nothing_says_whose_it_is(tmp_path: Path, content: bytes | None) -> None:
    side = kept_by_anna(tmp_path)
    about = side.outputs / "j1" / ABOUT
    if content is None:
        about.unlink()
    else:
        about.write_bytes(content)
    with pytest.raises(RefusedError, match="which says whose it is"):
        lent(side, asked("j2", outputs_of="j1"), tmp_path / "a", None)


def test_nobody_gets_at_what_is_kept_by_a_job_of_the_same_name(tmp_path: Path) -> None:
    side = kept_by_anna(tmp_path)
    folder = side.outputs / "j1"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for at in range(2):
        for other in (asked("j1", person="bert"), asked("j1", guest="rival")):
            with pytest.raises(RefusedError, match="another job called j1"):
                keep_arrays(side, other, "guest", done({"x": np.zeros(1)}), None)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        if at == 0:  # arrays of which nothing says whose they are
            (folder / ABOUT).unlink()
            del before[ABOUT]
    assert keep_arrays(side, asked("j2"), "host", done({"x": np.zeros(1)}), None).update is None
    assert keep_arrays(side, asked("j2"), "host", done({"x": np.ones(1)}), None).update is None  # a session begun anew


def test_who_is_left_out_is_part_of_what_sites_agree_on() -> None:
    job = asked("j1")
    assert job.roles is not None
    everybody = dict(job.roles.roles)
    assert agreement(job, everybody) == agreement(job, dict(reversed(everybody.items()))) == job.agreement
    assert len({agreement(job, who) for who in (everybody, {"guest": "bank"}, {"host": "shop"})}) == 3
    other = asked("j1", outputs_of="j0")
    assert agreement(other, {"guest": "bank"}) != agreement(job, {"guest": "bank"})


def test_what_a_job_without_a_result_left_goes_and_nothing_else(tmp_path: Path) -> None:
    side = kept_by_anna(tmp_path)
    other = side.outputs / "j2"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"of a training")
    for job in ("j1", "j2", "j3"):
        discard_arrays(side, job)
    assert [path.name for path in side.outputs.iterdir()] == ["j2"]
