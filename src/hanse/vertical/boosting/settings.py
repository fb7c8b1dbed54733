"""What all parties of a training must hold alike, and what only the guest decides with."""

import hashlib
import math
from dataclasses import asdict, dataclass

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError

MAX_DEPTH = 10
CIPHERS = ("okamoto-uchiyama", "paillier", "mock")


@dataclass(frozen=True, slots=True)
class Settings:
    """How trees are boosted.

    Attributes:
        num_trees: rounds of boosting; each grows one tree, or one for each class where there are more than two.
        depth: of a tree, 1 to 10.
        learning_rate: η > 0, by which leaves are multiplied.
        reg_lambda: λ ≥ 0, added to the sum of second derivatives.
        min_split_gain: γ ≥ 0, which a split must exceed.
        min_child_weight: the least Σ h of a child.
        min_bin_rows: k: no sum that is told stands for fewer rows of the node, so no child has fewer.
        max_bins: of a column, 2 to 1024.
        top_rate, other_rate: GOSS: the part of rows with the largest |g| that is kept, and the part of all rows that is
            drawn from the others. Both 0 for all rows.
        guest_trees: how many rounds at the start use the guest's columns alone.
        held_out: the part of rows that no tree is grown on and that tell when to stop.
        patience: rounds without an improvement on the rows held out after which training stops; 0 for never.
        cross_validate: in how many folds the number of rounds, at most `num_trees`, and the depth are chosen, before
            trees are grown on all rows; 0 for not at all.
        depths: that cross-validation tries; empty for `depth` alone.
        fold: which fold, from 1, no tree is grown on; 0 but inside cross-validation.
        cipher: `okamoto-uchiyama`, `paillier`, or `mock`, which protects nothing.
        seed: of GOSS and of the rows held out.

    Raises:
        ConfigError: a value out of its range.
    """

    num_trees: int = 50
    depth: int = 4
    learning_rate: float = 0.3
    reg_lambda: float = 1.0
    min_split_gain: float = 0.0
    min_child_weight: float = 1.0
    min_bin_rows: int = 20
    max_bins: int = 32
    top_rate: float = 0.0
    other_rate: float = 0.0
    guest_trees: int = 0
    held_out: float = 0.0
    patience: int = 0
    cross_validate: int = 0
    depths: tuple[int, ...] = ()
    fold: int = 0
    cipher: str = "okamoto-uchiyama"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_trees", 1, 100_000),
            ("depth", 1, MAX_DEPTH),
            ("min_bin_rows", 1, 1 << 26),
            ("max_bins", 2, 1024),
            ("guest_trees", 0, 100_000),
            ("patience", 0, 100_000),
            ("cross_validate", 0, 20),
            ("fold", 0, self.cross_validate if type(self.cross_validate) is int else 0),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r:.40}")
        for name, above, most in (
            ("learning_rate", 0.0, 1e3),
            ("reg_lambda", -1.0, 1e6),
            ("min_split_gain", -1.0, 1e9),
            ("min_child_weight", -1.0, 1e9),
            ("top_rate", -1.0, 1.0),
            ("other_rate", -1.0, 1.0),
            ("held_out", -1.0, 0.9),
        ):
            value = getattr(self, name)
            number = isinstance(value, float | int) and math.isfinite(value)
            if not number or not (value > above if above == 0.0 else value >= 0) or value > most:
                bound = "above 0" if above == 0.0 else "from 0"
                raise ConfigError(f"{name}: expected a number {bound} to {most:g}, found {value!r:.40}")
        if (self.top_rate > 0) != (self.other_rate > 0) or self.top_rate + self.other_rate > 1:
            raise ConfigError("top_rate, other_rate: expected both 0, or both above 0 and at most 1 together")
        if self.other_rate and (1 - self.top_rate) / self.other_rate > 64:
            raise ConfigError("other_rate: expected at least (1 − top_rate) / 64; fewer rows stand for too many")
        if bool(self.patience) != bool(self.held_out):
            raise ConfigError("held_out, patience: expected both, for early stopping, or neither")
        fitting = all(type(depth) is int and 1 <= depth <= MAX_DEPTH for depth in self.depths)
        if not fitting or len(set(self.depths)) != len(self.depths):
            raise ConfigError(f"depths: expected different whole numbers from 1 to {MAX_DEPTH}, found others")
        if (
            self.cross_validate == 1
            or (self.cross_validate and self.held_out)
            or (self.depths and not self.cross_validate)
        ):
            raise ConfigError(
                "cross_validate: expected 2 folds or more, without held_out and patience; depths go with it"
            )
        if self.cipher not in CIPHERS:
            raise ConfigError(f"cipher: expected one of {', '.join(CIPHERS)}, found {self.cipher!r:.40}")

    @property
    def samples(self) -> bool:
        """Whether trees are grown on some rows only."""
        return bool(self.top_rate or self.held_out or self.cross_validate)

    @property
    def tried(self) -> tuple[int, ...]:
        """Depths that cross-validation tries."""
        return self.depths or (self.depth,)

    @property
    def weight_of_others(self) -> float:
        """What the derivatives of GOSS's other rows are multiplied by."""
        return (1 - self.top_rate) / self.other_rate if self.other_rate else 1.0

    def digest(self) -> int:
        """63 bits that differ where two parties' settings differ."""
        whole = {name: float(value) if type(value) is int else value for name, value in asdict(self).items()}
        whole["depths"] = [float(depth) for depth in self.depths]
        return int.from_bytes(hashlib.sha256(canonical_json(whole)).digest()[:8], "little") >> 1
