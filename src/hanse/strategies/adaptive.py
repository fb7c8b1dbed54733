"""What FedAdagrad, FedAdam and FedYogi share; they differ in how the second moment moves.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive federated optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, Algorithm 2. Arrays are float64, `(block,)`.
"""

import numpy as np

from hanse.core.arrays import Array
from hanse.strategies.schedule import Rate, set_rate
from hanse.strategies.strategy import Strategy, check_number


def check_adaptive(strategy: Strategy, server_lr: Rate, *, tau: float, **betas: float) -> None:
    """Check η > 0, which may have come as JSON, τ > 0 and decays in [0, 1).

    Raises:
        ConfigError: a parameter out of range, as `name.parameter`.
    """
    name = strategy.name
    set_rate(strategy, "server_lr", server_lr)
    for beta, value in betas.items():
        check_number(f"{name}.{beta}", value, 0.0, 1.0, open_high=True)
    check_number(f"{name}.tau", tau, 0.0, open_low=True)


def move_first_moment(m: Array, delta: Array, beta_1: float) -> None:
    """m_t ← β₁ m_{t−1} + (1 − β₁) Δ_t, in place."""
    m *= beta_1
    m += (1 - beta_1) * delta


def adaptive_step(model: Array, m: Array, v: Array, server_lr: float, tau: float) -> Array:
    """x_{t+1} ← x_t + η m_t / (√v_t + τ)."""
    return np.asarray(model + server_lr * m / (np.sqrt(v) + tau))
