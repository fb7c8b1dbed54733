"""`server.yaml`: where the server listens and how careful it is. Written by `hanse federation init`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hanse.core.errors import ConfigError
from hanse.core.ids import check_name
from hanse.core.yaml_files import read_yaml
from hanse.tracking import Tracker, declared, tracker_from
from hanse.trust.aws_identity import AwsIdentity, allowed
from hanse.workers.datasets import check_declaration

FILE = "server.yaml"
OWNER, EVERYONE = "owner", "everyone"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server's settings.

    Args:
        federation: the federation's name.
        listen: address to bind, such as 127.0.0.1 or 0.0.0.0.
        port: where members hold sessions (mutual TLS). 0 for any free one.
        enrolment_port: where new members enrol (TLS).
        http_port: `/metrics` and `/healthz`, on loopback only; None for none.
        hosts: names and addresses under which members reach the server, as its certificate says.
        durability: `power` (survives a power cut) or `process` (survives a crash of the process).
        threads: threads that aggregate one model.
        aws_identities: which AWS account and role may join as which site, without a token.
        aws_sts: another address of STS than AWS's own, such as a private endpoint.
        datasets: data that the server itself holds, such as a test set, by name as in `site.yaml`; the server side of
            every app may load them.
        tracking: where every job's aggregator's run is written; None for nowhere.
        models_to_sites: whether sites that took part in a job get its last model when it has ended well.
        results: who reads a job's rounds and models: `owner` (who submitted it, and admins) or `everyone`.
    """

    federation: str
    listen: str = "127.0.0.1"
    port: int = 7400
    enrolment_port: int = 7401
    http_port: int | None = 7402
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    durability: str = "power"
    threads: int = 2
    aws_identities: Mapping[str, AwsIdentity] = field(default_factory=dict)
    aws_sts: str = ""
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tracking: Tracker | None = None
    results: str = OWNER
    models_to_sites: bool = False

    @property
    def address(self) -> str:
        """Where members reach the server."""
        return f"{self.hosts[0]}:{self.port}"

    @property
    def enrolment_address(self) -> str:
        """Where new members reach the server."""
        return f"{self.hosts[0]}:{self.enrolment_port}"

    def save(self, directory: Path) -> None:
        """Write `server.yaml`."""
        hosts = ", ".join(map(yaml_text, self.hosts))
        text = (
            "# The server of this federation. Change what you need, then restart `hanse server start`.\n"
            f"federation: {yaml_text(self.federation)}\n"
            f"listen: {yaml_text(self.listen)}            # address to bind\n"
            f"port: {self.port}                # members' sessions, mutual TLS\n"
            f"enrolment_port: {self.enrolment_port}      # joining, TLS\n"
            f"http_port: {'null' if self.http_port is None else self.http_port}           # /metrics, /healthz\n"
            f"hosts: [{hosts}]   # names in the certificate; the first is told to members\n"
            f"durability: {self.durability}          # power | process\n"
            f"threads: {self.threads}\n"
            f"results: {self.results}             # owner | everyone: who reads a job's rounds and models\n"
            f"models_to_sites: {str(self.models_to_sites).lower()}   # whether sites get the last model of their jobs\n"
        )
        if self.aws_identities:
            known = {site: {"account": each.account, "role": each.role} for site, each in self.aws_identities.items()}
            text += f"aws_identities: {json.dumps(known)}\n"
        if self.aws_sts:
            text += f"aws_sts: {yaml_text(self.aws_sts)}\n"
        if self.datasets:
            text += f"datasets: {json.dumps({name: dict(each) for name, each in self.datasets.items()})}\n"
        if self.tracking is not None:
            text += f"tracking: {json.dumps(declared(self.tracking))}          # the aggregator's runs\n"
        (directory / FILE).write_text(text)

    @classmethod
    def load(cls, directory: Path) -> "ServerConfig":
        """Read `server.yaml`.

        Raises:
            ConfigError: it is not there, or something in it is wrong: where, expected, found.
        """
        path = directory / FILE
        value = read_yaml(path, "make a federation with: hanse federation init NAME")
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: expected keys and values, found {type(value).__name__}")
        return cls(**{key: _checked(path, key, item) for key, item in value.items()} | _needed(path, value))


def yaml_text(text: str) -> str:
    """`text` as a YAML value: in quotes where YAML would read something else, such as a number or a list."""
    try:
        is_plain = yaml.safe_load(f"[{text}]") == [text]
    except yaml.YAMLError:
        is_plain = False
    return text if is_plain and ":" not in text else json.dumps(text)


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "federation": ("a name", (str,)),
    "listen": ("an address", (str,)),
    "port": ("a port", (int,)),
    "enrolment_port": ("a port", (int,)),
    "http_port": ("a port or null", (int, type(None))),
    "hosts": ("a list of names", (list,)),
    "durability": ("power or process", (str,)),
    "threads": ("a whole number", (int,)),
    "aws_identities": ("sites with account and role", (dict, type(None))),
    "aws_sts": ("an address", (str,)),
    "datasets": ("declarations such as {test: {kind: csv, path: test.csv}}", (dict, type(None))),
    "tracking": ("a mapping with 'kind'", (dict, type(None))),
    "results": ("owner or everyone", (str,)),
    "models_to_sites": ("true or false", (bool,)),
}


def _needed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    if "federation" not in value:
        raise ConfigError(f"{path}: expected a line 'federation: NAME', found none")
    return {"federation": check_name(value["federation"], f"{path}: federation")}


def _checked(path: Path, key: str, item: Any) -> Any:
    if key not in _KINDS:
        raise ConfigError(f"{path}: {key!r} is not a setting; known are {', '.join(_KINDS)}")
    expected, kinds = _KINDS[key]
    wrong = type(item) not in kinds
    if key.endswith("port") and not wrong and item is not None:
        wrong = not 0 <= item <= 65535
    if key == "durability":
        wrong = item not in ("power", "process")
    if key == "results":
        wrong = item not in (OWNER, EVERYONE)
    if key == "threads":
        wrong = wrong or item < 1
    if key == "tracking" and not wrong and item is not None:
        item = tracker_from(item, f"{path}: tracking")
    if key == "aws_identities" and not wrong:
        item = allowed(item or {}, f"{path}: {key}")
    if key == "datasets":
        item = item or {}
        wrong = wrong or not all(isinstance(each, dict) for each in item.values())
        for name, declaration in () if wrong else item.items():
            try:
                check_declaration(check_name(str(name), "data set"), declaration)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
    if key == "hosts":
        wrong = wrong or not item or not all(isinstance(host, str) for host in item)
        item = tuple(item) if not wrong else item
    if wrong:
        raise ConfigError(f"{path}: {key}: expected {expected}, found {item!r}")
    return item
