"""One worker, doing what it should: models in, updates out, states kept, environment clean."""

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.clients.app import App
from hanse.clients.execute import Runtime
from hanse.clients.state import decode_state
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of
from hanse.core.codec import decode, encode
from hanse.core.errors import ConfigError, TaskError
from hanse.core.ids import TaskId, upload_scope
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest
from hanse.workers import process
from hanse.workers.assignment import Assignment
from hanse.workers.launcher import PRELOAD
from hanse.workers.runtime import ClientSide
from tests.unit.workers.harness import ADD_ONE, bench, descriptors, large_model, small_model, task

linux = pytest.mark.skipif(not process.LINUX, reason="reads /proc")


async def test_small_model_and_update_travel_inline(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker(ADD_ONE)
        done = await worker.execute(Assignment(task(small_model()), model=small_model(), out=tmp_path / "unused"))
        assert (done.reply.num_examples, done.reply.metrics, done.written) == (3, {"loss": 0.5}, False)
        assert done.reply.update is not None
        assert done.reply.update.content is not None
        new = decode(done.reply.update.content)
        assert new == Arrays({name: array + 1 for name, array in decode(small_model()).items()})


@pytest.mark.parametrize("recycled", [0, 50_000_000])
async def test_large_update_goes_to_the_file_with_its_manifest(tmp_path: Path, recycled: int) -> None:
    arrays = large_model()
    model, out = tmp_path / "model", tmp_path / "update"
    model.write_bytes(encode(arrays))
    if recycled:
        out.write_bytes(os.urandom(recycled))
    before = manifest_of(model.read_bytes())
    # in place, as numerical code does: the file must not change
    source = """
    @app.train
    def train(arrays, config, site):
        for array in arrays.values():
            array += 1
        return arrays, 3, {}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        asked = task(model.read_bytes())
        done = await worker.execute(Assignment(asked, model=model, out=out))
        assert done.reply.error == ""
        assert done.written
        assert done.reply.update is not None
        content = out.read_bytes()
        assert done.reply.update.manifest == manifest_of(content)
        assert done.reply.update.scope == upload_scope(asked.id, "a")
        assert done.reply.base == asked.model.id  # type: ignore[union-attr]
        assert decode(content) == Arrays({name: array + 1 for name, array in arrays.items()})
        assert manifest_of(model.read_bytes()) == before


def test_an_update_is_written_from_where_it_lies() -> None:
    app = App()
    app.train(lambda arrays, config, site: (arrays, 1, {}))
    side = ClientSide(Runtime(app, site_name="a", load=str, log=print))
    model, private = large_model(0.1), large_model(0.1)
    arrays = side.execute(task(encode(model)), model, None, private=private).arrays
    assert arrays is not None
    assert arrays["a"] is private["a"]


async def test_large_update_without_a_file_is_a_failed_request(tmp_path: Path) -> None:
    model = encode(large_model(1))
    async with bench(tmp_path) as b:
        worker = await b.worker(ADD_ONE)
        (tmp_path / "model").write_bytes(model)
        with pytest.raises(TaskError, match="where no file is given"):
            await worker.execute(Assignment(task(model), model=tmp_path / "model"))


async def test_state_goes_out_and_comes_back(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        site.state["n"] = site.state.get("n", 0) + 1
        site.state["big"] = np.full(300_000, site.state["n"], dtype=np.float64)
        if config.get("fail"):
            raise ValueError
        return dict(arrays), 1, {"n": site.state["n"]}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        first = await worker.execute(Assignment(task(small_model()), model=small_model()))
        second = await worker.execute(Assignment(task(small_model()), model=small_model(), state=first.state))
        repeated = await worker.execute(Assignment(task(small_model()), model=small_model(), state=first.state))
        assert [done.reply.metrics for done in (first, second, repeated)] == [{"n": 1}, {"n": 2}, {"n": 2}]
        assert second.state == repeated.state != first.state
        failed = await worker.execute(
            Assignment(task(small_model(), config={"fail": True}), model=small_model(), state=first.state)
        )
        assert failed.state == first.state


@linux
async def test_a_large_state_goes_out_and_comes_back_in_files(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        site.state["n"] = site.state.get("n", 0) + 1
        if config.get("big"):
            site.state["big"] = np.full(30_000, site.state["n"], dtype=np.float64)
        else:
            site.state.pop("big", None)
        if config.get("fail"):
            raise ValueError
        return dict(arrays), 1, {"n": site.state["n"]}
    """
    one, two = tmp_path / "one", tmp_path / "two"
    async with bench(tmp_path) as b:
        worker = await b.worker(source)

        async def run(state: Any, after: Path, **config: bool) -> Any:
            return await worker.execute(Assignment(task(small_model(), config=config), state=state, after=after))

        first = await run(None, one, big=True)
        second = await run(first.state, two, big=True)
        assert (first.state.path, second.state.path) == (one, two)
        assert second.state.manifest == manifest_of(two.read_bytes())
        assert decode_state(two.read_bytes())["big"].tolist() == [2.0] * 30_000
        held = descriptors(), descriptors(worker.pid)
        failed = await run(second.state, one, big=True, fail=True)
        assert not failed.reply.ok
        assert failed.state is second.state
        shrunk = await run(second.state, one)
        assert decode_state(shrunk.state) == {"n": 3}
        assert (await run(shrunk.state, one, big=True)).state.path == one
        assert (descriptors(), descriptors(worker.pid)) == held


async def test_only_one_request_at_a_time(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        worker = await b.worker(
            "@app.train\ndef train(arrays, config, site):\n    time.sleep(0.2); return dict(arrays), 1, {}"
        )
        first = asyncio.create_task(worker.execute(Assignment(task(small_model()), model=small_model())))
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="busy"):
            await worker.execute(Assignment(task(small_model()), model=small_model()))
        assert (await first).reply.ok


async def test_many_workers_side_by_side(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        load = b.load_of(ADD_ONE)
        workers = await asyncio.gather(*(b.worker(load) for _ in range(6)))
        assert len({worker.pid for worker in workers}) == 6
        replies = await asyncio.gather(
            *(
                worker.execute(Assignment(task(small_model(), ordinal=n), model=small_model()))
                for n, worker in enumerate(workers)
            )
        )
        assert [done.reply.task for done in replies] == [TaskId("j", "c", 1, "train", n) for n in range(6)]


@linux
@pytest.mark.parametrize("threads", [1, 2])
async def test_what_a_worker_inherits(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not pass me on")
    secret = (tmp_path / "key.pem").open("w+")
    os.set_inheritable(secret.fileno(), True)
    source = """
    import resource
    @app.query
    def query(config, site):
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                 if os.path.exists(f"/proc/self/fd/{fd}")]
        return {
            "secrets": [name for name in os.environ if "AWS" in name],
            "key": any("key.pem" in link for link in links),
            "kinds": sorted({link.split(":")[0] for link in links}),
            "omp": os.environ["OMP_NUM_THREADS"],
            "tasks": len(os.listdir("/proc/self/task")),
            "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
            "oom": int(open("/proc/self/oom_score_adj").read()),
            "leader": os.getsid(0) == os.getpid(),
            "cwd": os.getcwd(),
            "home": os.environ["HOME"],
            "seed": os.environ["PYTHONHASHSEED"],
            "stdin": sys.stdin.read(),
        }
    """
    async with bench(tmp_path) as b:
        load = b.load_of(source)
        worker = await b.worker(load, threads=threads)
        done = await worker.execute(Assignment(task(call="query")))
        assert done.reply.error == ""
        found = dict(done.reply.metrics)
        assert found.pop("kinds") == ["/dev/null", "pipe", "socket"]
        assert found == {
            "secrets": [], "key": False, "omp": str(threads), "tasks": found["tasks"], "core": [0, 0], "oom": 500,
            "leader": True, "cwd": str(load.scratch), "home": str(load.scratch), "seed": "0", "stdin": "",
        }  # fmt: skip
        assert found["tasks"] == 1 or threads > 1
        assert f" t{threads} " in done.reply.fingerprint
    secret.close()


@linux
async def test_a_launcher_forks_what_has_loaded_pyarrow(tmp_path: Path) -> None:
    """A thread that a preloaded module starts would make every worker a fresh interpreter, which has nothing loaded."""
    pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `arrow`")
    source = """
    LOADED = "pyarrow" in sys.modules

    @app.query
    def query(config, site):
        import pyarrow
        return {"loaded": LOADED, "rows": pyarrow.table({"a": list(range(100_000))}).num_rows}
    """
    async with bench(tmp_path, preload=(*PRELOAD, "pyarrow")) as b:
        worker = await b.worker(source)
        done = await worker.execute(Assignment(task(call="query")))
        assert done.reply.error == ""
        assert done.reply.metrics == {"loaded": True, "rows": 100_000}


async def test_server_side_calls(tmp_path: Path) -> None:
    source = """
    @app.config
    def config(round, site):
        return {"lr": 0.1 / round, "who": site}

    @app.evaluate_on_server
    def evaluate(arrays, round):
        if round == 9:
            raise KeyError("a row of data")
        return {"sum": float(sum(array.sum() for array in arrays.values())), "nan": float("nan")}

    @app.train
    def train(arrays, config, site):
        raise NotImplementedError

    @app.parameters
    def parameters(site):
        raise NotImplementedError
    """
    arrays = large_model(1)
    (tmp_path / "model").write_bytes(encode(arrays))
    async with bench(tmp_path) as b:
        worker = await b.worker(source, role="server", site="server")
        called = await worker.call("config", {"round": 2, "sites": ["a", "b"]})
        assert called.value == {"a": {"lr": 0.05, "who": "a"}, "b": {"lr": 0.05, "who": "b"}}
        called = await worker.call("evaluate", {"round": 1}, {"model": tmp_path / "model"})
        assert called.value["sum"] == pytest.approx(float(sum(array.sum() for array in arrays.values())))
        assert np.isnan(called.value["nan"])
        with pytest.raises(TaskError, match=r"KeyError at app\.py") as caught:
            await worker.call("evaluate", {"round": 9}, {"model": small_model()})
        assert "row" not in str(caught.value)
        with pytest.raises(TaskError, match="expected one of config"):
            await worker.call("nonesuch", {})
        assert worker.alive


async def test_wrong_bundles_are_configuration_errors(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        with pytest.raises(ConfigError, match="Python file"):
            await b.worker(b.load_of("", entry="other.py"))
        with pytest.raises(ConfigError, match=r"hs\.App"):
            await b.worker("app = 3")


CUSTOM = """
    from dataclasses import dataclass
    from hanse.strategies import Strategy

    @dataclass(frozen=True)
    class Halfway(Strategy):
        name = "halfway"

        def state_names(self):
            return ("steps",)

        def update(self, model, reduced, state, scalars):
            state[0] += 1
            return model + (reduced - model) * 0.5

    @app.strategy
    def strategy(context):
        return Halfway()

    @app.train
    def train(arrays, config, site):
        raise NotImplementedError

    @app.parameters
    def parameters(site):
        raise NotImplementedError
    """


@pytest.mark.parametrize("megabytes", [0.001, 3.0])
async def test_an_apps_own_strategy_plans_and_reduces(tmp_path: Path, megabytes: float) -> None:
    request = PlanRequest(1, 0, ("a", "b", "c"), (), (), False)
    model = large_model(megabytes, seed=9)
    updates = [large_model(megabytes, seed=seed) for seed in range(3)]
    counts = [1, 2, 5]
    asked: dict[str, bytes | Path] = {"model": encode(model)}
    for ordinal, update in enumerate(updates):
        asked[f"update/{ordinal}"] = path = tmp_path / str(ordinal)
        path.write_bytes(encode(update))
    members = [[n, n, 0, site, counts[n], {"map": {}}, "values", 0.5, 0] for n, site in enumerate("abc")]
    reduce = {
        "round": 1,
        "phase": "train",
        "kind": "fold",
        "size": 3,
        "num_states": 0,
        "memory": {},
        "members": members,
    }
    async with bench(tmp_path) as b:
        worker = await b.worker(CUSTOM, role="server", site="server")
        answer = PlanAnswer.from_json((await worker.call("plan", request.to_json())).value)
        assert [ask.site for ask in answer.plan.asks] == ["a", "b", "c"]
        assert (answer.phases, answer.folds, answer.update_kind) == (("train",), True, "values")
        called = await worker.call("reduce", reduce, asked, out=tmp_path / "reduced")
        assert called.value == {"memory": {}}
        assert called.arrays is not None
        total = sum(count * update["a"].astype(np.float64) for count, update in zip(counts, updates, strict=True))
        expected = (model["a"] + (total / 8 - model["a"]) * 0.5).astype(np.float32)
        np.testing.assert_allclose(called.arrays["000/a"], expected, rtol=1e-6)
        assert set(called.arrays["001/b"].tolist()) == {1.0}

        (tmp_path / "1").write_bytes(b"junk" * 50)
        (tmp_path / "2").write_bytes(encode(Arrays({"other": np.zeros(3)})))
        called = await worker.call("reduce", reduce, asked, out=tmp_path / "reduced")
        assert list(called.value["refused"]) == ["1"]
        called = await worker.call("reduce", {**reduce, "members": [members[0], members[2]]}, asked)
        assert list(called.value["refused"]) == ["2"]


@linux
async def test_tasks_leave_no_descriptor_behind(tmp_path: Path) -> None:
    model = encode(large_model(1))
    (tmp_path / "model").write_bytes(model)
    async with bench(tmp_path) as b:
        worker = await b.worker(
            ADD_ONE.replace("    return", "    if config.get('fail'): raise ValueError(arrays)\n    return")
        )
        counts = []
        for index in range(12):
            asked = task(model, config={"fail": index % 3 == 1})
            done = await worker.execute(Assignment(asked, model=tmp_path / "model", out=tmp_path / "update"))
            assert done.reply.ok == (index % 3 != 1)
            counts.append((descriptors(), descriptors(worker.pid)))
        assert counts[2] == counts[-1]


async def test_what_is_tracked_comes_beside_the_reply_and_not_in_it(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        for step in range(3):
            site.track(step=step, batch_loss=1 / (1 + step))
        site.track(device="cpu")
        site.state["seen"] = 1
        return arrays, 3, {"loss": 0.5}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        for _ in range(2):  # the second task begins with nothing
            done = await worker.execute(Assignment(task(small_model()), model=small_model()))
            assert [(each.step, dict(each.values)) for each in done.tracked] == [
                (0, {"batch_loss": 1.0}),
                (1, {"batch_loss": 0.5}),
                (2, {"batch_loss": 1 / 3}),
                (None, {"device": "cpu"}),
            ]
            assert done.reply.metrics == {"loss": 0.5}
            assert b"batch_loss" not in done.packed, "which goes to the server"
            assert done.state is not None
            assert b"batch_loss" not in done.state


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("site.track(loss=[1, 2])", "expected 'loss' to be a number or a text, found list"),
        ("site.track(step=-1, loss=1)", "expected step to be a whole number"),
        ("site.track(step=0.5, loss=1)", "expected step to be a whole number"),
    ],
)
async def test_what_cannot_be_tracked_is_refused_by_name(tmp_path: Path, said: str, named: str) -> None:
    source = f"""
    @app.train
    def train(arrays, config, site):
        site.track(kept=1)
        {said}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        done = await worker.execute(Assignment(task(small_model()), model=small_model()))
        assert (done.reply.error_kind, done.tracked) == ("refused", ())
        assert named in done.reply.error


async def test_too_much_is_cut_and_said_in_the_sites_log(tmp_path: Path) -> None:
    source = """
    @app.train
    def train(arrays, config, site):
        for step in range(10_500):
            site.track(step=step, loss=1.0)
        return arrays, 3, {}
    """
    async with bench(tmp_path) as b:
        worker = await b.worker(source)
        done = await worker.execute(Assignment(task(small_model()), model=small_model()))
        assert done.reply.ok
        assert len(done.tracked) == 10_000
        assert len([line for line in b.lines if "only the first 10000 values" in line]) == 1
