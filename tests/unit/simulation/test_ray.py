"""The engine on a Ray cluster of this machine: the bits of one process, also when an actor is killed."""

from pathlib import Path
from typing import Any

import pytest

import hanse as hs
from hanse.core.errors import ConfigError
from tests.unit.simulation import test_replicas as replicas

ray = pytest.importorskip(
    "ray", reason="ray is not installed (extra simulation; it listens beyond loopback, so the lock leaves it out)"
)
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
app = replicas.app


def test_the_same_bits_also_when_an_actor_is_killed(app: Any, tmp_path: Path) -> None:
    expected = replicas.run(app, replicas.crowd(app), "sequential")
    mark = tmp_path / "mark"
    mark.touch()
    sites = replicas.crowd(app, site_05={"kill": str(mark)})
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        assert replicas.run(app, sites, "ray", replicas=2) == expected
        assert not mark.exists(), "somebody was to be killed"
        population = hs.Population(replicas.NUM_SITES, data=app.module_globals["made"])
        assert replicas.run(app, population, "ray", resources={"num_cpus": 0.5}) == expected
    finally:
        ray.shutdown()


def test_resources_are_for_ray(app: Any) -> None:
    with pytest.raises(ConfigError, match="resources: expected engine='ray'"):
        hs.simulate(app, replicas.crowd(app), engine="replicas", resources={"num_gpus": 1}, progress=False)
