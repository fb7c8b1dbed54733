"""The digits demo's tables as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import hanse as hs

EARLY = 10
"""The round of the strategies' first column."""


def described(strategy: hs.Strategy) -> str:
    """`FedProx(proximal_mu=0.1)`: the class, with what is not its default."""
    given = {name: value for name, value in strategy.params().items() if value != getattr(type(strategy), name)}
    return f"{type(strategy).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def strategy_lines(table: Mapping[str, Sequence[Sequence[float]]], head: str = "strategy") -> list[str]:
    """A Markdown table: mean ± standard deviation over seeds, after `EARLY` rounds and at the end."""
    rounds = len(next(iter(table.values()))[0])
    marks = [*([EARLY] if rounds > EARLY else []), rounds]
    lines = [
        f"| {head} |" + "".join(f" {mark} rounds |" for mark in marks) + " lowest |",
        "|---|" + "---|" * len(marks) + "---|",
    ]
    for name, runs in table.items():
        cells = ""
        for mark in marks:
            values = [run[mark - 1] for run in runs]
            cells += f" {fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0.0:.3f} |"
        lines.append(f"| `{name}` |{cells} {min(run[-1] for run in runs):.3f} |")
    return lines


def attack_lines(table: Mapping[tuple[str, str], Sequence[float]]) -> list[str]:
    """A Markdown table: means over seeds, a defence a row, an attack a column."""
    columns = list(dict.fromkeys(attack for _, attack in table))
    lines = ["| defence | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for defence in dict.fromkeys(defence for defence, _ in table):
        cells = " | ".join(f"{fmean(table[defence, attack]):.3f}" for attack in columns)
        lines.append(f"| `{defence}` | {cells} |")
    return lines


def personal_lines(table: Mapping[str, Sequence[float]]) -> list[str]:
    """A Markdown table: mean ± standard deviation over seeds, and the lowest."""
    lines = ["| strategy | accuracy at the sites | lowest |", "|---|---|---|"]
    for name, values in table.items():
        deviation = stdev(values) if len(values) > 1 else 0.0
        lines.append(f"| `{name}` | {fmean(values):.3f} ± {deviation:.3f} | {min(values):.3f} |")
    return lines
