"""Ranges of elements in blocks, and the threads that take them side by side."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hanse.core.arrays import Layout

Item = TypeVar("Item")

BLOCK_ELEMENTS = 1 << 16
"""Elements in one block of a fold that does not say itself."""


@dataclass(frozen=True, slots=True)
class Range:
    """Elements start … stop of array `index`."""

    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def ranges(layout: Layout, block_elements: int) -> Iterator[Range]:
    """Every element of every array once, in blocks that lie within one array."""
    if block_elements < 1:
        raise ValueError(f"expected block_elements >= 1, found {block_elements}")
    for index, spec in enumerate(layout.specs):
        for start in range(0, spec.size, block_elements):
            yield Range(index, start, min(start + block_elements, spec.size))


def cut(parts: Sequence[Range], block_elements: int) -> Iterator[Range]:
    """The elements of these ranges, in blocks."""
    for at in parts:
        for start in range(at.start, at.stop, block_elements):
            yield Range(at.index, start, min(start + block_elements, at.stop))


def run_side_by_side(todo: Iterator[Item], step: Callable[[Item], None], threads: int) -> None:
    """Call `step` for every item, `threads` side by side; the caller's own thread is one of them.

    Raises:
        Whatever `step` raised first; items not yet begun are left out then.
    """
    lock, errors = threading.Lock(), list[BaseException]()

    def work() -> None:
        with np.errstate(all="ignore"):  # what is not finite is found and named
            while not errors:
                with lock:
                    item = next(todo, None)
                if item is None:
                    return
                try:
                    step(item)
                except BaseException as error:
                    errors.append(error)

    helpers = [threading.Thread(target=work, name=f"aggregate-{i}") for i in range(1, threads)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
