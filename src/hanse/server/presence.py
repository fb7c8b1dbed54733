"""Who is there: leases, as a pure function of what was heard when.

A site is there while it has a session and was heard within the lease. Leases live in memory; when a server starts,
every site that is expected gets a fresh one, so that a restart declares nobody lost before it could return.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Presence:
    """Leases of sites. Times are milliseconds of one clock; nothing here reads it.

    Args:
        lease_ms: a site that was not heard for so long is lost.
    """

    lease_ms: int
    _heard: dict[str, int] = field(default_factory=dict)
    _connected: set[str] = field(default_factory=set)

    def expect(self, sites: Iterable[str], now_ms: int) -> None:
        """Give sites a lease before they have been heard."""
        for site in sites:
            self._heard.setdefault(site, now_ms)

    def opened(self, site: str, now_ms: int) -> None:
        """A session began."""
        self._connected.add(site)
        self._heard[site] = now_ms

    def heard(self, site: str, now_ms: int) -> bool:
        """A frame arrived; True if the site had been lost and is back."""
        back = site in self._connected and site not in self._heard
        self._heard[site] = now_ms
        return back

    def closed(self, site: str) -> None:
        """The session ended: the site is lost at once."""
        self._connected.discard(site)
        self._heard.pop(site, None)

    def forgive(self, silent_ms: int, now_ms: int) -> None:
        """Time in which nobody could have been heard, since the server itself stood still, counts for no lease."""
        self._heard = {site: min(heard + silent_ms, now_ms) for site, heard in self._heard.items()}

    def expire(self, now_ms: int) -> list[str]:
        """Take away the leases that have run out; the sites that lost theirs."""
        lost = [site for site, heard in self._heard.items() if now_ms - heard >= self.lease_ms]
        for site in lost:
            del self._heard[site]
        return lost

    def next_expiry_ms(self) -> int | None:
        """When `expire` should be called next."""
        return min(self._heard.values()) + self.lease_ms if self._heard else None

    def there(self) -> frozenset[str]:
        """Sites that hold a lease."""
        return frozenset(self._heard)

    def connected(self) -> frozenset[str]:
        """Sites that have a session, even if they have fallen silent."""
        return frozenset(self._connected)
