"""Tracking: parameters and metrics of every run, where people look at them.

One run for the aggregator of a job and one for each site: `hs.tracking.File`, `MLflow`, `TensorBoard`, `SageMaker`. The
aggregator's holds what the server knows. A site's own is written by the site, as its owner's `site.yaml` says; an app
that asks for tracking has it where its person sees results anyway, and nowhere else.

    records.py    what is tracked, as plain data
    events.py     from a runtime's events to records
    outbox.py     the durable buffer
    tracker.py    the seams, and the thread that delivers
    files.py, mlflow.py, tensorboard.py, sagemaker.py    thin backends
"""

from hanse.tracking.files import File
from hanse.tracking.mlflow import MLflow
from hanse.tracking.places import declared, tracker_from
from hanse.tracking.sagemaker import SageMaker
from hanse.tracking.tensorboard import TensorBoard
from hanse.tracking.tracker import Sink, Tracker, Tracking

KINDS = {"file": File, "mlflow": MLflow, "tensorboard": TensorBoard, "sagemaker": SageMaker}
"""By the word that a YAML file's `tracking: {kind: …}` uses."""

__all__ = [
    "KINDS",
    "File",
    "MLflow",
    "SageMaker",
    "Sink",
    "TensorBoard",
    "Tracker",
    "Tracking",
    "declared",
    "tracker_from",
]
