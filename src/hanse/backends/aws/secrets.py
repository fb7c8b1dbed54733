"""One secret of Secrets Manager."""

from collections.abc import Callable
from typing import Any

from hanse.backends.aws.errors import aws_errors


def read_secret(client: Callable[[str], Any], name: str) -> str:
    """A secret's text.

    Args:
        client: makes a boto3 client of a service.
        name: its name or ARN.

    Raises:
        PolicyError, NotFoundError, UnavailableError, StorageError: see `aws_errors`.
    """
    with aws_errors(f"reading the secret {name.rpartition(':')[2][:60]}"):
        text: str = client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    return text
