"""Fixtures of the conformance suite: one place after another, and its seams by name."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from hanse.core.seams import BlobStore, Inbox, Ledger, Links
from tests.conformance.places import PLACES, Place

T = TypeVar("T")


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.aws if n == "aws-account" else ()) for n in PLACES])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with PLACES[request.param](tmp_path) as place:
        yield place


@pytest.fixture
def ledger(place: Place) -> Ledger:
    return _offered(place.ledger, "ledger")


@pytest.fixture
def blobs(place: Place) -> BlobStore:
    return _offered(place.blobs, "blob store")


@pytest.fixture
def inbox(place: Place) -> Inbox:
    return _offered(place.inbox, "inbox")


@pytest.fixture
def links(place: Place) -> Links:
    return _offered(place.links, "links")


def _offered(seam: T | None, name: str) -> T:
    if seam is None:
        pytest.skip(f"this place has no {name}")
    return seam
