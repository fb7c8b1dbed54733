"""`federation.yaml` of a federation on AWS: where, which sites, and the few choices an operator has.

    federation: north
    aws:
      region: eu-central-1
      sites:
        - luebeck                                        # in the same account
        - {name: bergen, account: "111122223333"}        # in another account
        - {name: riga, access: certificate}              # on its own premises, with its Hanse certificate

A site more is a line more. Everything else has a default.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER, check_name
from hanse.core.yaml_files import read_yaml
from hanse.serverless.contract import EVERYONE, OWNER

FILE = "federation.yaml"
MAX_SITES = 50
"""About seven resources a site, in a stack of at most 500."""
MAX_ROLE_NAME = 64
PYTHONS = ("3.12", "3.13")
"""AWS runs Python 3.11 on a C library that today's NumPy is not built for."""
LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
"""What CloudWatch Logs takes as retention."""

Access = Literal["role", "certificate"]
Architecture = Literal["arm64", "x86_64"]

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ACCOUNT = re.compile(r"\d{12}")
_PRINCIPAL = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):(role|user)/[\w+=,.@/-]+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_VPC_KEYS = ("id", "cidr", "subnets", "route_tables")


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A site as AWS is to know it.

    Args:
        name: its name in the federation.
        access: how it reaches its role in the federation's account: `role` (an AWS account assumes it) or
            `certificate` (its Hanse certificate, through IAM Roles Anywhere; no AWS account is needed).
        account: the AWS account whose role may assume ours; "" for our own.
        principal: the one role or user that may; by default the role that the site stack makes.
    """

    name: str
    access: Access = "role"
    account: str = ""
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Vpc:
    """Where the functions run if not in AWS's own network: private subnets, reached by nobody.

    Args:
        id, cidr: the VPC and its addresses.
        subnets: at least one, for functions and interface endpoints.
        route_tables: of these subnets, for the gateway endpoints.
    """

    id: str
    cidr: str
    subnets: tuple[str, ...]
    route_tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """All that the templates are made from.

    Args:
        federation: its name.
        region: the AWS region of everything.
        sites: in the order of the file.
        keep_days: after so many days a job's objects, models too, are removed.
        log_days: how long logs are kept.
        architecture, python: of the functions.
        topic: whether tasks go through an SNS topic with a filter for each site instead of straight into its queue.
        results: who reads a job's results, `owner` (who submitted it, and admins) or `everyone` with a person's rights.
        open_jobs: how many jobs of one person may be open at a time.
        models_to_sites: whether every site of a job gets its last model.
        stream: whether new rows look at a run through the table's stream, instead of who wrote them.
        alarms: an address for alarms; "" for none (the alarms and their topic are there all the same).
        vpc: None for AWS's own network.
        tags: further cost tags.
    """

    federation: str
    region: str
    sites: tuple[SitePlan, ...]
    keep_days: int = 90
    log_days: int = 90
    architecture: Architecture = "arm64"
    python: str = "3.13"
    topic: bool = False
    stream: bool = False
    results: str = OWNER
    open_jobs: int = 20
    models_to_sites: bool = False
    alarms: str = ""
    vpc: Vpc | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    is_emulated: bool = False
    """Whether this is for an emulator on this machine, which runs functions with its Python and does not know
    `TimeoutSecondsPath`. Not a setting of the file."""

    @property
    def stack(self) -> str:
        """The name of the server stack; those of others begin with it."""
        return f"hanse-{self.federation.replace('_', '-')}"

    def site(self, name: str) -> SitePlan:
        """One site.

        Raises:
            ConfigError: there is none of this name.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise ConfigError(f"site: expected one of {', '.join(s.name for s in self.sites)}, found {name!r}")


def written(federation: str, region: str, sites: Sequence[str]) -> str:
    """The first `federation.yaml`."""
    lines = [
        "# What is to be on AWS. A site more is a line more; then: hanse deploy aws deploy",
        f"federation: {json.dumps(federation)}",
        "aws:",
        f"  region: {json.dumps(region)}",
        "  sites:",
        *(f"    - {json.dumps(site)}" for site in sites),
        '    # - {name: bergen, account: "111122223333"}    # a site in another account',
        "    # - {name: riga, access: certificate}          # on its own premises, without an account",
        "  # alarms: operator@example.org    # who is told",
        "  # keep_days: 90                   # then a job's objects, models too, are removed",
    ]
    return "\n".join(lines) + "\n"


def load(path: Path) -> Deployment:
    """Read `federation.yaml`.

    Raises:
        ConfigError: it is not there, or something in it is wrong: where, expected, found.
    """
    path = path / FILE if path.is_dir() else path
    return read(read_yaml(path, f"make one with: hanse deploy aws init {path}"), str(path))


def read(value: Any, where: str = FILE) -> Deployment:
    """A deployment from what the file says.

    Raises:
        ConfigError: where, expected, found.
    """
    if not isinstance(value, dict) or not isinstance(value.get("aws"), dict):
        raise ConfigError(f"{where}: expected keys `federation` and `aws`; make it with: hanse deploy aws init")
    federation = value.get("federation")
    if not isinstance(federation, str):
        raise ConfigError(f"{where}: federation: expected a name, found {federation!r}")
    section: dict[str, Any] = value["aws"]
    unknown = set(section) - set(_CHECKS)
    if unknown:
        raise ConfigError(f"{where}: aws: {sorted(unknown)[0]!r} is not a setting; known are {', '.join(_CHECKS)}")
    for key in ("region", "sites"):
        if key not in section:
            raise ConfigError(f"{where}: aws: expected a line '{key}: …', found none")
    settings: dict[str, Any] = {}
    for key, item in section.items():
        expected, check = _CHECKS[key]
        try:
            settings[key] = check(item)
        except (TypeError, ValueError, KeyError):
            raise ConfigError(f"{where}: aws: {key}: expected {expected}, found {item!r}"[:300]) from None
    deployment = Deployment(check_name(federation, f"{where}: federation"), **settings)
    _check_names(deployment, where)
    return deployment


def _check_names(deployment: Deployment, where: str) -> None:
    names = [site.name for site in deployment.sites]
    taken = {SERVER, "stream"}
    for name in names:
        check_name(name, f"{where}: aws: sites")
        if name in taken or name.endswith("-dead"):
            raise ConfigError(
                f"{where}: aws: sites: expected every name once, none of server, stream, *-dead; found {name}"
            )
        taken.add(name)
        if len(f"hanse-{deployment.federation}-agent-{name}") > MAX_ROLE_NAME:
            raise ConfigError(
                f"{where}: aws: sites: {name}: expected a role's name, hanse-FEDERATION-agent-SITE, of at most "
                f"{MAX_ROLE_NAME} characters; take a shorter one"
            )
    if not names or len(names) > MAX_SITES:
        raise ConfigError(f"{where}: aws: sites: expected 1 to {MAX_SITES}, found {len(names)}")


def _site(value: Any) -> SitePlan:
    if isinstance(value, str):
        return SitePlan(value)
    if not isinstance(value, dict) or not set(value) <= {"name", "access", "account", "principal"}:
        raise TypeError
    plan = SitePlan(**{key: str(item) for key, item in value.items()})  # type: ignore[arg-type]  # checked below
    if plan.access not in ("role", "certificate"):
        raise ValueError
    if plan.account and (_ACCOUNT.fullmatch(plan.account) is None or plan.access != "role"):
        raise ValueError
    if plan.principal:
        match = _PRINCIPAL.fullmatch(plan.principal)
        if match is None or plan.access != "role" or plan.account not in ("", match[1]):
            raise ValueError
        plan = SitePlan(plan.name, plan.access, match[1], plan.principal)
    return plan


def _sites(value: Any) -> tuple[SitePlan, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_site, value))


def _matching(pattern: re.Pattern[str]) -> Any:
    def check(value: Any) -> str:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise ValueError
        return value

    return check


def _one_of(*choices: Any) -> Any:
    def check(value: Any) -> Any:
        if value not in choices or type(value) not in {type(choice) for choice in choices}:
            raise ValueError
        return value

    return check


def _days(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 3650:
        raise ValueError
    return value


def _jobs(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 1000:
        raise ValueError
    return value


def _vpc(value: Any) -> Vpc:
    if set(value) != set(_VPC_KEYS):
        raise ValueError
    lists = [tuple(map(str, value[key])) for key in ("subnets", "route_tables")]
    if not all(lists) or not all(isinstance(value[key], list) for key in ("subnets", "route_tables")):
        raise ValueError
    return Vpc(str(value["id"]), str(value["cidr"]), *lists)


def _tags(value: Any) -> dict[str, str]:
    tags = {str(key): str(item) for key, item in value.items()}
    if len(tags) > 20 or any(key.startswith(("aws:", "hanse:")) for key in tags):
        raise ValueError
    return tags


_CHECKS: dict[str, tuple[str, Any]] = {
    "region": ("a region such as eu-central-1", _matching(_REGION)),
    "sites": (
        "a list of names, or of {name, access: role | certificate, account: twelve digits in quotes, "
        "principal: an ARN of that account}",
        _sites,
    ),
    "keep_days": ("1 to 3650", _days),
    "log_days": (f"one of {', '.join(map(str, LOG_DAYS))}", _one_of(*LOG_DAYS)),
    "architecture": ("arm64 or x86_64", _one_of("arm64", "x86_64")),
    "python": (f"one of {', '.join(PYTHONS)}, in quotes", _one_of(*PYTHONS)),
    "topic": ("true or false", _one_of(True, False)),
    "stream": ("true or false", _one_of(True, False)),
    "results": ("owner or everyone", _one_of(OWNER, EVERYONE)),
    "open_jobs": ("1 to 1000", _jobs),
    "models_to_sites": ("true or false", _one_of(True, False)),
    "alarms": ("an e-mail address", _matching(_EMAIL)),
    "vpc": (f"{', '.join(_VPC_KEYS)}, the last two as lists", _vpc),
    "tags": ("names and values, at most 20, none beginning with aws: or hanse:", _tags),
}
KEYS = tuple(_CHECKS)
