"""Where the functions run: the seams, the server's identity and the state machine, however they are made."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hanse.core.blobs import Manifest
from hanse.core.errors import ConfigError
from hanse.core.records import Envelope
from hanse.core.seams import Delivery, Inbox, Ledger, Link, UploadTicket
from hanse.pipeline.documents import Documents
from hanse.rounds.hosts.by_chunks import ChunkStore
from hanse.rounds.seams import Seams
from hanse.serverless import contract
from hanse.serverless.allowance import Allowances
from hanse.serverless.keys import ServerIdentity, unpack
from hanse.serverless.quotas import Quotas
from hanse.serverless.roster import Roster
from hanse.trust.envelopes import sign_envelope

DEFAULT_SHARD_BYTES = 2 << 30
DEFAULT_OPEN_JOBS = 20


class Machine(Protocol):
    """What is needed of the service that interprets the state machine."""

    async def start(self, name: str, input: contract.Input) -> None:
        """Start an execution; one of this name that runs, or has run, is as good."""
        ...

    async def succeed(self, token: str, output: contract.Instruction) -> bool:
        """Call back whoever waits with this token. False where nobody does, or somebody was faster."""
        ...


class Bucket(ChunkStore, Protocol):
    """Blobs whose chunks others put."""

    async def commit(self, scope: str, manifest: Manifest, content: bytes = b"") -> None: ...


class Signer(Protocol):
    """`Links` whose links can be asked for chunk by chunk."""

    def fresh(self) -> "Signer":
        """The same without any right."""
        ...

    def grant(self, who: str, *, read: Any = (), write: Any = ()) -> None: ...

    def revoke(self, who: str, *, scope_prefix: str) -> None: ...

    async def get(self, who: str, scope: str, id: str, *, only: Sequence[int] | None = None) -> Link: ...

    async def put(
        self, who: str, scope: str, manifest: Manifest, *, only: Sequence[int] | None = None
    ) -> UploadTicket: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Everything that a function is handed.

    Args:
        inbox: of sites; what goes into it is signed on the way.
        links: rights are given to a `fresh()` one, for one question or one visit, since a function that is warm would
            keep them.
        watched: whether the table's stream looks at a run when a row appears.
        models_to_sites: whether a job's sites get its last model.
        private: whether who submitted a job reads its results, and admins, and nobody else.
    """

    federation: str
    ledger: Ledger
    blobs: Bucket
    inbox: Inbox
    links: Signer
    documents: Documents
    machine: Machine
    identity: ServerIdentity
    roster: Roster
    now_ms: Callable[[], int]
    watched: bool = False
    private: bool = False
    models_to_sites: bool = False
    shard_bytes: int = DEFAULT_SHARD_BYTES
    open_jobs: int = DEFAULT_OPEN_JOBS
    quotas: Quotas = field(default_factory=Quotas)
    allowances: Allowances = field(default_factory=Allowances)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Jobs' rows that were read; they never change, but are removed (`looking.row_of`)."""

    @property
    def seams(self) -> Seams:
        """For a visit."""
        return Seams(self.ledger, self.blobs, self.inbox, self.links.fresh())


class SignedInbox:
    """An `Inbox` of sites whose messages bear the server's signature."""

    def __init__(self, inbox: Inbox, identity: ServerIdentity) -> None:
        self._inbox = inbox
        self._identity = identity

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """See `Inbox.send`."""
        await self._inbox.send(to, sign_envelope(self._identity.signing, envelope), durable=durable)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """See `Inbox.receive`."""
        return await self._inbox.receive(who, max, wait_s)

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """See `Inbox.extend`."""
        await self._inbox.extend(receipts, seconds)

    async def ack(self, receipts: Sequence[str]) -> None:
        """See `Inbox.ack`."""
        await self._inbox.ack(receipts)


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class _NoKeys:
    """In place of what needs the server's keys, where they are not told: a message cannot leave unsigned by mistake."""

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(f"function: {name}: expected one that is told {contract.KEYS}; see contract.SIGNING")


def on_aws(environment: Mapping[str, str] = os.environ, session: Any = None, *, signs: bool = True) -> Place:
    """The place that the environment describes; see `contract`.

    Args:
        signs: whether it needs the server's keys; without them it sends nothing to sites and verifies nobody.
        session: a boto3 session; by default a new one, with the function's own role.

    Raises:
        ConfigError: a variable is missing, or the secret is not what it should be.
    """
    from hanse.backends.aws import AwsConfig, AwsStore
    from hanse.backends.aws.machine import StateMachine
    from hanse.backends.aws.secrets import read_secret
    from hanse.backends.aws.topic import TopicInbox

    required = (*contract.REQUIRED, *((contract.KEYS,) if signs else ()))
    missing = [name for name in required if not environment.get(name)]
    if missing:
        raise ConfigError(f"function: expected the environment variables {', '.join(missing)}; deploy it again")
    federation = environment[contract.FEDERATION]
    endpoint = environment.get("AWS_ENDPOINT_URL") or None
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
    keep_days = int(environment.get(contract.KEEP_DAYS) or 0)
    bucket, table = environment[contract.BUCKET], environment[contract.TABLE]
    store = AwsStore.open(AwsConfig(federation, bucket, table, region, endpoint, keep_days), session)
    inbox: Inbox = store.inbox
    identity: Any = _NoKeys()
    if signs:
        secret = environment[contract.KEYS]
        text = Path(secret[5:]).read_text() if secret.startswith("file:") else read_secret(store.client, secret)
        identity = unpack(text)
        if identity.federation != federation:
            raise ConfigError(f"function: expected the keys of {federation}, found those of {identity.federation}")
    if topic := environment.get(contract.TOPIC):
        inbox = TopicInbox(store.client("sns"), topic, inbox)
    return Place(
        federation=federation,
        ledger=store.ledger,
        blobs=store.blobs,
        inbox=SignedInbox(inbox, identity) if signs else identity,
        links=store.links,
        documents=Documents(store.objects, federation),
        machine=StateMachine(store.client("stepfunctions"), environment[contract.STATE_MACHINE]),
        identity=identity,
        roster=_roster(store.ledger, identity) if signs else identity,
        now_ms=now_ms,
        watched=environment.get(contract.STREAM) == "1",
        private=environment.get(contract.RESULTS, contract.OWNER) == contract.OWNER,
        models_to_sites=environment.get(contract.MODELS) == "sites",
        shard_bytes=int(environment.get(contract.SHARD_BYTES) or DEFAULT_SHARD_BYTES),
        open_jobs=int(environment.get(contract.OPEN_JOBS) or DEFAULT_OPEN_JOBS),
    )


def _roster(ledger: Ledger, identity: ServerIdentity) -> Roster:
    return Roster(ledger, identity.authority_pem, identity.federation, least_revocations=identity.least_revocations)
