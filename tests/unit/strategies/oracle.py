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


# ---- algorithms whose clients have a part of their own ----


def gradient(a: Vector, centre: Vector, w: Vector) -> Vector:
    """Of F_k(w) = ½ Σ a (w − c)², another curvature at every site."""
    return [a_i * (w_i - c_i) for a_i, c_i, w_i in zip(a, centre, w, strict=True)]


def loss(a: Vector, centre: Vector, w: Vector) -> float:
    return 0.5 * sum(a_i * (w_i - c_i) ** 2 for a_i, c_i, w_i in zip(a, centre, w, strict=True))


Problem = list[tuple[Vector, Vector, int, int]]
"""For each site: curvature a, centre c, number of examples, local steps."""
Cohorts = Callable[[int], list[int]]
"""Round from 0 -> sites that take part."""


def descend(a: Vector, centre: Vector, start: Vector, lr: float, steps: int, extra: Vector, mu: float = 0.0) -> Vector:
    y = list(start)
    for _ in range(steps):
        g = gradient(a, centre, y)
        y = [y_i - lr * (g_i + e_i + mu * (y_i - s)) for y_i, g_i, e_i, s in zip(y, g, extra, start, strict=True)]
    return y


def fednova(start: Vector, rounds: int, problem: Problem, cohorts: Cohorts, lr: float) -> list[Vector]:
    """Wang et al. 2020, Algorithm 1, vanilla SGD at the clients: d_i = (x − y_i) / (η τ_i)."""
    x, history = list(start), []
    for t in range(rounds):
        taking = [problem[k] for k in cohorts(t)]
        n = sum(count for _, _, count, _ in taking)
        tau_eff = sum(count / n * tau for _, _, count, tau in taking)
        new = list(x)
        for a, centre, count, tau in taking:
            y = descend(a, centre, x, lr, tau, [0.0] * len(x))
            d = [(x_i - y_i) / (lr * tau) for x_i, y_i in zip(x, y, strict=True)]
            new = [n_i - tau_eff * count / n * lr * d_i for n_i, d_i in zip(new, d, strict=True)]
        x = new
        history.append(x)
    return history


def qfedavg(start: Vector, rounds: int, problem: Problem, cohorts: Cohorts, lr: float, q: float) -> list[Vector]:
    """Li et al. 2020, Algorithm 2, with L = 1 / lr."""
    w, history = list(start), []
    smooth = 1 / lr
    for t in range(rounds):
        deltas, hs = [], []
        for k in cohorts(t):
            a, centre, _, steps = problem[k]
            w_k = descend(a, centre, w, lr, steps, [0.0] * len(w))
            f = loss(a, centre, w)
            dw = [smooth * (x - y) for x, y in zip(w, w_k, strict=True)]
            deltas.append([f**q * d for d in dw])
            hs.append(q * f ** (q - 1) * sum(d * d for d in dw) + smooth * f**q)
        w = [w_i - sum(d[i] for d in deltas) / sum(hs) for i, w_i in enumerate(w)]
        history.append(w)
    return history


def scaffold(start: Vector, rounds: int, problem: Problem, cohorts: Cohorts, lr: float, eta_g: float) -> list[Vector]:
    """Karimireddy et al. 2020, Algorithm 1, Option II."""
    x, history = list(start), []
    size, num = len(x), len(problem)
    c = [0.0] * size
    c_i = [[0.0] * size for _ in problem]
    for t in range(rounds):
        chosen = cohorts(t)
        dys, dcs = [], []
        for k in chosen:
            a, centre, _, steps = problem[k]
            y = descend(a, centre, x, lr, steps, [c[j] - c_i[k][j] for j in range(size)])
            plus = [c_i[k][j] - c[j] + (x[j] - y[j]) / (steps * lr) for j in range(size)]
            dys.append([y[j] - x[j] for j in range(size)])
            dcs.append([plus[j] - c_i[k][j] for j in range(size)])
            c_i[k] = plus
        x = [x[j] + eta_g / len(chosen) * sum(d[j] for d in dys) for j in range(size)]
        c = [c[j] + 1 / num * sum(d[j] for d in dcs) for j in range(size)]
        history.append(x)
    return history


def feddyn(start: Vector, rounds: int, problem: Problem, cohorts: Cohorts, lr: float, alpha: float) -> list[Vector]:
    """Acar et al. 2021, Algorithm 1; the local problem is minimised by `steps` gradient steps."""
    theta, history = list(start), []
    size, num = len(theta), len(problem)
    h = [0.0] * size
    grads = [[0.0] * size for _ in problem]
    for t in range(rounds):
        locals_ = []
        for k in cohorts(t):
            a, centre, _, steps = problem[k]
            mine = descend(a, centre, theta, lr, steps, [-g for g in grads[k]], mu=alpha)
            grads[k] = [grads[k][j] - alpha * (mine[j] - theta[j]) for j in range(size)]
            locals_.append(mine)
        h = [h[j] - alpha / num * sum(m[j] - theta[j] for m in locals_) for j in range(size)]
        theta = [sum(m[j] for m in locals_) / len(locals_) - h[j] / alpha for j in range(size)]
        history.append(theta)
    return history


def fedadagrad(start: Vector, rounds: int, train: Client, eta: float, beta_1: float, tau: float) -> list[Vector]:
    """Reddi et al. 2021, Algorithm 2, FedAdagrad."""
    x, history = list(start), []
    m = [0.0] * len(x)
    v = [tau**2] * len(x)
    for t in range(rounds):
        clients = train(t, x)
        n = sum(n_k for n_k, _ in clients)
        for i, x_i in enumerate(list(x)):
            delta = sum(n_k / n * (w_k[i] - x_i) for n_k, w_k in clients)
            m[i] = beta_1 * m[i] + (1 - beta_1) * delta
            v[i] = v[i] + delta**2
            x[i] = x_i + eta * m[i] / (math.sqrt(v[i]) + tau)
        history.append(list(x))
    return history


def fedyogi(
    start: Vector, rounds: int, train: Client, eta: float, beta_1: float, beta_2: float, tau: float
) -> list[Vector]:
    """Reddi et al. 2021, Algorithm 2, FedYogi."""
    x, history = list(start), []
    m = [0.0] * len(x)
    v = [tau**2] * len(x)
    for t in range(rounds):
        clients = train(t, x)
        n = sum(n_k for n_k, _ in clients)
        for i, x_i in enumerate(list(x)):
            delta = sum(n_k / n * (w_k[i] - x_i) for n_k, w_k in clients)
            m[i] = beta_1 * m[i] + (1 - beta_1) * delta
            sign = (v[i] > delta**2) - (v[i] < delta**2)
            v[i] = v[i] - (1 - beta_2) * delta**2 * sign
            x[i] = x_i + eta * m[i] / (math.sqrt(v[i]) + tau)
        history.append(list(x))
    return history
