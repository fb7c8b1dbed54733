"""What AWS adds to the seams: links that are URLs, queues with real time, and errors that name the next step."""

import asyncio
import base64
import json
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from hanse.backends.aws import AwsConfig, AwsStore
from hanse.backends.aws.errors import aws_errors
from hanse.backends.aws.links import LIFE_S
from hanse.backends.aws.queues import QueueInbox
from hanse.backends.objectstore.blobs import chunk_key, head_key
from hanse.core.blobs import CHUNK_BYTES, Manifest, manifest_of, split
from hanse.core.errors import (
    CodecError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    PolicyError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from hanse.core.records import Envelope
from tests.conformance.emulator import Session, emulated
from tests.patience import WAIT_S

CONTENT = bytes(range(251)) * 40_000  # two chunks
UP = "j/c/1/up/site"


@pytest.fixture
def config() -> AwsConfig:
    with emulated() as found:
        return found


@pytest.fixture
def store(config: AwsConfig) -> AwsStore:
    return AwsStore.open(config, Session())


def request(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """An HTTP call without any credentials: (status, content)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Type", "application/octet-stream")
    call = urllib.request.Request(url, data=body, method=method, headers=named)
    try:
        with urllib.request.urlopen(call, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


async def test_a_site_with_links_alone_uploads_and_downloads(store: AwsStore) -> None:
    manifest = manifest_of(CONTENT)
    store.links.grant("site", write=[UP])
    ticket = await store.links.put("site", UP, manifest)
    assert ticket.missing == (0, 1)
    for (_, chunk), url in zip(split(CONTENT), ticket.urls, strict=True):
        assert (await asyncio.to_thread(request, url, "PUT", bytes(chunk), If_None_Match="*"))[0] == 200
    with pytest.raises(NotFoundError):
        await store.blobs.manifest(UP, manifest.id)  # not before the server has committed it
    await store.blobs.commit(UP, manifest)
    store.links.grant("reader", read=[(UP, manifest.id)])
    link = await store.links.get("reader", UP, manifest.id)
    parts = [(await asyncio.to_thread(request, url))[1] for url in link.urls]
    assert b"".join(parts[1:]) == CONTENT
    assert parts[0].endswith(manifest.hashes)


async def test_a_link_writes_once_and_is_bound_to_its_name_and_length(store: AwsStore) -> None:
    manifest = manifest_of(CONTENT)
    store.links.grant("site", write=[UP])
    ticket = await store.links.put("site", UP, manifest)
    for (index, chunk), url in zip(split(CONTENT), ticket.urls, strict=True):
        parts = urlsplit(url)
        assert parts.path.endswith(chunk_key(UP, manifest.hash_of(index)))
        query = parse_qs(parts.query)
        assert query["X-Amz-Expires"] == [str(LIFE_S)]
        assert {"content-length", "if-none-match"} <= set(query["X-Amz-SignedHeaders"][0].split(";"))
        first = await asyncio.to_thread(request, url, "PUT", bytes(chunk), If_None_Match="*")
        again = await asyncio.to_thread(request, url, "PUT", bytes(len(chunk)), If_None_Match="*")
        assert (first[0], again[0]) == (200, 412)


async def test_committing_what_is_not_there_is_refused(store: AwsStore) -> None:
    manifest = manifest_of(CONTENT)
    with pytest.raises(IntegrityError, match="2 of 2 chunks are missing"):
        await store.blobs.commit(UP, manifest)


async def test_a_small_blob_that_came_as_a_chunk_is_committed_whole(store: AwsStore) -> None:
    manifest = manifest_of(b"small")
    store.links.grant("site", write=[UP])
    ticket = await store.links.put("site", UP, manifest)
    assert (await asyncio.to_thread(request, ticket.urls[0], "PUT", b"small", If_None_Match="*"))[0] == 200
    await store.blobs.commit(UP, manifest)
    assert bytes(store.blobs.read(UP, manifest.id, 0, 5)) == b"small"


async def test_wrong_bytes_under_a_chunks_name_are_found_when_they_are_read(store: AwsStore) -> None:
    manifest = manifest_of(CONTENT)
    store.links.grant("site", write=[UP])
    ticket = await store.links.put("site", UP, manifest)
    for (_, chunk), url in zip(split(CONTENT), ticket.urls, strict=True):
        await asyncio.to_thread(request, url, "PUT", bytes(len(chunk)), If_None_Match="*")
    await store.blobs.commit(UP, manifest)
    with pytest.raises(IntegrityError):
        store.blobs.read(UP, manifest.id, 0, 1)
    assert await store.blobs.missing(UP, manifest) == [0]


async def test_one_chunk_is_fetched_for_a_walk_over_it(store: AwsStore) -> None:
    manifest = manifest_of(CONTENT)
    await store.blobs.put(UP, manifest, split(CONTENT))
    fresh = type(store.blobs)(store.blobs._objects)
    fetched: list[str] = []
    real = fresh._objects.get_now

    def get_now(key: str) -> bytes:
        fetched.append(key)
        return real(key)

    fresh._objects.get_now = get_now  # type: ignore[method-assign]
    try:
        for start in range(0, len(CONTENT), 1 << 20):
            stop = min(start + (1 << 20), len(CONTENT))
            assert fresh.read(UP, manifest.id, start, stop) == CONTENT[start:stop]
    finally:
        fresh._objects.get_now = real  # type: ignore[method-assign]
    assert fetched == [head_key(UP, manifest.id), *(chunk_key(UP, manifest.hash_of(n)) for n in range(2))]
    assert len(CONTENT) > CHUNK_BYTES


async def test_a_message_comes_again_until_it_is_acknowledged(store: AwsStore) -> None:
    await store.inbox.send("site", Envelope("server", "site", "t", "task", b"body"))
    (first,) = await store.inbox.receive("site", wait_s=2)
    await store.inbox.extend([first.receipt], 600)
    assert await store.inbox.receive("site", wait_s=0) == []
    await store.inbox.extend([first.receipt], 1)
    started = time.monotonic()
    found: list[int] = []
    while not found and time.monotonic() < started + WAIT_S:
        found = [delivery.count for delivery in await store.inbox.receive("site", wait_s=1)]
    assert found == [2]
    await store.inbox.extend([first.receipt], 0)


async def test_a_message_over_a_queues_limit_is_refused(store: AwsStore) -> None:
    with pytest.raises(TooLargeError, match="at most 262144 bytes"):
        await store.inbox.send("site", Envelope("server", "site", "t", "task", bytes(200_000)))


async def test_what_is_not_deployed_is_named_with_the_next_step(config: AwsConfig) -> None:
    store = AwsStore.open(AwsConfig("other", "hanse-none", "hanse-none", config.region, config.endpoint), Session())
    with pytest.raises(NotFoundError, match="add the site and deploy again"):
        await store.inbox.send("stranger", Envelope("server", "stranger", "t", "task"))
    with pytest.raises(NotFoundError, match="no such table"):
        await store.ledger.create("k", b"v")
    with pytest.raises((StorageError, NotFoundError)):
        await store.blobs.put(UP, manifest_of(b"x"), split(b"x"))


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("AccessDenied", PolicyError, "lacks the right"),
        ("ExpiredToken", PolicyError, "renew them"),
        ("PermanentRedirect", ConfigError, "another region"),
        ("SomethingNew", StorageError, "SomethingNew: because"),
    ],
)
def test_what_aws_says_becomes_one_line(code: str, kind: type[Exception], said: str) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(kind, match=said) as caught, aws_errors("doing this"):
        raise ClientError({"Error": {"Code": code, "Message": "because\nof that"}}, "Put")
    assert "\n" not in str(caught.value)
    json.dumps(str(caught.value))


def test_a_role_that_cannot_be_taken_on_is_named_with_the_causes() -> None:
    from botocore.exceptions import ClientError

    from hanse.backends.aws.access import _assumed

    class Sts:
        def client(self, service: str, **_: Any) -> Any:
            return self

        def assume_role(self, **asked: Any) -> None:
            assert asked["ExternalId"] == "e1"
            said = "User: x is not authorized to perform: sts:AssumeRole"
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": said}}, "AssumeRole")

    role = "arn:aws:iam::123456789012:role/hanse-north-site-luebeck"
    with pytest.raises(PolicyError, match=r"role hanse-north-site-luebeck: .* not there, .* external id") as caught:
        _assumed(None, Sts(), "eu-central-1", role, "e1", "")
    assert "\n" not in str(caught.value)


class Strewn:
    """A queue into which somebody has put what is no message."""

    def get_queue_url(self, **asked: str) -> dict[str, str]:
        return {"QueueUrl": asked["QueueName"]}

    def receive_message(self, **asked: object) -> dict[str, object]:
        whole = base64.b64encode(Envelope("server", "site", "t", "task", b"body").pack()).decode()
        bodies = ("%", base64.b64encode(b"\xff" * 40).decode(), whole)
        attributes = {"ApproximateReceiveCount": "1"}
        return {
            "Messages": [{"Body": b, "ReceiptHandle": str(n), "Attributes": attributes} for n, b in enumerate(bodies)]
        }


async def test_what_is_no_message_keeps_no_other_from_coming() -> None:
    inbox = QueueInbox(Strewn(), "hanse-north")
    (found,) = await inbox.receive("site", 10, wait_s=0)
    assert (found.receipt, found.envelope.id) == ("site/2", "t")
    inbox.close()


async def test_rows_of_jobs_expire_with_their_objects_and_others_stay() -> None:
    from hanse.backends.aws.table import EXPIRING, TableLedger

    class Client:
        items: ClassVar[list[dict[str, Any]]] = []

        def put_item(self, **arguments: Any) -> None:
            self.items.append(arguments["Item"])

    ledger = TableLedger(Client(), "t", "north", keep_days=90)
    for key in ("reply/j/main/1/0", "member/site/a", "jobend/j", "jobgone/j", "job/j", "revocations"):
        assert await ledger.create(key, b"{}")
    assert await ledger.compare_and_set("run/j/main", b"{}", 3)
    left = {item["t"]["S"]: int(item.get("x", {"N": "0"})["N"]) - time.time() for item in Client.items}
    assert {kind for kind, seconds in left.items() if seconds > 0} == {"reply", "run"} < EXPIRING
    assert 89 * 86400 < left["run"] <= 90 * 86400
    await TableLedger(Client(), "t", "north").create("reply/j/main/1/1", b"{}")
    assert "x" not in Client.items[-1]


async def nobody(*_: object) -> Any:
    raise AssertionError("nothing is put")


async def test_a_person_downloads_by_links_and_believes_hashes_only(config: AwsConfig) -> None:
    from hanse.backends.aws.https import Https
    from hanse.backends.memory import MemoryBlobs
    from hanse.person.over_aws import BucketCarrier

    store = AwsStore.open(config, Session())
    scope, manifest = "j/c/1/model", manifest_of(CONTENT)
    await store.blobs.put(scope, manifest, split(CONTENT))
    store.links.grant("anna", read=[(scope, manifest.id)])
    urls = (await store.links.get("anna", scope, manifest.id, only=range(manifest.num_chunks))).urls
    # A bucket that gives it nothing.
    carrier, kept = BucketCarrier(MemoryBlobs(), Https(endpoint=config.endpoint or ""), nobody), MemoryBlobs()
    carrier.links[scope, manifest.id] = urls
    await carrier.download(kept, scope, manifest)
    assert bytes(kept.read(scope, manifest.id, 0, manifest.size)) == CONTENT
    carrier.links[scope, manifest.id] = urls[::-1]
    with pytest.raises(IntegrityError):
        await carrier.download(MemoryBlobs(), scope, manifest)
    carrier.links[scope, manifest.id] = tuple(url.replace("/model/", "/other/") for url in urls)
    with pytest.raises(UnavailableError, match="another is asked for"):
        await carrier.download(MemoryBlobs(), scope, manifest)


async def test_a_person_puts_what_is_large_by_links_and_the_rest_with_the_request(config: AwsConfig) -> None:
    from hanse.backends.aws.https import Https
    from hanse.backends.memory import MemoryBlobs
    from hanse.person.over_aws import ENCLOSED_BYTES, BucketCarrier

    store, own = AwsStore.open(config, Session()), MemoryBlobs()
    asked: list[str] = []

    async def links_for(job: str, scope: str, manifest: Manifest) -> dict[str, Any]:
        asked.append(scope)
        store.links.grant("anna", write=[scope])
        ticket = await store.links.put("anna", scope, manifest)
        return {"urls": ticket.urls, "headers": ticket.headers, "chunks": ticket.missing}

    carrier = BucketCarrier(MemoryBlobs(), Https(endpoint=config.endpoint or ""), links_for)
    large = "j/main/0/model"
    for scope, content in (("j/bundle", CONTENT[:ENCLOSED_BYTES]), (large, CONTENT), ("j/c/0/model", b"one too many")):
        manifest = manifest_of(content)
        await own.put(scope, manifest, split(content))
        for _ in range(2 if scope == large else 1):  # what is there already is as good
            await carrier.upload(own, scope, manifest, place=scope)
        if scope == large:
            await store.blobs.commit(scope, manifest)
            assert bytes(store.blobs.read(scope, manifest.id, 0, manifest.size)) == CONTENT
    assert asked == [large, large, "j/c/0/model"]
    assert carrier.enclosed_for("j") == {"bundle": base64.b64encode(CONTENT[:ENCLOSED_BYTES]).decode()}
    assert carrier.enclosed_for("k") == {}


class Answering(BaseHTTPRequestHandler):
    """Content at `/there`, and a redirection to it everywhere else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/there" else 302)
        self.send_header("Location", "/there")
        self.end_headers()
        self.wfile.write(CONTENT[: 1 << 17])

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("kind", ["file", "inside", "redirected", "few"])
async def test_a_person_follows_links_to_aws_only(kind: str, tmp_path: Path) -> None:
    from hanse.backends.aws.https import Https
    from hanse.backends.memory import MemoryBlobs
    from hanse.person.over_aws import BucketCarrier

    manifest = manifest_of(CONTENT[: 1 << 17])
    (tmp_path / "secret").write_bytes(CONTENT[: 1 << 17])
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        urls = {"file": f"file://{tmp_path}/secret", "inside": f"{address}/there", "redirected": f"{address}/here"}
        carrier = BucketCarrier(MemoryBlobs(), Https(endpoint=address if kind == "redirected" else ""), nobody)
        carrier.links["j/c/1/model", manifest.id] = () if kind == "few" else (urls[kind],)
        try:
            with pytest.raises(UnavailableError if kind == "redirected" else CodecError, match=r"model: |link"):
                await carrier.download(MemoryBlobs(), "j/c/1/model", manifest)
        finally:
            server.shutdown()
