"""The seams on AWS: blobs in S3, messages in SQS, the ledger in DynamoDB, links that are presigned URLs.

    store = AwsStore.open(AwsConfig("north", bucket="hanse-north", table="hanse-north", region="eu-central-1"))
    store.ledger, store.blobs, store.inbox, store.links

Nothing here is created: what exists is deployed beforehand, and a missing bucket, table or queue is an error that
names it. Credentials and endpoints are boto3's own (environment, profile, role of the machine).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hanse.backends.aws.errors import imported
from hanse.backends.aws.links import PresignedLinks
from hanse.backends.aws.queues import QueueInbox
from hanse.backends.aws.table import TableLedger
from hanse.backends.objectstore.blobs import ObjectBlobs
from hanse.backends.objectstore.objects import Objects
from hanse.core.blobs import MAX_BLOB_BYTES
from hanse.core.ids import check_name

__all__ = ["AwsConfig", "AwsStore"]


@dataclass(frozen=True, slots=True)
class AwsConfig:
    """Where a federation lies on AWS.

    Args:
        federation: its name; queues are called `hanse-FEDERATION-RECIPIENT`.
        bucket: the S3 bucket; objects lie below `v1/FEDERATION/`.
        table: the DynamoDB table.
        region: the AWS region of all three.
        endpoint: another URL than AWS's, for tests.
        keep_days: after which rows of old jobs expire; 0 for never.
    """

    federation: str
    bucket: str
    table: str
    region: str
    endpoint: str | None = None
    keep_days: int = 0


@dataclass(slots=True)
class AwsStore:
    """The four seams of one federation; the same shape as `LocalStore`."""

    ledger: TableLedger
    blobs: ObjectBlobs
    inbox: QueueInbox
    links: PresignedLinks
    objects: Objects
    client: Callable[[str], Any]
    """Makes a boto3 client of a service, with the settings of the others."""

    @classmethod
    def open(cls, config: AwsConfig, session: Any = None, *, max_blob_bytes: int = MAX_BLOB_BYTES) -> "AwsStore":
        """The seams of a deployed federation; nothing is asked of AWS yet.

        Args:
            session: a boto3 session; by default a new one in `config.region`.

        Raises:
            ConfigError: an impossible name. MissingExtraError: boto3 or obstore is not installed.
        """
        check_name(config.federation, "federation")
        boto3, settings = imported()
        session = session or boto3.Session(region_name=config.region)

        def client(service: str) -> Any:
            own = settings(service, config.endpoint is not None)
            return session.client(service, region_name=config.region, endpoint_url=config.endpoint, config=own)

        objects = Objects(_bucket(config, session), f"v1/{config.federation}")
        blobs = ObjectBlobs(objects)
        return cls(
            TableLedger(client("dynamodb"), config.table, config.federation, keep_days=config.keep_days),
            blobs,
            QueueInbox(client("sqs"), f"hanse-{config.federation}"),
            PresignedLinks(client("s3"), config.bucket, objects.prefix, blobs, max_bytes=max_blob_bytes),
            objects,
            client,
        )

    def close(self) -> None:
        """End the threads that wait for messages."""
        self.inbox.close()


def _bucket(config: AwsConfig, session: Any) -> Any:
    from hanse.backends.objectstore.objects import imported as obstore_imported

    obstore_imported()
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    local: dict[str, Any] = {}
    if config.endpoint is not None:
        local = {"endpoint": config.endpoint, "client_options": {"allow_http": True}}
    return S3Store(
        config.bucket,
        region=config.region,
        conditional_put="etag",
        credential_provider=Boto3CredentialProvider(session),
        **local,
    )
