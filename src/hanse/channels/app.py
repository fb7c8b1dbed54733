"""`RoleApp`: an app whose sites play roles and exchange named messages. `hs.App` is the other kind: a server leads it.

    app = hs.RoleApp(PROTOCOL, tells={"common": "how many customers both have"})

    @app.role("guest")
    async def guest(party, site):
        common = await psi.guest(party, site.load("customers")["id"])
        return {"common": len(common)}

Plain data (`RoleSpec`) travels in the signed job, the functions in the module's bundle. Nothing is called here.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hanse.channels.protocol import Protocol, Reveal
from hanse.channels.spec import RoleSpec, assigned
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER
from hanse.core.origin import file_of, included, maker_of, name_in

RoleProgram = Callable[[Any, Any], Awaitable[Any]]
"""`async f(party, site) -> metrics | (arrays, metrics) | None`.

Metrics are those that the app `tells`. Arrays stay at the site, in its folder `outputs`.
"""


class RolePlay:
    """An app of roles, before it is known how many sites of a kind there are: an `hs.RoleApp`, or a vertical model.

    Attributes:
        include: files that travel with the app's module.
        module_globals: of the module in which it was made.
    """

    include: tuple[str, ...]
    module_globals: dict[str, Any]
    initial_arrays: ClassVar[Arrays | None] = None
    """As `App.initial_arrays`: a job of roles brings no model."""

    def cast(self, roles: Collection[str]) -> "RoleApp":
        """The app for these roles.

        Args:
            roles: names as `assigned` gives them.

        Raises:
            ConfigError: roles that it has no use for.
        """
        raise NotImplementedError

    def spec(self, roles: Mapping[str, str | Sequence[str]] | None) -> RoleSpec:
        """The job as plain data.

        Args:
            roles: the site or sites of each role.

        Raises:
            ConfigError: a role without a program or a site, or a value that is wrong, by name.
        """
        return self.cast(() if roles is None else assigned(roles)).spec(roles)

    @property
    def name_in_module(self) -> str:
        """The name under which its module holds this app.

        Raises:
            ConfigError: the module holds it under no name.
        """
        return name_in(self.module_globals, self, "hs.RoleApp")


class RoleApp(RolePlay):
    """A federated program of roles.

    Args:
        protocol: what roles there are and what they may send; several protocols, joined by `Protocol.joined`.
        tells: metrics that role programs may return, each with what it says of the role's data. They go to the server
            and to whoever submits the job, so they are among what the job reveals, of every role.
        timeout_s: seconds that a role waits for one message.
        deadline_s: seconds for one session.
        away_s: seconds that a lost site is awaited before the job fails.
        retries: how many new sessions there may be after one that broke.
        seed: of the random streams that role programs are given as `site.rng`.
        threads: compute threads in every worker.
        outputs_of: an earlier job: `site.outputs()` is what the same role kept at its site then.
        optional: roles without which the others begin where their sites are away for `away_s`.
        include: files that the module imports or reads, relative to it; they travel with it.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        tells: Mapping[str, str] | None = None,
        timeout_s: float = 300.0,
        deadline_s: float = 3600.0,
        away_s: float = 600.0,
        retries: int = 2,
        seed: int = 0,
        threads: int = 1,
        outputs_of: str = "",
        optional: Sequence[str] = (),
        include: Sequence[str | Path] = (),
    ) -> None:
        if not isinstance(protocol, Protocol):
            raise ConfigError(f"app: expected a Protocol, found {type(protocol).__name__}")
        told = (Reveal(SERVER, role, name, detail) for name, detail in (tells or {}).items() for role in protocol.roles)
        self.protocol = replace(protocol, reveals=(*protocol.reveals, *told))
        self.programs: dict[str, RoleProgram] = {}
        self.include = included(include)
        self._options: dict[str, Any] = {
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
            "away_s": away_s,
            "retries": retries,
            "seed": seed,
            "threads": threads,
            "outputs_of": outputs_of,
            "optional": tuple(optional),
        }
        self.module_globals = maker_of(*(file_of(kind) for kind in type(self).__mro__))

    def role(self, name: str) -> Callable[[RoleProgram], RoleProgram]:
        """Register `async f(party, site)` as the program of a role."""
        if name not in self.protocol.roles:
            raise ConfigError(f"@app.role: expected one of {', '.join(self.protocol.roles)}; found {name!r:.60}")
        if name in self.programs:
            raise ConfigError(f"app: found @app.role({name!r}) twice; keep one")

        def register(function: RoleProgram) -> RoleProgram:
            if not callable(function):
                raise ConfigError(f"@app.role: expected a function below it, found {type(function).__name__}")
            self.programs[name] = function
            return function

        return register

    def cast(self, roles: Collection[str]) -> "RoleApp":
        """Itself: what it declares does not depend on its roles."""
        del roles
        return self

    def spec(self, roles: Mapping[str, str | Sequence[str]] | None) -> RoleSpec:
        """See `RolePlay.spec`."""
        missing = [role for role in self.protocol.roles if role not in self.programs]
        if missing:
            raise ConfigError(f"app: found no program for {', '.join(missing)}; register it with @app.role")
        if roles is None:
            wanted = ", ".join(f"{role!r}: SITE" for role in self.protocol.roles)
            raise ConfigError(f"roles: expected {{{wanted}}}, found none")
        return RoleSpec(assigned(roles), self.protocol, **self._options)

    def __repr__(self) -> str:
        return f"RoleApp({self.protocol.name})"
