"""`Load`: what a worker is told once, before it imports user code. Plain data, made by the owner's own process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.core.spec import RunSpec
from hanse.workers.isolation import Isolation

OUTPUTS = ".outputs.safetensors"
"""In the scratch folder: what the same role kept in an earlier job, where the job names one."""
SPENT = "queries.db"
SECRET = "secret"
"""In the folder `spent`."""
Declaration = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """One app, for one job, in one worker.

    Args:
        bundle: folder that holds the approved bundle, unpacked; read-only for the worker.
        entry: the module that holds the app, relative to `bundle`.
        object: the app's name in it.
        role: `client` (at a site) or `server` (the server's own worker).
        site: the site's name; `server` for the server.
        seed: the job's seed.
        datasets: the owner's declarations of the data sets granted to this job; relative paths start at `base`.
        declared: names of all that the owner declared, granted or not: to tell one error from the other.
        base: folder of the owner's configuration.
        scratch: an empty folder that the worker may write; it becomes its working directory, HOME and TMPDIR.
        isolation: what the worker may see. Paths of granted data sets are added by `Worker.load`.
        memory_bytes: limit on private memory; None for none.
        checkpoints: a folder that the worker may write and that outlives it, for roles; None for none.
        spent: a folder of the same kind, for all jobs: what other sites have used up, and a secret of the site; None
            for none.
        queries: how many of them the owner allows each other site; None for no limit.
        options: anything else the runtime wants, JSON values.
    """

    bundle: Path
    entry: str
    scratch: Path
    object: str = "app"
    role: str = "client"
    site: str = "server"
    seed: int = 0
    datasets: Mapping[str, Declaration] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    base: Path | None = None
    isolation: Isolation = field(default_factory=Isolation)
    memory_bytes: int | None = None
    checkpoints: Path | None = None
    spent: Path | None = None
    queries: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def server_side(
        cls,
        home: Path,
        *,
        entry: str,
        object: str,
        spec: RunSpec,
        datasets: Mapping[str, Declaration] | None = None,
        base: Path | None = None,
    ) -> "Load":
        """An app's own side at the server, or in a function that stands in for one.

        Args:
            home: a folder of the job's own: its bundle is unpacked in `bundle`.
        """
        return cls(
            home / "bundle",
            entry,
            home / "scratch",
            object,
            role="server",
            seed=spec.seed,
            datasets=datasets or {},
            base=base,
            options={"spec": spec.to_json()},
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "bundle": str(self.bundle),
            "entry": self.entry,
            "scratch": str(self.scratch),
            "object": self.object,
            "role": self.role,
            "site": self.site,
            "seed": self.seed,
            "datasets": {name: dict(value) for name, value in self.datasets.items()},
            "declared": list(self.declared),
            "base": None if self.base is None else str(self.base),
            "isolation": self.isolation.to_json(),
            "memory_bytes": self.memory_bytes,
            "checkpoints": None if self.checkpoints is None else str(self.checkpoints),
            "spent": None if self.spent is None else str(self.spent),
            "queries": self.queries,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Load":
        """Read what `to_json` wrote."""
        base, checkpoints, spent = value["base"], value["checkpoints"], value["spent"]
        return cls(
            bundle=Path(value["bundle"]),
            entry=value["entry"],
            scratch=Path(value["scratch"]),
            object=value["object"],
            role=value["role"],
            site=value["site"],
            seed=value["seed"],
            datasets=value["datasets"],
            declared=tuple(value["declared"]),
            base=None if base is None else Path(base),
            isolation=Isolation.from_json(value["isolation"]),
            memory_bytes=value["memory_bytes"],
            checkpoints=None if checkpoints is None else Path(checkpoints),
            spent=None if spent is None else Path(spent),
            queries=value["queries"],
            options=value["options"],
        )
