"""`RoleSpec`: one component whose sites play roles, as plain data that a person signs and a policy judges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hanse.channels.protocol import Protocol
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER, check_name

MAX_ROLES = 32


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """Who plays what, and for how long one waits for whom.

    Args:
        roles: the site of each role; sites differ.
        protocol: the declaration, with messages, Guarantee and Reveals. Sites hold role programs to it.
        timeout_s: seconds that a role waits for one message, > 0.
        deadline_s: seconds for one session, > 0.
        away_s: seconds that a lost site is awaited before the job fails, ≥ 0.
        retries: how many new sessions there may be after one that broke, 0 to 1000.
        seed: of the random streams that user code is given; protocols draw their secrets elsewhere.
        threads: compute threads in every worker.
        outputs_of: the id of an earlier job, whose outputs of the same role each site lends to this one; empty for
            none.
        optional: roles without which a session may begin once their sites were away for `away_s`.

    Raises:
        ConfigError: a value out of range, roles that are not the protocol's, a site with two roles.
    """

    roles: Mapping[str, str]
    protocol: Protocol
    timeout_s: float = 300.0
    deadline_s: float = 3600.0
    away_s: float = 600.0
    retries: int = 2
    seed: int = 0
    threads: int = 1
    outputs_of: str = ""
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if set(self.roles) != set(self.protocol.roles):
            wanted, found = ", ".join(self.protocol.roles), ", ".join(map(str, self.roles)) or "none"
            raise ConfigError(f"roles: {self.protocol.name} needs a site for each of {wanted}; found {found}")
        if not 2 <= len(self.roles) <= MAX_ROLES:
            raise ConfigError(f"roles: expected 2 to {MAX_ROLES}, found {len(self.roles)}")
        for role, site in self.roles.items():
            check_name(role, "role")
            if role == SERVER:
                raise ConfigError(f"roles: expected another name than {SERVER!r}")
            check_name(site, f"site of role {role}")
        if len(set(self.roles.values())) != len(self.roles):
            raise ConfigError("roles: expected different sites, found one with two roles")
        if self.outputs_of:
            check_name(self.outputs_of, "outputs_of")
        if not set(self.optional) <= set(self.roles) or len(set(self.optional)) > len(self.roles) - 1:
            raise ConfigError("optional: expected some of the roles and not all, found others")
        for name, low in (("timeout_s", 0.0), ("deadline_s", 0.0), ("away_s", -1.0)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and low < value <= 1e9):
                raise ConfigError(f"{name}: expected a number of seconds above 0, found {value!r:.40}")
        for name, low_int, high in (("retries", 0, 1000), ("seed", 0, 2**63 - 1), ("threads", 1, 1024)):
            value = getattr(self, name)
            if type(value) is not int or not low_int <= value <= high:
                raise ConfigError(f"{name}: expected a whole number from {low_int} to {high}, found {value!r:.40}")

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site that plays a role, sorted."""
        return tuple(sorted(self.roles.values()))

    def role_of(self, site: str) -> str | None:
        """The role that a site plays."""
        return next((role for role, each in self.roles.items() if each == site), None)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "RoleSpec":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: an unknown field, a wrong type or a value out of range, by name.
        """
        if not isinstance(value, dict) or not isinstance(value.get("roles"), dict):
            raise ConfigError("roles: expected an object with the site of each role")
        known = {spec.name for spec in fields(cls)}
        for key in value:
            if key not in known:
                raise ConfigError(f"roles: unknown field {str(key)[:60]!r}; known are {', '.join(sorted(known))}")
        if not all(type(site) is str for site in value["roles"].values()):
            raise ConfigError("roles: expected the name of a site for each")
        optional = value.get("optional", ())
        if not isinstance(optional, list | tuple) or not all(type(role) is str for role in optional):
            raise ConfigError("optional: expected a list of roles")
        if type(value.get("outputs_of", "")) is not str:
            raise ConfigError("outputs_of: expected the id of a job")
        protocol = Protocol.from_json(value.get("protocol"))
        return cls(**{**value, "protocol": protocol, "optional": tuple(optional)})


def assigned(roles: Mapping[str, str | Sequence[str]]) -> dict[str, str]:
    """The site of each role, from what people write: `{"guest": "bank", "host": ["shop", "telco"]}`.

    Several sites of one role play `host-1`, `host-2`, … in the order given; a list of one plays `host`.

    Raises:
        ConfigError: something else.
    """
    found: dict[str, str] = {}
    for role, sites in roles.items():
        listed = [sites] if isinstance(sites, str) else list(sites)
        if not listed or not all(isinstance(site, str) for site in listed):
            raise ConfigError(f"roles: {role}: expected a site's name or a list of them")
        names = [role] if len(listed) == 1 else [f"{role}-{number}" for number in range(1, len(listed) + 1)]
        found |= dict(zip(names, listed, strict=True))
    return found
