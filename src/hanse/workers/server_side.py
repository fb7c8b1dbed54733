"""An app's server side behind calls by name; the server's end is `hanse.workers.server_host`.

    config    {round, sites}                       → {site: {…}}
    evaluate  {round}, arrays `model`              → {metric: value}
    plan      a `PlanRequest`                      → a `PlanAnswer`
    reduce    a `ReduceRequest`, arrays `update/<ordinal>`, `model`, `state/<index>`, as far as there are any
                                                   → {refused: {ordinal: reason}}; or {memory}, and arrays
                                                     `000/<name>` (the new model), `001/<name>`… (the strategy's
                                                     state, float64); no arrays where there was nothing to reduce

The app's own strategy reduces here, with the same walk as a built-in one in the server, so with the same bits.

Memory: updates, model and states come as mapped files and are read block by block. The new model and states are in
this worker's memory (1 × model, and 2 × model of float32 for each state, which is float64) until they are written;
the server then reads them once, as long. A built-in strategy needs neither: it writes blocks into the store.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hanse.aggregation import ArraySink, ArraySource
from hanse.clients.server import ServerRuntime, StrategyContext
from hanse.core.arrays import Arrays, Layout
from hanse.core.errors import CodecError, TaskError
from hanse.core.records import Task
from hanse.core.spec import RunSpec
from hanse.rounds.hosts.checking import remembered
from hanse.rounds.hosts.folding import fold
from hanse.rounds.hosts.host import PlanRequest, unplain
from hanse.rounds.hosts.items import Item
from hanse.rounds.hosts.planning import plan_phase
from hanse.strategies import Strategy
from hanse.strategies.strategy import FoldInput
from hanse.workers.execute import Given, Outcome

Call = Callable[[Any, Given], tuple[Any, Arrays | None]]


class ServerSide:
    """Calls of an app's server side, as a worker's runtime.

    Args:
        spec: the run's spec; what the app itself says where the server gave none.
    """

    def __init__(self, runtime: ServerRuntime, spec: RunSpec | None) -> None:
        self._runtime = runtime
        self._spec = spec or runtime.app.spec()
        self._calls: dict[str, Call] = {
            "config": self._config,
            "evaluate": self._evaluate,
            "plan": self._plan,
            "reduce": self._reduce,
        }

    def execute(
        self,
        task: Task,
        model: Arrays | None,
        state: bytes | memoryview | None,
        *,
        private: Arrays | None = None,
        channel: socket.socket | None = None,
    ) -> Outcome:
        """A server side has no tasks."""
        raise TaskError("refused", "this worker answers calls of the server, and no tasks")

    def call(self, name: str, arguments: Any, arrays: Given) -> tuple[Any, Arrays | None]:
        """Call one function of the app.

        Raises:
            TaskError: no such call, or what the app's function raised.
        """
        function = self._calls.get(name)
        if function is None:
            raise TaskError("refused", f"call: expected one of {', '.join(self._calls)}; found {name[:40]!r}")
        return function(arguments, arrays)

    def _config(self, arguments: Any, _: Given) -> tuple[Any, None]:
        return {site: dict(self._runtime.config(arguments["round"], site)) for site in arguments["sites"]}, None

    def _evaluate(self, arguments: Any, arrays: Given) -> tuple[Any, None]:
        return dict(self._runtime.evaluate(_sound(arrays["model"]), arguments["round"])), None

    def _plan(self, arguments: Any, _: Given) -> tuple[Any, None]:
        request = PlanRequest.from_json(arguments)
        strategy = self._strategy((*request.sites, *request.busy))
        return plan_phase(strategy, self._spec, request, None).to_json(), None

    def _reduce(self, arguments: Any, arrays: Given) -> tuple[Any, Arrays | None]:
        members = arguments["members"]
        strategy = self._strategy(tuple(sorted({member[3] for member in members})))
        sinks: list[ArraySink] = []
        items = [_item(member, arrays.get(f"update/{member[0]}")) for member in members]
        memory = remembered(strategy, self._spec, arguments["memory"], [item.about for item in items])

        def make_sink(layout: Layout) -> ArraySink:
            sinks.append(ArraySink(layout))
            return sinks[-1]

        refused = fold(
            strategy,
            self._spec,
            items,
            make_sink,
            round_=arguments["round"],
            size=arguments["size"],
            base=ArraySource(_sound(arrays["model"])) if "model" in arrays else None,
            states=[ArraySource(_sound(arrays[f"state/{index}"])) for index in range(arguments["num_states"])],
            memory=memory,
            threads=self._spec.threads,
            phase=arguments["phase"],
        )
        if refused:
            return {"refused": refused}, None
        if not sinks:
            return {"memory": memory}, None
        made = [(f"{i:03}/{name}", array) for i, sink in enumerate(sinks) for name, array in sink.arrays.items()]
        return {"memory": memory}, Arrays(made)

    def _strategy(self, sites: tuple[str, ...]) -> Strategy:
        return self._runtime.strategy(StrategyContext(self._spec, tuple(sorted(sites))))


def _item(member: Sequence[Any], given: Arrays | CodecError | None) -> Item:
    ordinal, position, staleness, site, num_examples, metrics, update_kind, seconds, group = member
    about = FoldInput(site, num_examples, staleness, unplain(metrics), seconds, group)
    wrong = str(given) if isinstance(given, CodecError) else ""
    source = ArraySource(given) if isinstance(given, Arrays) else None
    return Item(ordinal, position, about, update_kind, source, wrong)


def _sound(arrays: Arrays | CodecError) -> Arrays:
    if isinstance(arrays, CodecError):
        raise arrays
    return arrays


def spec_in(options: Mapping[str, Any]) -> RunSpec | None:
    """The spec among a `Load`'s options."""
    return RunSpec.from_json(options["spec"]) if "spec" in options else None
