"""The agent with a real journal and real workers, against a link that is no network."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.site.bench import Town, bench, large_model, small_model


@pytest.fixture(scope="session")
def town() -> Town:
    return Town()


@pytest.fixture
def site(town: Town, tmp_path: Path) -> Path:
    return town.settle(tmp_path / "site")


async def test_a_job_is_accepted_and_its_tasks_are_answered(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        assert (await b.propose())["decision"] == "accept"
        assert ("propose", "propose/job1") in b.link.told_done
        model = small_model()
        task = await b.task(model)
        reply = await b.reply(task)
        assert reply.ok, reply.error
        assert np.array_equal(b.arrays(reply)["w"], model["w"] + 1)
        assert (reply.num_examples, reply.metrics["loss"]) == (3, 0.5)
        assert b.link.holding() == [str(task.id)]
        b.link.accepted(str(task.id), "received", "")
        assert b.link.holding() == []


async def test_a_large_model_comes_and_goes_as_a_blob(town: Town, site: Path) -> None:
    async with bench(town, site) as b:
        await b.propose()
        model = large_model()
        for ordinal in range(4):
            reply = await b.reply(await b.task(model, ordinal=ordinal))
            assert np.array_equal(b.arrays(reply)["w"], model["w"] + 1)
            b.link.accepted(str(reply.task), "received", "")
        assert len(list((site / "jobs" / "job1").glob("out-*"))) == 1
        assert len(list((site / "store" / "blobs").glob("job1/main/*/model/*.manifest"))) == 2
