"""A connection that breaks in the middle of a large model, on its way up and down: counted at the proxy between."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from hanse.backends.grpc.client import Connection
from hanse.backends.grpc.protocol import CutOffError, error_of
from hanse.backends.memory import MemoryBlobs
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.errors import StorageError, UnavailableError
from hanse.core.proto import hanse_pb2 as pb
from hanse.trust.authority import Authority
from tests.faults.controlled import Controlled, controlled
from tests.faults.proxy import DOWN, UP, Proxy
from tests.faults.wire_federation import certify, credentials_of
from tests.patience import WAIT_S

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("federation-transfers")]
SIZE = 16_000_000
BYTES = 4 * SIZE


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Between site a and the server."""
    with Proxy() as made:
        yield made


@pytest.fixture
def federation(tmp_path: Path, proxy: Proxy) -> Iterator[Controlled]:
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


@pytest.mark.parametrize("end", ["the connection is closed", "the network breaks"])
async def test_an_upload_that_has_not_begun_ends_with_its_connection(proxy: Proxy, end: str) -> None:
    """gRPC leaves the first write waiting for ever: the reply of a site that was cut off twice would never go out."""
    member, _ = certify(Authority.create("wire"), "site", "a", "")
    proxy.swallow()
    connection = Connection(f"127.0.0.1:{proxy.port}", credentials_of(member))
    store, content = MemoryBlobs(), bytes(1000)
    manifest = manifest_of(content)
    await store.put("here", manifest, rechunk([content]))
    uploading = asyncio.ensure_future(connection.upload(store, "here", manifest, place="there"))
    await asyncio.to_thread(proxy.await_connection)
    await asyncio.wait((uploading,), timeout=0.1)
    if end == "the connection is closed":
        await connection.close()
    else:
        proxy.cut()
    done, _ = await asyncio.wait((uploading,), timeout=WAIT_S)
    assert done
    assert uploading.cancelled() or isinstance(uploading.exception(), UnavailableError)
    await connection.close()


async def test_a_connection_that_was_closed_is_one_that_broke() -> None:
    """Whoever closes knows before the transfers do: asked once more, a closed channel raised what nobody expected."""
    member, _ = certify(Authority.create("wire"), "site", "a", "")
    connection = Connection("127.0.0.1:1", credentials_of(member))
    store, content = MemoryBlobs(), bytes(1000)
    manifest = manifest_of(content)
    await store.put("here", manifest, rechunk([content]))
    await connection.close()
    for work in (
        connection.upload(store, "here", manifest, place="there"),
        connection.download(MemoryBlobs(), "here", manifest),
        connection.relay("session", "host"),
        connection.ask(pb.Call()),
    ):
        with pytest.raises(UnavailableError, match="closed"):
            await work


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.INTERNAL, "Internal error from Core", CutOffError),
        (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", UnavailableError),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", UnavailableError),
        (grpc.StatusCode.ABORTED, "disk: no space left", StorageError),
    ],
)
def test_what_may_pass_is_tried_again(code: grpc.StatusCode, details: str, expected: type[Exception]) -> None:
    empty = grpc.aio.Metadata()
    assert type(error_of(grpc.aio.AioRpcError(code, empty, empty, details))) is expected
