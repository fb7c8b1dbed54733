"""Torch on a CUDA device is told to compute the same bits every time, before any code of the app; by a stand-in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = """
from types import SimpleNamespace as Space

told = []
utils = Space(deterministic=Space(fill_uninitialized_memory=True))
backends = Space(
    cudnn=Space(deterministic=False, benchmark=True, allow_tf32=True), cuda=Space(matmul=Space(allow_tf32=True))
)
cuda = Space(is_available=lambda: HAS_CUDA)
default_generator = Space(manual_seed=lambda seed: told.append("cpu"))


def manual_seed(seed):
    told.append("all")


def use_deterministic_algorithms(on, warn_only):
    told.append([on, warn_only])
"""
CODE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
from hanse.core.seeds import seed_globals
import torch
seed_globals(1); seed_globals(2)
cudnn = torch.backends.cudnn
print(json.dumps([torch.told, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32,
    torch.backends.cuda.matmul.allow_tf32, os.environ.get("CUBLAS_WORKSPACE_CONFIG")]))
"""


@pytest.mark.parametrize(
    ("has_cuda", "expected"),
    [
        (True, [[[True, True], "all", "all"], True, False, False, False, ":4096:8"]),
        (False, [["cpu", "cpu"], False, True, True, True, None]),
    ],
)
def test_once_and_only_where_there_is_a_device(has_cuda: bool, expected: object, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(f"HAS_CUDA = {has_cuda}\n{STAND_IN}")
    said = subprocess.check_output([sys.executable, "-c", CODE, tmp_path])
    assert json.loads(said) == expected
