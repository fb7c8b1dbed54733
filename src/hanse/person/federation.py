"""A federation as a person reaches it: `federation.yaml`, the keys beside it, and questions to the server."""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

from hanse.backends.grpc.client import Connection, Credentials
from hanse.core.blobs import Manifest
from hanse.core.errors import ConfigError, HanseError
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.seams import BlobStore
from hanse.core.yaml_files import read_yaml
from hanse.tracking import Tracker, tracker_from
from hanse.trust.certificates import PERSON
from hanse.trust.membership import Membership

KEYS = ("federation", "address", "identity", "aws", "tracking")


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """How a person reaches a federation without a server.

    Args:
        region, bucket: the federation's.
        profile: of this machine's AWS settings; empty for its default credentials.
        role: ARN of a role to assume, empty for none; `external_id` goes with it.
        endpoint: another URL than AWS's, for emulators.
    """

    region: str
    bucket: str
    profile: str = ""
    role: str = ""
    external_id: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Federation:
    """Where the server is, or where its queues and bucket are, and who asks."""

    name: str
    address: str
    membership: Membership
    directory: Path | None = None
    """Where the keys lie; a renewed certificate is kept there."""
    tracking: Tracker | None = None
    """Where the aggregator's run of every job that is followed from here is written."""
    aws: AwsAccess | None = None

    @classmethod
    def load(cls, path: str | Path = "federation.yaml") -> "Federation":
        """Read `federation.yaml` and the keys it points to.

        Raises:
            ConfigError: a file is not there or something in it is wrong. TrustError: the certificate has expired.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "federation.yaml"
        value = read_yaml(path, "give the federation.yaml that `hanse federation init` or `hanse person join` wrote")
        if not isinstance(value, dict) or not set(value) <= set(KEYS) or "federation" not in value:
            raise ConfigError(f"{path}: expected the keys {', '.join(KEYS)}")
        declared = value.pop("tracking", None)
        tracking = None if declared is None else tracker_from(declared, f"{path}: tracking")
        aws = _aws(value.pop("aws"), path) if "aws" in value else None
        if aws is None and "address" not in value:
            raise ConfigError(f"{path}: expected `address`, where the server is, or `aws`, where there is none")
        if not all(isinstance(item, str) for item in value.values()):
            raise ConfigError(f"{path}: expected texts under {', '.join(KEYS[:3])}")
        directory = path.parent / str(value.get("identity", "."))
        membership = Membership.load(directory, kind=PERSON)
        return cls(value["federation"], value.get("address", ""), membership, directory, tracking, aws)

    def connect(self) -> "AnySession":
        """A connection; use it as an async context manager."""
        if self.aws is not None:
            from hanse.person.over_aws import AwsSession

            return AwsSession(self)
        return Session(self)


def _aws(value: Any, path: Path) -> AwsAccess:
    known = [item.name for item in fields(AwsAccess)]
    if not isinstance(value, dict) or not set(value) <= set(known) or not {"region", "bucket"} <= set(value):
        raise ConfigError(f"{path}: aws: expected region and bucket, and perhaps {', '.join(known[2:])}")
    if not all(isinstance(item, str) for item in value.values()):
        raise ConfigError(f"{path}: aws: expected texts")
    return AwsAccess(**value)


class Blobs(Protocol):
    """What sessions upload to and download from."""

    async def download(self, store: BlobStore, scope: str, manifest: Manifest, *, into: str | None = None) -> None: ...

    async def upload(self, store: BlobStore, scope: str, manifest: Manifest, *, place: str, task: str = "") -> None: ...


class AnySession(Protocol):
    """Questions to a federation, however it is reached."""

    @property
    def connection(self) -> Blobs: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def ask(self, op: str, *, sig: bytes = b"", **body: Any) -> dict[str, Any]: ...

    async def ask_raw(self, op: str, *, sig: bytes = b"", **body: Any) -> pb.Answer: ...

    def watch(self, job: str) -> AsyncIterator[dict[str, Any]]: ...


class Session:
    """Questions to the server over one connection."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        member = federation.membership
        credentials = Credentials(member.certificate_pem, member.keys.tls_pem(), member.authority_pem)
        self.connection = Connection(federation.address, credentials)

    async def __aenter__(self) -> Self:
        await self._renew_if_due()
        return self

    async def _renew_if_due(self) -> None:
        """Ask for a new certificate when two thirds of the old one's time are over; failing that, go on with it."""
        member = self.federation.membership
        directory = self.federation.directory
        if directory is None or time.time_ns() // 1_000_000 < member.identity.renew_at_ms:
            return
        with contextlib.suppress(HanseError):
            renewed = await member.renewed(self.connection.renew)
            renewed.save(directory)

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def ask(self, op: str, *, sig: bytes = b"", **body: Any) -> dict[str, Any]:
        """One question; the answer's JSON.

        Raises:
            HanseError: what the server answered. UnavailableError: it cannot be reached.
        """
        answer = await self.ask_raw(op, sig=sig, **body)
        value: dict[str, Any] = json.loads(answer.body)
        return value

    async def ask_raw(self, op: str, *, sig: bytes = b"", **body: Any) -> pb.Answer:
        """One question; the whole answer."""
        call = pb.Call(v=1, body=json.dumps({"op": op, **body}).encode(), sig=sig)
        return await self.connection.ask(call)

    async def watch(self, job: str) -> AsyncIterator[dict[str, Any]]:
        """A job's events until its end."""
        call = pb.Call(v=1, body=json.dumps({"op": "follow", "job": job}).encode())
        async for answer in self.connection.watch(call):
            for event in json.loads(answer.body):
                yield event
