"""What AWS says, in one line of ours: the cause, and the next step where we know one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hanse.core.errors import (
    ConfigError,
    HanseError,
    MissingExtraError,
    NotFoundError,
    PolicyError,
    StorageError,
    UnavailableError,
)

CONNECT_S, READ_S = 5.0, 30.0
ATTEMPTS = 5

_NEXT: dict[str, tuple[type[HanseError], str]] = {
    "AccessDenied": (PolicyError, "this role lacks the right; compare it with the deployed stack"),
    "AccessDeniedException": (PolicyError, "this role lacks the right; compare it with the deployed stack"),
    "ExpiredToken": (PolicyError, "the credentials have expired; renew them"),
    "ExpiredTokenException": (PolicyError, "the credentials have expired; renew them"),
    "InvalidClientTokenId": (PolicyError, "AWS does not know these credentials"),
    "UnrecognizedClientException": (PolicyError, "AWS does not know these credentials"),
    "NoSuchBucket": (NotFoundError, "no such bucket; is the stack deployed in this region?"),
    "AWS.SimpleQueueService.NonExistentQueue": (NotFoundError, "no such queue; add the site and deploy again"),
    "QueueDoesNotExist": (NotFoundError, "no such queue; add the site and deploy again"),
    "ResourceNotFoundException": (NotFoundError, "no such table; is the stack deployed in this region?"),
    "PermanentRedirect": (ConfigError, "the bucket lies in another region; set `region` to the bucket's"),
    "ProvisionedThroughputExceededException": (UnavailableError, "over the table's capacity; use on-demand capacity"),
    "ThrottlingException": (UnavailableError, "AWS throttles this account; ask for a higher quota"),
    "RequestLimitExceeded": (UnavailableError, "AWS throttles this account; ask for a higher quota"),
}


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn what botocore raises into an error of ours.

    Raises:
        PolicyError: not allowed, or no valid credentials. NotFoundError: a bucket, table or queue that is not there.
        ConfigError: an impossible region or endpoint. UnavailableError: not reached, or throttled. StorageError: the
            rest.
    """
    import botocore.exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        kind, hint = _NEXT.get(code, (StorageError, _line(str(error.response.get("Error", {}).get("Message", "")))))
        raise kind(f"aws: {doing}: {code}: {hint}") from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError):
        raise PolicyError(f"aws: {doing}: found no credentials; log in, or give this machine a role") from None
    except (aws.SSOError, aws.TokenRetrievalError):
        raise PolicyError(f"aws: {doing}: not logged in, or the login has expired: aws sso login") from None
    except aws.ProfileNotFound as error:
        found = str(error.kwargs.get("profile", ""))[:60]
        raise PolicyError(
            f"aws: {doing}: no profile {found!r} on this machine (AWS_PROFILE); see: aws configure list-profiles"
        ) from None
    except (aws.NoRegionError, aws.InvalidRegionError, aws.InvalidEndpointDiscoveryConfigurationError) as error:
        raise ConfigError(f"aws: {doing}: {str(error)[:160]}") from None
    except (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.ReadTimeoutError, aws.ConnectionClosedError):
        raise UnavailableError(f"aws: {doing}: not reached; check the network, the region and the endpoints") from None
    except aws.BotoCoreError as error:
        raise StorageError(f"aws: {doing}: {type(error).__name__}: {str(error)[:160]}") from None


def code_of(error: Any) -> str:
    """The code of a botocore ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def imported() -> tuple[Any, Any]:
    """boto3, and the settings for its clients by service.

    Raises:
        MissingExtraError: boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise MissingExtraError("boto3", "aws") from None

    def settings(service: str, own_endpoint: bool) -> Any:
        return Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            signature_version="s3v4" if service == "s3" else None,
            s3={"addressing_style": "path" if own_endpoint else "virtual"} if service == "s3" else None,
            max_pool_connections=32,
        )

    return boto3, settings


def _line(text: str) -> str:
    return " ".join(text.split())[:160]
