"""`federation.yaml` of `hanse deploy sagemaker`: the server, the app, and every organisation's account.

federation: medicare              # its name
app: app.py                       # or app.py:NAME, relative to this file
server:
  directory: server               # made by launch if it is not there; relative to this file
  address: 10.0.1.20              # private, as the jobs reach it; by default 127.0.0.1
  port: 7400
  enrolment_port: 7401
  datasets: {test: {kind: csv, path: ../test.csv, target: Fraud}}
  tracking: {kind: mlflow, uri: "http://127.0.0.1:5000"}
transport: queues                 # instead of server: a federation on AWS without one; by default grpc
queues: ../north                  # its folder, made by `hanse deploy aws init`
output: results                   # where the final model goes
defaults: {instance: ml.m5.xlarge, ...}     # of every account
accounts:
  north:
    account: "111122223333"
    region: eu-central-1
    kickoff_role: FL-kickoff-client-job
    execution_role: FL-execution
    external_id: ...
    image: 763104351884.dkr.ecr.eu-central-1.amazonaws.com/...
    code: s3://north-code/sourcedir.tar.gz
    channels: {train: s3://north-data/providers/}
    output: s3://north-models/
    subnets: [subnet-1]
    security_groups: [sg-1]
    site_secret: arn:aws:secretsmanager:...     # with queues: the site's identity, from `hanse site pack`
    local: {code: north/code, channels: {train: north/data}}     # for --local; with queues also `site: FOLDER`
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError
from hanse.core.ids import check_name
from hanse.core.yaml_files import read_yaml
from hanse.tracking import tracker_from

_TOP = ("federation", "app", "server", "transport", "queues", "output", "defaults", "accounts")
GRPC, QUEUES = "grpc", "queues"
_SERVER = ("directory", "address", "port", "enrolment_port", "datasets", "tracking")
_NEEDED_REMOTE = ("account", "region", "kickoff_role", "execution_role", "image", "code", "output")
_ROLE = re.compile(r"[\w+=,.@-]{1,64}")


@dataclass(frozen=True, slots=True)
class Local:
    """What stands for the account's buckets on one machine."""

    code: Path
    channels: Mapping[str, Path]
    site: Path | None = None
    """With queues: the folder of the site, which has joined."""


@dataclass(frozen=True, slots=True)
class Account:
    """One organisation.

    Args:
        kickoff_role, execution_role: names of roles in the account.
        external_id: what the kick-off role's trust asks for.
        token_secret: ARN of the join token in the account's Secrets Manager; empty for joining by AWS identity.
        site_secret: ARN of the site's identity there, where there is no server.
        spot, checkpoints: spot capacity, with where its checkpoints are kept.
        hourly_price: dollars of one instance, for the plan.
    """

    site: str
    account: str = ""
    region: str = ""
    kickoff_role: str = ""
    execution_role: str = ""
    external_id: str = ""
    image: str = ""
    program: str = "run_site.py"
    code: str = ""
    channels: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    checkpoints: str = ""
    token_secret: str = ""
    site_secret: str = ""
    instance: str = "ml.m5.xlarge"
    volume_gb: int = 10
    max_run_s: int = 86_400
    spot: bool = False
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    hourly_price: float = 0.0
    local: Local | None = None

    @property
    def kickoff_arn(self) -> str:
        """The role that the launcher assumes."""
        return f"arn:aws:iam::{self.account}:role/{self.kickoff_role}"

    @property
    def execution_arn(self) -> str:
        """The role that the job runs as."""
        return f"arn:aws:iam::{self.account}:role/{self.execution_role}"


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """Where the server is."""

    directory: Path
    address: str = "127.0.0.1"
    port: int = 0
    enrolment_port: int = 0
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tracking: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file.

    Args:
        queues: the folder of the federation on AWS that has no server; None where sites reach one.
    """

    federation: str
    app: str
    server: ServerPlace
    output: Path
    accounts: tuple[Account, ...]
    base: Path
    queues: Path | None = None


def read_settings(path: Path, *, local: bool = False) -> Settings:
    """Read the file.

    Args:
        local: whether it is for `--local`, which needs folders of this machine and no account.

    Raises:
        ConfigError: it is not there, or something in it is wrong: one line.
    """
    value = read_yaml(path)
    name = path.name
    top = _mapping(value, name, _TOP)
    base = path.absolute().parent
    for key in ("federation", "app", "accounts"):
        if key not in top:
            raise ConfigError(f"{name}: expected {key}, found it missing")
    queues = _queues(top, name, base)
    federation = check_name(_text(top["federation"], f"{name}: federation"), f"{name}: federation")
    defaults = _mapping(top.get("defaults") or {}, f"{name}: defaults", _known())
    accounts = _mapping(top["accounts"], f"{name}: accounts")
    if not accounts:
        raise ConfigError(f"{name}: accounts: expected at least one site, found none")
    made = []
    for site, own in accounts.items():
        where = f"{name}: accounts.{site}"
        check_name(str(site), f"{where}: site")
        made.append(
            _account(str(site), {**defaults, **_mapping(own or {}, where, _known())}, where, base, local, queues)
        )
    app = _text(top["app"], f"{name}: app")
    return Settings(
        federation=federation,
        app=str(base / app),
        server=_server(
            _mapping(top.get("server") or {}, f"{name}: server", _SERVER),
            f"{name}: server",
            base,
            local or queues is not None,
        ),
        output=base / _text(top.get("output", "results"), f"{name}: output"),
        accounts=tuple(made),
        base=base,
        queues=queues,
    )


def _queues(top: Mapping[str, Any], name: str, base: Path) -> Path | None:
    """Where the federation without a server is; None with one."""
    transport = top.get("transport", GRPC)
    if transport not in (GRPC, QUEUES):
        raise ConfigError(f"{name}: transport: expected {GRPC} or {QUEUES}, found {transport!r:.60}")
    if transport == GRPC:
        if "queues" in top:
            raise ConfigError(f"{name}: queues: expected transport: {QUEUES} beside it, found {transport}")
        return None
    if "queues" not in top:
        raise ConfigError(f"{name}: expected queues, the folder of the federation on AWS (hanse deploy aws init)")
    if "server" in top:
        raise ConfigError(
            f"{name}: server: expected none with transport: {QUEUES}; nobody listens, and apps evaluate at the sites"
        )
    return base / _text(top["queues"], f"{name}: queues")


def _server(value: Mapping[str, Any], where: str, base: Path, local: bool) -> ServerPlace:
    address = _text(value.get("address", "127.0.0.1"), f"{where}.address")
    if not local:
        if "address" not in value:
            raise ConfigError(f"{where}: expected address, by which the jobs reach the server (private), found none")
        try:
            public = ipaddress.ip_address(address).is_global
        except ValueError:
            public = False  # a name
        if public:
            raise ConfigError(f"{where}.address: expected a private address (peering or PrivateLink), found {address}")
    ports = {}
    for key, usual in (("port", 7400), ("enrolment_port", 7401)):
        port = value.get(key, 0 if local else usual)
        if type(port) is not int or not 0 <= port <= 65535:
            raise ConfigError(f"{where}.{key}: expected a port, found {port!r}")
        ports[key] = port
    datasets = _mapping(value.get("datasets") or {}, f"{where}.datasets")
    located = {name: _located(each, f"{where}.datasets.{name}", base) for name, each in datasets.items()}
    directory = base / _text(value.get("directory", "server"), f"{where}.directory")
    tracking = value.get("tracking")
    if tracking is not None:
        tracking = _mapping(tracking, f"{where}.tracking")
        tracker_from(dict(tracking), f"{where}.tracking")
    return ServerPlace(directory, address if not local else "127.0.0.1", **ports, datasets=located, tracking=tracking)


def _located(declaration: Any, where: str, base: Path) -> dict[str, Any]:
    found = dict(_mapping(declaration, where))
    if "path" in found:
        found["path"] = str(base / _text(found["path"], f"{where}.path"))
    return found


def _account(site: str, value: Mapping[str, Any], where: str, base: Path, local: bool, queues: Path | None) -> Account:
    found: dict[str, Any] = {}
    for key, item in value.items():
        at = f"{where}.{key}"
        if key == "local":
            found[key] = _local(_mapping(item, at, ("code", "channels", "site")), at, base, local)
        elif key == "channels":
            found[key] = {name: _text(each, f"{at}.{name}") for name, each in _mapping(item or {}, at).items()}
        elif key == "hyperparameters":
            found[key] = dict(_mapping(item or {}, at))
        elif key in ("subnets", "security_groups"):
            if not isinstance(item, list) or not all(isinstance(each, str) for each in item):
                raise ConfigError(f"{at}: expected a list of ids, found {item!r:.60}")
            found[key] = tuple(item)
        elif key in ("volume_gb", "max_run_s"):
            if type(item) is not int or item < 1:
                raise ConfigError(f"{at}: expected a whole number above 0, found {item!r:.60}")
            found[key] = item
        elif key == "hourly_price":
            if type(item) not in (int, float) or not 0 <= item < math.inf:
                raise ConfigError(f"{at}: expected dollars, found {item!r:.60}")
            found[key] = float(item)
        elif key == "spot":
            if type(item) is not bool:
                raise ConfigError(f"{at}: expected true or false, found {item!r:.60}")
            found[key] = item
        else:
            found[key] = _text(item, at)
    account = Account(site, **found)
    if queues is not None and account.token_secret:
        raise ConfigError(
            f"{where}.token_secret: expected site_secret with transport: {QUEUES}; nobody answers a token"
        )
    if queues is None and account.site_secret:
        raise ConfigError(
            f"{where}.site_secret: expected transport: {QUEUES} for it; with a server sites join by themselves"
        )
    if local:
        if account.local is None:
            raise ConfigError(f"{where}: expected local: {{code: FOLDER, channels: {{…}}}} for --local, found none")
        if queues is not None and account.local.site is None:
            raise ConfigError(f"{where}.local: expected site, the folder of the site that has joined, found none")
        return account
    if queues is not None and not account.site_secret:
        raise ConfigError(f"{where}: expected site_secret, where the site's identity is (hanse site pack), found none")
    _check_remote(account, where)
    return account


def _check_remote(account: Account, where: str) -> None:
    for key in _NEEDED_REMOTE:
        if not getattr(account, key):
            raise ConfigError(f"{where}: expected {key}, found it missing")
    if re.fullmatch(r"\d{12}", account.account) is None:
        raise ConfigError(f"{where}.account: expected 12 digits in quotes, found {account.account[:20]!r}")
    for key in ("kickoff_role", "execution_role"):
        if _ROLE.fullmatch(getattr(account, key)) is None:
            raise ConfigError(f"{where}.{key}: expected a role's name, found {getattr(account, key)[:80]!r}")
    addresses = {"code": account.code, "output": account.output, **account.channels}
    if account.checkpoints:
        addresses["checkpoints"] = account.checkpoints
    for key, address in addresses.items():
        if not address.startswith("s3://"):
            raise ConfigError(f"{where}.{key}: expected an s3:// address, found {address[:60]!r}")
    if account.spot and not account.checkpoints:
        raise ConfigError(f"{where}.spot: expected checkpoints beside it, found none")
    if not account.external_id:
        raise ConfigError(f"{where}: expected external_id, which the kick-off role's trust asks for, found none")


def _local(value: Mapping[str, Any], where: str, base: Path, needed: bool) -> Local:
    channels = _mapping(value.get("channels") or {}, f"{where}.channels")
    found = {name: (base / _text(path, f"{where}.channels.{name}")).resolve() for name, path in channels.items()}
    code = (base / _text(value.get("code", ""), f"{where}.code")).resolve()
    site = (base / _text(value["site"], f"{where}.site")).resolve() if "site" in value else None
    for name, path in (("code", code), *found.items(), *([("site", site)] if site else [])):
        if needed and not _is_there(path):
            raise ConfigError(f"{where}: {name}: expected something at {str(path)[:200]}, found nothing")
    return Local(code, found, site)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _known() -> tuple[str, ...]:
    return tuple(name for name in Account.__slots__ if name != "site")


def _mapping(value: Any, where: str, known: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys and values, found {type(value).__name__}")
    for key in value:
        if not isinstance(key, str) or (known is not None and key not in known):
            names = "texts" if known is None else ", ".join(known)
            raise ConfigError(f"{where}: {str(key)[:60]!r} is not a setting; known are {names}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ConfigError(f"{where}: expected a text of one line, found {value!r:.60}")
    return value
