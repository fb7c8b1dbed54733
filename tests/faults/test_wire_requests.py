"""What a job request and its bundle must be before the server takes them, whoever sends them."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from hanse.core.blobs import Manifest, manifest_of
from hanse.core.errors import (
    CodecError,
    ConfigError,
    ConflictError,
    HanseError,
    TrustError,
)
from hanse.core.ids import bundle_scope, new_job_id
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.trust.bundle import MAGIC
from hanse.trust.bundle_signature import sign_bundle
from tests.faults.wire_federation import (
    FEDERATION,
    SECRET,
    Wire,
    app_bundle,
    federation,
    refused,
    request_for,
    upload,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    async with federation(tmp_path_factory.mktemp("requests")) as wire:
        yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(shared: Wire) -> AsyncIterator[Wire]:
    yield shared
    await shared.check_health()


async def try_submit(wire: Wire, content: bytes | None = None, *, signer: str = "researcher", **changed: Any) -> None:
    bundle = app_bundle()
    async with wire.session("researcher") as session:
        request = request_for(wire.people["researcher"], bundle, **changed)
        await upload(session.connection, bundle_scope(request.job), bundle.content if content is None else content)
        call = pb.Call(
            v=1,
            body=json.dumps({"op": "submit", "request": request.to_json()}).encode(),
            sig=request.sign(wire.people[signer].keys.signing),
        )
        error = await refused(session, call)
        jobs = (await session.ask("jobs"))["jobs"]
        assert request.job not in {job["job"] for job in jobs}
        raise error


async def test_a_request_that_another_signed(wire: Wire) -> None:
    with pytest.raises(TrustError):
        await try_submit(wire, signer="admin")


async def test_a_request_in_another_s_name(wire: Wire) -> None:
    with pytest.raises(TrustError, match="sent by researcher"):
        await try_submit(wire, person="admin")


async def test_a_request_for_another_federation(wire: Wire) -> None:
    with pytest.raises(ConfigError):
        await try_submit(wire, federation="other")


async def test_an_altered_request(wire: Wire) -> None:
    bundle = app_bundle()
    person = wire.people["researcher"]
    request = request_for(person, bundle)
    signature = request.sign(person.keys.signing)
    async with wire.session("researcher") as session:
        await upload(session.connection, bundle_scope(request.job), bundle.content)
        for changed in (
            {"spec": RunSpec(rounds=99)},
            {"job": new_job_id("researcher")},
            {"name": "other"},
            {"sites": ("healthy",)},
            {"submitted_at_ms": 2},
        ):
            altered = dataclasses.replace(request, **changed)
            with pytest.raises(TrustError):
                await session.ask("submit", sig=signature, request=altered.to_json())
        for sig in (b"", b"x" * 64, signature[:-1], bytes(64)):
            with pytest.raises(TrustError):
                await session.ask("submit", sig=sig, request=request.to_json())
        await session.ask("submit", sig=signature, request=request.to_json())
        await session.ask("submit", sig=signature, request=request.to_json())  # asked twice is harmless
        other = dataclasses.replace(request, name="other")
        with pytest.raises(ConflictError):
            await session.ask("submit", sig=other.sign(person.keys.signing), request=other.to_json())


@pytest.mark.parametrize(
    "changed",
    [
        {"app": "0" * 64},
        {"app": "x"},
        {"object": "other"},
        {"entry": "other.py"},
        {"entry": "../../../../tmp/evil.py"},
        {"bundle_signature": "{}"},
        {"bundle": manifest_of(b"never sent")},
        {"initial": manifest_of(b"never sent")},
        {"spec": RunSpec(initial="given")},
        {"spec": RunSpec(strategy="unknown")},
        {"spec": RunSpec(strategy="fedavg", params={"no": "such"})},
        {"sites": ()},
    ],
    ids=str,
)
async def test_a_request_that_does_not_hold(wire: Wire, changed: dict[str, Any]) -> None:
    with pytest.raises(HanseError):
        await try_submit(wire, **changed)


async def test_a_bundle_signed_by_somebody_else(wire: Wire) -> None:
    signature = sign_bundle(
        wire.people["admin"].keys.signing, bundle_id=app_bundle().id, federation=FEDERATION, person="researcher"
    )
    with pytest.raises(TrustError):
        await try_submit(wire, bundle_signature=signature.decode())


def crafted(**changed: Any) -> bytes:
    """A bundle as no honest program makes it."""
    good = app_bundle()
    manifest = json.loads(good.manifest.encode())
    manifest.update(changed)
    encoded = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    return MAGIC + len(encoded).to_bytes(4, "big") + encoded + b"".join(bytes(part) for _, part in good.files())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HANSEAPP",
        MAGIC + b"\xff\xff\xff\xff",
        b"PK\x03\x04" + SECRET.encode(),
        app_bundle().content[:-1],
        app_bundle().content + b"more",
        crafted(files=[{"path": "../app.py", "size": 1, "sha256": "0" * 64}]),
        crafted(files=[{"path": "/etc/passwd", "size": 1, "sha256": "0" * 64}]),
        crafted(files=[{"path": "a\\..\\b", "size": 1, "sha256": "0" * 64}]),
        crafted(files=[{"path": "app.py", "size": 1 << 60, "sha256": "0" * 64}]),
        crafted(files=[{"path": "app.py", "size": -1, "sha256": "0" * 64}]),
        crafted(files=[]),
        crafted(module="os; import x"),
    ],
    ids=lambda content: content[:60].decode(errors="replace"),
)
async def test_bundles_that_are_none(wire: Wire, content: bytes) -> None:
    size = int.from_bytes(content[8:12], "big") if len(content) > 12 else 0
    claimed = hashlib.sha256(content[12 : 12 + size]).hexdigest()
    person = wire.people["researcher"]
    signature = sign_bundle(person.keys.signing, bundle_id=claimed, federation=FEDERATION, person="researcher")
    with pytest.raises(HanseError):
        await try_submit(wire, content, bundle=manifest_of(content), app=claimed, bundle_signature=signature.decode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("submitted_at_ms",), float("inf")),
        (("submitted_at_ms",), "x"),
        (("submitted_at_ms",), None),
        (("bundle", "size"), float("inf")),
        (("bundle", "size"), 1e18),
        (("bundle", "size"), -1),
        (("bundle", "hashes"), "zz"),
        (("bundle", "hashes"), 7),
        (("bundle",), None),
        (("bundle",), []),
        (("sites",), 7),
        (("sites",), [7]),
        (("sites",), ["../x"]),
        (("sites",), "healthy"),
        (("name",), "\ud800"),
        (("name",), 7),
        (("job",), "../x"),
        (("job",), None),
        (("components",), []),
        (("components",), [1, 2]),
        (("components", 0, "kind"), "shell"),
        (("components", 0, "spec"), None),
        (("components", 0, "spec", "rounds"), 10**400),
        (("components", 0, "spec", "rounds"), -1),
        (("components", 0, "spec", "rounds"), 1.5),
        (("components", 0, "spec", "rounds"), True),
        (("components", 0, "spec", "sample"), float("nan")),
        (("components", 0, "spec", "deadline_s"), float("inf")),
        (("components", 0, "spec", "deadline_s"), -5),
        (("components", 0, "spec", "threads"), 10**9),
        (("components", 0, "spec", "initial"), "x" * 500_000),
        (("components", 0, "spec", "strategy"), "x" * 500_000),
        (("components", 0, "spec", "params"), {"server_lr": float("nan")}),
        (("components", 0, "spec", "params"), {"x" * 1000: {"deep": [[[[1]]]]}}),
        (("components", 0, "spec", "params"), {"\ud800": 1}),
        (("components", 0, "spec", "stop"), {"metric": 7}),
        (("components", 0, "spec", "stop"), {"metric": "loss", "patience": "x"}),
        (("components", 0, "spec", "stop"), {"evil": 1}),
        (("components", 0, "spec", "surprise"), 1),
        (("components", 0, "entry"), 7),
        (("components", 0, "initial"), {"size": float("nan"), "hashes": ""}),
    ],
    ids=str,
)
async def test_requests_with_absurd_values(wire: Wire, path: tuple[str | int, ...], value: Any) -> None:
    """Absurd, and signed where it can be signed: the person is the attacker."""
    person, bundle = wire.people["researcher"], app_bundle()
    request = request_for(person, bundle)
    body: Any = request.to_json()
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    async with wire.session("researcher") as session:
        await upload(session.connection, bundle_scope(request.job), bundle.content)
        sig = b""
        with contextlib.suppress(HanseError, ValueError):
            sig = JobRequest.from_json(body).sign(person.keys.signing)
        call = pb.Call(v=1, body=json.dumps({"op": "submit", "request": body}).encode(), sig=sig)
        await refused(session, call)


async def test_manifests_do_not_lie_about_their_own_size() -> None:
    with pytest.raises(CodecError):
        Manifest(10, b"")
    with pytest.raises(CodecError):
        Manifest(1 << 50, bytes(32))
