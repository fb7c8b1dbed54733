"""Random streams by key."""

import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.codec import canonical_json
from hanse.core.seeds import Unseeded, generator, is_seeding, key_of, seed_globals, words


def test_golden_keys_and_draws() -> None:
    """What version 1 draws: every recorded run repeats only while these hold."""
    assert key_of(0) == 88187927751581316212282972499834159789
    key = key_of(7, round_=3, phase="train", site="a", attempt=1, purpose="batches")
    assert key == 103372161832576592172768648912307589411
    assert generator(key).integers(0, 2**32, 4).tolist() == [905697589, 3586942350, 489705685, 2691714941]


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.text(), st.text(), st.integers(0, 9), st.text())
def test_a_key_is_the_hash_of_canonical_json(
    seed: int, round_: int, phase: str, site: str, attempt: int, purpose: str
) -> None:
    try:
        material = canonical_json([seed, round_, phase, site, attempt, purpose])
    except UnicodeEncodeError:  # a lone surrogate
        return
    expected = int.from_bytes(blake3(b"hanse-seed-1\n" + material).digest(16), "little")
    assert key_of(seed, round_=round_, phase=phase, site=site, attempt=attempt, purpose=purpose) == expected


def test_every_part_of_the_key_matters() -> None:
    parts = [
        {"seed": seed, "round_": round_, "phase": phase, "site": site, "attempt": attempt, "purpose": purpose}
        for seed, round_, phase, site, attempt, purpose in itertools.product(
            (0, 1), (0, 1), ("", "a"), ("", "a"), (0, 1), ("", "a")
        )
    ]
    keys = {key_of(**part) for part in parts}  # type: ignore[arg-type]
    assert len(keys) == 64
    assert all(0 <= key < 2**128 for key in keys)


def test_parts_do_not_run_into_each_other() -> None:
    assert key_of(1, phase="ab", site="c") != key_of(1, phase="a", site="bc")
    assert key_of(1, phase='a","b') != key_of(1, phase="a", site="b")


def test_the_same_key_gives_the_same_stream_and_others_do_not() -> None:
    first, second = (generator(key_of(5)).standard_normal(1000) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = generator(key_of(6)).standard_normal(1000)
    # |r| > 0.2 for 1000 independent pairs: less than once in 10^9.
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.2


def test_words_are_those_of_the_generator_whoever_drew_before() -> None:
    for key in (0, 5, 2**128 - 1, 5, key_of(1)):
        assert words(key, 9).tolist() == generator(key).bit_generator.random_raw(9).tolist()


@pytest.mark.parametrize("key", [0, 1, 2**128 - 1, key_of(3)])
def test_global_state_repeats(key: int) -> None:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        draws = []
        for _ in range(2):
            seed_globals(key)
            draw = [random.random(), float(np.random.random())]
            if "torch" in sys.modules:
                draw.append(float(sys.modules["torch"].rand(1)))
            draws.append(draw)
        assert draws[0] == draws[1]
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@pytest.mark.parametrize(
    ("act", "touches"),
    [
        (lambda: None, False),
        (lambda: seed_globals(5), False),  # does nothing there
        (lambda: random.random(), True),
        (lambda: random.gauss(), True),
        (lambda: np.random.rand(), True),
        (lambda: np.random.seed(0), True),
        (lambda: random.seed(key_of(2)), True),
        (lambda: np.random.default_rng(1).random(), False),
    ],
)
def test_a_stretch_without_seeds_says_whether_global_state_was_touched(
    act: Callable[[], object], touches: bool
) -> None:
    with Unseeded(key_of(2, purpose="here")) as stretch:
        assert not is_seeding()
        act()
    assert stretch.was_touched == touches
    with pytest.raises(ValueError, match="here"), Unseeded(1):
        raise ValueError("here")
    assert is_seeding()


def test_torch_is_seeded_when_user_code_imports_it_first(tmp_path: Path) -> None:
    """As where it was imported before the task began. A stand-in, since the real one takes seconds."""
    (tmp_path / "torch.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: False)\n"
        "class default_generator:\n    seed = None\n"
        "    @classmethod\n    def manual_seed(cls, seed):\n        cls.seed = seed\n"
    )
    code = "import sys; sys.path.insert(0, sys.argv[1]); from hanse.core.seeds import seed_globals\n"
    late = (
        "seed_globals(1); seed_globals(77)\nfrom importlib.util import find_spec; find_spec('torch')  # is it there?\n"
        "import torch\nprint(torch.default_generator.seed, len(sys.meta_path))"
    )
    early = "count = len(sys.meta_path)\nimport torch\nseed_globals(77)\nprint(torch.default_generator.seed, count)"
    said = [subprocess.check_output([sys.executable, "-c", code + then, tmp_path]) for then in (late, early)]
    assert said[0] == said[1]
    assert said[0].startswith(b"77 ")
