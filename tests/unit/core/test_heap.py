"""What a process that moves blobs does with the memory of a chunk that is over."""

import platform
import subprocess
import sys

import pytest

CHUNKS = """
import resource

from hanse.core.heap import keep_freed_memory

def faults_of(chunks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(chunks):
        pieces = [b"x" * (1 << 20) for _ in range(8)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults_of(4)
print(faults_of(16), resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told what to keep")
def test_a_chunk_takes_the_memory_of_the_one_before() -> None:
    run = subprocess.run([sys.executable, "-c", CHUNKS], capture_output=True, text=True, check=True)
    faults, page_bytes = map(int, run.stdout.split())
    touched = 16 * (8 << 20) // page_bytes
    assert faults < touched // 20
