"""Names of the roles of vertical protocols: one guest, who holds the label, up to 16 hosts, and perhaps an arbiter."""

from typing import Literal

from hanse.core.errors import ConfigError

GUEST, HOST, ARBITER = "guest", "host", "arbiter"
MAX_HOSTS = 16
IfOffline = Literal["refuse", "default"]
"""What a host that is away means for scores: none, or those of a model in which it says nothing."""


def host_roles(num_hosts: int) -> tuple[str, ...]:
    """`host`, or `host-1`, `host-2`, … where there are several, as `hanse.channels.spec.assigned` names them.

    Raises:
        ConfigError: none, or more than `MAX_HOSTS`.
    """
    if not 1 <= num_hosts <= MAX_HOSTS:
        raise ConfigError(f"hosts: expected 1 to {MAX_HOSTS}, found {num_hosts}")
    return (HOST,) if num_hosts == 1 else tuple(f"{HOST}-{at}" for at in range(1, num_hosts + 1))
