"""From a `Load` to what executes tasks: the app's client side, or its server side behind calls by name.

config    {round, sites}           → {site: {…}}
evaluate  {round}, arrays `model`  → {metric: value}
strategy  {spec, sites}            → {name, params}    the app's own strategy, if it is plain data
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from hanse.clients.execute import Runtime as ClientRuntime
from hanse.clients.loader import load_app
from hanse.clients.server import ServerRuntime, StrategyContext
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, TaskError
from hanse.core.records import Task
from hanse.core.spec import RunSpec
from hanse.workers.datasets import Datasets
from hanse.workers.execute import Outcome, Runtime
from hanse.workers.load import Load


def open_runtime(load: Load) -> Runtime:
    """Import the app and make what executes it.

    Raises:
        ConfigError: the bundle has no such app. Exception: whatever importing the app raises.
    """
    app = load_app(load.bundle, load.entry, load.object)
    if load.role == "server":
        return ServerSide(ServerRuntime(app))
    datasets = Datasets(load.datasets, declared=load.declared, base=load.base)
    return ClientSide(ClientRuntime(app, site_name=load.site, load=datasets.load, log=_log))


class ClientSide:
    """Tasks for a site."""

    def __init__(self, runtime: ClientRuntime) -> None:
        self._runtime = runtime

    def execute(
        self, task: Task, model: Arrays | None, state: bytes | None, *, private: Arrays | None = None
    ) -> Outcome:
        """Execute one task."""
        return self._runtime.execute(task, model, state, private=private)

    def call(self, name: str, arguments: Any, arrays: Mapping[str, Arrays]) -> tuple[Any, Arrays | None]:
        """A client side has no calls."""
        raise TaskError("refused", f"call {name[:40]!r}: this worker executes tasks of a site")


class ServerSide:
    """Calls of an app's server side."""

    def __init__(self, runtime: ServerRuntime) -> None:
        self._runtime = runtime
        self._calls: dict[str, Callable[[Any, Mapping[str, Arrays]], Any]] = {
            "config": self._config,
            "evaluate": self._evaluate,
            "strategy": self._strategy,
        }

    def execute(
        self, task: Task, model: Arrays | None, state: bytes | None, *, private: Arrays | None = None
    ) -> Outcome:
        """A server side has no tasks."""
        raise TaskError("refused", "this worker answers calls of the server")

    def call(self, name: str, arguments: Any, arrays: Mapping[str, Arrays]) -> tuple[Any, Arrays | None]:
        """Call one function of the app.

        Raises:
            TaskError: no such call, or what the app's function raised.
        """
        function = self._calls.get(name)
        if function is None:
            raise TaskError("refused", f"call: expected one of {', '.join(self._calls)}; found {name[:40]!r}")
        return function(arguments, arrays), None

    def _config(self, arguments: Any, _: Mapping[str, Arrays]) -> Any:
        return {site: dict(self._runtime.config(arguments["round"], site)) for site in arguments["sites"]}

    def _evaluate(self, arguments: Any, arrays: Mapping[str, Arrays]) -> Any:
        return dict(self._runtime.evaluate(arrays["model"], arguments["round"]))

    def _strategy(self, arguments: Any, _: Mapping[str, Arrays]) -> Any:
        context = StrategyContext(RunSpec.from_json(arguments["spec"]), tuple(arguments["sites"]))
        strategy = self._runtime.strategy(context)
        if not strategy.name:
            raise ConfigError("@app.strategy: a strategy of the app's own needs a `name`")
        return {"name": strategy.name, "params": strategy.params()}


def _log(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a worker's stderr is the site's log
