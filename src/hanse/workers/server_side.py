"""An app's server side behind calls by name; the server's end is `hanse.server.host`.

    config    {round, sites}                       → {site: {…}}
    evaluate  {round}, arrays `model`              → {metric: value}
    plan      a `PlanRequest`                      → a `PlanAnswer`
    reduce    a `ReduceRequest`, arrays `update/<ordinal>`, `model`, `state/<index>`
                                                   → {refused: {ordinal: reason}}, or arrays `000/<name>` (the new
                                                     model), `001/<name>`… (the strategy's state, float64)

The app's own strategy reduces here, with the same walk as a built-in one in the server, so with the same bits. The
updates are mapped files; the new model and state are in this worker's memory until they are written.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hanse.aggregation import ArraySink, ArraySource, Source, UpdatesRefused, Zeros, aggregate
from hanse.clients.server import ServerRuntime, StrategyContext
from hanse.core.arrays import Arrays
from hanse.core.errors import CodecError, TaskError
from hanse.core.records import Task
from hanse.core.spec import RunSpec
from hanse.rounds.host import PlanRequest, plan_phase, unplain, wide_layout
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
        self, task: Task, model: Arrays | None, state: bytes | None, *, private: Arrays | None = None
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
        refused = {
            m[0]: str(arrays[f"update/{m[0]}"]) for m in members if isinstance(arrays[f"update/{m[0]}"], CodecError)
        }
        if refused:
            return {"refused": refused}, None
        strategy = self._strategy(tuple(sorted({m[3] for m in members})))
        base = ArraySource(_sound(arrays["model"]))
        names = strategy.state_names()
        wide = wide_layout(base.layout)
        given = arguments["num_states"]
        states: list[Source] = [ArraySource(_sound(arrays[f"state/{index}"])) for index in range(given)]
        sinks = [ArraySink(base.layout), *(ArraySink(wide) for _ in names)]
        inputs = [FoldInput(site, count, stale, unplain(metrics)) for _, _, stale, site, count, metrics, _ in members]
        try:
            aggregate(
                [ArraySource(_sound(arrays[f"update/{m[0]}"])) for m in members],
                [m[1] for m in members],
                strategy.weigh(inputs),
                rule=strategy.reducer(),
                out=sinks[0],
                kind="delta" if strategy.update_kind == "delta" else "values",
                base=base,
                update=strategy.update if type(strategy).update is not Strategy.update else None,
                states=states or [Zeros(wide) for _ in names],
                state_outs=sinks[1:],
                scalars=strategy.scalars(arguments["round"]),
                plan_size=arguments["size"],
                threads=self._spec.threads,
            )
        except UpdatesRefused as error:
            by_position = {m[1]: m[0] for m in members}
            return {"refused": {by_position[position]: why for position, why in error.reasons.items()}}, None
        made = [(f"{i:03}/{name}", array) for i, sink in enumerate(sinks) for name, array in sink.arrays.items()]
        return {}, Arrays(made)

    def _strategy(self, sites: tuple[str, ...]) -> Strategy:
        return self._runtime.strategy(StrategyContext(self._spec, tuple(sorted(sites))))


def _sound(arrays: Arrays | CodecError) -> Arrays:
    if isinstance(arrays, CodecError):
        raise arrays
    return arrays


def spec_in(options: Mapping[str, Any]) -> RunSpec | None:
    """The spec among a `Load`'s options."""
    return RunSpec.from_json(options["spec"]) if "spec" in options else None
