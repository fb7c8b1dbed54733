"""The floor imports without gmpy2 and says which extra is missing where it is needed; it works without numba."""

import importlib.util
import subprocess
import sys

import pytest

from hanse.crypto.columns import NumpyLoops, pick_loops

PROGRAM = """
import sys
sys.modules["gmpy2"] = None
import hanse.crypto.okamoto_uchiyama, hanse.crypto.paillier
from hanse.channels.schedule import run_scheduled
from hanse.core.errors import MissingExtraError
from hanse.vertical.psi import chase_miao, diffie_hellman
def run(module):
    programs = {"guest": lambda p: module.guest(p, [1, 2]), "host": lambda p: module.host(p, [2, 3])}
    return run_scheduled(module.PROTOCOL, programs, 0)
assert run(chase_miao).results["guest"].tolist() == [1]
error = run(diffie_hellman).errors["guest"]
assert isinstance(error, MissingExtraError) and "hanse[vertical]" in str(error), error
try:
    hanse.crypto.paillier.generate()
except MissingExtraError:
    print("said so")
"""


def test_without_gmpy2() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "said so\n"), done.stderr


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pick_loops.cache_clear()
    assert isinstance(pick_loops(), NumpyLoops)
    pick_loops.cache_clear()
