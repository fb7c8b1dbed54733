"""Runs in MLflow: the prefix is the experiment; parameters, metrics by round, status. Also SageMaker's managed MLflow.

Written with MLflow's own client (`mlflow-skinny`). The experiment says the prefix, so a run is called WHO-JOB, which a
narrow column shows from its telling end. It is found again by its tag `hanse.run`, and MLflow keeps one of two equal
metrics (name, step, time, value), so that a record that is delivered twice is there once.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from hanse.core.errors import ConfigError, MissingExtraError, RefusedError
from hanse.tracking.places import checked
from hanse.tracking.records import Metric, Plain, Record, Run, joined

TAG = "hanse.run"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_MOST_METRICS, _MOST_PARAMS = 1000, 100
_NEVER = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
"""MLflow's codes for what it will not take later either."""


@dataclass(frozen=True, slots=True)
class MLflow:
    """Tracking in MLflow.

    Args:
        uri: of the tracking server, `http://host:5000`, or the ARN of SageMaker's managed MLflow. Credentials come from
            MLflow's own variables, such as MLFLOW_TRACKING_TOKEN, and never from here: an app travels.
        prefix: the experiment, and the beginning of every run's name.
        params: further parameters of every run, such as `{"optimizer": "sgd", "batch_size": 4}`.

    Example:
        >>> MLflow("http://127.0.0.1:5000", prefix="heart").place
        'mlflow:http://127.0.0.1:5000'
    """

    uri: str
    prefix: str = "hanse"
    params: Mapping[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked(self, "uri")
        if "@" in urlsplit(self.uri).netloc:  # it would stand in logs, in the buffer and in configuration
            raise ConfigError(
                "tracking.MLflow: uri: expected an address without a name or password; set MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )

    @property
    def place(self) -> str:
        """See `Tracker`."""
        return f"mlflow:{self.uri}"

    def open(self) -> "MLflowSink":
        """See `Tracker`."""
        if find_spec("mlflow") is None:
            raise MissingExtraError("mlflow", "mlflow")
        if self.uri.startswith("arn:") and find_spec("sagemaker_mlflow") is None:
            raise MissingExtraError("sagemaker-mlflow", "sagemaker")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # what an organisation does is not told to others
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where `--json` is read
        from mlflow.tracking import MlflowClient

        return MLflowSink(MlflowClient(tracking_uri=self.uri))


class MLflowSink:
    """Delivers over one MLflow client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    def deliver(self, records: Sequence[Record]) -> None:
        """See `Sink`."""
        from mlflow.exceptions import MlflowException

        try:
            for run, rows in joined(records):
                self._deliver(run, rows)
        except MlflowException as error:
            if getattr(error, "error_code", "") in _NEVER:
                raise RefusedError(f"MLflow: {str(error)[:300]}") from None
            raise

    def close(self) -> None:
        """See `Sink`."""

    def _deliver(self, run: Run, rows: Sequence[Record]) -> None:
        from mlflow.entities import Metric as MLflowMetric
        from mlflow.entities import Param, RunTag

        run_id = self._run_id(run, rows[0])
        begun = [row for row in rows if row.kind == "begin"]
        params = [Param(name_of(name), str(value)) for row in begun for name, value in row.params.items()]
        told = {name_of(name): str(value) for row in rows if row.kind != "begin" for name, value in row.params.items()}
        metrics = [
            MLflowMetric(name_of(metric.name), metric.value, row.at_ms, metric.step)
            for row in rows
            for metric in _last_of_each(row.metrics)
        ]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + _MOST_METRICS])
        if told:  # a parameter cannot change in MLflow, and what a site says in a round may
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in told.items()])
        for row in rows:
            if row.kind == "end":
                self._client.set_terminated(run_id, _STATUS.get(row.status, "FAILED"), row.at_ms)

    def _run_id(self, run: Run, first: Record) -> str:
        """The run, made if it is not there."""
        if run.name not in self._runs:
            experiment = self._experiment(run.prefix)
            found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.name}'", max_results=1)
            if not found:
                tags = {TAG: run.name, "hanse.job": run.job, "hanse.who": run.who}
                found = [self._client.create_run(experiment, first.at_ms, tags, f"{run.who}-{run.job}")]
            self._runs[run.name] = found[0].info.run_id
        return self._runs[run.name]

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            try:
                self._experiments[name] = found.experiment_id if found else self._client.create_experiment(name)
            except MlflowException as error:  # another site was first
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
                self._experiments[name] = self._client.get_experiment_by_name(name).experiment_id
        return self._experiments[name]


def _last_of_each(metrics: Sequence[Metric]) -> list[Metric]:
    return list({(metric.name, metric.step): metric for metric in metrics}.values())


def name_of(text: str) -> str:
    """A name as MLflow takes it: letters, digits, `_ - . space : /`, at most 250 of them."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in text)[:250]
