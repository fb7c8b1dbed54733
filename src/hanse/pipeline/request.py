"""The job request: what a person signs and the server checks before anything is written.

    {v, job, name, federation, person, submitted_at_ms,
     app, bundle: {size, hashes}, bundle_signature,
     sites: [names] or null,
     components: [{name, kind: "app", entry, object, after: [], spec: RunSpec, initial: {size, hashes} or null}]}

A component in which sites play roles has kind "roles" and a RoleSpec for its spec.

The signature is Ed25519 over the canonical JSON. Today a job has one component; the form is that of a DAG.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hanse.channels.spec import RoleSpec
from hanse.core.blobs import Manifest
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError
from hanse.core.ids import check_name
from hanse.core.spec import RunSpec
from hanse.trust.signing import PrivateKey, PublicKey, sign, verify

CONTEXT = "job-request"
VERSION = 1
ROLES = "roles"
"""The kind of a component in which sites play roles, and its strategy's name in listings."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as asked for.

    Attributes:
        spec: of a component of roles, what it says to those who read only this: the strategy `roles`, one round.
        initial: the manifest of the initial model, if the job brings one.
        roles: of a component in which sites play roles; `sites` are then those that do.
    """

    job: str
    name: str
    federation: str
    person: str
    submitted_at_ms: int
    app: str
    bundle: Manifest
    bundle_signature: str
    entry: str
    object: str
    spec: RunSpec
    component: str = "main"
    initial: Manifest | None = None
    sites: tuple[str, ...] | None = None
    roles: RoleSpec | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        component: dict[str, Any] = {
            "name": self.component,
            "kind": "app" if self.roles is None else ROLES,
            "after": [],
            "entry": self.entry,
            "object": self.object,
            "spec": (self.spec if self.roles is None else self.roles).to_json(),
            "initial": None if self.initial is None else manifest_json(self.initial),
        }
        return {
            "v": VERSION,
            "job": self.job,
            "name": self.name,
            "federation": self.federation,
            "person": self.person,
            "submitted_at_ms": self.submitted_at_ms,
            "app": self.app,
            "bundle": manifest_json(self.bundle),
            "bundle_signature": self.bundle_signature,
            "sites": None if self.sites is None else list(self.sites),
            "components": [component],
        }

    @classmethod
    def from_json(cls, value: Any) -> "JobRequest":
        """Read what `to_json` wrote.

        Raises:
            ConfigError, CodecError: something in it is missing or wrong, by name.
        """
        if not isinstance(value, dict) or value.get("v") != VERSION:
            raise CodecError(f"job: expected an object of version {VERSION}; update the older of the two programs")
        components = value.get("components")
        if not isinstance(components, list) or len(components) != 1 or not isinstance(components[0], dict):
            raise ConfigError("job: expected exactly one component; this server runs no larger ones yet")
        component = components[0]
        kind = component.get("kind")
        if kind not in ("app", ROLES):
            raise ConfigError(f"job: component kind: expected 'app' or 'roles', found {str(kind)[:40]!r}")
        sites = value.get("sites")
        if sites is not None and not isinstance(sites, list):
            raise CodecError(f"job: sites: expected a list of names or null, found {type(sites).__name__}")
        try:
            roles = RoleSpec.from_json(component["spec"]) if kind == ROLES else None
            return cls(
                job=check_name(_text(value, "job"), "job"),
                name=_text(value, "name")[:100],
                federation=check_name(_text(value, "federation"), "federation"),
                person=check_name(_text(value, "person"), "person"),
                submitted_at_ms=int(value["submitted_at_ms"]),
                app=_text(value, "app"),
                bundle=manifest_from(value["bundle"]),
                bundle_signature=_text(value, "bundle_signature"),
                entry=_text(component, "entry"),
                object=_text(component, "object"),
                spec=RunSpec.from_json(component["spec"]) if roles is None else run_spec_of(roles),
                component=check_name(_text(component, "name"), "component"),
                initial=None if component["initial"] is None else manifest_from(component["initial"]),
                sites=None if sites is None else tuple(check_name(site, "site") for site in sites),
                roles=roles,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CodecError(f"job: {type(error).__name__}: {str(error)[:200]}") from None

    def sign(self, key: PrivateKey) -> bytes:
        """The person's signature."""
        return sign(key, CONTEXT, canonical_json(self.to_json()))

    def verify(self, key: PublicKey, signature: bytes) -> None:
        """Check the person's signature.

        Raises:
            TrustError: it is another's.
        """
        verify(key, CONTEXT, canonical_json(self.to_json()), signature)


def run_spec_of(roles: RoleSpec) -> RunSpec:
    """What a component of roles is to those who ask for strategy, rounds, seed and threads."""
    return RunSpec(strategy=ROLES, rounds=1, initial="none", evaluate_every=0, seed=roles.seed, threads=roles.threads)


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """A manifest as JSON."""
    return {"size": manifest.size, "hashes": manifest.hashes.hex()}


def manifest_from(value: Mapping[str, Any]) -> Manifest:
    """Read a manifest.

    Raises:
        CodecError, KeyError, TypeError, ValueError.
    """
    return Manifest(int(value["size"]), bytes.fromhex(value["hashes"]))


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str) or len(text) > 8192:
        raise TypeError(f"{name}: expected a text")
    return text
