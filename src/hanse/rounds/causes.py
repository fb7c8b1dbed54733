"""What several sites said, each cause once, with the sites that have it: thirty sites with one cause are one line."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MOST_NAMES = 8
"""So many sites of a cause are named, the others counted."""
MOST_CAUSES = 8


class Cause(NamedTuple):
    """A cause and the sites that have it, sorted."""

    reason: str
    sites: tuple[str, ...]


def by_cause(reasons: Mapping[str, str]) -> list[Cause]:
    """Site → reason the other way round: the cause that most sites have first, then by the first site's name."""
    sites: dict[str, list[str]] = {}
    for site, reason in sorted(reasons.items()):
        sites.setdefault(reason, []).append(site)
    found = [Cause(reason, tuple(those)) for reason, those in sites.items()]
    return sorted(found, key=lambda cause: (-len(cause.sites), cause.sites[0]))


def whose(sites: Sequence[str], total: int = 0) -> str:
    """The sites of a cause in words: the one's name, or `3 of 30 sites: a, b, c`.

    Args:
        total: of how many; 0 where that is not known, and not told.
    """
    if len(sites) == 1:
        return sites[0]
    of = f" of {total}" if total >= len(sites) else ""
    return f"{len(sites)}{of} sites: {names(sites)}"


def names(sites: Sequence[str]) -> str:
    """The first `MOST_NAMES` of them, and how many more there are."""
    more = f" and {len(sites) - MOST_NAMES} more" if len(sites) > MOST_NAMES else ""
    return f"{', '.join(sites[:MOST_NAMES])}{more}"


def once(reasons: Mapping[str, str]) -> dict[str, str]:
    """Site → what to say beside it: its reason, or the first site in this order that has the same one."""
    first: dict[str, str] = {}
    said = {}
    for site, reason in reasons.items():
        is_first = first.setdefault(reason, site) == site
        said[site] = reason if is_first or not reason else f"as {first[reason]}"
    return said


def told(reasons: Mapping[str, str] | Iterable[tuple[str, str]], total: int = 0) -> str:
    """All of it on one line: `3 of 30 sites: a, b, c: cause; d: another`; empty where there is none.

    Args:
        reasons: site → reason.
        total: how many sites there were in all; 0 for unknown.
    """
    causes = by_cause(dict(reasons))
    parts = [f"{whose(sites, total)}: {reason}" for reason, sites in causes[:MOST_CAUSES]]
    if left := causes[MOST_CAUSES:]:
        num_sites = sum(len(cause.sites) for cause in left)
        parts.append(f"other causes at {num_sites} more site{'s' * (num_sites > 1)}")
    return "; ".join(parts)
