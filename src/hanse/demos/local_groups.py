"""A federation whose sites are groups, as processes on this machine: a server, edges, and the members behind each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.demos.local_federation import LocalFederation


class Above(LocalFederation):
    """The upper federation: its sites join, and are moved to where their edges run."""

    def start(self, *, wait: bool = True) -> None:
        """See `LocalFederation.start`; nobody waits for sites that edges are to start."""
        super().start(wait=False)

    def prepare(self) -> Mapping[str, str]:
        """See `LocalFederation.prepare`."""
        tokens = super().prepare()
        self.children.clear()
        return tokens


class Behind(LocalFederation):
    """A group: its server is an edge, and so a site of the upper federation, whose folder is moved here."""

    site: Path = Path()

    def prepare(self) -> Mapping[str, str]:
        """See `LocalFederation.prepare`."""
        tokens = super().prepare()
        self.server.kind = "edge"
        if self.site.exists():
            self.site.rename(self.directory / "server" / "edge")
        return tokens


@dataclass
class Grouped:
    """What runs: the federation above, and each group's."""

    above: Above
    groups: dict[str, Behind]


@contextmanager
def grouped(
    directory: Path,
    groups: Mapping[str, Sequence[str]],
    data: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    durability: str = "process",
) -> Iterator[Grouped]:
    """Start everything, and end it.

    Args:
        groups: members' names by group.
        data: declarations of members' data sets.
        durability: of servers and sites.
    """
    with ExitStack() as stack:
        above = stack.enter_context(Above(directory / "above", {name: {} for name in groups}, durability=durability))
        behind = {}
        for name, members in groups.items():
            place = Behind(
                directory / name,
                {each: (data or {}).get(each, {}) for each in members},
                name=name,
                durability=durability,
            )
            place.site = above.site_directory(name)
            behind[name] = stack.enter_context(place)
            above.children[name] = place.server
        above.wait_for_sites(list(groups))
        yield Grouped(above, behind)
