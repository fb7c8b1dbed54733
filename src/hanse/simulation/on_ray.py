"""Replicas as actors of a Ray cluster: `engine="ray"`, extra `simulation`.

The same engine with other hands: chunks of whole groups go to actors, sums over subtrees come back, and an actor whose
node is lost is replaced and its chunks are run again, so the bits are those of one process. An actor gets the app's
module, the files that it includes and the sites' data as bytes, so nodes need this package and the app's libraries and
no common folder. Ray carries frames and nothing else: what is in them was written by this package.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hanse.clients.app import App
from hanse.clients.failures import OnFailure
from hanse.clients.loader import source_of
from hanse.core.errors import MissingExtraError
from hanse.simulation.hands import Hands, Replica
from hanse.simulation.replica import Worker
from hanse.simulation.replicas import Replicas
from hanse.simulation.sites import Population
from hanse.simulation.wire import Buffer

Frame = tuple[dict[str, Any], bytes]


class OnRay(Replicas):
    """See `engine.Engine`.

    Args:
        count: actors; by default as many as the cluster has CPUs.
        resources: of each actor, as Ray takes them: `num_cpus` (1 by default), `num_gpus` (also a fraction), `memory`.

    Raises:
        MissingExtraError: Ray is not installed. ConfigError: as `Replicas`.
    """

    name: ClassVar[str] = "ray"

    def __init__(
        self,
        app: App,
        population: Population,
        count: int | None = None,
        *,
        resources: Mapping[str, float] | None = None,
        inner: str = "sequential",
        mixed_hardware: bool = False,
        failed: OnFailure | None = None,
    ) -> None:
        ray = _imported()
        self._resources = {"num_cpus": 1.0, **(resources or {})}
        if not ray.is_initialized():
            ray.init(log_to_driver=False, configure_logging=False)
        cpus = ray.cluster_resources().get("CPU", 1.0) / max(self._resources["num_cpus"], 1e-3)
        super().__init__(
            app,
            population,
            max(1, int(cpus)) if count is None else count,
            inner=inner,
            mixed_hardware=mixed_hardware,
            failed=failed,
        )

    def _make_hands(self, app: App) -> Hands:
        return Actors(self._load, app, self._resources)


class Actors:
    """Hands on a Ray cluster; see `hands.Hands`."""

    def __init__(self, load: Mapping[str, Any], app: App, resources: Mapping[str, float]) -> None:
        self._ray = _imported()
        root = source_of(app).parent
        names = [load["entry"], *app.include]
        self._files = self._ray.put({name: (root / name).read_bytes() for name in names})
        data = load["data"]
        in_file = data is not None and data[0] == "file"
        self._data = self._ray.put(Path(data[1]).read_bytes() if in_file else None)
        self._load = dict(load)
        known = {"num_cpus", "num_gpus", "memory"}
        options: dict[str, Any] = {name: value for name, value in resources.items() if name in known}
        options["resources"] = {name: value for name, value in resources.items() if name not in known}
        self._kind = self._ray.remote(**options, max_restarts=0)(Actor)
        self._awaited: dict[Any, Replica] = {}

    def start(self, count: int) -> list[Replica]:
        """See `Hands.start`."""
        fresh = [Replica(self._kind.remote()) for _ in range(count)]
        greetings = [replica.handle.load.remote(self._load, self._files, self._data) for replica in fresh]
        for replica, greeting in zip(fresh, greetings, strict=True):
            try:
                replica.loaded = self._ray.get(greeting)
            except self._ray.exceptions.RayError as error:
                replica.loaded = {"error": f"{type(error).__name__}"}
        return fresh

    def give(self, replica: Replica, header: Mapping[str, Any], parts: Sequence[Buffer]) -> None:
        """See `Hands.give`."""
        answer = replica.handle.handle.remote(dict(header), b"".join(parts))
        if header["kind"] == "batch":
            self._awaited[answer] = replica

    def hear(self) -> tuple[Replica, dict[str, Any] | None, memoryview]:
        """See `Hands.hear`."""
        (done,), _ = self._ray.wait(list(self._awaited), num_returns=1)
        replica = self._awaited.pop(done)
        try:
            header, payload = self._ray.get(done)
        except self._ray.exceptions.RayActorError:
            return replica, None, memoryview(b"")
        return replica, header, memoryview(payload)

    def end(self, replica: Replica) -> str:
        """See `Hands.end`."""
        self._awaited = {answer: whose for answer, whose in self._awaited.items() if whose is not replica}
        self._ray.kill(replica.handle)
        return "the actor is gone"


class Actor:
    """What runs on a node."""

    def __init__(self) -> None:
        self._worker = Worker()
        self._folder = tempfile.TemporaryDirectory(prefix="hanse-simulation-")

    def load(self, header: dict[str, Any], files: Mapping[str, bytes], data: bytes | None) -> dict[str, Any]:
        """Write the app's files, import it, and say what it is."""
        root = Path(self._folder.name) / "app"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        header = {**header, "directory": str(root)}
        if data is not None:
            place = Path(self._folder.name) / "data"
            place.write_bytes(data)
            header["data"] = ["file", str(place)]
        answer = self._worker.handle(header, memoryview(b""))
        assert answer is not None
        return answer[0]

    def handle(self, header: dict[str, Any], payload: bytes) -> Frame | None:
        """Answer a frame."""
        answer = self._worker.handle(header, memoryview(payload))
        return None if answer is None else (answer[0], b"".join(answer[1]))


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "simulation") from None
    return ray
