"""A proposal: one job that the server asks this site to take part in, as it came and as it was checked."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from hanse.channels.spec import RoleSpec
from hanse.core.blobs import Manifest
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import check_name, check_scope
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.trust.bundle_signature import verify_bundle_signature
from hanse.trust.certificates import PERSON
from hanse.trust.member_record import MemberRecord, verify_record
from hanse.trust.signing import load_signing_key
from hanse.trust.strict_json import read_field, read_hex

_WHAT = "proposal"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the server says of a job. Nothing in it is believed before `verify`.

    Args:
        app: the bundle's id, SHA-256 in hexadecimal.
        scope, manifest: where the bundle lies, and what it must be.
        entry, object: module file and name of the app; compared with the signed bundle's own before use.
    """

    job: str
    name: str
    person: str
    app: str
    scope: str
    manifest: Manifest
    entry: str
    object: str
    spec: RunSpec
    submitted_at_ms: int
    person_record: bytes = field(repr=False)
    bundle_signature: bytes = field(repr=False)
    content: bytes = field(repr=False)
    """As it came."""
    request: JobRequest | None = field(default=None, repr=False)
    signature: bytes = field(default=b"", repr=False)
    """The person's, over `request`."""

    @property
    def roles(self) -> RoleSpec | None:
        """Who plays what, where sites play roles."""
        return None if self.request is None else self.request.roles

    @property
    def agreement(self) -> str:
        """SHA-256 of the job as its person signed it: what sites that accept it agree on."""
        content = b"" if self.request is None else canonical_json(self.request.to_json())
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def parse(cls, content: bytes) -> "Proposal":
        """Read what the server sent.

        Raises:
            CodecError: not of the expected form, by field.
        """
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            raise CodecError(f"{_WHAT}: expected JSON") from None
        if not isinstance(body, dict):
            raise CodecError(f"{_WHAT}: expected an object")
        if read_field(body, "v", int, _WHAT) != 1:
            raise CodecError(f"{_WHAT}: expected version 1, found {body['v']}; update the older of site and server")
        bundle: dict[str, Any] = read_field(body, "bundle", dict, _WHAT)
        try:
            request = JobRequest.from_json(body.get("request"))
            return cls(
                job=check_name(read_field(body, "job", str, _WHAT), "job"),
                name=read_field(body, "name", str, _WHAT)[:200],
                person=check_name(read_field(body, "person", str, _WHAT), "person"),
                app=read_hex(body.get("app"), f"{_WHAT} app", size=32).hex(),
                scope=check_scope(read_field(bundle, "scope", str, _WHAT)),
                manifest=Manifest(
                    read_field(bundle, "size", int, _WHAT), read_hex(bundle.get("hashes"), f"{_WHAT} bundle.hashes")
                ),
                entry=read_field(body, "entry", str, _WHAT),
                object=read_field(body, "object", str, _WHAT),
                spec=request.spec if request.roles is not None else RunSpec.from_json(body.get("spec")),
                submitted_at_ms=read_field(body, "submitted_at_ms", int, _WHAT),
                person_record=read_field(body, "person_record", str, _WHAT).encode(),
                bundle_signature=read_field(body, "bundle_signature", str, _WHAT).encode(),
                content=bytes(content),
                request=request,
                signature=read_hex(body.get("signature"), f"{_WHAT} signature"),
            )
        except (ConfigError, TypeError) as error:
            raise CodecError(f"{_WHAT}: {error}") from None

    def verify(self, *, authority_pem: bytes, federation: str, now_ms: int | None = None) -> MemberRecord:
        """Check who stands behind it.

        **Guarantee.** A person of this federation, whose record the authority signed and which holds now, signed
        exactly this app and this job for this federation: its strategy, quorum, rounds and everything else in the spec.
        **Reveals.** Nothing.

        Raises:
            TrustError, CodecError: something does not hold.
        """
        record = verify_record(self.person_record, authority_pem, now_ms=now_ms)
        if (record.kind, record.name, record.federation) != (PERSON, self.person, federation):
            raise TrustError(
                f"expected the member record of person {self.person} of {federation}, "
                f"found one of {record.kind} {record.name} of {record.federation}"
            )
        verify_bundle_signature(self.bundle_signature, bundle_id=self.app, record=record)
        request = self.request
        if request is None:
            raise TrustError("expected the job as its person signed it, found none")
        request.verify(load_signing_key(record.signing_key), self.signature)
        signed = (request.job, request.person, request.app, request.bundle, request.entry, request.object, request.spec)
        if signed != (self.job, self.person, self.app, self.manifest, self.entry, self.object, self.spec):
            raise TrustError("the server proposes another job than the one that its person signed")
        if request.federation != federation:
            raise TrustError(f"expected a job of {federation}, found one of {request.federation}")
        return record
