"""`App`: what a user writes, as one importable object: the run's settings, the client side, and the server side.

The settings become a `RunSpec`, which is plain data and travels in the signed job; the functions stay in the module,
which travels as a bundle. Nothing is called here: `execute.py` calls the client side, `server.py` the server side.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hanse.aggregation import Codec
from hanse.aggregation.codecs import as_data, codecs
from hanse.analytics import Question
from hanse.clients.functions import ClientSide
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, UpdateError
from hanse.core.origin import included, maker_of, name_in
from hanse.core.spec import MAX_ROUNDS, EarlyStop, RunSpec
from hanse.strategies import Strategy
from hanse.strategies.analysis import Analysis
from hanse.strategies.asynchronous import Asynchronous
from hanse.strategies.catalogue import CUSTOM, catalogue
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.groups import Groups, check_above
from hanse.strategies.query import Query
from hanse.strategies.schedule import Rate, Schedule, rate_of
from hanse.strategies.selection import Selection
from hanse.tracking import KINDS, Tracker

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ServerSide:
    """What an app registered for the server; all optional."""

    config: Callable[..., Any] | None = None
    evaluate: Callable[..., Any] | None = None
    strategy: Callable[..., Any] | None = None


class App:
    """A federated program.

    Args:
        strategy: how sites are asked and answers become the model; FedAvg by default, and Query for an app that
            has only `@app.query`; or a question of `hs.analytics`, which needs no code at the sites. A strategy that is
            not built in runs in the server's worker, like `@app.strategy`.
        rounds: how many; by default 10, and 1 for an app that has only `@app.query`.
        quorum: answers that a phase needs to count; None for all that were asked.
        sample: share of the available sites (0, 1], or their number (int), asked in each round.
        over_select: extra share of sites asked, so that stragglers need not be awaited.
        deadline_s: seconds until a phase closes with what it has.
        grace_s: seconds to wait for the rest once enough answers are there.
        retries: how often a phase that misses its quorum is extended before the job fails.
        evaluate_every: rounds between evaluations at the sites; 0 for none.
        seed: of every random stream of the job.
        stop: `EarlyStop(...)`, or None.
        initial: `"ask"` (one site is asked for initial parameters) or the arrays: `Arrays`, a mapping, a list.
        on_error: `continue` (a failed site is left out if the quorum holds) or `fail`.
        allow_nonfinite: take updates with NaN or infinities.
        min_sites: sites that must be there before round 1; None for the quorum.
        keep_updates: keep every site's updates after the round.
        threads: compute threads in every worker.
        selection: which sites a round asks: `Uniform()`, `ByExamples()`, `PowerOfChoice(...)`, `Balanced()`.
        lr: a number or a `Schedule(...)`, which sites find as `config["lr"]`.
        include: files that the module imports or reads, relative to it; they travel with it.
        groups: `Groups(rounds=3)`: sites are groups, each with an aggregator of its own that does so many rounds for
            one of the server's; see `hanse.strategies.groups`. `@app.config` is then asked for members.
        tracking: where parameters and metrics of every run are to be seen: `hs.tracking.MLflow(uri)`, `File(folder)`, …
            In a simulation that is every site's run and the aggregator's; at a federation the aggregator's, written by
            the program of the person who follows the job. A site's own is its owner's affair (`site.yaml`).
        compression: how updates travel: `Int8()`, `BFloat16()`, `TopK(fraction)`, `RandomK(fraction)`; None for as they
            are.

    Raises:
        ConfigError: a value that is wrong, by name.

    Example:
        >>> app = App(rounds=3)
        >>> @app.client
        ... def client(site):
        ...     ...
        >>> app.spec().rounds
        3
    """

    def __init__(
        self,
        strategy: "Strategy | Question | None" = None,
        *,
        rounds: int | None = None,
        quorum: int | None = None,
        sample: float = 1.0,
        over_select: float = 0.0,
        deadline_s: float = 3600.0,
        grace_s: float = 0.0,
        retries: int = 2,
        evaluate_every: int = 1,
        seed: int = 0,
        stop: EarlyStop | None = None,
        initial: str | Arrays | Mapping[str, Any] | Sequence[Any] = "ask",
        on_error: str = "continue",
        allow_nonfinite: bool = False,
        min_sites: int | None = None,
        keep_updates: bool = False,
        threads: int = 1,
        selection: Selection | None = None,
        lr: Rate | None = None,
        include: Sequence[str | Path] = (),
        compression: Codec | None = None,
        groups: Groups | None = None,
        tracking: Tracker | None = None,
    ) -> None:
        if isinstance(strategy, Question):
            strategy = Analysis.of(strategy)
        if strategy is not None and not isinstance(strategy, Strategy):
            is_class = isinstance(strategy, type)
            found = strategy.__name__ if is_class else type(strategy).__name__
            hint = f"; write {found}()" if is_class and issubclass(strategy, Strategy) else ""
            raise ConfigError(f"strategy: expected a strategy such as hs.FedAvg(), found {found}{hint}")
        if stop is not None and not isinstance(stop, EarlyStop):
            raise ConfigError(f"stop: expected hs.EarlyStop(metric, ...), found {type(stop).__name__}")
        if compression is not None and type(compression) not in codecs().values():
            hint = " (write it with parentheses)" if isinstance(compression, type) else ""
            found = getattr(compression, "__name__", type(compression).__name__)
            raise ConfigError(
                f"compression: expected hs.Int8(), hs.BFloat16(), hs.TopK(fraction) or "
                f"hs.RandomK(fraction), found {found}{hint}"
            )
        if tracking is not None and type(tracking) not in KINDS.values():
            raise ConfigError(
                f"tracking: expected hs.tracking.MLflow(uri), hs.tracking.File(folder), hs.tracking.TensorBoard(…) "
                f"or hs.tracking.SageMaker(), found {type(tracking).__name__}"
            )
        _check_groups(groups, strategy, 10 if rounds is None else rounds)
        self.given_strategy = strategy
        self.groups = groups
        self.compression = compression
        self.tracking = tracking
        self._selection = selection
        _check_together(strategy, selection, compression)
        self.given_arrays = _initial_arrays(initial)
        """The initial model as it was given; `initial_arrays` is what of it, and beside it, travels."""
        self.initial_arrays = self.given_arrays
        self.include = included(include)
        self.client_side = ClientSide()
        self.server_side = ServerSide()
        self._given_rounds = rounds
        self._original: App | None = None
        if strategy is not None and self.initial_arrays is not None:
            self.initial_arrays = strategy.initial(self.initial_arrays)
        name, params = _as_data(FedAvg() if strategy is None else strategy)
        self._spec = RunSpec(
            strategy=name,
            params=params,
            rounds=10 if rounds is None else rounds,
            quorum=quorum,
            sample=sample,
            over_select=over_select,
            deadline_s=deadline_s,
            grace_s=grace_s,
            retries=retries,
            evaluate_every=evaluate_every,
            seed=seed,
            stop=stop,
            initial="ask" if self.initial_arrays is None else "given",
            on_error=on_error,
            allow_nonfinite=allow_nonfinite,
            min_sites=min_sites,
            keep_updates=keep_updates,
            threads=threads,
            compression={} if compression is None else as_data(compression),
            selection=None if selection is None else selection.to_json(),
            lr=None if lr is None else _schedule(lr),
        )
        self.module_globals: dict[str, Any] = maker_of(__file__)
        """Namespace of the module that made the app; see `loader.source_of`."""

    @property
    def has_part_elsewhere(self) -> bool:
        """Whether sites do another part than the app in the module says: a variant whose strategy is not built in."""
        if self._original is None or self._spec.strategy != CUSTOM:
            return False
        both = (self.given_strategy, self._original.given_strategy)
        return any(strategy is not None and strategy.has_client_part for strategy in both)

    def variant(self, *, strategy: Strategy | None = None, seed: int | None = None, rounds: int | None = None) -> "App":
        """The same app with another strategy, seed or number of rounds; for comparing.

        Raises:
            ConfigError: a value that is wrong, or `@app.strategy` beside `strategy`.
        """
        if strategy is not None and self.server_side.strategy is not None:
            raise ConfigError("app: found both a strategy to vary and @app.strategy; keep one")
        twin = copy.copy(self)
        twin._original = self._original or self
        changed: dict[str, Any] = {} if seed is None else {"seed": seed}
        if rounds is not None:
            twin._given_rounds = changed["rounds"] = rounds
        if strategy is not None:
            _check_together(strategy, self._selection, self.compression)
            _check_groups(self.groups, strategy, twin._given_rounds or 10)
            twin.given_strategy = strategy
            twin.initial_arrays = None if self.given_arrays is None else strategy.initial(self.given_arrays)
            changed["strategy"], changed["params"] = _as_data(strategy)
        twin._spec = replace(self._spec, **changed)
        return twin

    # ---- the client side ----

    def client(self, function: F) -> F:
        """Register `f(site) -> client`: `hs.sklearn(...)`, `hs.torch(...)` or an object with Flower's three methods.

        Called once per worker, at the site.
        """
        return self._register_client("client", function)

    def train(self, function: F) -> F:
        """Register `f(arrays, config, site) -> (arrays, num_examples, metrics)`."""
        return self._register_client("train", function)

    def evaluate(self, function: F) -> F:
        """Register `f(arrays, config, site) -> (num_examples, metrics)`."""
        return self._register_client("evaluate", function)

    def parameters(self, function: F) -> F:
        """Register `f(site) -> arrays`, the initial parameters; one site is asked."""
        return self._register_client("parameters", function)

    def query(self, function: F) -> F:
        """Register `f(config, site) -> metrics`, or `(num_examples, metrics)`, or `(arrays, num_examples, metrics)`.

        It answers a question without a model, and may stand beside either style.
        """
        return self._register_client("query", function)

    # ---- the server side ----

    def config(self, function: F) -> F:
        """Register `f(round, site) -> dict`: what a site's code gets as `config`, besides `round`."""
        return self._register_server("config", function)

    def evaluate_on_server(self, function: F) -> F:
        """Register `f(arrays, round) -> metrics`, called with the new model after each round.

        A third argument, `f(arrays, round, load)`, gives data of the server's own: `load("test")`, as its operator
        declared them in `server.yaml`, or as `hs.simulate(server={"test": …})` has them.
        """
        return self._register_server("evaluate", function)

    def strategy(self, function: F) -> F:
        """Register `f(ctx) -> Strategy`, called once per server worker with a `StrategyContext`."""
        if self.given_strategy is not None:
            raise ConfigError("app: found both hs.App(strategy) and @app.strategy; keep one")
        return self._register_server("strategy", function)

    # ---- as plain data ----

    def spec(self) -> RunSpec:
        """The run as plain data.

        Raises:
            ConfigError: the app has no client, or bare functions that lack one they need.
        """
        side, server = self.client_side, self.server_side
        if isinstance(self.given_strategy, Analysis):
            return self._analysis_spec()
        if side.client is None and side.train is None and side.query is None:
            raise ConfigError("app: found no client; register one with @app.client, or functions with @app.train")
        trains = side.client is not None or side.train is not None
        if trains and side.client is None and side.parameters is None and self.initial_arrays is None:
            raise ConfigError(
                "app: @app.train needs initial parameters; give hs.App(initial=arrays) or register @app.parameters"
            )
        spec = self._spec
        if side.client is None and side.evaluate is None:
            spec = replace(spec, evaluate_every=0)
        if server.strategy is not None:
            spec = replace(spec, strategy=CUSTOM, params={})
        if self.groups is not None:
            return self._groups_spec(spec, trains)
        if not trains:
            spec = self._query_spec(spec)
        elif self.given_strategy is not None and self.given_strategy.stepwise:
            spec = replace(spec, initial="none")
        return replace(
            spec,
            server_config=server.config is not None,
            server_evaluate=server.evaluate is not None,
        )

    def _groups_spec(self, spec: RunSpec, trains: bool) -> RunSpec:
        """Of an app whose sites are groups: its configuration is asked for at their aggregators."""
        assert self.groups is not None
        if not trains:
            raise ConfigError("groups: expected an app that trains, found none of @app.client and @app.train")
        if self.server_side.strategy is not None:
            raise ConfigError("groups: expected a built-in strategy, found @app.strategy; leave one out")
        asked = {"config": True} if self.server_side.config is not None else {}
        groups = {**self.groups.to_json(), **asked}
        return replace(spec, groups=groups, server_evaluate=self.server_side.evaluate is not None)

    def _analysis_spec(self) -> RunSpec:
        """Of an app that asks a question of `hs.analytics`: one round, no model, no code of its own."""
        if self.client_side != ClientSide() or self.server_side != ServerSide():
            raise ConfigError(
                "app: expected no functions beside a question of hs.analytics, found some; write two apps"
            )
        if self.initial_arrays is not None or self._given_rounds not in (None, 1):
            raise ConfigError(
                "app: expected neither initial nor rounds with a question of hs.analytics; leave them out"
            )
        return replace(self._spec, rounds=1, evaluate_every=0, initial="none")

    def _query_spec(self, spec: RunSpec) -> RunSpec:
        """Of an app that has only `@app.query`."""
        if spec.strategy != CUSTOM:
            query = Query() if self.given_strategy is None else self.given_strategy
            if not isinstance(query, Query):
                raise ConfigError(
                    f"app: found hs.{type(query).__name__}(...), which trains, and only @app.query; leave the strategy "
                    "out, or write @app.client or @app.train"
                )
            if self.compression is not None:
                raise ConfigError("compression: expected none, since @app.query answers no deltas; leave it out")
            if self.initial_arrays is not None:
                raise ConfigError("initial: expected none, since @app.query needs no model; leave it out")
            spec = replace(spec, strategy=query.name, params=query.params())
        rounds = 1 if self._given_rounds is None else spec.rounds
        return replace(spec, rounds=rounds, initial="none" if self.initial_arrays is None else "given")

    @property
    def name_in_module(self) -> str:
        """The name under which its module holds this app, or the one that it is a variant of.

        Raises:
            ConfigError: the module holds it under no name.
        """
        return name_in(self.module_globals, self._original or self, "hs.App")

    def __repr__(self) -> str:
        return f"App({self._spec.strategy}, rounds={self._spec.rounds})"

    def _register_client(self, role: str, function: F) -> F:
        _check_function(f"@app.{role}", function)
        side = self.client_side
        _check_free(f"@app.{role}", getattr(side, role))
        bare = [name for name in ("train", "evaluate", "parameters") if getattr(side, name) is not None]
        clash = bare if role == "client" else ["client"] if side.client is not None and role != "query" else []
        if clash:
            raise ConfigError(
                f"app: found both @app.{clash[0]} and @app.{role}; write either one @app.client or bare functions"
            )
        self.client_side = replace(side, **{role: function})
        return function

    def _register_server(self, role: str, function: F) -> F:
        shown = "@app.evaluate_on_server" if role == "evaluate" else f"@app.{role}"
        _check_function(shown, function)
        _check_free(shown, getattr(self.server_side, role))
        self.server_side = replace(self.server_side, **{role: function})
        return function


def _check_function(shown: str, function: object) -> None:
    if not callable(function):
        raise ConfigError(f"{shown}: expected a function below it, found {type(function).__name__}")


def _check_free(shown: str, present: object) -> None:
    if present is not None:
        raise ConfigError(f"app: found {shown} twice; keep one")


def _check_together(strategy: Strategy | None, selection: Selection | None, compression: Codec | None) -> None:
    """Refuse what cannot be had at once.

    Raises:
        ConfigError: which two.
    """
    if selection is not None and not isinstance(selection, Selection):
        raise ConfigError(f"selection: expected such as hs.PowerOfChoice(10), found {type(selection).__name__}")
    waits_for_nobody = isinstance(strategy, Asynchronous)
    if selection is not None and waits_for_nobody and selection.num_candidates(1):
        raise ConfigError(
            f"selection: {type(selection).__name__} asks candidates first, and hs.{type(strategy).__name__} waits "
            "for nobody; take another selection or strategy"
        )
    if compression is not None and strategy is not None and not strategy.can_compress:
        raise ConfigError(
            f"compression: hs.{type(strategy).__name__} folds models that began from earlier ones, and what is "
            "compressed is a change; take hs.FedBuff, which folds changes, or leave compression out"
        )


def _check_groups(groups: Groups | None, strategy: Strategy | None, rounds: int) -> None:
    """Refuse what groups cannot do.

    Raises:
        ConfigError: by name.
    """
    if groups is None:
        return
    if not isinstance(groups, Groups):
        raise ConfigError(f"groups: expected hs.Groups(rounds=...), found {type(groups).__name__}")
    if rounds * groups.rounds > MAX_ROUNDS:
        raise ConfigError(f"groups: expected at most {MAX_ROUNDS} rounds of members, found {rounds * groups.rounds}")
    if strategy is not None:
        check_above(strategy)


def _as_data(strategy: Strategy) -> tuple[str, dict[str, Any]]:
    if catalogue().get(strategy.name) is type(strategy):
        return strategy.name, strategy.params()
    return CUSTOM, {}


def _schedule(lr: Any) -> dict[str, Any]:
    rate = rate_of("lr", lr)
    return asdict(rate if isinstance(rate, Schedule) else Schedule(rate))


def _initial_arrays(initial: Any) -> Arrays | None:
    if isinstance(initial, str):
        if initial != "ask":
            raise ConfigError(f"initial: expected 'ask' or arrays, found {initial[:60]!r}")
        return None
    try:
        if isinstance(initial, Mapping):
            arrays = initial if isinstance(initial, Arrays) else Arrays(initial)
        elif isinstance(initial, list | tuple):
            arrays = Arrays.from_list(initial)
        else:
            raise ConfigError(
                f"initial: expected 'ask', hs.Arrays, a mapping or a list of arrays, found {type(initial).__name__}"
            )
    except UpdateError as error:
        raise ConfigError(f"initial: {error}") from None
    if not arrays:
        raise ConfigError("initial: expected at least one array, found none")
    return arrays
