"""Training jobs in accounts of others: the kick-off role of each is assumed, narrowed to this federation's jobs.

A session ends after an hour, also where the launcher's own is longer (role chaining), so it is renewed before.
"""

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from hanse.core.errors import ConfigError, ConflictError, HanseError, MissingExtraError, TrustError, UnavailableError
from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.jobs import JobState, state_of
from hanse.deploy.sagemaker.request import TAG_FEDERATION, TAG_RUN, TAG_SITE, prefix_of, training_job
from hanse.deploy.sagemaker.settings import Account, Settings

SESSION_S, RENEW_S = 3600, 600
ATTEMPTS = 9
USABLE = ("InProgress", "Completed")
"""A job of ours in such a state is adopted."""
_LATER = ("ThrottlingException", "Throttling", "ServiceUnavailable", "InternalFailure", "RequestTimeout")


class AccountJobs:
    """See `TrainingJobs`.

    Args:
        told: the hyperparameters of a site.
        endpoint: of STS and SageMaker, for tests and emulators.
        sleep: waits between two calls that AWS was too busy for.

    Raises:
        MissingExtraError: boto3 is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        run: str,
        told: Callable[[Account], Told],
        *,
        endpoint: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_installed()
        self._settings, self._run, self._told = settings, run, told
        self._endpoint = endpoint or None
        self._sleep = sleep
        self._clients: dict[str, tuple[Any, float]] = {}

    def start(self, account: Account) -> JobState:
        """See `TrainingJobs`."""
        for attempt in range(1, ATTEMPTS + 1):
            request = training_job(self._settings, account, self._run, attempt, self._told(account))
            name = request["TrainingJobName"]
            there = self._found(account, name)
            if there is None:
                try:
                    self._call(account, "create_training_job", **request)
                except ConflictError:  # another launcher was faster
                    there = self._found(account, name)
                except UnavailableError:  # which may have come after the job was made: it must not be forgotten
                    there = self._found(account, name)
                    if there is None:
                        raise
                else:
                    return self._look_at_new(account, name)
            if there is not None and there["TrainingJobStatus"] in USABLE and self._is_ours(account, there):
                return state_of(account.site, there, adopted=True)
        raise ConflictError(
            f"{account.site}: every name up to {name} is taken by jobs that have ended; begin a new run"
        )

    def _look_at_new(self, account: Account, name: str) -> JobState:
        """A job that was made is told of, and can be stopped, whether or not it can be looked at already."""
        try:
            return self.look(account, name)
        except UnavailableError:
            return JobState(account.site, name, "InProgress")

    def look(self, account: Account, name: str) -> JobState:
        """See `TrainingJobs`."""
        return state_of(account.site, self._call(account, "describe_training_job", TrainingJobName=name))

    def stop(self, account: Account, name: str) -> None:
        """See `TrainingJobs`."""
        there = self._found(account, name)
        if there is not None and there["TrainingJobStatus"] == "InProgress":
            self._call(account, "stop_training_job", TrainingJobName=name)

    # ---- calls ----

    def _found(self, account: Account, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._call(account, "describe_training_job", TrainingJobName=name)
        except _Missing:
            return None
        return found

    def _is_ours(self, account: Account, told: dict[str, Any]) -> bool:
        listed = self._call(account, "list_tags", ResourceArn=told["TrainingJobArn"])["Tags"]
        tags = {tag["Key"]: tag["Value"] for tag in listed}
        wanted = {TAG_FEDERATION: self._settings.federation, TAG_RUN: self._run, TAG_SITE: account.site}
        return wanted.items() <= tags.items()

    def _call(self, account: Account, name: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        wait_s = 1.0
        while True:
            try:
                return getattr(self._client(account), name)(**arguments)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _LATER and wait_s < 60:
                    self._sleep(wait_s)
                    wait_s *= 2
                    continue
                raise _named(account, name, code, str(error.response["Error"].get("Message", ""))) from None
            except BotoCoreError as error:
                raise UnavailableError(f"{account.site}: {name}: {error}") from None

    def _client(self, account: Account) -> Any:
        client, until = self._clients.get(account.site, (None, 0.0))
        if client is None or time.monotonic() > until - RENEW_S:
            client = self._assume(account)
            self._clients[account.site] = (client, time.monotonic() + SESSION_S)
        return client

    def _assume(self, account: Account) -> Any:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            sts = boto3.client("sts", region_name=account.region, endpoint_url=self._endpoint)
            answer = sts.assume_role(
                RoleArn=account.kickoff_arn,
                RoleSessionName=f"hanse-{self._run}"[:64],
                ExternalId=account.external_id,
                DurationSeconds=SESSION_S,
                Policy=json.dumps(session_policy(self._settings, account), separators=(",", ":")),
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("AccessDenied", "AccessDeniedException"):
                raise TrustError(
                    f"{account.site}: {account.kickoff_arn} cannot be assumed: does its trust name this account, "
                    f"and is the external id the one that its owner gave you?"
                ) from None
            raise _named(account, "assume_role", code, str(error)) from None
        except BotoCoreError as error:
            raise UnavailableError(f"{account.site}: AWS is out of reach, or no credentials: {error}") from None
        given = answer["Credentials"]
        return boto3.client(
            "sagemaker",
            region_name=account.region,
            endpoint_url=self._endpoint,
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )


def check_installed() -> None:
    """Return if AWS can be spoken to.

    Raises:
        MissingExtraError: boto3 is not installed.
    """
    if find_spec("boto3") is None:
        raise MissingExtraError("boto3", "sagemaker")


class _Missing(UnavailableError):
    """There is no such job; or none yet, just after it was made."""


def _named(account: Account, call: str, code: str, message: str) -> HanseError:
    """What AWS answered, as one of our errors."""
    where = f"{account.site} ({account.account}, {account.region})"
    if call in ("describe_training_job", "stop_training_job") and (
        "not found" in message.lower() or "could not find" in message.lower() or code == "ResourceNotFound"
    ):
        return _Missing(f"{where}: no such training job")
    if code == "ResourceInUse" or "already exists" in message.lower() or "must be unique" in message.lower():
        return ConflictError(f"{where}: a training job of this name exists already")
    if code == "ResourceLimitExceeded":
        return UnavailableError(f"{where}: the account's quota is used up: {message[:200]}; ask AWS for more of it")
    if code in ("AccessDenied", "AccessDeniedException"):
        return TrustError(f"{where}: the kick-off role may not {call}: {message[:200]}")
    if code in ("ExpiredToken", "ExpiredTokenException"):
        return UnavailableError(f"{where}: the session has ended; try again")
    if code == "ValidationException":
        return ConfigError(f"{where}: {call}: {message[:300]}")
    return UnavailableError(f"{where}: {call}: {code}: {message[:200]}")


def session_policy(settings: Settings, account: Account) -> dict[str, Any]:
    """What a session of the launcher may do: less than the role itself; this federation's jobs and nothing else."""
    jobs = f"arn:aws:sagemaker:{account.region}:{account.account}:training-job/{prefix_of(settings).lower()}*"
    exact = f"arn:aws:sagemaker:{account.region}:{account.account}:training-job/{prefix_of(settings)}*"
    actions = ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags", "ListTags")
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [f"sagemaker:{action}" for action in actions],
                "Resource": sorted({jobs, exact}),
            },
            {
                "Effect": "Allow",
                "Action": "iam:PassRole",
                "Resource": account.execution_arn,
                "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            },
        ],
    }
