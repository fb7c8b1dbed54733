"""A federation of a few lines for tests: every site trains, the weighted mean is the model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.clients.app import App
from hanse.clients.execute import Runtime
from hanse.core.arrays import Arrays
from hanse.core.ids import TaskId
from hanse.core.records import Metrics, Task


def federate(
    app: App, sites: Mapping[str, Any], *, rounds: int = 1, config: Mapping[str, Any] | None = None
) -> tuple[Arrays, dict[str, Metrics], dict[str, Metrics]]:
    """The model after `rounds`, and what every site said when it trained and evaluated last."""
    runtimes = {
        name: Runtime(app, site_name=name, load=lambda wanted, data=data: data, log=print)  # type: ignore[misc]
        for name, data in sites.items()
    }
    model = app.initial_arrays
    if model is None:
        first = next(iter(sites))
        model = _execute(runtimes[first], "parameters", 0, None, {})[1]
    trained: dict[str, Metrics] = {}
    evaluated: dict[str, Metrics] = {}
    for number in range(1, rounds + 1):
        answers = []
        for name, runtime in runtimes.items():
            reply, arrays = _execute(runtime, "train", number, model, config or {})
            trained[name] = reply.metrics
            answers.append((reply.num_examples, arrays))
        total = sum(count for count, _ in answers)
        means = {name: sum(count / total * arrays[name] for count, arrays in answers) for name in model}
        model = Arrays({name: np.asarray(means[name], array.dtype) for name, array in model.items()})
        for name, runtime in runtimes.items():
            evaluated[name] = _execute(runtime, "evaluate", number, model, config or {})[0].metrics
    return model, trained, evaluated


def _execute(runtime: Runtime, call: str, number: int, model: Arrays | None, config: Mapping[str, Any]) -> Any:
    task = Task(
        TaskId("job", "main", number, call, number), runtime.site.name, call, config={"round": number, **config}
    )
    outcome = runtime.execute(task, model, None)
    assert outcome.reply.ok, outcome.reply.error
    return outcome.reply, outcome.arrays
