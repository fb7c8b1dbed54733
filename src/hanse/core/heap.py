"""What the C library does with memory that is free again: a process that moves blobs keeps it for the next chunk.

By itself glibc gives the end of a heap back to the system as soon as twice its largest block is free there, which is
what happens between two chunks of a blob. Every page then comes anew, and zeroed, with the next chunk: on two cores a
quarter of the kernel's time in a site's agent. See docs/decisions/2026-11-29-freed-memory-is-kept.md.
"""

import ctypes

KEPT_BYTES = 32 << 20
"""Free memory at the end of one heap that is kept: four chunks, twice what a transfer holds at one time."""
LARGE_BYTES = 4 << 20
"""A block of this size is a mapping of its own, and goes back when it is freed: more than a piece of a blob."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for this process and from now on; where there is another C library, nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
