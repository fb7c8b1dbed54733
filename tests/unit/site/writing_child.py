"""Writes to a journal until it is killed: answer n and state n together, n from 0; says each n once it is written."""

import sys
from pathlib import Path

from hanse.site.journal import Journal


def main(path: str) -> None:
    journal = Journal(Path(path))
    for number in range(1_000_000):
        task = f"j/main/1/train/{number}"
        journal.keep(task, "j", "main", str(number).encode() * 200, state=str(number).encode())
        if number % 3 == 0:
            journal.sync()
        if number:
            journal.settle(f"j/main/1/train/{number - 1}")
        print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
