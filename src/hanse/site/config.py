"""`site.yaml`: what the owner says about this machine: data sets, workers, where the server is.

Imports nothing heavy: the launcher of workers is started from it before anything else is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError
from hanse.core.ids import check_name
from hanse.site.documents import Section, read_document
from hanse.tracking import Tracker, tracker_from
from hanse.workers.isolation import LEVELS, Isolation

FILE = "site.yaml"

_KEYS = (
    "name",
    "server",
    "aws",
    "durability",
    "isolation",
    "workers",
    "share_dataset_names",
    "datasets",
    "tracking",
    "keep_models",
)
_WORKERS = ("limit", "preload", "memory_mb", "environment")
_AWS = ("region", "profile", "role", "external_id", "endpoint")
_ISOLATION = ("level", "read", "write", "uid", "gid", "network")


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """How this site reaches its queue where the federation has no server. Blobs come and go by links alone.

    Args:
        region: of the federation's queues.
        profile: of this machine's AWS settings; empty for its default credentials.
        role: ARN of a role to assume, empty for none; `external_id` goes with it.
        endpoint: another URL than AWS's, for emulators.
    """

    region: str
    profile: str = ""
    role: str = ""
    external_id: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """What `site.yaml` says.

    Args:
        name: must be the certificate's; empty for not said.
        server: `host:port` instead of the address that the site was given when it joined.
        aws: queues instead of a server; None for a server.
        durability: `power` (what must not be lost is on disk before it is answered) or `process`.
        isolation: of workers; the policy may demand more.
        max_workers: jobs whose worker is kept warm side by side.
        preload: modules that workers have imported before they start.
        memory_bytes: private memory of one worker; None for no limit.
        environment: further variables for workers.
        share_dataset_names: whether the server is told the names of data sets.
        datasets: declarations by name, as the owner wrote them; checked by `check_datasets`.
        keep_models: whether a job's last model is kept, as `outputs/JOB/model.safetensors`, if the server offers it.
        tracking: where this site's own runs are written; None for nowhere.
    """

    name: str = ""
    server: str = ""
    aws: AwsAccess | None = None
    durability: str = "power"
    isolation: Isolation = field(default_factory=Isolation)
    max_workers: int = 4
    preload: tuple[str, ...] = ()
    memory_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    share_dataset_names: bool = False
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tracking: Tracker | None = None
    keep_models: bool = False


def read_config(path: Path) -> SiteConfig:
    """Read `site.yaml`; an absent or empty file says what `SiteConfig()` says.

    Raises:
        ConfigError: an unknown key, a wrong type or value, by file and line.
    """
    document = read_document(path, _KEYS)
    if document is None:
        return SiteConfig()
    workers = document.section("workers", _WORKERS)
    memory = workers.whole("memory_mb", None, 64, 1 << 30)
    return SiteConfig(
        name=document.text("name", ""),
        server=document.text("server", ""),
        aws=_aws(document),
        durability=document.word("durability", "power", ("power", "process")),
        isolation=_isolation(document),
        max_workers=workers.whole("limit", 4, 1, 1024) or 4,
        preload=workers.texts("preload"),
        memory_bytes=None if memory is None else memory << 20,
        environment=workers.get("environment", {}, "a mapping from names to texts", _are_variables),
        share_dataset_names=document.flag("share_dataset_names", False),
        datasets=_datasets(document),
        tracking=_tracking(document),
        keep_models=document.flag("keep_models", False),
    )


def _aws(document: Section) -> AwsAccess | None:
    if "aws" not in document.values:
        return None
    section = document.section("aws", _AWS)
    values = {name: section.text(name, "") for name in _AWS}
    if not values["region"]:
        raise section.error("region", "the region of the federation's queues, such as eu-central-1")
    return AwsAccess(**values)


def _isolation(document: Section) -> Isolation:
    value = document.values.get("isolation", "process")
    if not isinstance(value, dict):
        return Isolation(document.word("isolation", "process", LEVELS))
    section = document.section("isolation", _ISOLATION)
    return Isolation(
        level=section.word("level", "process", LEVELS),
        read=section.texts("read"),
        write=section.texts("write"),
        uid=section.whole("uid", 65534, 1, 2**31) or 65534,
        gid=section.whole("gid", 65534, 1, 2**31) or 65534,
        network=section.flag("network", False),
    )


def _tracking(document: Section) -> Tracker | None:
    value = document.values.get("tracking")
    return None if value is None else tracker_from(value, document.where("tracking"))


def _datasets(document: Section) -> dict[str, Mapping[str, Any]]:
    section = document.section("datasets")
    found: dict[str, Mapping[str, Any]] = {}
    for name, declaration in section.values.items():
        try:
            check_name(name, "data set")
        except ConfigError:
            raise section.error(name, "a name of a-z, 0-9, '-' and '_'", name) from None
        if not isinstance(declaration, dict) or not all(type(key) is str for key in declaration):
            raise section.error(name, "a declaration such as {kind: csv, path: patients.csv}")
        found[name] = declaration
    return found


def _are_variables(value: Any) -> bool:
    return isinstance(value, dict) and all(type(key) is str and type(item) is str for key, item in value.items())
