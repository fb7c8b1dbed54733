"""From a vertical app, which is plain data, to the `RoleApp` that is submitted: what all of them share."""

from collections.abc import Collection
from typing import Any

from hanse.channels.app import RoleApp
from hanse.channels.protocol import Protocol
from hanse.vertical.parties import HOST, host_roles


def hosts_among(roles: Collection[str]) -> tuple[str, ...]:
    """Names of as many hosts as these roles have; of one where there are none."""
    return host_roles(max(1, sum(role.partition("-")[0] == HOST for role in roles)))


def role_app(play: Any, protocol: Protocol, **options: Any) -> RoleApp:
    """A `RoleApp` without its programs yet.

    Args:
        play: an app with `timeout_s`, `deadline_s`, `away_s`, `retries`, `threads`, `include` and `module_globals`.
        protocol: what it declares.
        options: further ones of `RoleApp`.
    """
    app = RoleApp(
        protocol,
        timeout_s=play.timeout_s,
        deadline_s=play.deadline_s,
        away_s=play.away_s,
        retries=play.retries,
        threads=play.threads,
        include=play.include,
        **options,
    )
    app.module_globals = play.module_globals
    return app
