"""A connection that breaks in the middle of a large model, on its way up and down: counted at the proxy between."""

from collections import Counter
from collections.abc import Iterator

import pytest

from hanse.backends.grpc.protocol import error_of
from hanse.core.errors import UnavailableError
from tests.faults.controlled import Controlled, controlled
from tests.faults.proxy import DOWN, UP, Proxy

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("federation-transfers")]
SIZE = 16_000_000
BYTES = 4 * SIZE
OVERHEAD = 1 << 20


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Between site a and the server."""
    with Proxy() as made:
        yield made


@pytest.fixture
def federation(tmp_path: str, proxy: Proxy) -> Iterator[Controlled]:
    with controlled(tmp_path, "a", proxies={"a": proxy}) as made:
        yield made


def test_broken_transfers_go_on_where_they_stopped(federation: Controlled, proxy: Proxy) -> None:
    control = federation.control
    undisturbed = federation.submit(size=SIZE, rounds=2, min_sites=1)[0].job.result().arrays["0"].tobytes()

    control.hold(("a", 1), ("a", 2))
    proxy.count_from_here()
    proxy.cut_after(DOWN, BYTES * 3 // 5)
    watch, label = federation.submit(size=SIZE, rounds=2, min_sites=1)
    control.await_call(label, "a", 1)
    down = proxy.moved[DOWN]
    assert proxy.cuts == 1
    assert BYTES <= down < 1.5 * BYTES

    proxy.count_from_here()
    proxy.cut_after(UP, BYTES * 3 // 5)
    control.release("a", 1)
    watch.round(1)
    up = proxy.moved[UP]
    assert proxy.cuts == 2
    assert BYTES <= up < 1.5 * BYTES
    print(f"\nof a model of {BYTES / 1e6:.0f} MB, cut once: {down / BYTES:.2f} of it moved down, {up / BYTES:.2f} up")

    control.release("a", 2)
    result = watch.job.result()
    assert result.arrays["0"].tobytes() == undisturbed
    assert [(record.folded, record.failed) for record in result.rounds] == [(("a",), {})] * 2
    assert Counter(control.trainings(label)) == {("a", 1): 1, ("a", 2): 1}
