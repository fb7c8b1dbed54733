"""The model of federated transfer learning, its loss, and which products of secrets its gradients are made of.

Y. Liu, Y. Kang, C. Xing, T. Chen, Q. Yang, "A Secure Federated Transfer Learning Framework", IEEE Intelligent Systems
2020 (arXiv:1812.03337).

The source (guest) has labels y in {−1, 1} for all its rows, the target (host) has none; some rows are common. Each maps
its columns H to an embedding in one common space; the guest's mean labelled embedding translates the host's into a
score (eq. 1, with a factor that keeps it away from 0):

    u = tanh(H·W)        Φ = SCALE · mean(y_i · u_i) over the guest's rows        φ_j = Φ·u_j for a row of the host

The loss over the n common rows is the logistic one by its second-order Taylor polynomial (eq. 5), plus alignment of
both embeddings (‖·‖² of eq. 2) and l2:

    L = mean(log 2 − ½ y φ + ⅛ φ²) + ½ alignment · mean ‖u^A − u^B‖² + ½ l2 · (‖W_A‖² + ‖W_B‖²)

**Added to the paper**: the guest's own loss, the same polynomial for its own scores Φ·u_i over all its rows, times
`own_loss`. It costs no message, and makes its embedding tell of the label, which is what the host is aligned to.

Of the gradients, each party computes alone what depends on its own numbers. The rest is, for each dimension k of the
embedding, a matrix of one party times a vector of the other (n rows, d dimensions, p columns):

    host's      [Hᵀ·diag(s_k)·U, Hᵀ·diag(s_k)]  ·  [¼ Φ_k·Φ; −½ y·Φ_k − alignment·u^A_k]
    guest's     [¼ q_k·Φᵀ, −½ q_k·yᵀ − alignment·Hᵀ·diag(s_k)]  ·  [(UᵀU)_k; u^B_k]

with s = 1 − tanh² and q_k = SCALE / N · Σ y_i s_ik h_i over all rows of the guest.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.core.seeds import generator, key_of

Table = npt.NDArray[np.float64]

SCALE = 4.0
_WHOLE = {"dimensions": (1, 64), "iterations": (1, 10_000), "seed": (0, (1 << 63) - 1)}
_REAL = {"learning_rate": 1.0, "alignment": 100.0, "own_loss": 100.0, "l2": 10.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What both parties must hold alike.

    Attributes:
        dimensions: d, of the common space.
        iterations: steps, each over all rows.
        learning_rate: of Adam (D. Kingma, J. Ba, ICLR 2015), one at each party, > 0.
        alignment, own_loss, l2: weights of these parts of the loss, ≥ 0; l2 not for the intercept.
        seed: of the first weights.

    Raises:
        ConfigError: a value out of its range.
    """

    dimensions: int = 8
    iterations: int = 60
    learning_rate: float = 0.05
    alignment: float = 0.1
    own_loss: float = 3.0
    l2: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r:.40}")
        for name, top in _REAL.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not (isfinite(value) and 0 <= value <= top):
                raise ConfigError(f"{name}: expected a number from 0 to {top:g}, found {value!r:.40}")
        if not self.learning_rate:
            raise ConfigError("learning_rate: expected a number above 0")


def first_weights(num_columns: int, settings: Settings, role: str) -> Table:
    """float64 `(num_columns, dimensions)`, Gaussian of variance 1 / num_columns."""
    drawn = generator(key_of(settings.seed, site=role, purpose="vertical transfer weights"))
    weights: Table = drawn.standard_normal((num_columns, settings.dimensions)) / np.sqrt(num_columns)
    return weights


@dataclass(slots=True)
class Descent:
    """Adam over one party's weights."""

    weights: Table
    settings: Settings
    first: Table | float = 0.0
    second: Table | float = 0.0
    steps: int = 0

    def step(self, gradient: Table) -> None:
        """Move the weights; `gradient` is without l2."""
        penalty = self.settings.l2 * self.weights
        penalty[0] = 0.0  # the intercept
        gradient = gradient + penalty
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.weights = self.weights - self.settings.learning_rate * mean / (np.sqrt(square) + 1e-8)


@dataclass(frozen=True, slots=True)
class Terms:
    """One party's part of an iteration.

    Attributes:
        alone: of its gradient, what it computes by itself, `(num_columns, dimensions)`.
        matrix: `(dimensions, num_columns, dimensions + n)`, whose products with the other's vectors are the rest.
        vector: `(dimensions, dimensions + n)`, which the other's matrix is multiplied by.
    """

    alone: Table
    matrix: Table
    vector: Table


def host_terms(table: Table, weights: Table, settings: Settings) -> Terms:
    """The target's.

    Args:
        table: H of the common rows, `(n, num_columns)`, the intercept first.
        weights: W, `(num_columns, dimensions)`.
    """
    n = len(table)
    u = np.tanh(table @ weights)
    s = 1 - u**2
    weighted = np.einsum("np,nk->kpn", table, s) / n
    alone = settings.alignment / n * table.T @ (u * s)
    return Terms(alone, np.concatenate([weighted @ u, weighted], axis=2), np.concatenate([u.T @ u, u.T], axis=1))


def guest_terms(table: Table, signs: Table, common: npt.NDArray[np.int64], weights: Table, settings: Settings) -> Terms:
    """The source's.

    Args:
        table: H of all its rows, `(N, num_columns)`.
        signs: y of all its rows, −1 and 1, `(N,)`.
        common: places of the common rows among them, `(n,)`.
        weights: W.
    """
    rows, n = len(table), len(common)
    u = np.tanh(table @ weights)
    s = 1 - u**2
    phi = translator(u, signs)
    q = SCALE / rows * table.T @ (signs[:, None] * s)
    shared = table[common]
    weighted = np.einsum("np,nk->kpn", shared, s[common]) / n
    labels = -0.5 / n * np.einsum("pk,n->kpn", q, signs[common]) - settings.alignment * weighted
    matrix = np.concatenate([0.25 / n * np.einsum("pk,j->kpj", q, phi), labels], axis=2)
    vector = np.concatenate(
        [0.25 * np.outer(phi, phi), (-0.5 * np.outer(signs[common], phi) - settings.alignment * u[common]).T], axis=1
    )
    residuals = (0.25 * (u @ phi) - 0.5 * signs) / rows
    own = table.T @ (np.outer(residuals, phi) * s) + q * (residuals @ u)
    alone = settings.alignment / n * shared.T @ (u[common] * s[common]) + settings.own_loss * own
    return Terms(alone, matrix, vector)


def translator(embeddings: Table, signs: Table) -> Table:
    """Φ, `(dimensions,)`."""
    return SCALE / len(signs) * signs @ embeddings


def fit(
    guest: Table, signs: Table, common: npt.NDArray[np.int64], host: Table, settings: Settings
) -> tuple[Table, Table, Table]:
    """The same training in the clear: the yardstick of `dealer`.

    Args:
        guest: H of all the guest's rows.
        signs: y of these.
        common: places of the common rows among them.
        host: H of the common rows at the host.

    Returns:
        The guest's weights, the host's weights, Φ.
    """
    a = Descent(first_weights(guest.shape[1], settings, "guest"), settings)
    b = Descent(first_weights(host.shape[1], settings, "host"), settings)
    for _ in range(settings.iterations):
        source, target = guest_terms(guest, signs, common, a.weights, settings), host_terms(host, b.weights, settings)
        a.step(source.alone + np.einsum("kpl,kl->pk", source.matrix, target.vector))
        b.step(target.alone + np.einsum("kpl,kl->pk", target.matrix, source.vector))
    return a.weights, b.weights, translator(np.tanh(guest @ a.weights), signs)
