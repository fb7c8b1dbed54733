"""`LocalHost`: plans and reductions over a store, and what an app's own strategy may plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from hanse.backends.memory import MemoryBlobs
from hanse.core.arrays import Array, Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode
from hanse.core.errors import ConfigError, TaskError
from hanse.core.ids import TaskId, upload_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import Member, PlanAnswer, PlanRequest, ReduceRequest
from hanse.rounds.hosts.local import LocalHost, load_arrays
from hanse.rounds.hosts.planning import plan_phase
from hanse.strategies import Ask, Close, Context, PhasePlan, Strategy
from hanse.strategies.fedadam import FedAdam
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.query import Query

SCOPE = "j/c/1/model"


async def keep(blobs: MemoryBlobs, scope: str, arrays: Arrays) -> BlobKey:
    content = encode(arrays)
    manifest = manifest_of(content)
    await blobs.put(scope, manifest, rechunk([content]))
    return scope, manifest.id


async def member(blobs: MemoryBlobs, position: int, arrays: Arrays | None, kind: str = "values") -> Member:
    task = TaskId("j", "c", 1, "train", position + 100)
    update = None
    if arrays is not None:
        content = encode(arrays)
        update = BlobRef(manifest_of(content), content=content)
        if len(content) > 65536:
            scope, _ = await keep(blobs, upload_scope(task, f"s{position}"), arrays)
            update = BlobRef(manifest_of(content), scope)
    return Member(position + 100, Reply(task, f"s{position}", "", "", 1, update=update, update_kind=kind), position, 0)


def request(members: Sequence[Member], model: BlobKey | None, *, state: tuple[BlobKey, ...] = ()) -> ReduceRequest:
    return ReduceRequest(1, "train", "fold", tuple(members), len(members), model, state, SCOPE)


def values(size: int, seed: int) -> Arrays:
    return Arrays({"w": np.random.default_rng(seed).standard_normal(size, dtype=np.float32)})


@pytest.mark.parametrize("size", [5, 300_000])
async def test_small_and_large_updates_give_model_and_states(size: int) -> None:
    blobs = MemoryBlobs()
    model = await keep(blobs, "j/c/0/model", values(size, 0))
    updates = [values(size, seed) for seed in (1, 2, 3)]
    members = [await member(blobs, n, update, "delta") for n, update in enumerate(updates)]
    host = LocalHost(FedAdam(), RunSpec(strategy="fedadam"), blobs)
    first = await host.reduce(request(members, model))
    assert first.model is not None
    assert [scope for scope, _ in (first.model, *first.state)] == [SCOPE] * 3
    mean = np.mean([update["w"].astype(np.float64) for update in updates], axis=0)
    np.testing.assert_allclose((await load_arrays(blobs, first.state[0]))["w"], 0.1 * mean, rtol=1e-12)
    second = await host.reduce(request(members, first.model, state=first.state))
    np.testing.assert_allclose((await load_arrays(blobs, second.state[0]))["w"], 0.19 * mean, rtol=1e-12)


async def test_an_upload_that_is_not_there_is_refused_by_ordinal() -> None:
    blobs = MemoryBlobs()
    model = await keep(blobs, "j/c/0/model", values(50_000, 0))
    members = [await member(blobs, n, values(50_000, n)) for n in range(3)]
    update = members[1].reply.update
    assert update is not None
    await blobs.delete_scope(update.scope)
    answer = await LocalHost(FedAvg(), RunSpec(), blobs).reduce(request(members, model))
    assert answer.model is None
    assert list(answer.refused or {}) == [101]


async def test_junk_in_a_message_is_refused_by_ordinal() -> None:
    blobs = MemoryBlobs()
    model = await keep(blobs, "j/c/0/model", values(3, 0))
    members = [await member(blobs, n, values(3, n)) for n in range(2)]
    junk = replace(members[0].reply, update=BlobRef.inline(b"junk" * 8))
    answer = await LocalHost(FedAvg(), RunSpec(), blobs).reduce(
        request([replace(members[0], reply=junk), members[1]], model)
    )
    assert list(answer.refused or {}) == [100]


async def test_what_the_run_allows_reaches_the_walk() -> None:
    blobs = MemoryBlobs()
    model = await keep(blobs, "j/c/0/model", values(2, 0))
    members = [await member(blobs, 0, Arrays({"w": np.array([np.inf, 1], np.float32)}))]
    refused = await LocalHost(FedAvg(), RunSpec(), blobs).reduce(request(members, model))
    assert list(refused.refused or {}) == [100]
    allowed = await LocalHost(FedAvg(), RunSpec(allow_nonfinite=True), blobs).reduce(request(members, model))
    assert allowed.model is not None
    assert (await load_arrays(blobs, allowed.model))["w"].tolist() == [np.inf, 1]


async def test_a_query_may_answer_arrays_or_none() -> None:
    blobs = MemoryBlobs()
    host = LocalHost(Query(), RunSpec(strategy="query", initial="none"), blobs)
    assert (await host.reduce(request([await member(blobs, n, None) for n in range(2)], None))).model is None
    answer = await host.reduce(request([await member(blobs, n, values(4, n)) for n in range(2)], None))
    assert answer.model is not None
    expected = values(4, 0)["w"].astype(np.float64) + values(4, 1)["w"]
    assert (await load_arrays(blobs, answer.model))["w"].tolist() == expected.astype(np.float32).tolist()


# ---- planning ----

ASKED = PlanRequest(1, 0, ("a", "b", "c"), (), (), False)


@dataclass(frozen=True)
class Planning(Strategy):
    """Answers a plan as it is told."""

    answer: Any = None

    def plan(self, context: Context) -> Any:
        return self.answer


def plan_of(*asks: Any, **close: Any) -> PhasePlan:
    return PhasePlan(tuple(asks), Close(**{"count": 1, "quorum": 1, **close}))


def test_a_plan_of_ones_own_passes_as_it_is() -> None:
    plan = plan_of(Ask("b", "train", {"lr": 0.5}, payload=b"x"), Ask("b", "train"), count=2)
    answer = plan_phase(Planning(plan), RunSpec(), ASKED, None)
    assert answer.plan == plan
    assert PlanAnswer.from_json(answer.to_json()) == answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "to return a PhasePlan.* found NoneType"),
        (PhasePlan((), None), "PhasePlan"),  # type: ignore[arg-type]
        (plan_of(Ask("d", "train")), "to ask available sites, found d"),
        (plan_of("a"), "to ask available sites, found a"),
        (plan_of(Ask("a", "no name")), "name of a call"),
        (plan_of(Ask("a", "train", {"lr": np.zeros(2)})), "config of plain values"),  # type: ignore[dict-item]
        (plan_of(Ask("a", "train", payload="x")), "payload of bytes"),  # type: ignore[arg-type]
        (plan_of(Ask("a", "train"), quorum=0), "1 ≤ quorum ≤ count, found quorum=0, count=1"),
        (plan_of(Ask("a", "train"), quorum=2), "1 ≤ quorum ≤ count"),
        (plan_of(Ask("a", "train"), deadline_s=0.0), "deadline_s > 0"),
        (plan_of(Ask("a", "train"), grace_s=float("nan")), "grace_s ≥ 0"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_named(answer: Any, says: str) -> None:
    with pytest.raises(TaskError, match=f"strategy Planning: expected .*{says}"):
        plan_phase(Planning(answer), RunSpec(), ASKED, None)


@pytest.mark.parametrize(
    ("trait", "value"), [("update_kind", "gradients"), ("order", "random"), ("late", "keep"), ("phases", 0)]
)
def test_wrong_traits_are_named(trait: str, value: Any) -> None:
    made = (lambda self, spec, round_: ("no name",)) if trait == "phases" else value
    kind = type("Wrong", (Planning,), {trait: made})
    with pytest.raises(TaskError, match=trait if trait != "phases" else "names of phases"):
        plan_phase(kind(plan_of(Ask("a", "train"))), RunSpec(), ASKED, None)


def test_too_few_sites_are_waited_for_and_no_failure() -> None:
    with pytest.raises(ConfigError, match="expected at least 4 sites, found 3"):
        plan_phase(FedAvg(), RunSpec(quorum=4), ASKED, None)


def test_traits_and_the_apps_config_reach_the_answer() -> None:
    class Buffered(Strategy):
        update_kind, order, late = "delta", "receipt", "carry"

        def config(self, context: Context, site: str) -> dict[str, Any]:
            return {"lr": 1.0, "site": site}

        def update(self, model: Array, reduced: Array, state: Any, scalars: Any) -> Array:
            return model + reduced

    answer = plan_phase(Buffered(), RunSpec(), ASKED, lambda round_, site: {"lr": 0.5})
    assert (answer.update_kind, answer.order, answer.late) == ("delta", "receipt", "carry")
    assert answer.plan.asks[0].config == {"round": 1, "lr": 0.5, "site": "a"}
