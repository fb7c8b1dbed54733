"""`Runtime`: execute one task with an app, and turn what its code answers into a reply, or into a named failure.

This is the one place where seeds are set, answers are checked against the model they started from, values become
deltas, deltas are compressed, and exceptions become replies. It sends nothing and stores nothing: the worker encodes
the arrays, and the site keeps the state together with the reply.

Deltas are `new − model` in the array's own dtype: one correctly rounded subtraction (for float16 and bfloat16
numpy computes it in float32, which rounds the same; Figueroa, "When is double rounding innocuous?", 1995), and
exact where both are within a factor of two (Sterbenz). Computing in float64 first would give the same bits.

Memory: the model is expected to be a view of a file (no anonymous memory). A worker, which encodes the answer before
it executes again, takes it as `lend`ed: then nothing is copied, and the answer may share memory with the client's own
arrays. Otherwise it is copied. A delta is made array by array.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hanse.clients.analysis import AnalysisClient
from hanse.clients.app import App
from hanse.clients.client import Answer, Client, arrays_of
from hanse.clients.compressing import compressed
from hanse.clients.failures import SHOWN, SITES_LOG, OnFailure, failure_of, note_failure
from hanse.clients.fingerprint import fingerprint
from hanse.clients.functions import FunctionClient
from hanse.clients.numpy_client import METHODS, NumPyAdapter, is_numpy_client
from hanse.clients.parts import with_part
from hanse.clients.site import Site, stream_of
from hanse.clients.state import decode_state, encode_state
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import CodecError, TaskError
from hanse.core.quickly import maker
from hanse.core.records import MAX_ENTRIES, Metrics, Reply, Scalar, Task, Value
from hanse.core.seeds import is_seeding, key_of, seed_globals
from hanse.core.tracked import Tracked
from hanse.strategies.analysis import Analysis

CALLS = ("parameters", "train", "evaluate", "query", "step")
MAX_LIST = 65_536
BLOCK = 1 << 18
"""Elements checked for being finite at a time."""
_reply = maker(Reply)
_EXACT = frozenset({np.dtype(np.bool_), *(np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8))})
"""Dtypes without NaN and infinity."""


class Outcome(NamedTuple):
    """What a task came to.

    Args:
        reply: without `update`, which the worker adds when it has encoded `arrays`.
        arrays: values or delta by `reply.update_kind`; None where there are none or the task failed.
        state: the site's state after the task; after a failure the one before it, or None where that was a view.
        tracked: what the site's code told its own tracker.
    """

    reply: Reply
    arrays: Arrays | None
    state: bytes | None
    tracked: tuple[Tracked, ...] = ()


class Runtime:
    """Executes tasks with one app at one site; built once per worker.

    Args:
        site_name: the site.
        load: gives a data set by name; raises what it likes.
        log: where the app's `site.log` and the tracebacks of its failures go; never leaves the site.
        failed: told of what user code raised, instead of the log, where the app's author may see it.
    """

    def __init__(
        self,
        app: App,
        *,
        site_name: str,
        load: Callable[[str], Any],
        log: Callable[[str], None],
        failed: OnFailure | None = None,
    ) -> None:
        self.app = app
        self.site = Site(site_name, load, log)
        self._log = log
        self._failed = failed
        self._client: Client | None = None

    def execute(
        self,
        task: Task,
        model: Arrays | None,
        state: bytes | memoryview | None,
        *,
        private: Arrays | None = None,
        lend: bool = False,
    ) -> Outcome:
        """Do what `task` asks.

        Args:
            model: the arrays that the task names, read-only or not; never changed here.
            state: what `Outcome.state` was after this site's last task of the job; None at first.
            private: the same content as `model` in memory that user code may change (a copy-on-write map of the
                same file). Without it user code gets a copy.
            lend: the caller is done with `Outcome.arrays` before it executes again; they are not copied then, and may
                be the client's own.

        Returns:
            A reply in every case that user code can bring about; only `KeyboardInterrupt` passes through.
        """
        started = time.perf_counter()
        trains = task.call == "train" and model is not None
        try:
            answer, kept = self._call(task, model, state, private)
            _, num_examples, metrics = answer
            if type(num_examples) is not int or not 0 <= num_examples < 2**53:
                num_examples = num_examples_of(num_examples, task.call)
            metrics = metrics_of(metrics, task.call) if metrics or type(metrics) is not dict else {}
            arrays = self._checked(task, model, answer, kept, lend=lend)
            # an empty state after an empty one stays None, so that stateless sites store nothing
            after = _encoded(kept) if kept or state is not None else None
        except (Exception, SystemExit) as error:
            rest = SITES_LOG if self._failed is None else SHOWN
            kind, message = failure_of(error, _directory(self.app), rest=rest)
            if not isinstance(error, TaskError) or str(error) != message:
                note_failure(error, task.id, self.site.name, message, self._log, self._failed)
            failed = Reply.failed(task.id, self.site.name, kind, message)
            return Outcome(replace(failed, seconds=time.perf_counter() - started), None, _bytes_of(state))
        reply = _reply(
            task.id,
            self.site.name,
            "",
            "",
            num_examples,
            metrics,
            None,
            task.update_kind if trains else "values",
            task.model.id if trains and task.model is not None else "",
            b"",
            time.perf_counter() - started,
            fingerprint(),
        )
        return Outcome(reply, arrays, after, self.site.tracked)

    def turn_to(self, site_name: str, load: Callable[[str], Any]) -> None:
        """Be the runtime of another site from now on, where clients are alike; data are loaded anew."""
        self.site = Site(site_name, load, self._log)

    def _call(
        self, task: Task, model: Arrays | None, state: bytes | memoryview | None, private: Arrays | None
    ) -> tuple[Answer, dict[str, Any]]:
        call, site = task.call, self.site
        if call not in CALLS:
            raise TaskError("refused", f"call: expected one of {', '.join(CALLS)}; found {call[:60]!r}")
        client = self._client if self._client is not None else self.client(task.seed)
        kept = {} if state is None else decode_state(state)
        site.begin(task, kept)
        if client.draws(call):
            seed_globals(site.key("globals"))
        config: dict[str, Any] = dict(task.config)
        for name, value in config.items():  # in a simulation other sites are given the very same lists
            if type(value) is list:
                config[name] = value.copy()
        if call == "parameters":
            answer = Answer(client.parameters(config, site), 0, {})
        elif call == "query":
            answer = client.query(config, site)
        elif call == "step":
            answer = client.step(model, config, site)
        else:
            if model is None:
                raise TaskError("refused", f"{call} needs a model, and the task names none")
            arrays = model if not client.changes_arrays else model.copy() if private is None else private
            answer = client.train(arrays, config, site) if call == "train" else client.evaluate(arrays, config, site)
        return answer, kept

    @property
    def has_client(self) -> bool:
        """Whether `client` has been made."""
        return self._client is not None

    def client(self, seed: int) -> Client:
        """The app's client at this site, made when it is first asked for; whatever making it raises passes through."""
        if self._client is None:
            self.site.begin_setup(seed)
            side = self.app.client_side
            runs = side.client is not None or side.parameters is not None  # other bare functions are not called yet
            if runs and is_seeding():
                seed_globals(key_of(seed, phase=self.site.phase, site=self.site.name, purpose="globals"))
            self._client = client_of(self.app, self.site)
        return self._client

    def _checked(
        self, task: Task, model: Arrays | None, answer: Answer, kept: dict[str, Any], *, lend: bool
    ) -> Arrays | None:
        if task.call == "evaluate" or (task.call == "query" and answer.arrays is None):
            return None
        arrays = answer.arrays
        if not isinstance(arrays, Arrays):
            names = list(model) if task.call == "train" and model is not None else None
            arrays = arrays_of(arrays, task.call, names)
        is_own = lend
        if task.call == "train" and model is not None:
            if not arrays.fits(model.layout):
                difference = model.layout.difference(arrays.layout)
                raise TaskError("bad_reply", f"train: arrays differ from the model's: {difference}")
            if task.update_kind == "delta":
                arrays, is_own = delta_of(model, arrays), True
        if not task.allow_nonfinite:
            _check_finite(arrays, task.call)
        codec = self.app.compression
        if codec is not None and task.call == "train" and model is not None and task.update_kind == "delta":
            arrays, is_own = compressed(arrays, codec, kept, stream_of(task, self.site.name, "compression")), True
        return arrays if is_own else arrays.copy()


def are_alike(app: App) -> bool:
    """Whether the app's clients are the same at every site: bare functions, no part of a strategy around them."""
    return app.client_side.client is None and (app.given_strategy is None or not app.given_strategy.has_client_part)


def client_of(app: App, site: Site) -> Client:
    """Make the app's client, whatever its style.

    Raises:
        TaskError: `bad_reply`, `@app.client` returned something that is no client.
    """
    if isinstance(app.given_strategy, Analysis):
        return AnalysisClient(app.given_strategy.asked)
    return with_part(user_client_of(app, site), app.given_strategy, site, app.given_arrays)


def user_client_of(app: App, site: Site) -> Client:
    """As `client_of`, without the strategy's part."""
    side = app.client_side
    if side.client is None:
        return FunctionClient(side)
    made = side.client(site)
    if isinstance(made, Client):
        client = made
    elif is_numpy_client(made):
        client = NumPyAdapter(made)
    else:
        raise TaskError(
            "bad_reply",
            "expected @app.client to return hs.sklearn(...), hs.torch(...) or an object with "
            f"{', '.join(METHODS)}; found {type(made).__name__}",
        )
    return client if side.query is None else FunctionClient(side, client)


def num_examples_of(value: Any, call: str) -> int:
    """A whole number from 0 to 2^53 − 1.

    Raises:
        TaskError: `bad_reply`.
    """
    if type(value) is int and 0 <= value < 2**53:
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < 2**53:
        return int(value)
    found = f"{value!r}" if isinstance(value, int | float | np.number) else type(value).__name__
    raise TaskError("bad_reply", f"{call}: expected num_examples to be a whole number ≥ 0, found {found[:60]}")


def metrics_of(value: Any, call: str, *, what: str = "metrics") -> Metrics:
    """Metrics as plain scalars and lists of scalars; numpy's (and torch's) zero-dimensional values are converted.

    Args:
        value: what user code returned.
        call: who returned it, for messages.
        what: what it is, for messages (`config` has the same form).

    Raises:
        TaskError: `bad_reply`.
    """
    if type(value) is dict and not value:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_ENTRIES:
        found = f"{len(value)} entries" if isinstance(value, Mapping) else type(value).__name__
        raise TaskError("bad_reply", f"{call}: expected {what} to be a dict of at most {MAX_ENTRIES}, found {found}")
    plain: dict[str, Value] = {}
    for name, item in value.items():
        if not isinstance(name, str) or len(name) > 200:
            raise TaskError("bad_reply", f"{call}: expected {what} to have short names, found {type(name).__name__}")
        try:
            plain[name] = _plain(item)
        except TypeError:
            raise TaskError(
                "bad_reply",
                f"{call}: expected {name[:60]!r} in {what} to be a number, bool, str or a list of these, "
                f"found {type(item).__name__}",
            ) from None
    return plain


def _plain(value: Any) -> Value:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = list(value)
    if isinstance(value, list | tuple) and len(value) <= MAX_LIST:
        return [_scalar(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Scalar:
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    whole = isinstance(value, int) and -(2**63) <= value < 2**63
    if whole or isinstance(value, bool | float | str | bytes):
        plain: Scalar = value
        return plain
    raise TypeError


def delta_of(model: Arrays, new: Arrays) -> Arrays:
    """`new − model`, array by array, in each array's dtype.

    Raises:
        TaskError: `bad_reply`, an integer difference that its dtype cannot hold.
    """
    return Arrays((name, _difference(name, new[name], base)) for name, base in model.items())


def _difference(name: str, new: Array, base: Array) -> Array:
    if new.dtype == np.bool_:
        raise TaskError(
            "bad_reply", f"train: array {name[:60]!r} is bool, which cannot be averaged; use uint8 or float32"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and refused below
        delta: Array = np.asarray(new - base, dtype=base.dtype)
    if base.dtype.kind in "iu" and bool(((new < base) != (delta < 0)).any()):
        raise TaskError(
            "bad_reply",
            f"train: the change of array {name[:60]!r} does not fit {base.dtype}; use a signed, wider dtype",
        )
    return delta


def _encoded(state: dict[str, Any]) -> bytes:
    try:
        return encode_state(state)
    except CodecError as error:
        raise TaskError("bad_reply", str(error)) from None


def _bytes_of(state: bytes | memoryview | None) -> bytes | None:
    """A view is of a file that its owner still has."""
    return state if isinstance(state, bytes) else None


def _check_finite(arrays: Arrays, call: str) -> None:
    for block in arrays.flat():
        if block.dtype not in _EXACT and not all_finite(block):
            break
    else:
        return
    name = next(name for name, array in arrays.items() if array.dtype not in _EXACT and not all_finite(array))
    raise TaskError(
        "bad_reply",
        f"{call}: array {name[:60]!r} holds NaN or infinity; lower the learning rate, or set "
        "hs.App(allow_nonfinite=True)",
    )


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite; in blocks, so that no mask as long as the model is made.

    A sum of squares is finite only if every term is, and costs half of `isfinite`; if it overflows, that is asked.
    """
    flat = array if array.ndim == 1 else array.reshape(-1)
    summable = flat.dtype in _SUMMABLE
    if summable and flat.size <= BLOCK:
        return math.isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        if not (summable and math.isfinite(np.dot(block, block))) and not np.isfinite(block).all():
            return False
    return True


_SUMMABLE = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


def _directory(app: App) -> Path | None:
    file = app.module_globals.get("__file__")
    return Path(file).parent if isinstance(file, str) else None


__all__ = ["CALLS", "Outcome", "Runtime", "client_of"]
