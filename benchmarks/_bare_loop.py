"""What `sim-cnn`, `sim-mlp` and `sim-gpu` are measured against: PyTorch and torch.optim.SGD, nothing of Hanse.

It does what a researcher would write: for each site of a cohort load the model, make an optimizer, step through the
site's batches, add up the new weights; then divide. Cohorts and orders of examples are given, so that it does exactly
what the simulation does. It adds up in float64 in groups of four, left to right, and the groups in a binary tree: no
slower than any other order, and then the final models can be compared bit for bit.

    python _bare_loop.py FOLDER DEVICE        for each line of stdin: all rounds from the beginning, a line of JSON

FOLDER holds `work.json` (model, lr, batch_size), X.npy, y.npy, starts.npy, cohorts.npy, orders.npy, initial.npz; the
final model is written to bare.npz beside them.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy


def network(name: str) -> nn.Module:
    """The same two models as in the app of the simulation."""
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1152, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Sum:
    """Weighted sums of parameters: positions 4g … 4g+3 left to right, then groups in a binary tree."""

    def __init__(self) -> None:
        self.stack: list[tuple[int, list[torch.Tensor]]] = []
        self.group: list[torch.Tensor] = []
        self.count = 0

    def add(self, parameters: list[torch.Tensor], weight: float) -> None:
        products = [parameter.double().mul_(weight) for parameter in parameters]
        if self.count % 4 == 0:
            self._push()
            self.group = products
        else:
            for total, product in zip(self.group, products, strict=True):
                total.add_(product)
        self.count += 1

    def finish(self) -> list[torch.Tensor]:
        self._push()
        while len(self.stack) > 1:
            self._merge()
        return self.stack[0][1]

    def _push(self) -> None:
        if self.group:
            self.stack.append((1, self.group))
            self.group = []
        while len(self.stack) > 1 and self.stack[-2][0] == self.stack[-1][0]:
            self._merge()

    def _merge(self) -> None:
        size, right = self.stack.pop()
        other, left = self.stack.pop()
        for total, part in zip(left, right, strict=True):
            total.add_(part)
        self.stack.append((size + other, left))


def main(folder: Path, device: str) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    work = json.loads((folder / "work.json").read_text())
    parts: dict[str, Any] = {
        name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("X", "y", "starts", "cohorts", "orders")
    }
    X, y, orders = (torch.from_numpy(parts[name]) for name in ("X", "y", "orders"))
    sites = parts["starts"].tolist()
    module = network(work["model"]).to(device)
    initial = np.load(folder / "initial.npz")
    names = list(module.state_dict())
    if device != "cpu":
        X, y, orders = X.to(device), y.to(device), orders.to(device)
    print("ready", flush=True)
    for _ in sys.stdin:
        model = [torch.from_numpy(initial[name]).to(device) for name in names]
        at = 0
        wall, cpu = [], []
        for cohort in parts["cohorts"].tolist():
            begun, used = time.perf_counter(), time.process_time()
            total, examples = Sum(), 0
            for site in cohort:
                start, stop = sites[site], sites[site + 1]
                X_site, y_site = X[start:stop], y[start:stop]
                order = orders[at : at + stop - start]
                at += stop - start
                parameters = list(module.parameters())
                with torch.no_grad():
                    for parameter, value in zip(parameters, model, strict=True):
                        parameter.copy_(value)
                optimizer = torch.optim.SGD(parameters, lr=work["lr"])
                for rows in order.split(work["batch_size"]):
                    optimizer.zero_grad()
                    loss = cross_entropy(module(X_site[rows]), y_site[rows])
                    loss.backward()
                    optimizer.step()
                with torch.no_grad():
                    total.add([parameter.detach() for parameter in parameters], float(stop - start))
                examples += stop - start
            model = [part.div_(float(examples)).float() for part in total.finish()]
            if device != "cpu":
                torch.cuda.synchronize()
            wall.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - used)
        np.savez(folder / "bare.npz", **{name: value.cpu().numpy() for name, value in zip(names, model, strict=True)})
        print(json.dumps({"wall_s": wall, "cpu_s": cpu}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
