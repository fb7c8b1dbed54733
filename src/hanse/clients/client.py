"""`Client`: the one shape that every style of user code is brought into before a task is executed with it.

`hs.sklearn` and `hs.torch` return one; an object with Flower's three methods (`numpy_client.py`) and bare functions
(`functions.py`) are wrapped into one. It is not a place for rules: what an answer must look like is checked in
`execute.py`, once for all styles.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from hanse.clients.site import Site
from hanse.core.arrays import Arrays
from hanse.core.errors import TaskError, UpdateError

Config = dict[str, Any]
"""What user code gets as `config`: a plain dict that it may change."""


class Answer(NamedTuple):
    """What user code answered, unchecked.

    Args:
        arrays: `Arrays`, a mapping name → array-like, a sequence of array-likes, or None where there are none.
        num_examples: how many examples the answer stands for.
        metrics: name → scalar or list of scalars.
    """

    arrays: Any
    num_examples: Any
    metrics: Any


class Client:
    """One site's side of the training. Every method gets the task's config and `site`.

    A worker makes one client and uses it for many tasks, and may be replaced between any two of them: whatever must
    survive belongs into `site.state`, not into an attribute.
    """

    changes_arrays: ClassVar[bool] = True
    """Whether `train` or `evaluate` may change the arrays that they are given; without it they get the model itself."""

    def draws(self, call: str) -> bool:
        """Whether a task with this call may draw from global random state, which is seeded for it then.

        User code may, so a client says no only of calls in which none of it runs.
        """
        return True

    def parameters(self, config: Config, site: Site) -> Any:
        """Initial arrays, asked of one site before the first round."""
        raise TaskError("refused", "this client offers no initial parameters; give them with hs.App(initial=arrays)")

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """Train from `arrays`, which may be changed in place, and answer the new values (never the delta)."""
        raise TaskError("refused", "this client cannot train")

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """Evaluate `arrays` on the site's data. A client that has no evaluation answers 0 examples, no metrics."""
        return Answer(None, 0, {})

    def query(self, config: Config, site: Site) -> Answer:
        """Answer a question without a model (federated analytics)."""
        raise TaskError("refused", "this client answers no queries; write one with @app.query")

    def step(self, arrays: Arrays | None, config: Config, site: Site) -> Answer:
        """One phase of a protocol: `arrays` is what is known so far (None at first), the answer has its own layout."""
        raise TaskError("refused", f"this client takes no part in the phase {site.phase!r} of the app's strategy")


def taken_apart(value: Any, count: int, what: str) -> tuple[Any, ...]:
    """Check that user code returned a tuple (or list) of `count` parts.

    Raises:
        TaskError: `bad_reply`, saying what was expected.
    """
    if not isinstance(value, tuple | list) or len(value) != count:
        found = f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
        raise TaskError("bad_reply", f"expected {what}, found {found}")
    return tuple(value)


def with_loss(metrics: Any, loss: Any) -> Any:
    """Metrics with `loss` among them, where both are what they should be (`execute.py` refuses the rest)."""
    return {**metrics, "loss": loss} if isinstance(metrics, Mapping) else metrics


def arrays_of(value: Any, call: str, names: list[str] | None) -> Arrays:
    """Turn what user code returned into `Arrays`; a list takes `names` where they fit in number.

    Raises:
        TaskError: `bad_reply`.
    """
    try:
        if isinstance(value, Arrays):
            return value
        if isinstance(value, Mapping):
            return Arrays(value)
        if isinstance(value, list | tuple):
            if names is not None and len(names) == len(value):
                return Arrays(zip(names, value, strict=True))
            return Arrays.from_list(value)
    except UpdateError as error:
        raise TaskError("bad_reply", f"{call}: {error}") from None
    except (TypeError, ValueError):
        raise TaskError("bad_reply", f"{call}: expected arrays of numbers, found something numpy cannot take") from None
    found = "nothing" if value is None else type(value).__name__
    raise TaskError("bad_reply", f"{call}: expected hs.Arrays, a mapping or a list of arrays, found {found}")
