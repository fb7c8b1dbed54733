"""Leases, as lists of events and what follows from them."""

from typing import Any

import pytest

from hanse.server.presence import Presence

LEASE = 10_000


def after(*events: tuple[Any, ...]) -> Presence:
    """Presence after events: (name, arguments…)."""
    presence = Presence(LEASE)
    for name, *arguments in events:
        getattr(presence, name)(*arguments)
    return presence


@pytest.mark.parametrize(
    ("events", "there", "connected"),
    [
        ([], "", ""),
        ([("opened", "a", 0)], "a", "a"),
        ([("opened", "a", 0), ("closed", "a")], "", ""),
        ([("closed", "a")], "", ""),
        ([("opened", "a", 0), ("expire", LEASE - 1)], "a", "a"),
        ([("opened", "a", 0), ("expire", LEASE)], "", "a"),
        ([("opened", "a", 0), ("heard", "a", 5000), ("expire", LEASE)], "a", "a"),
        ([("opened", "a", 0), ("expire", LEASE), ("heard", "a", 11_000)], "a", "a"),
        ([("opened", "a", 0), ("expire", LEASE), ("closed", "a")], "", ""),
        ([("opened", "a", 0), ("opened", "b", 6000), ("expire", LEASE)], "b", "ab"),
        ([("expect", "ab", 0)], "ab", ""),
        ([("expect", "ab", 0), ("expire", LEASE)], "", ""),
        ([("expect", "ab", 0), ("opened", "a", 9000), ("expire", LEASE)], "a", "a"),
        ([("opened", "a", 0), ("expect", "a", 9000), ("expire", LEASE)], "", "a"),
        ([("opened", "a", 0), ("opened", "a", 9000), ("expire", LEASE)], "a", "a"),
        ([("opened", "a", 0), ("forgive", 3000, LEASE), ("expire", LEASE)], "a", "a"),
        ([("opened", "a", 0), ("forgive", 3000, LEASE), ("expire", LEASE + 3000)], "", "a"),
        ([("opened", "a", 0), ("forgive", 9 * LEASE, LEASE), ("expire", 2 * LEASE)], "", "a"),
        ([("opened", "a", 0), ("expire", LEASE), ("forgive", 3000, LEASE)], "", "a"),
    ],
    ids=str,
)
def test_who_is_there(events: list[tuple[Any, ...]], there: str, connected: str) -> None:
    presence = after(*events)
    assert (presence.there(), presence.connected()) == (frozenset(there), frozenset(connected))


def test_expire_names_each_loss_once() -> None:
    presence = after(("opened", "a", 0), ("opened", "b", 5))
    assert presence.expire(LEASE) == ["a"]
    assert presence.expire(LEASE + 5) == ["b"]
    assert presence.expire(10 * LEASE) == []


def test_heard_says_who_is_back_once() -> None:
    presence = after(("opened", "a", 0))
    assert not presence.heard("a", 1)
    presence.expire(LEASE + 1)
    assert presence.heard("a", LEASE + 2)
    assert not presence.heard("a", LEASE + 3)


def test_the_next_expiry_is_the_earliest() -> None:
    presence = Presence(LEASE)
    assert presence.next_expiry_ms() is None
    presence.opened("a", 100)
    presence.opened("b", 50)
    assert presence.next_expiry_ms() == 50 + LEASE
    presence.heard("b", 200)
    assert presence.next_expiry_ms() == 100 + LEASE
    assert presence.expire(presence.next_expiry_ms() or 0) == ["a"]
