"""What the operating system can do for a process of ours: die with its parent, leave no core, be the first to go.

Linux has prctl; elsewhere the closed socket alone tells a process that its parent is gone.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

LINUX = sys.platform == "linux"

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

THREADLESS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""pyarrow, which scikit-learn and pandas import where it is, starts a thread when it is loaded; what has one is not
forked, and each worker would be a fresh interpreter."""

_KEPT = {
    "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "SSL_CERT_DIR",
    "SSL_CERT_FILE", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
}  # fmt: skip
_KEPT_PREFIXES = ("CUDA_", "DYLD_", "HIP_", "LC_", "NVIDIA_", "OPENBLAS_CORETYPE", "ROCR_")


def clean_environment(threads: int, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The variables a launcher and its workers get: what Python and numerics need, never the agent's secrets.

    The hash seed is fixed, so that the order of a set of strings is the same in every worker.
    """
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    return {**kept, **thread_environment(threads), **THREADLESS, "PYTHONHASHSEED": "0", **(extra or {})}


def thread_environment(threads: int) -> dict[str, str]:
    """The variables by which BLAS and OpenMP libraries learn, when they are loaded, how many threads to use."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's thread that made this process ends; at once if it has ended already."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(0)


def outlive_parent() -> None:
    """Take `die_with_parent` back."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent died. False where the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> bool:
    """No program run from here on gains rights by setuid bits."""
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def children() -> list[int]:
    """Process ids of this process's children, where the system tells."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to hear of it. False where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return LINUX


def num_threads() -> int:
    """Threads of this process, of whatever library; 1 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def first_to_go() -> None:
    """When memory runs out, the system should end this process rather than the agent."""
    if LINUX:
        try:
            Path("/proc/self/oom_score_adj").write_text("500")
        except OSError:  # a container may forbid it; the worker works without
            return


def limit_resources(memory_bytes: int | None) -> None:
    """No core files, and at most `memory_bytes` of private memory (None: as much as there is).

    On Linux this is RLIMIT_DATA: heap and private writable mappings, the mapped model included.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        kind = resource.RLIMIT_DATA if LINUX else resource.RLIMIT_AS
        resource.setrlimit(kind, (memory_bytes, memory_bytes))


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)
