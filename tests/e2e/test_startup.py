"""How long a person waits for help. A generous limit, since tests run beside others; figures: ./run bench startup."""

import subprocess
import sys
import time

from tests.e2e.commands import HANSE, environment


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([*HANSE, "--help"], env=environment(), stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) <= 0.25


def test_nothing_heavy_is_imported_with_the_package() -> None:
    program = "import sys, hanse; print(sorted({'numpy', 'grpc', 'rich', 'typer', 'cryptography'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
