"""The account that a federation is deployed to: clients, who asks, and what AWS says, with a next step."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from hanse.backends.aws.errors import aws_errors, code_of, imported
from hanse.core.errors import ConfigError, ConflictError, HanseError, PolicyError, StorageError, UnavailableError

EMULATED_ACCOUNT = "000000000000"


@dataclass(slots=True)
class Account:
    """Clients of one account and region.

    Args:
        region: of everything.
        profile: of this machine's AWS settings; "" for its default credentials.
        endpoint: another URL than AWS's, for an emulator; "" for AWS.
    """

    region: str
    profile: str = ""
    endpoint: str = ""
    _clients: dict[str, Any] = field(default_factory=dict)
    _session: Any = None

    @property
    def is_emulated(self) -> bool:
        """Whether this is not AWS."""
        return bool(self.endpoint)

    def session(self) -> Any:
        """The boto3 session.

        Raises:
            ConfigError: no such region. PolicyError: no such profile. MissingExtraError: boto3 is not installed.
        """
        if self._session is None:
            self._session = self._open()
        return self._session

    def client(self, service: str) -> Any:
        """A client, made once."""
        if service not in self._clients:
            _, settings = imported()
            self._clients[service] = self.session().client(
                service, endpoint_url=self.endpoint or None, config=settings(service, self.is_emulated)
            )
        return self._clients[service]

    def id(self) -> str:
        """The number of the account, which proves that there are credentials and that they hold.

        Raises:
            PolicyError: there are none, or AWS does not take them. UnavailableError: not reached.
        """
        with aws_errors(f"asking who we are{f' at {self.endpoint}' if self.endpoint else ''}"):
            return str(self.client("sts").get_caller_identity()["Account"])

    def _open(self) -> Any:
        boto3, _ = imported()
        import botocore.exceptions

        at = urlsplit(self.endpoint)
        if not self.is_emulated:
            check_region(self.region)
        elif at.scheme not in ("http", "https") or not at.hostname:
            raise ConfigError(
                f"endpoint: expected an emulator's URL such as http://127.0.0.1:4566, found {self.endpoint[:80]!r}"
            )
        mine: dict[str, Any] = {}
        if self.is_emulated and not self.profile and boto3.Session().get_credentials() is None:
            # Emulators ask who we are and believe anything.
            mine = {"aws_access_key_id": EMULATED_ACCOUNT, "aws_secret_access_key": "emulated"}
        try:
            return boto3.Session(region_name=self.region, profile_name=self.profile or None, **mine)
        except botocore.exceptions.ProfileNotFound:
            raise PolicyError(
                f"aws: no profile {self.profile[:60]!r} on this machine; see: aws configure list-profiles"
            ) from None


def check_region(region: str) -> None:
    """Return if it is a region of AWS, as far as the installed boto3 knows; nothing is sent.

    Raises:
        ConfigError: it is none.
    """
    boto3, _ = imported()
    with aws_errors("reading this machine's AWS settings"):
        session = boto3.Session()
    known = [
        name
        for partition in ("aws", "aws-us-gov", "aws-cn")
        for name in session.get_available_regions("cloudformation", partition)
    ]
    if region not in known:
        near = sorted(name for name in known if name.split("-")[0] == region.split("-")[0]) or sorted(known)
        raise ConfigError(
            f"region: expected one of AWS's, such as {', '.join(near[:4])}; found {region[:40]!r}; correct it, or "
            "update boto3 if it is new"
        )


_CAUSES: tuple[tuple[str, type[HanseError], str], ...] = (
    (
        r"not authorized|AccessDenied|access denied|lacks permission",
        PolicyError,
        "this identity may not do that: ask the account's administrator, or give --profile",
    ),
    (
        r"LimitExceeded|quota|limit of|Maximum number|TooMany",
        UnavailableError,
        "a quota of the account is used up: ask for more in Service Quotas, then run this again",
    ),
    (
        r"already exists|AlreadyOwnedByYou|BucketAlreadyExists|ResourceExistenceCheck|already in use",
        ConflictError,
        "something of that name is there, of another stack or account: remove it, or rename the federation",
    ),
    (
        r"scheduled for deletion",
        ConflictError,
        "it was deleted a short while ago: wait until it is gone, or rename the federation",
    ),
    (
        r"sites? .*role|Invalid principal|MalformedPolicy",
        ConfigError,
        "an account or principal in federation.yaml does not exist",
    ),
    (r"Rate exceeded|Throttling", UnavailableError, "AWS throttles this account: wait a minute, then run this again"),
)


def explained(doing: str, reason: str) -> HanseError:
    """What AWS gives as a reason, as an error with a next step."""
    line = " ".join(reason.split())[:300]
    for pattern, kind, next_step in _CAUSES:
        if re.search(pattern, reason, re.IGNORECASE):
            return kind(f"aws: {doing}: {line}; {next_step}")
    return StorageError(f"aws: {doing}: {line}")


@contextmanager
def calling(doing: str) -> Iterator[None]:
    """As `aws_errors`, with what deploying in particular runs into.

    Raises:
        HanseError: see `explained` and `aws_errors`.
    """
    import botocore.exceptions

    with aws_errors(doing):
        try:
            yield
        except botocore.exceptions.ClientError as error:
            said = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code_of(error) in ("403", "Forbidden") or (status == 403 and "s3" in doing):
                raise PolicyError(
                    f"aws: {doing}: the bucket belongs to another account, or this identity may not use it; give "
                    "--profile, or another bucket"
                ) from None
            text = f"{code_of(error)}: {said.get('Message', '')}"
            if any(re.search(pattern, text, re.IGNORECASE) for pattern, _, _ in _CAUSES):
                raise explained(doing, text) from None
            raise
