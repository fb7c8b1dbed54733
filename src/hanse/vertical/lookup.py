"""`hs.vertical.Directory` and `hs.vertical.Lookup`: new customers against a large set, without telling who they are.

    directory = hs.vertical.Directory(dataset="customers", key="id", budget=10_000)
    lookup = hs.vertical.Lookup(directory, made_by="j3k…", dataset="applicants")

The first job makes a directory of the host's set, which the guest keeps, and a secret, which the host keeps. Jobs of
the second kind ask it: the guest learns which of its rows the host has, the host how many it was asked for. Its answers
are counted at the host's site for good (`hanse.channels.spending`).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from hanse.channels.app import RoleApp, RolePlay
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol, Reveal
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER, check_name
from hanse.core.origin import file_of, included, maker_of
from hanse.core.stream import Stream
from hanse.crypto.oprf import MAX_ITEMS
from hanse.vertical.casting import role_app
from hanse.vertical.intersection import read_keyed
from hanse.vertical.parties import GUEST
from hanse.vertical.psi import directory
from hanse.vertical.psi.keys import read_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(RolePlay):
    """Makes a directory of a host's data set for a guest.

    Returns: of each role what it keeps for `Lookup`; metric `rows` of the host.

    Attributes:
        dataset: the host's; the guest needs none.
        key: the columns that identify a person, see `hanse.vertical.psi.keys`; repeated ones are one.
        match: of several columns: `all` must agree, or `any`.
        budget: how many identifiers the guest may ask this directory for in all, at most 2^20.
        max_ids: how many the host's directory may have: the guest refuses a larger one before it takes memory for it.
        timeout_s, deadline_s, away_s, retries, threads, include: as for `hs.RoleApp`. Making it takes the host about 50
            µs for each identifier, while the guest waits: `timeout_s` is for that.

    Raises:
        ConfigError: a value that is wrong, by name.
    """

    dataset: str
    key: str | Sequence[str | Sequence[str]]
    match: str = "all"
    budget: int = 10_000
    max_ids: int = directory.USUAL_IDS
    timeout_s: float = 3600.0
    deadline_s: float = 7200.0
    away_s: float = 600.0
    retries: int = 2
    threads: int = 1
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        read_key(self.key, self.match)
        directory.check_budget(self.budget)
        if type(self.max_ids) is not int or not 1 <= self.max_ids <= MAX_ITEMS:
            raise ConfigError(f"max_ids: expected a whole number from 1 to {MAX_ITEMS}, found {self.max_ids!r:.40}")
        object.__setattr__(self, "include", included(self.include))
        object.__setattr__(self, "module_globals", maker_of("<string>", file_of(type(self))))

    def cast(self, roles: Collection[str]) -> RoleApp:
        """See `RolePlay.cast`: for one host."""
        del roles
        told = {"host": {"rows": "how many rows this side holds"}}
        app = role_app(self, _telling(directory.PUBLISHING, told))

        @app.role("guest")
        async def guest(party: Party, site: Any) -> Any:
            del site
            return (await directory.fetch(party, self.max_ids)).to_arrays(), {}

        @app.role("host")
        async def host(party: Party, site: Any) -> Any:
            table = read_keyed(site.load(self.dataset), self.dataset, read_key(self.key, self.match))
            secret = await directory.publish(party, table.ids, self.budget)
            return secret.to_arrays(), {"rows": table.num_rows}

        return app


@dataclass(frozen=True, slots=True)
class Lookup(RolePlay):
    """Asks a directory for the rows of a guest's data set, many or a single one.

    Returns of the guest: array `places`: int64, its rows that the host has, ascending; metrics `rows` and `common`.
    Of the host: metric `queries`.

    Attributes:
        directory: as it was made: its key counts here.
        made_by: the job that made it; both sites look for what they kept then.
        dataset: the guest's; the host needs none.
        timeout_s, deadline_s, away_s, retries, threads, include: as for `hs.RoleApp`. A session that breaks and is
            begun anew asks, and pays, anew.

    Raises:
        ConfigError: a value that is wrong, by name.
    """

    directory: Directory
    made_by: str
    dataset: str
    timeout_s: float = 300.0
    deadline_s: float = 3600.0
    away_s: float = 600.0
    retries: int = 0
    threads: int = 1
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.directory, Directory):
            raise ConfigError(f"directory: expected an hs.vertical.Directory, found {type(self.directory).__name__}")
        check_name(self.made_by, "made_by")
        object.__setattr__(self, "include", included(self.include))
        object.__setattr__(self, "module_globals", maker_of("<string>", file_of(type(self))))

    def cast(self, roles: Collection[str]) -> RoleApp:
        """See `RolePlay.cast`: for one host."""
        del roles
        told = {
            "guest": {"rows": "how many rows this side holds", "common": "how many of them the host has"},
            "host": {"queries": "how many identifiers it was asked for"},
        }
        app = role_app(self, _telling(directory.ASKING, told), outputs_of=self.made_by)
        key = read_key(self.directory.key, self.directory.match)

        @app.role("guest")
        async def guest(party: Party, site: Any) -> Any:
            kept = directory.Directory.from_arrays(site.outputs())
            table = read_keyed(site.load(self.dataset), self.dataset, key)
            if isinstance(table.ids, Stream):
                raise ConfigError(f"data set {self.dataset}: expected a key in memory, found a stream")
            if len(table.ids) > kept.budget:  # the host would answer some of it, and count that
                raise ConfigError(
                    f"data set {self.dataset}: expected at most {kept.budget} identifiers, the budget of the "
                    f"directory, found {len(table.ids)}"
                )
            found = await directory.ask(party, kept, table.ids)
            await directory.leave(party)
            places = np.unique(table.rows[found[table.places]])
            return {"places": places}, {"rows": table.num_rows, "common": len(places)}

        @app.role("host")
        async def host(party: Party, site: Any) -> Any:
            secret = directory.Secret.from_arrays(site.outputs())
            return {"queries": await directory.answer(party, secret, counted(site, party.site_of(GUEST), secret))}

        return app


def counted(site: Any, peer: str, secret: directory.Secret) -> Callable[[int], int]:
    """What `directory.answer` counts with: at this site, for this peer and this directory, for good."""
    name = blake2b(secret.key.public_key().public_bytes_raw(), digest_size=16, person=b"hanse directory").hexdigest()
    return partial(site.spending.spend, peer, f"directory {name}", limit=secret.budget)


def _telling(protocol: Protocol, told: dict[str, dict[str, str]]) -> Protocol:
    """The protocol, and what the server and who submits learn of each role."""
    reveals = tuple(Reveal(SERVER, role, *each) for role, names in told.items() for each in names.items())
    return replace(protocol, reveals=(*protocol.reveals, *reveals))
