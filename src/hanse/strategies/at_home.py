"""Arrays that stay at home: those whose names match a pattern are each site's own, and never travel.

What FedBN, FedPer, FedRep and LG-FedAvg share; they differ in which arrays, and in how a site trains them. The site's
half is in `clients/personal.py`: it puts its own arrays beside the received ones before user code runs, and takes
them out of the answer afterwards. At first they are as in `hs.App(initial=...)`, or as the site's own client makes
them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.strategies.strategy import Strategy


@dataclass(frozen=True)
class AtHome(Strategy):
    """A strategy for the arrays that travel. Mix it in before any other: `class Mine(hs.AtHome, hs.FedAdam): ...`.

    Args:
        home: patterns of names, as in a shell, with commas between them: `"head.*"`, `"*.bn1.*, *.bn2.*"`.

    Raises:
        ConfigError: no pattern. From `initial`: no array matches, or all of them do.
    """

    home: str = ""

    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super_check = getattr(super(), "__post_init__", None)
        if super_check is not None:
            super_check()
        if not patterns_of(self.home):
            raise ConfigError(
                f"{self.name}.home: expected patterns of names such as 'head.*', found {self.home!r}"[:200]
            )

    def stays(self, name: str) -> bool:
        """Whether the array of this name stays at home."""
        return any(fnmatchcase(name, pattern) for pattern in patterns_of(self.home))

    def initial(self, arrays: Arrays) -> Arrays:
        """Those that travel."""
        staying = [name for name in arrays if self.stays(name)]
        if not staying or len(staying) == len(arrays):
            found = "none" if not staying else "all"
            raise ConfigError(
                f"{self.name}.home: expected some arrays to match {self.home[:60]!r}, found {found} of {_shown(arrays)}"
            )
        return super().initial(Arrays((name, array) for name, array in arrays.items() if not self.stays(name)))


def patterns_of(home: str) -> list[str]:
    """The single patterns."""
    return [pattern.strip() for pattern in str(home or "").split(",") if pattern.strip()]


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
