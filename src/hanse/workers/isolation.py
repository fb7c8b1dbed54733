"""What a worker may see: `process`, `landlock` or `user`.

- `process`: a process of its own, without keys in its memory; it may read what its user may read.
- `landlock`: besides, the kernel (Linux ≥ 5.13) lets it open only what is granted: Python and the system's libraries,
  the bundle and the granted data for reading, its scratch folder for writing; the network is closed.
- `user`: besides, it runs under another user id. Needs an agent that runs as root.

Files of the blob cache need no grant: their descriptors are handed over. **The boundary is the approved hash of the
app; this is defence in depth** (DESIGN §7): it does not hide how long a computation takes, or what a reply says.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError
from hanse.workers import landlock, process

LEVELS = ("process", "landlock", "user")

_CAP_SETGID, _CAP_SETUID = 6, 7


@dataclass(frozen=True, slots=True)
class Level:
    """One level, and why it cannot be had here (empty: it can)."""

    name: str
    reason: str

    @property
    def available(self) -> bool:
        """Whether a worker can be started with it."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Isolation:
    """What one worker is confined to.

    Args:
        level: one of `LEVELS`.
        read: files and folders it may read, besides Python, libraries and its bundle.
        write: files and folders it may also write, besides its scratch folder (a GPU's devices, say).
        uid, gid: whom it runs as at level `user`.
        network: leave the network open (an owner's choice, for licence servers and the like).
    """

    level: str = "process"
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    uid: int = 65534
    gid: int = 65534
    network: bool = False

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ConfigError(f"isolation: expected one of {', '.join(LEVELS)}; found {self.level[:40]!r}")
        if self.level == "user" and (self.uid <= 0 or self.gid <= 0):
            raise ConfigError("isolation user: expected a uid and a gid above 0")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "level": self.level,
            "read": list(self.read),
            "write": list(self.write),
            "uid": self.uid,
            "gid": self.gid,
            "network": self.network,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Isolation":
        """Read what `to_json` wrote."""
        return cls(
            value["level"], tuple(value["read"]), tuple(value["write"]), value["uid"], value["gid"], value["network"]
        )


def available(*, uid: int = 65534, gid: int = 65534) -> tuple[Level, ...]:
    """Every level, weakest first, with the reason why it cannot be had on this machine; for `hanse doctor`.

    Args:
        uid, gid: whom level `user` would run as: a process is started as this user, to see whether it can run Python.
    """
    without = landlock.missing()
    other = without or _no_other_user() or _no_python_for(uid, gid)
    return (Level("process", ""), Level("landlock", without), Level("user", other))


def require(level: str) -> None:
    """Check that `level` can be had here.

    Raises:
        ConfigError: it cannot; with the reason.
    """
    if level not in LEVELS:
        raise ConfigError(f"isolation: expected one of {', '.join(LEVELS)}; found {level[:40]!r}")
    reason = "" if level == "process" else landlock.missing()
    if level == "user":
        reason = reason or _no_other_user()
    if reason:
        raise ConfigError(f"isolation {level}: not available here: {reason}")


def confine(isolation: Isolation, *, bundle: Path, scratch: Path) -> None:
    """Confine this process, for good. Called once by a worker, before it imports user code.

    Raises:
        ConfigError: the level cannot be had, or would leave the worker without something it needs.
    """
    if isolation.level == "process":
        return
    require(isolation.level)  # in case a launcher is confined more than its agent
    if process.num_threads() != 1:
        raise ConfigError(f"isolation {isolation.level}: the worker has threads already, which would stay outside")
    python = landlock.python_paths()
    if isolation.level == "user":
        _become(isolation.uid, isolation.gid)
        for path in (*python, bundle, *(Path(path) for path in isolation.read)):
            if not os.access(path, os.R_OK):
                raise ConfigError(
                    f"isolation user: uid {isolation.uid} may not read {path}; let it, or choose landlock"
                )
        if not os.access(scratch, os.W_OK | os.X_OK):
            raise ConfigError(f"isolation user: uid {isolation.uid} may not write {scratch}")
    process.no_new_privileges()
    landlock.restrict(
        read=(*python, *landlock.SYSTEM_PATHS, bundle, *(Path(path) for path in isolation.read)),
        write=(*landlock.DEVICES, scratch, *(Path(path) for path in isolation.write)),
        network=isolation.network,
    )


def _no_other_user() -> str:
    if os.geteuid() != 0:
        return "the agent does not run as root, so it cannot change a worker's user"
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return "/proc is not mounted"
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff")), 0)
    if not effective >> _CAP_SETUID & effective >> _CAP_SETGID & 1:
        return "root here lacks CAP_SETUID and CAP_SETGID"
    return ""


def _no_python_for(uid: int, gid: int) -> str:
    command = [sys.executable, "-c", "import hanse.workers.worker"]
    environment = process.clean_environment(1)
    try:
        tried = subprocess.run(
            command, user=uid, group=gid, extra_groups=[], cwd="/", env=environment, capture_output=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        tried = None
    if tried is None or tried.returncode != 0:
        return f"uid {uid} may not run this Python ({sys.executable}); install it where that user may read it"
    return ""


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise ConfigError(f"isolation user: could not become uid {uid}")
