"""What a SageMaker training container in script mode finds when it starts, as files and variables. Pure.

Source: "How Amazon SageMaker Provides Training Information" (developer guide) for the files, and the README of
sagemaker-training-toolkit (ENVIRONMENT_VARIABLES.md) for the `SM_*` variables. Everything lies under a root, which is
`/` in a container and a folder of its own in the offline runner: a script that takes its paths from the variables, as
the toolkit tells it to, does not notice.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError

Request = Mapping[str, Any]
"""What `CreateTrainingJob` is asked, in boto3's own words."""
HOST = "algo-1"
PROGRAM, CODE = "sagemaker_program", "sagemaker_submit_directory"
MOST_PARAMETERS, LONGEST_PARAMETER = 100, 2500


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one job below `root`."""

    root: Path

    @property
    def base(self) -> Path:
        """`/opt/ml`."""
        return self.root / "opt" / "ml"

    @property
    def config(self) -> Path:
        """The JSON files."""
        return self.base / "input" / "config"

    @property
    def model(self) -> Path:
        """What becomes model.tar.gz."""
        return self.base / "model"

    @property
    def code(self) -> Path:
        """The unpacked program."""
        return self.base / "code"

    @property
    def output(self) -> Path:
        """`failure`, and `data`, which becomes output.tar.gz."""
        return self.base / "output"

    @property
    def checkpoints(self) -> Path:
        """Kept over an interruption."""
        return self.base / "checkpoints"

    def channel(self, name: str) -> Path:
        """A channel's data."""
        return self.base / "input" / "data" / name

    def folders(self, channels: tuple[str, ...]) -> tuple[Path, ...]:
        """Everything that is there when the program starts."""
        fixed = (self.config, self.model, self.code, self.output / "data", self.checkpoints)
        return (*fixed, *map(self.channel, channels))


def channels_of(request: Request) -> dict[str, str]:
    """Channel → the address of its data."""
    found = {}
    for channel in request.get("InputDataConfig", ()):
        found[str(channel["ChannelName"])] = str(channel["DataSource"]["S3DataSource"]["S3Uri"])
    return found


def hyperparameters_of(request: Request) -> dict[str, Any]:
    """The program's own hyperparameters: script mode carries each as JSON in a text."""
    found: dict[str, Any] = {}
    for name, text in request.get("HyperParameters", {}).items():
        if not name.startswith("sagemaker_"):
            try:
                found[name] = json.loads(text)
            except ValueError:
                found[name] = text
    return found


def program_of(request: Request) -> tuple[str, str]:
    """The program's file, and where the code is.

    Raises:
        ConfigError: the job is not in script mode.
    """
    given = request.get("HyperParameters", {})
    try:
        return str(_plain(given[PROGRAM])), str(_plain(given[CODE]))
    except KeyError as error:
        raise ConfigError(f"training job: expected the hyperparameter {error.args[0]} of script mode") from None


def files(request: Request) -> dict[str, str]:
    """The files below `Layout.config`, by name."""
    channels = {
        name: {"TrainingInputMode": request.get("AlgorithmSpecification", {}).get("TrainingInputMode", "File")}
        for name in channels_of(request)
    }
    resource = {"current_host": HOST, "hosts": [HOST], "network_interface_name": "eth0"}
    return {
        "hyperparameters.json": json.dumps(dict(request.get("HyperParameters", {}))),
        "inputdataconfig.json": json.dumps(channels),
        "resourceconfig.json": json.dumps(resource),
    }


def variables(request: Request, layout: Layout, *, region: str, account: str) -> dict[str, str]:
    """The `SM_*` variables and those that SageMaker itself sets."""
    program, code = program_of(request)
    hyperparameters = hyperparameters_of(request)
    channels = sorted(channels_of(request))
    name = str(request["TrainingJobName"])
    found: dict[str, Any] = {
        "SM_MODEL_DIR": layout.model,
        "SM_INPUT_DIR": layout.base / "input",
        "SM_INPUT_CONFIG_DIR": layout.config,
        "SM_OUTPUT_DIR": layout.output,
        "SM_OUTPUT_DATA_DIR": layout.output / "data",
        "SM_CHANNELS": json.dumps(channels),
        "SM_CURRENT_HOST": HOST,
        "SM_HOSTS": json.dumps([HOST]),
        "SM_NETWORK_INTERFACE_NAME": "eth0",
        "SM_NUM_CPUS": os.cpu_count() or 1,
        "SM_NUM_GPUS": 0,
        "SM_HPS": json.dumps(hyperparameters),
        "SM_USER_ARGS": json.dumps(user_arguments(hyperparameters)),
        "SM_MODULE_DIR": code,
        "SM_MODULE_NAME": program.removesuffix(".py"),
        "SM_USER_ENTRY_POINT": program,
        "SM_RESOURCE_CONFIG": files(request)["resourceconfig.json"],
        "SM_INPUT_DATA_CONFIG": files(request)["inputdataconfig.json"],
        "TRAINING_JOB_NAME": name,
        "TRAINING_JOB_ARN": f"arn:aws:sagemaker:{region}:{account}:training-job/{name}",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
    }
    found |= {f"SM_CHANNEL_{channel.upper().replace('-', '_')}": layout.channel(channel) for channel in channels}
    found |= {f"SM_HP_{key.upper().replace('-', '_')}": _as_text(value) for key, value in hyperparameters.items()}
    found |= dict(request.get("Environment", {}))
    return {key: str(value) for key, value in found.items()}


def user_arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """What the program is called with: `--name value` for each of its hyperparameters, by name."""
    words: list[str] = []
    for name in sorted(hyperparameters):
        words += [f"--{name}" if len(name) > 1 else f"-{name}", _as_text(hyperparameters[name])]
    return words


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
