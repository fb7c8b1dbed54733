"""Runs in the SageMaker Experiments API: the prefix is the experiment, a job its trial, a run a trial component.

For those who have it ("Studio Classic"); AWS points new users to managed MLflow, which `MLflow(arn)` reaches. Names are
unique, so that making something twice is answered "exists already", which is well; metrics of one step are put with the
record's own time.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from hanse.core.errors import MissingExtraError, RefusedError
from hanse.tracking.places import checked
from hanse.tracking.records import Plain, Record, Run, joined

_STATUS = {"finished": "Completed", "failed": "Failed", "cancelled": "Stopped"}
_MOST_AT_ONCE = 10
_MOST_PARAMS = 300
_EXISTS = ("already exists", "must be unique")


@dataclass(frozen=True, slots=True)
class SageMaker:
    """Tracking in SageMaker Experiments; credentials as boto3 finds them.

    Args:
        region: by default boto3's own.
        prefix: the experiment.
        params: further parameters of every run.
        endpoint: another address of the API, for tests and private endpoints.
    """

    region: str = ""
    prefix: str = "hanse"
    params: Mapping[str, Plain] = field(default_factory=dict)
    endpoint: str = ""

    def __post_init__(self) -> None:
        checked(self)

    @property
    def place(self) -> str:
        """See `Tracker`."""
        return f"sagemaker:{self.region}:{self.endpoint}"

    def open(self) -> "SageMakerSink":
        """See `Tracker`."""
        if find_spec("boto3") is None:
            raise MissingExtraError("boto3", "aws")
        import boto3

        options = {"region_name": self.region or None, "endpoint_url": self.endpoint or None}
        return SageMakerSink(boto3.client("sagemaker", **options), boto3.client("sagemaker-metrics", **options))


class SageMakerSink:
    """Delivers over boto3's two clients."""

    def __init__(self, client: Any, metrics: Any) -> None:
        self._client, self._metrics = client, metrics
        self._made: set[str] = set()

    def deliver(self, records: Sequence[Record]) -> None:
        """See `Sink`."""
        from botocore.exceptions import ClientError, ParamValidationError

        try:
            for run, rows in joined(records):
                component = self._component(run, rows[0])
                for row in rows:
                    self._deliver(component, row)
        except ParamValidationError as error:
            raise RefusedError(f"SageMaker: {str(error)[:300]}") from None
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ValidationException", "ResourceLimitExceeded"):
                raise RefusedError(f"SageMaker: {str(error)[:300]}") from None
            raise

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()
        self._metrics.close()

    def _deliver(self, component: str, row: Record) -> None:
        if row.params:
            params = dict(list(row.params.items())[:_MOST_PARAMS])
            self._client.update_trial_component(TrialComponentName=component, Parameters=_parameters(params))
        rows = [
            {"MetricName": name_of(m.name), "Timestamp": row.at_ms // 1000, "Step": m.step, "Value": m.value}
            for m in row.metrics
            if m.value == m.value  # the API knows no NaN
        ]
        for start in range(0, len(rows), _MOST_AT_ONCE):
            some = rows[start : start + _MOST_AT_ONCE]
            self._metrics.batch_put_metrics(TrialComponentName=component, MetricData=some)
        if row.kind == "end":
            self._client.update_trial_component(
                TrialComponentName=component,
                EndTime=datetime.fromtimestamp(row.at_ms / 1000, UTC),
                Status={"PrimaryStatus": _STATUS.get(row.status, "Failed")},
            )

    def _component(self, run: Run, first: Record) -> str:
        """The trial component, with experiment and trial, made if they are not there."""
        name = aws_name(run.name)
        if name not in self._made:
            experiment, trial = aws_name(run.prefix), aws_name(f"{run.prefix}-{run.job}")
            self._once(self._client.create_experiment, ExperimentName=experiment)
            self._once(self._client.create_trial, TrialName=trial, ExperimentName=experiment)
            self._once(
                self._client.create_trial_component,
                TrialComponentName=name,
                DisplayName=run.who,
                Status={"PrimaryStatus": "InProgress"},
                StartTime=datetime.fromtimestamp(first.at_ms / 1000, UTC),
            )
            self._once(self._client.associate_trial_component, TrialComponentName=name, TrialName=trial)
            self._made.add(name)
        return name

    def _once(self, make: Any, **arguments: Any) -> None:
        from botocore.exceptions import ClientError

        try:
            make(**arguments)
        except ClientError as error:
            if not any(words in str(error) for words in _EXISTS):
                raise


def _parameters(params: Mapping[str, Plain]) -> dict[str, dict[str, Any]]:
    return {
        name_of(name): {"NumberValue": float(value)}
        if isinstance(value, int | float) and not isinstance(value, bool)
        else {"StringValue": str(value)}
        for name, value in params.items()
    }


def name_of(text: str) -> str:
    """A parameter's or metric's name as SageMaker takes it."""
    return re.sub(r"[^A-Za-z0-9_:./-]", "_", text)[:255]


def aws_name(text: str) -> str:
    """A name of letters, digits and single hyphens, at most 120 of them."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9-]", "-", text)).strip("-")[:120]
