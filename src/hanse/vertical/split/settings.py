"""How a split network is trained: `Settings`, which every party must hold alike, and the order of the rows.

Rows come in a common order. Each epoch takes them in another one, drawn from the seed alone; batches are cut from it,
as equal as possible, and each batch into `chunks`: while the guest works on one, hosts work on the next (Y. Huang et
al., "GPipe", NeurIPS 2019). Gradients of a batch's chunks are added up before the one step, so chunks change nothing
but the order of additions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import erfc, exp, inf, isfinite, log, sqrt

import numpy as np
import numpy.typing as npt

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError
from hanse.core.seeds import key_of, words

LOSSES = ("cross_entropy", "mse")
OPTIMISERS = ("sgd", "adam")
COMPRESSIONS = ("none", "bfloat16", "int8", "topk")
_WHOLE = {"epochs": (1, 10_000), "batch_rows": (2, 1 << 20), "chunks": (1, 256), "seed": (0, (1 << 63) - 1)}
_REAL = {"learning_rate": 16.0, "momentum": 1.0, "l2": 16.0, "clip_embeddings": 1e9, "noise": 1e6}

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The public part of a training.

    Attributes:
        loss: `cross_entropy` of classes (of two: log loss of one logit) or `mse` of numbers; mean over a batch.
        epochs: passes over the rows.
        batch_rows: rows of a batch; the real ones are as equal as possible and no larger.
        chunks: parts of a batch that are under way at the same time.
        optimiser: `sgd` or `adam`, of PyTorch, one at each party.
        learning_rate: > 0, ≤ 16.
        momentum: 0 ≤ momentum < 1, for `sgd`.
        l2: times the weights is added to the gradient, ≥ 0.
        clip_embeddings: embeddings of hosts are scaled down to this Euclidean norm, row by row; 0: not.
        noise: deviation of the Gaussian noise that hosts add to each number of an embedding, as a multiple of
            `clip_embeddings`; 0: none. See `row_epsilon` for the little that this proves.
        compression: of hosts' embeddings: `none` (float32), `bfloat16`, `int8` (with a scale for each row) or `topk`.
        kept: of `topk`, the share of each row's numbers that travels, 0 < kept ≤ 1.
        seed: of the order of rows, of the networks' first weights and of what they draw, such as dropout.

    Raises:
        ConfigError: a value out of its range.
    """

    loss: str = "cross_entropy"
    epochs: int = 10
    batch_rows: int = 256
    chunks: int = 2
    optimiser: str = "adam"
    learning_rate: float = 0.003
    momentum: float = 0.0
    l2: float = 0.0
    clip_embeddings: float = 0.0
    noise: float = 0.0
    compression: str = "none"
    kept: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("loss", LOSSES), ("optimiser", OPTIMISERS), ("compression", COMPRESSIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r:.40}")
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r:.40}")
        for name, top in _REAL.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not (isfinite(value) and 0 <= value <= top):
                raise ConfigError(f"{name}: expected a number from 0 to {top:g}, found {value!r:.40}")
        if not self.learning_rate or self.momentum == 1 or (self.momentum and self.optimiser == "adam"):
            raise ConfigError("learning_rate: expected above 0; momentum: below 1, and 0 with adam, which has its own")
        if self.noise and not self.clip_embeddings:
            raise ConfigError("noise: expected clip_embeddings above 0 beside it, whose multiple it is; found 0")
        if type(self.kept) not in (int, float) or not 0 < self.kept <= 1:
            raise ConfigError(f"kept: expected a share above 0, at most 1, found {self.kept!r:.40}")

    def digest(self) -> int:
        """63 bits that differ where two parties' settings do."""
        text = canonical_json({k: float(v) if k in (*_REAL, "kept") else v for k, v in asdict(self).items()})
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the training.

    Attributes:
        index: from 0 on.
        epoch: from 0 on.
        chunks: places of the rows of each chunk, in the common order.
        ends_epoch: whether it is the epoch's last.
    """

    index: int
    epoch: int
    chunks: tuple[Places, ...]
    ends_epoch: bool

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return sum(map(len, self.chunks))


def steps(num_rows: int, settings: Settings, done: int = 0) -> Iterator[Step]:
    """All steps behind the first `done` epochs, in order; the same at every party."""
    each = -(-num_rows // settings.batch_rows)
    for epoch in range(done, settings.epochs):
        drawn = words(key_of(settings.seed, round_=epoch, purpose="vertical split rows"), num_rows)
        order = np.argsort(drawn, kind="stable").astype(np.int64)
        for place, batch in enumerate(_cut(order, each)):
            chunks = _cut(batch, min(settings.chunks, len(batch)))
            yield Step(epoch * each + place, epoch, tuple(chunks), place == each - 1)


def _cut(rows: Places, count: int) -> list[Places]:
    ends = [len(rows) * at // count for at in range(count + 1)]
    return [rows[start:stop] for start, stop in pairwise(ends)]


def row_epsilon(noise: float, delta: float, releases: int) -> float:
    """Epsilon of a row's own embeddings, given the weights of the bottom network: what noise proves, and all of it.

    A row's embeddings are `releases` numbers-with-noise about that row: the Gaussian mechanism under local differential
    privacy, neighbours differing in that row, two embeddings at most 2 · clip_embeddings apart. By B. Balle, Y. Wang,
    "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, theorem 8, for one release with the noise
    divided by √releases.

    Not covered: the weights themselves were trained on the row, too, and with them all other rows' embeddings. So this
    is no epsilon of the training, and `hs.vertical.SplitNetwork` states no guarantee.

    Args:
        noise: as in `Settings`.
        delta: 0 < delta < 1.
        releases: how often a row's embedding is sent: once in each epoch and in each scoring.
    """
    if noise <= 0:
        return inf
    mu = 2 * sqrt(releases) / noise

    def excess(epsilon: float) -> float:
        shifted = _normal(-epsilon / mu - mu / 2)
        return _normal(mu / 2 - epsilon / mu) - (exp(epsilon + log(shifted)) if shifted else 0.0) - delta

    low, high = 0.0, 1.0
    while excess(high) > 0:
        high *= 2
        if high > 1e6:
            return inf
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _normal(x: float) -> float:
    return 0.5 * erfc(-x / sqrt(2))
