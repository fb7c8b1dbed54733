"""The numerics fingerprint: the same for the same worker, short, quick, and different where it should be."""

import os
import subprocess
import sys
import time

import pytest

from hanse.clients import threads
from hanse.clients.fingerprint import _of_threads, _probe, fingerprint
from tests.patience import WAIT_S

PRINT = "from hanse.clients.fingerprint import fingerprint; print(fingerprint())"


def in_another_process(**environment: str) -> str:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    return done.stdout.strip()


def test_two_workers_of_one_machine_agree_and_threads_are_told() -> None:
    one = in_another_process(OMP_NUM_THREADS="1")
    assert one == in_another_process(OMP_NUM_THREADS="1")
    assert " t1 " in one
    assert " t2 " in in_another_process(OMP_NUM_THREADS="2")
    assert len(one) <= 128


def test_another_kernel_of_the_blas_is_noticed() -> None:
    usual = in_another_process(OPENBLAS_NUM_THREADS="1")
    other = in_another_process(OPENBLAS_NUM_THREADS="1", OPENBLAS_CORETYPE="Prescott")
    assert usual != other


def test_it_is_quick() -> None:
    fingerprint()
    _probe.cache_clear()
    _of_threads.cache_clear()
    started = time.process_time()
    fingerprint()
    assert time.process_time() - started < 5  # a tenth of a second of CPU where nobody else computes


@pytest.mark.parametrize("with_threadpoolctl", [True, False])
def test_threads_are_set_everywhere(monkeypatch: pytest.MonkeyPatch, with_threadpoolctl: bool) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    for variable in threads.VARIABLES:
        monkeypatch.setenv(variable, "9")
    monkeypatch.setattr(threads, "_threads", None)
    if not with_threadpoolctl:
        monkeypatch.setattr(threads, "_limit_pools", lambda count: False)

    def of_numpy() -> list[int]:
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"] and pool["user_api"] == "blas"]

    for count in (2, 1):
        threads.set_threads(count)
        assert of_numpy() == [count]
        assert os.environ["OMP_NUM_THREADS"] == str(count)
        assert threads.num_threads() == count
