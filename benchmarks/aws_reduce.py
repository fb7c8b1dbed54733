"""A reduction by functions: 16 updates of 400 MB, each function a process of its own over objects in a local folder.

What a function needs in memory does not grow with the model, two share the work, and each reads its part only. Each has
one processor of its own. Over objects in a folder the time is that of this machine's disk and hash, not of S3.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, at_most, note

UPDATES, ELEMENTS = 16, 100_000_000
TURNS = 3
PEAK_MB, SHARED, MORE_CHUNKS = 256.0, 0.65, 2
CHILD = """
import sys
sys.modules["numba"] = None  # which the functions' package does not hold
from benchmarks import _aws_reducer
_aws_reducer.main(*sys.argv[1:])
"""


def run(smoke: bool) -> Iterator[Row]:
    """One function for everything and two side by side, in turns; every element of the result is checked."""
    from benchmarks import _aws_reducer

    updates, elements = (4, 6_000_000) if smoke else (UPDATES, ELEMENTS)
    case = f"{updates} updates of {elements * 4 // 10**6} MB"
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder:
        place = Path(folder)
        asyncio.run(_aws_reducer.fill(place, updates, elements))
        # In turns, and the faster of each: what else this machine does, and what it has read before, is in both.
        turns = [(_reduced(place, 1), _reduced(place, 2)) for _ in range(1 if smoke else TURNS)]
        checked = asyncio.run(_aws_reducer.check(place, updates, elements))
        if not checked:
            raise AssertionError("the shards' chunks are not those of the mean")
    every = [child for turn in turns for children in turn for child in children]
    one, two = ({what: _fastest(turns, which, what) for what in ("seconds", "cpu")} for which in (0, 1))
    share = updates * elements * 4 / 2
    read = max(child["read"] for _, children in turns for child in children) - share
    yield at_most("aws-reduce", case, "peak_mb", max(child["peak_mb"] for child in every), "MB", PEAK_MB)
    yield at_most("aws-reduce", case, "two_shards_over_one", two["seconds"] / one["seconds"], "ratio", SHARED)
    yield note("aws-reduce", case, "two_shards_cpu_over_one", two["cpu"] / one["cpu"], "ratio")
    limit = MORE_CHUNKS * updates * (8 << 20) / 1e6
    yield at_most("aws-reduce", case, "read_beyond_share_mb", read / 1e6, "MB", limit)
    yield note("aws-reduce", case, "one_s", one["seconds"], "s")


def _fastest(turns: list[Any], which: int, what: str) -> float:
    """Of several turns; where two share the work, who is slower counts."""
    return min(max(float(child[what]) for child in turn[which]) for turn in turns)


def _reduced(place: Path, shards: int) -> list[dict[str, Any]]:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(place), str(number), str(shards)], stdout=subprocess.PIPE, text=True
        )
        for number in range(shards)
    ]
    found = [json.loads(child.communicate()[0]) for child in children]
    if any(child.returncode for child in children):
        raise AssertionError("a function failed")
    return found
