"""Slow references written from the papers' pseudocode: plain loops over Python floats, no numpy, nothing of Hanse.

A run is a list of rounds, a round a list of (number of examples, client's model as a list of floats).
"""

import math
from collections.abc import Callable

Vector = list[float]
Cohort = list[tuple[int, Vector]]
Client = Callable[[int, Vector], Cohort]
"""(round from 0, model) -> what the cohort sends back."""


def fedavg(start: Vector, rounds: int, train: Client) -> list[Vector]:
    """McMahan et al. 2017, Algorithm 1."""
    w, history = list(start), []
    for t in range(rounds):
        clients = train(t, w)
        n = sum(n_k for n_k, _ in clients)
        w = [sum(n_k / n * w_k[i] for n_k, w_k in clients) for i in range(len(w))]
        history.append(w)
    return history


def fedavgm(start: Vector, rounds: int, train: Client, beta: float, eta: float) -> list[Vector]:
    """Hsu et al. 2019, FedAvgM, in the paper's own sign: Δw = Σ n_k/n (w − w_k), v ← βv + Δw, w ← w − v."""
    w, history = list(start), []
    v = [0.0] * len(w)
    for t in range(rounds):
        clients = train(t, w)
        n = sum(n_k for n_k, _ in clients)
        new = []
        for i in range(len(w)):
            delta_w = sum(n_k / n * (w[i] - w_k[i]) for n_k, w_k in clients)
            v[i] = beta * v[i] + delta_w
            new.append(w[i] - eta * v[i])
        w = new
        history.append(w)
    return history


def fedadam(
    start: Vector, rounds: int, train: Client, eta: float, beta_1: float, beta_2: float, tau: float
) -> list[Vector]:
    """Reddi et al. 2021, Algorithm 2, line by line, with v_{-1} = τ²."""
    x, history = list(start), []
    m = [0.0] * len(x)
    v = [tau**2] * len(x)
    for t in range(rounds):
        clients = train(t, x)
        n = sum(n_k for n_k, _ in clients)
        new = []
        for i in range(len(x)):
            delta = sum(n_k / n * (w_k[i] - x[i]) for n_k, w_k in clients)
            m[i] = beta_1 * m[i] + (1 - beta_1) * delta
            v[i] = beta_2 * v[i] + (1 - beta_2) * delta**2
            new.append(x[i] + eta * m[i] / (math.sqrt(v[i]) + tau))
        x = new
        history.append(x)
    return history


def quadratic_clients(centres: list[Vector], counts: list[int], lr: float, steps: int, mu: float = 0.0) -> Client:
    """Clients with F_k(w) = ½ Σ (w − c_k)², taking gradient steps on h_k of FedProx's Eq. 2; every third one rests."""

    def train(t: int, model: Vector) -> Cohort:
        cohort = []
        for k, (centre, count) in enumerate(zip(centres, counts, strict=True)):
            if k % 3 == t % 3:
                continue
            w = list(model)
            for _ in range(steps):
                w = [a - lr * ((a - c) + mu * (a - m)) for a, c, m in zip(w, centre, model, strict=True)]
            cohort.append((count, w))
        return cohort

    return train
