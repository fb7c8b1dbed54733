"""Training jobs of `--local`: the offline runner in the place of every account's SageMaker."""

from collections.abc import Callable
from pathlib import Path

from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.jobs import JobState, state_of
from hanse.deploy.sagemaker.request import local_job
from hanse.deploy.sagemaker.runner import LocalJobs
from hanse.deploy.sagemaker.settings import Account, Settings

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION")
"""What stands for the execution role, where a job reaches queues: those of whoever launches."""


class LocalTrainingJobs:
    """See `TrainingJobs`.

    Args:
        home: folder for jobs, logs and what stands for the accounts' buckets.
        told: the hyperparameters of a site.
    """

    def __init__(self, settings: Settings, run: str, home: Path, told: Callable[[Account], Told]) -> None:
        self._settings, self._run, self._home, self._told = settings, run, home, told
        given = CREDENTIALS if settings.queues is not None else ()
        self.runner = LocalJobs(home / "jobs", stop_s=20.0, given=given)

    def start(self, account: Account) -> JobState:
        """See `TrainingJobs`."""
        request = local_job(self._settings, account, self._run, self._told(account), str(self._home / "buckets"))
        self.runner.create(request, account=account.account or "000000000000", region=account.region or "local")
        return self.look(account, request["TrainingJobName"])

    def look(self, account: Account, name: str) -> JobState:
        """See `TrainingJobs`."""
        return state_of(account.site, self.runner.describe(name))

    def stop(self, account: Account, name: str) -> None:
        """See `TrainingJobs`."""
        self.runner.stop(name)

    def close(self) -> None:
        """End every job."""
        self.runner.close()
