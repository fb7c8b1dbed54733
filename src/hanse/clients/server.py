"""`ServerRuntime`: the app's server side (`@app.config`, `@app.evaluate_on_server`, `@app.strategy`), checked.

It runs in a worker process of the server, never in the server itself. Every call is a pure function of its
arguments: global random state is seeded from them before each, and a call that dies is repeated.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.clients.app import App
from hanse.clients.execute import metrics_of
from hanse.clients.failures import SERVERS_LOG, failure_of
from hanse.core.arrays import Arrays
from hanse.core.errors import NotFoundError, TaskError
from hanse.core.ids import SERVER
from hanse.core.records import Config, Metrics
from hanse.core.seeds import key_of, seed_globals
from hanse.core.spec import RunSpec
from hanse.strategies import Strategy


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What `@app.strategy` may look at.

    Args:
        spec: the run.
        sites: names of the sites that the job may ask, sorted.
    """

    spec: RunSpec
    sites: tuple[str, ...] = ()

    @property
    def num_sites(self) -> int:
        """How many sites the job may ask."""
        return len(self.sites)


class ServerRuntime:
    """Calls an app's server side.

    Args:
        load: gives a data set that the server's operator declared.
        rest: where the whole traceback is, in words.

    Every method raises TaskError: `raised` (type and line of the app, no text) or `bad_reply`. The original
    exception is its cause (`__cause__`), for the server's own log.
    """

    def __init__(self, app: App, load: Callable[[str], Any] | None = None, *, rest: str = SERVERS_LOG) -> None:
        self.app = app
        self._rest = rest
        self._load = _none_held if load is None else load
        self._held: dict[str, Any] = {}
        self._round = self._loadings = 0
        self._seed = app.spec().seed
        self._strategy: Strategy | None = None

    def config(self, round_: int, site: str) -> Config:
        """What `site` gets as config in this round, besides `round`; empty without `@app.config`."""
        function = self.app.server_side.config
        if function is None:
            return {}
        made = self._call(function, (round_, site), round_, "config", site)
        return metrics_of(made, "@app.config", what="config")

    def evaluate(self, arrays: Arrays, round_: int) -> Metrics:
        """Metrics of the model after a round; empty without `@app.evaluate_on_server`."""
        function = self.app.server_side.evaluate
        if function is None:
            return {}
        given = self.app.given_strategy
        shown = arrays if given is None else given.shown(arrays)
        loads = (self.load,) if takes_load(function) else ()
        self._round, self._loadings = round_, 0
        made = self._call(function, (shown, round_, *loads), round_, "evaluate", SERVER)
        return metrics_of(made, "@app.evaluate_on_server")

    def load(self, dataset: str) -> Any:
        """A data set that the server holds; read once per worker. Random state is seeded anew, as by `Site.load`."""
        if dataset not in self._held:
            self._held[dataset] = self._load(dataset)
        self._loadings += 1
        seed_globals(key_of(self._seed, round_=self._round, phase="evaluate", purpose=f"loaded {self._loadings}"))
        return self._held[dataset]

    def strategy(self, context: StrategyContext) -> Strategy:
        """The app's own strategy; the function is called once."""
        if self._strategy is None:
            function = self.app.server_side.strategy
            made = (
                self.app.given_strategy if function is None else self._call(function, (context,), 0, "strategy", SERVER)
            )
            if not isinstance(made, Strategy):
                raise TaskError("bad_reply", f"@app.strategy: expected a Strategy, found {type(made).__name__}")
            if made.has_client_part and made is not self.app.given_strategy:
                name = type(made).__name__
                raise TaskError(
                    "bad_reply", f"@app.strategy: {name} has a part at the sites; give it to hs.App({name}())"
                )
            self._strategy = made
        return self._strategy

    def _call(self, function: Any, arguments: tuple[Any, ...], round_: int, phase: str, site: str) -> Any:
        seed_globals(key_of(self._seed, round_=round_, phase=phase, site=site, purpose="server"))
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            file = self.app.module_globals.get("__file__")
            kind, message = failure_of(error, Path(file).parent if isinstance(file, str) else None, rest=self._rest)
            raise TaskError(kind, f"{phase} on the server: {message}") from error


def takes_load(function: Callable[..., Any]) -> bool:
    """Whether `@app.evaluate_on_server` wants data of the server's, as its third argument."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in inspect.signature(function).parameters.values() if p.kind in kinds and p.default is p.empty]
    return len(needed) > 2


def _none_held(dataset: str) -> Any:
    raise NotFoundError(
        f"data set {dataset[:60]!r}: the server holds none of this name; declare it in server.yaml, or give "
        "hs.simulate(server={...})"
    )
