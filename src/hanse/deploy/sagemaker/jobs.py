"""Training jobs wherever they run, and what they are doing, in plain words. Pure but for the seam."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hanse.deploy.sagemaker.settings import Account

ENDED = ("Completed", "Failed", "Stopped")

TRAINING = "training"
"""What a job whose program runs is doing."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of a site's training job.

    Args:
        name: the job's; empty before there is one.
        status: SageMaker's: InProgress, Stopping, Completed, Failed, Stopped; `none` before there is one.
        doing: the secondary status, in plain words.
        reason: why it failed, in plain words.
        model: where its model.tar.gz is.
        adopted: whether it was there before.
    """

    site: str
    name: str = ""
    status: str = "none"
    doing: str = ""
    reason: str = ""
    model: str = ""
    adopted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in ENDED

    @property
    def is_early(self) -> bool:
        """Whether it has ended otherwise than well."""
        return self.is_over and self.status != "Completed"


class TrainingJobs(Protocol):
    """Starts, looks at and stops the training jobs of a run."""

    def start(self, account: Account) -> JobState:
        """Start a site's job, or adopt the one of this run that is there.

        Raises:
            HanseError: it cannot be, and why.
        """
        ...

    def look(self, account: Account, name: str) -> JobState:
        """What it is doing.

        Raises:
            UnavailableError: that cannot be known now.
        """
        ...

    def stop(self, account: Account, name: str) -> None:
        """Ask it to stop. Harmless for one that is over."""
        ...


_DOING = {
    "Starting": "waiting for a machine",
    "Pending": "waiting for a machine",
    "LaunchingMLInstances": "waiting for a machine",
    "PreparingTrainingStack": "preparing the machine",
    "Downloading": "fetching code and data",
    "DownloadingTrainingImage": "fetching the image",
    "Training": TRAINING,
    "Uploading": "uploading the model",
    "Stopping": "stopping",
    "Stopped": "stopped",
    "MaxRuntimeExceeded": "stopped: it ran longer than max_run_s",
    "MaxWaitTimeExceeded": "stopped: spot capacity did not come in time",
    "Interrupted": "interrupted: spot capacity was taken away; it starts again with its checkpoints",
    "Restarting": "starting again",
    "Completed": "done",
    "Failed": "failed",
}

_REASONS = (
    (
        r"CapacityError|capacity.{0,40}(unavailable|insufficient)",
        "AWS has no such machine free now; try another instance",
    ),
    (
        r"ResourceLimitExceeded|service limit|quota",
        "the account's quota for this instance is used up; ask AWS for more",
    ),
    (
        r"ECR|pull|image.{0,60}(not exist|not found|cannot)",
        "the image cannot be fetched; check its address and the role",
    ),
    (r"PermanentRedirect|301|bucket.{0,40}region", "a bucket is in another region than the job"),
    (r"NoSuchBucket|NoSuchKey|No S3 objects found|404", "there is nothing at one of the s3:// addresses"),
    (r"AccessDenied|403|not authorized", "the execution role may not read or write one of the s3:// addresses"),
    (r"is there a route", "the job does not reach the server: check peering, routes and security groups"),
    (
        r"ExitCode 137|OutOfMemory|MemoryError|Please use an instance type with more memory",
        "memory was short; take a larger instance",
    ),
)
"""What SageMaker says, and what it means; the first that fits."""


def state_of(site: str, told: Mapping[str, Any], *, adopted: bool = False) -> JobState:
    """From what `DescribeTrainingJob` answers."""
    secondary = str(told.get("SecondaryStatus", ""))
    return JobState(
        site,
        str(told["TrainingJobName"]),
        str(told["TrainingJobStatus"]),
        _DOING.get(secondary, secondary),
        reason_of(str(told.get("FailureReason", ""))),
        str(told.get("ModelArtifacts", {}).get("S3ModelArtifacts", "")),
        adopted,
    )


def reason_of(text: str) -> str:
    """A failure in plain words, with what SageMaker said behind them."""
    text = " ".join(text.split())
    for pattern, meaning in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return f"{meaning} ({text[:300]})"
    return text


def capacity(state: JobState) -> bool:
    """Whether it failed for want of a machine, so that another attempt may help."""
    return state.status == "Failed" and re.search("CapacityError", state.reason) is not None
