"""What every tracker's settings have in common: checked when they are made; and read from a YAML file's `tracking:`."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError
from hanse.tracking.records import Plain, check_params
from hanse.tracking.tracker import Tracker

PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")


@dataclass(frozen=True, slots=True)
class InFolder:
    """The settings of a tracker that writes files.

    Args:
        folder: where; made if it is not there.
        prefix: the folder below it, and the beginning of every run's name.
        params: further parameters of every run.
    """

    folder: str
    prefix: str = "hanse"
    params: Mapping[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked(self, "folder")

    @property
    def path(self) -> Path:
        """The folder, wherever the process goes."""
        return Path(self.folder).absolute()


def checked(tracker: Any, *texts: str) -> None:
    """Refuse a tracker whose prefix, parameters or other texts cannot be.

    Raises:
        ConfigError: which setting, what was expected.
    """
    what = f"tracking.{type(tracker).__name__}"
    if not isinstance(tracker.prefix, str) or PREFIX.fullmatch(tracker.prefix) is None:
        raise ConfigError(
            f"{what}: prefix: expected 1 to 48 letters, digits, '.', '-' and '_', found {str(tracker.prefix)[:60]!r}"
        )
    if not isinstance(tracker.params, Mapping):
        raise ConfigError(f"{what}: params: expected names with values, found {type(tracker.params).__name__}")
    object.__setattr__(tracker, "params", check_params(tracker.params, f"{what}: params"))
    for name in texts:
        value = getattr(tracker, name)
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{what}: {name}: expected a text, found {value!r}")


def tracker_from(value: Any, where: str) -> Tracker:
    """The tracker that a file's `tracking:` declares: `{kind: mlflow, uri: …, prefix: …, params: {…}}`.

    Raises:
        ConfigError: an unknown kind or setting, or a value that cannot be; begins with `where`.
    """
    from hanse.tracking import KINDS  # the room's door, which imports this file

    kinds = ", ".join(KINDS)
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ConfigError(f"{where}: expected a mapping with 'kind', one of {kinds}")
    made = KINDS.get(value["kind"])
    if made is None:
        raise ConfigError(f"{where}: kind: expected one of {kinds}; found {value['kind'][:60]!r}")
    known = [spec.name for spec in dataclasses.fields(made)]
    for name in value:
        if name != "kind" and name not in known:
            raise ConfigError(f"{where}: {str(name)[:60]!r} is not a setting; known are {', '.join(['kind', *known])}")
    try:
        tracker: Tracker = made(**{name: item for name, item in value.items() if name != "kind"})
        return tracker
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError:
        needed = [spec.name for spec in dataclasses.fields(made) if spec.default is spec.default_factory]
        raise ConfigError(f"{where}: expected {', '.join(needed)}, found it missing") from None


def declared(tracker: Any) -> dict[str, Any]:
    """What a file's `tracking:` says of a tracker; `tracker_from` reads it."""
    from hanse.tracking import KINDS  # the room's door, which imports this file

    kind = next(word for word, made in KINDS.items() if type(tracker) is made)
    values = {spec.name: getattr(tracker, spec.name) for spec in dataclasses.fields(tracker)}
    return {"kind": kind, **values, "params": dict(values["params"])}


def file_name(text: str) -> str:
    """`text` as the name of a file."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)
