"""From a `Load` to what a worker runs: the app's client side, or its server side."""

import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from hanse.channels.app import RolePlay
from hanse.channels.secret import lasting_secret
from hanse.channels.spending import FileSpending
from hanse.channels.stream import StreamChannel
from hanse.clients.app import App
from hanse.clients.execute import Runtime as ClientRuntime
from hanse.clients.loader import load_app
from hanse.clients.role_task import CALL
from hanse.clients.roles import RoleRuntime, kept_outputs, play_to_end
from hanse.core.arrays import Arrays
from hanse.core.codec import canonical_json, decode
from hanse.core.errors import ConfigError, TaskError
from hanse.core.records import Task
from hanse.core.spec import RunSpec
from hanse.strategies import named
from hanse.workers.datasets import Datasets
from hanse.workers.execute import Given, Outcome, Runtime
from hanse.workers.load import OUTPUTS, SECRET, SPENT, Load


def open_runtime(load: Load) -> Runtime:
    """Import the app and make what executes it.

    Raises:
        ConfigError: the bundle has no such app. Exception: whatever importing the app raises.
    """
    app = _asked(load) or load_app(load.bundle, load.entry, load.object)
    datasets = Datasets(load.datasets, declared=load.declared, base=load.base)
    if isinstance(app, RolePlay) != ("protocol" in load.options):
        raise ConfigError("app: expected an hs.RoleApp in a job with roles and only there, found another")
    if isinstance(app, RolePlay):
        app = app.cast(load.options["protocol"]["roles"])
        runtime = RoleRuntime(
            app,
            site_name=load.site,
            load=datasets.load,
            log=_log,
            outputs=lambda: _outputs(load.scratch),
            checkpoints=load.checkpoints,
            spending=None if load.spent is None else FileSpending(load.spent / SPENT, load.queries),
            secret=None if load.spent is None else partial(lasting_secret, load.spent / SECRET),
        )
        return RoleSide(runtime, load)
    if load.role == "server":
        # Not above: a site's worker needs none of it, and its launcher starts in half the time.
        from hanse.clients.server import ServerRuntime
        from hanse.workers.server_side import ServerSide, spec_in

        return ServerSide(ServerRuntime(app, datasets.load), spec_in(load.options))
    return ClientSide(ClientRuntime(app, site_name=load.site, load=datasets.load, log=_log))


def _outputs(scratch: Path) -> Arrays:
    """What the agent has put there for a job that names an earlier one."""
    path = scratch / OUTPUTS
    return kept_outputs(decode(path.read_bytes()) if path.exists() else Arrays())


def _asked(load: Load) -> App | None:
    """The app of a question of `hs.analytics`, made of plain data; the bundle is not looked at."""
    if load.role != "client" or "spec" not in load.options:
        return None
    spec = RunSpec.from_json(load.options["spec"])
    return App(named(spec.strategy, spec.params))


class ClientSide:
    """Tasks for a site, as a worker's runtime."""

    def __init__(self, runtime: ClientRuntime) -> None:
        self._runtime = runtime

    def execute(
        self,
        task: Task,
        model: Arrays | None,
        state: bytes | memoryview | None,
        *,
        private: Arrays | None = None,
        channel: socket.socket | None = None,
    ) -> Outcome:
        """Execute one task. Its arrays are written before the next one begins, so they need not be copied."""
        return self._runtime.execute(task, model, state, private=private, lend=True)

    def call(self, name: str, arguments: Any, arrays: Given) -> tuple[Any, Arrays | None]:
        """A client side has no calls."""
        raise TaskError("refused", f"call {name[:40]!r}: this worker executes tasks of a site")


class RoleSide:
    """Roles of a site, as a worker's runtime.

    Raises:
        ConfigError: the app declares another protocol than the job that was signed.
    """

    def __init__(self, runtime: RoleRuntime, load: Load) -> None:
        self._runtime = runtime
        declared = load.options.get("protocol")
        if declared is not None and canonical_json(declared) != canonical_json(runtime.app.protocol.describe()):
            raise ConfigError("app: it declares other messages, guarantees or reveals than the job that was signed")

    def execute(
        self,
        task: Task,
        model: Arrays | None,
        state: bytes | memoryview | None,
        *,
        private: Arrays | None = None,
        channel: socket.socket | None = None,
    ) -> Outcome:
        """Play one role, over the channel that came with the task."""
        if channel is None or task.call != CALL:
            raise TaskError("refused", f"call {task.call[:40]!r}: this app plays roles")
        return play_to_end(self._runtime, task, lambda: StreamChannel(channel))

    def call(self, name: str, arguments: Any, arrays: Given) -> tuple[Any, Arrays | None]:
        """A role has no calls."""
        raise TaskError("refused", f"call {name[:40]!r}: this worker plays roles")


def _log(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a worker's stderr is the site's log
