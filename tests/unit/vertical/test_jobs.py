"""Models as apps: what they declare, the common order, rows that are held out, joint scores, all in one process."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.spec import RoleSpec
from hanse.core.errors import ConfigError, JobFailed
from hanse.vertical import meeting
from hanse.vertical.glm.models import measured
from hanse.vertical.model import Model
from hanse.vertical.parties import host_roles

ROLES = {"guest": "bank", "host": ["shop", "telco"], "arbiter": "notary"}
DATA = ("guest", "host-1", "host-2")
MODEL = hs.vertical.LogisticRegression(epochs=3, batch_rows=50, test=0.3, seed=7)


def town(seed: int = 0) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((300, 4))
    late = (x @ [1, -2, 1, 1] > 0).astype(int)
    columns = {"income": x[:, 0], "visits": x[:, 1], "basket": x[:, 2], "calls": x[:, 3], "y": late}
    knows = {"bank": ("income", "y"), "shop": ("visits", "basket"), "telco": ("calls",)}
    found: dict[str, dict[str, Any]] = {"notary": {}}
    for at, (site, names) in enumerate(knows.items()):
        rows = rng.permutation(300)[10 * at :]
        found[site] = {"customers": {"id": rows.astype(float), **{name: columns[name][rows] for name in names}}}
    return found


def test_a_model_is_an_app_and_is_judged_by_rows_that_nobody_trained_on() -> None:
    sites = town()
    result = hs.simulate(MODEL, sites, roles=ROLES)
    told = result.metrics
    ids = [sites[site]["customers"]["id"] for site in ("bank", "shop", "telco")]
    common = set(ids[0]) & set(ids[1]) & set(ids[2])
    assert told["guest_common"] == told["host-1_common"] == len(common)
    assert (told["guest_rows"], told["host-2_rows"]) == (300, 280)
    assert told["guest_auc"] > 0.9
    assert {name for name in told if "auc" in name} == {"guest_auc"}

    # The metrics again, from the parts, by hand: the rows are those with the least hashes.
    bank = sites["bank"]["customers"]
    places = meeting.ordered(
        bank["id"].astype(int), np.array([at for at, each in enumerate(ids[0]) if each in common]), 7
    )
    trained, judged = meeting.held_out(len(common), 0.3, 7)
    assert len(judged) == round(0.3 * len(common))
    parts = {role: MODEL.decoded(result_part(result, role)) for role in DATA}
    z = np.zeros((len(judged), 1))
    for role, site in zip(DATA, ("bank", "shop", "telco"), strict=True):
        table, (part, _) = sites[site]["customers"], parts[role]
        at = {each: row for row, each in enumerate(table["id"])}
        rows = np.array([at[each] for each in bank["id"][places]])
        own = np.column_stack([table[name][rows] for name in part.columns.own_names])
        assert np.allclose(part.columns.means[-own.shape[1] :], own[trained].mean(0))  # of what was trained on alone
        z += part.part(own[judged])
    response = parts["guest"][1]
    assert response is not None
    found = measured(response, bank["y"][places][judged], response.predict(z))
    assert found == pytest.approx({name: told[f"guest_{name}"] for name in found}, abs=1e-9)


def result_part(result: Any, role: str) -> Any:
    return hs.Arrays({k.partition("/")[2]: v for k, v in result.arrays.items() if k.startswith(f"{role}/")})


def test_what_is_declared_depends_on_the_roles_and_is_what_a_policy_is_asked() -> None:
    spec = MODEL.spec(ROLES)
    assert RoleSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    said = {(each.to, each.about, each.what) for each in spec.protocol.reveals}
    assert {("host-2", "guest", "intersection"), ("arbiter", "host-1", "shape"), ("server", "guest", "auc")} <= said
    assert not {each for each in said if each[:2] == ("server", "arbiter")}
    assert not {("server", "host-1", "auc"), ("host-1", "host-2", "intersection")} & said
    assert spec.protocol.guarantee.adversary == "semi-honest"
    alone = replace(MODEL, protocol="dealer-free").spec({"guest": "a", "host": "b"})
    assert alone.protocol.roles == ("guest", "host")
    with pytest.raises(ConfigError, match="needs a site for each of guest, host, arbiter"):
        MODEL.spec({"guest": "bank", "host": "shop"})
    with pytest.raises(ConfigError, match="expected 1 to 16, found 17"):
        MODEL.spec({"guest": "bank", "host": [f"h{at}" for at in range(17)]})
    assert MODEL.name_in_module == "MODEL"
    for bad in ({"test": 1.0}, {"test": True}, {"include": "x.py"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            replace(MODEL, **bad)


def test_further_rows_are_scored_with_the_kept_parts_also_without_a_host() -> None:
    sites = town()
    trained = hs.simulate(MODEL, sites, roles=ROLES)
    roles = {name: sites_ for name, sites_ in ROLES.items() if name != "arbiter"}
    app = hs.vertical.Scoring(MODEL, trained_by=trained.job)
    scored = hs.simulate(app, sites, roles=roles, outputs=trained)
    assert scored.arrays["guest/predictions"].shape == (scored.metrics["guest_common"],)
    assert not [name for name in scored.arrays if not name.startswith("guest/")]
    one = {**sites, "bank": {"customers": {k: v[5:6] for k, v in sites["bank"]["customers"].items() if k != "y"}}}
    again = hs.simulate(app, one, roles=roles, outputs=trained)
    place = scored.arrays["guest/places"].tolist().index(5)
    assert again.arrays["guest/predictions"] == pytest.approx([scored.arrays["guest/predictions"][place]], abs=1e-12)
    with pytest.raises(JobFailed, match="expected what this role kept in the earlier job, found nothing"):
        hs.simulate(app, sites, roles=roles)
    with pytest.raises(JobFailed, match="expected at most 4 common rows"):
        hs.simulate(replace(app, max_rows=4), sites, roles=roles, outputs=trained)
    assert app.spec(roles).optional == ()
    assert replace(app, if_offline="default").spec(roles).optional == ("host-1", "host-2")
    for bad in ({"if_offline": "guess"}, {"trained_by": "../x"}, {"max_rows": 0}, {"model": 3}):
        with pytest.raises(ConfigError):
            replace(app, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    [
        hs.vertical.LogisticRegression(epochs=1, batch_rows=60, label="y", key="id"),
        hs.vertical.Boosting(num_trees=2, depth=1, cipher="mock", label="y", key="id"),
    ],
    ids=["linear", "trees"],
)
def test_scores_without_one_of_the_hosts_that_were_trained_with_are_refused_and_not_wrong(model: Any) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4))
    ids = np.arange(60)
    bank = {"id": ids, "y": (x.sum(axis=1) > 0).astype(int), "a": x[:, 0]}
    hosts = [{"id": ids, f"x{at}": x[:, at]} for at in (1, 2, 3)]
    trained = hs.vertical.simulate(model, bank, hosts)
    parts = {
        role: model.decoded(model.encoded(part, trained.response if role == "guest" else None))[0]
        for role, part in trained.parts.items()
    }
    assert {part.num_hosts for part in parts.values()} == {3}
    fewer = replace(trained, parts={role: part for role, part in parts.items() if role != "host-3"})
    with pytest.raises(ConfigError, match="expected the 3 hosts of the training, found 2"):
        fewer.predict(bank, hosts[:2])


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=40), st.integers(0, 2**63 - 1), st.randoms())
def test_the_common_order_depends_on_who_is_there_and_on_the_seed(ids: list[int], seed: int, random: Any) -> None:
    mine, theirs = list(ids), [*ids, *range(10**7, 10**7 + 5)]
    random.shuffle(mine)
    random.shuffle(theirs)
    one = meeting.ordered(np.array(mine), np.arange(len(mine)), seed)
    common = np.array([at for at, each in enumerate(theirs) if each in set(mine)])
    other = meeting.ordered(np.array(theirs), common, seed)
    assert [mine[at] for at in one] == [theirs[at] for at in other]
    if len(ids) > 20:
        assert one.tolist() != meeting.ordered(np.array(mine), np.arange(len(mine)), seed ^ 1).tolist()


@pytest.mark.parametrize(("rows", "share", "count"), [(10, 0.0, 0), (10, 0.25, 2), (3, 0.01, 1), (1000, 0.3, 300)])
def test_rows_that_are_held_out(rows: int, share: float, count: int) -> None:
    trained, judged = meeting.held_out(rows, share, 3)
    assert len(judged) == count
    assert sorted([*trained, *judged]) == list(range(rows))


def test_one_role_s_name_is_the_same_everywhere() -> None:
    from hanse.channels.spec import assigned

    for count in (1, 2, 16):
        assert host_roles(count) == tuple(assigned({"host": [f"s{at}" for at in range(count)]}))
    with pytest.raises(NotImplementedError):
        Model().declared(1)
