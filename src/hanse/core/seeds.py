"""Random streams, keyed by what they are for, so that who runs when changes nothing.

The key is (seed, round, phase, site, attempt, purpose). Two different keys give independent Philox streams
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011); the same key gives the same stream
on every machine.
"""

import random
import sys
import threading
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from json import encoder
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from hanse.core.accelerators import has_accelerator

_quoted = encoder.encode_basestring


def key_of(seed: int, *, round_: int = 0, phase: str = "", site: str = "", attempt: int = 0, purpose: str = "") -> int:
    """A 128-bit key for one stream: the hash of its six parts as canonical JSON."""
    material = _head(seed, round_, phase) + _quoted(site) + _tail(attempt, purpose)
    return int.from_bytes(blake3(material.encode()).digest(16), "little")


@lru_cache(maxsize=64)
def _head(seed: int, round_: int, phase: str) -> str:
    return f"hanse-seed-1\n[{seed},{round_},{_quoted(phase)},"


@lru_cache(maxsize=64)
def _tail(attempt: int, purpose: str) -> str:
    return f",{attempt},{_quoted(purpose)}]"


def generator(key: int) -> np.random.Generator:
    """A counter-based numpy generator for `key`."""
    return np.random.Generator(np.random.Philox(key=key))


def words(key: int, count: int, part: int = 0) -> npt.NDArray[np.uint64]:
    """The first `count` 64-bit words of a stream, those of `generator(key)`, whose making takes ten times as long.

    Args:
        part: 0 ≤ part < 2⁶⁴; where in the stream: 2⁶⁶ words of it for every part.
    """
    stream, state = _stream()
    state["state"]["key"][:] = key & _WORD, key >> 64
    state["state"]["counter"][1] = part
    stream.state = state
    drawn: npt.NDArray[np.uint64] = stream.random_raw(count)
    return drawn


_WORD = (1 << 64) - 1


class _Thread(threading.local):
    """What a thread has of its own."""

    is_unseeded = False
    stream: np.random.Philox | None = None
    state: Any = None


_thread = _Thread()


def _stream() -> tuple[np.random.Philox, Any]:
    """This thread's Philox and its state before the first word."""
    stream = _thread.stream
    if stream is None:
        stream = _thread.stream = np.random.Philox(key=0)
        _thread.state = dict(stream.state)
    return stream, _thread.state


def seed_globals(key: int) -> None:
    """Set the global state of `random`, numpy, and torch where it is already imported.

    Called before every call of user code (`Client.draws`) and after every loading of data, so that code which draws
    from global state repeats too, also where torch is first imported by that code. numpy's takes 32 bits of the key:
    with more, seeding it would be a third of what a simulated site costs. Whoever needs streams that never meet draws
    from `site.rng`.
    """
    if _thread.is_unseeded:
        return
    _seed_random(key)
    np.random.seed(key & 0xFFFF_FFFF)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        _seed_torch(torch, key)
    else:
        _awaited.key = key
        if _awaited not in sys.meta_path:
            sys.meta_path.insert(0, _awaited)


_shared: random.Random = random.seed.__self__  # type: ignore[attr-defined]  # the instance behind `random`
_seed_twister = super(random.Random, _shared).seed


def _seed_random(key: int) -> None:
    """`random.seed(key)` of a whole number, without asking first which of many kinds it is."""
    _seed_twister(key)
    _shared.gauss_next = None  # type: ignore[attr-defined]  # as `Random.seed` does


def _seed_torch(torch: Any, key: int) -> None:
    # where there is no accelerator, `torch.manual_seed` formats a stack trace for each kind: 300 µs
    (torch.manual_seed if has_accelerator() else torch.default_generator.manual_seed)(key & 0x7FFF_FFFF_FFFF_FFFF)


def is_seeding() -> bool:
    """Whether `seed_globals` does anything now, so that a key is worth making; see `Unseeded`."""
    return not _thread.is_unseeded


class Unseeded:
    """A stretch in which nothing is seeded (by this thread), for code that should draw nothing from global state.

    Seeding costs 8 µs, so much code is run without and looked at once afterwards. Whoever does so asks whether it has
    drawn or seeded, and then does all of it again with seeds. Seen is whatever leaves the global state of `random`,
    numpy or torch other than it was; code that draws and puts the very state back is not.

    Args:
        key: of the state to begin with, which no code comes to by itself.
    """

    def __init__(self, key: int) -> None:
        self._key = key
        self._before: object = None
        self.was_touched = False
        """Whether global state has been drawn from or set, known at the end; true where that cannot be seen."""

    def __enter__(self) -> Self:
        seed_globals(self._key)
        self._before = _global_state()
        _thread.is_unseeded = True
        return self

    def __exit__(self, *_: object) -> None:
        _thread.is_unseeded = False
        self.was_touched = self._before is None or self._before != _global_state()


def _global_state() -> object:
    """What can be compared of the state of `random`, numpy and torch; None where an accelerator has a state, too."""
    torch = sys.modules.get("torch")
    torch_state: object = None
    if torch is not None and hasattr(torch, "default_generator"):
        if has_accelerator():
            return None
        torch_state = torch.default_generator.get_state().numpy().tobytes()
    own: Any = np.random.get_state(legacy=False)
    key = own["state"].get("key")
    if own["bit_generator"] != "MT19937" or key is None:
        return None
    return random.getstate(), key.tobytes(), own["state"]["pos"], own["has_gauss"], own["gauss"], torch_state


class _AwaitedTorch(MetaPathFinder):
    """Seeds torch when it is imported, as if it had been there when global state was last seeded."""

    key = 0

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """See `importlib`; finds what is found without it, which may be only a question whether it is there."""
        spec = PathFinder.find_spec(fullname) if fullname == "torch" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _seed_torch(module, self.key)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one loader
        return spec


_awaited = _AwaitedTorch()
