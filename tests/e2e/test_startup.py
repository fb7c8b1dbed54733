"""What asking for help costs: CPU time, since tests run beside others. How long one waits: ./run bench startup."""

import os
import subprocess
import sys

from tests.e2e.commands import HANSE, environment


def test_help_is_quick() -> None:
    """The quickest of as many tries as it takes: what shares the core and its caches costs CPU time, too."""
    seconds = [1.0]
    while min(seconds) > 0.25 and len(seconds) < 20:
        before = os.times()
        subprocess.run([*HANSE, "--help"], env=environment(), stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # of children
    assert min(seconds) <= 0.25


def test_nothing_heavy_is_imported_with_the_package() -> None:
    program = "import sys, hanse; print(sorted({'numpy', 'grpc', 'rich', 'typer', 'cryptography'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
