"""Both kernels for every test that asks for one."""

import pytest


@pytest.fixture(params=["numpy", "numba"])
def kernel(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")
    return str(request.param)
