"""From settings to what `CreateTrainingJob` is asked. Pure: the same settings and run give the same request and name.

A name is `fl-FEDERATION-RUN-SITE-N`: a run's jobs are found again by it, and a launcher that was killed adopts them. N
counts up where a name is taken by a job that is not this run's, or by one of ours that has failed.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from hanse.core.errors import ConfigError
from hanse.deploy.sagemaker.contract import LONGEST_PARAMETER, MOST_PARAMETERS
from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.settings import Account, Settings

LONGEST_NAME = 63
TAG_FEDERATION, TAG_RUN, TAG_SITE = "hanse:federation", "hanse:run", "hanse:site"


def prefix_of(settings: Settings) -> str:
    """How every job of the federation begins; what sessions and roles are narrowed to."""
    return f"fl-{aws_word(settings.federation)}-"


def job_name(settings: Settings, run: str, site: str, attempt: int) -> str:
    """The name of a site's job.

    Raises:
        ConfigError: it would be too long for SageMaker.
    """
    name = f"{prefix_of(settings)}{aws_word(run)}-{aws_word(site)}-{attempt}"
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"training job {name}: expected at most {LONGEST_NAME} characters; shorten the federation's or site's name"
        )
    return name


def aws_word(text: str) -> str:
    """Letters, digits and single hyphens."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9-]", "-", text)).strip("-")


def tags(settings: Settings, run: str, site: str) -> list[dict[str, str]]:
    """By which a job is known as this run's."""
    return [
        {"Key": TAG_FEDERATION, "Value": settings.federation},
        {"Key": TAG_RUN, "Value": run},
        {"Key": TAG_SITE, "Value": site},
    ]


def training_job(settings: Settings, account: Account, run: str, attempt: int, told: Told) -> dict[str, Any]:
    """The whole request, with `s3://` addresses.

    Raises:
        ConfigError: over a limit of SageMaker's.
    """
    request = _common(settings, account, run, attempt, told, account.code, account.channels, account.output)
    if account.subnets:
        request["VpcConfig"] = {"Subnets": list(account.subnets), "SecurityGroupIds": list(account.security_groups)}
    if account.checkpoints:
        request["CheckpointConfig"] = {"S3Uri": f"{account.checkpoints.rstrip('/')}/{request['TrainingJobName']}"}
    if account.spot:
        request["EnableManagedSpotTraining"] = True
        request["StoppingCondition"]["MaxWaitTimeInSeconds"] = 2 * account.max_run_s
    return request


def local_job(settings: Settings, account: Account, run: str, told: Told, buckets: str) -> dict[str, Any]:
    """The same for the offline runner, with `file://` addresses.

    Args:
        buckets: the folder that stands for the account's buckets.

    Raises:
        ConfigError: the account says nothing of this machine.
    """
    if account.local is None:
        raise ConfigError(f"accounts.{account.site}: expected local: {{code, channels}}, found none")
    channels = {name: f"file://{path}" for name, path in account.local.channels.items()}
    code, output = f"file://{account.local.code}", f"file://{buckets}/{account.site}"
    return _common(settings, account, run, 1, told, code, channels, output)


def _common(
    settings: Settings,
    account: Account,
    run: str,
    attempt: int,
    told: Told,
    code: str,
    channels: Mapping[str, str],
    output: str,
) -> dict[str, Any]:
    own = {name: json.dumps(value) for name, value in account.hyperparameters.items()}
    script = {"sagemaker_program": json.dumps(account.program), "sagemaker_submit_directory": json.dumps(code)}
    parameters = {**own, **told.hyperparameters(), **script}
    _check_parameters(parameters, account.site)
    return {
        "TrainingJobName": job_name(settings, run, account.site, attempt),
        "RoleArn": account.execution_arn,
        "AlgorithmSpecification": {
            "TrainingImage": account.image or "local",
            "TrainingInputMode": "File",
        },
        "HyperParameters": parameters,
        "InputDataConfig": [
            {
                "ChannelName": name,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": address,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
            for name, address in sorted(channels.items())
        ],
        "OutputDataConfig": {"S3OutputPath": output},
        "ResourceConfig": {
            "InstanceType": account.instance,
            "InstanceCount": 1,
            "VolumeSizeInGB": account.volume_gb,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": account.max_run_s},
        "EnableInterContainerTrafficEncryption": True,
        "Tags": tags(settings, run, account.site),
    }


def _check_parameters(parameters: Mapping[str, str], site: str) -> None:
    if len(parameters) > MOST_PARAMETERS:
        raise ConfigError(
            f"accounts.{site}: expected at most {MOST_PARAMETERS} hyperparameters, found {len(parameters)}"
        )
    for name, text in parameters.items():
        if len(text) > LONGEST_PARAMETER:
            raise ConfigError(
                f"accounts.{site}: hyperparameter {name}: expected at most {LONGEST_PARAMETER} characters, found "
                f"{len(text)}; put it into a file of the code bundle"
            )
