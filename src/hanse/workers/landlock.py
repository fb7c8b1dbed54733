"""Landlock and a seccomp filter, by system calls: a process gives up the right to open files and sockets, for good.

Sources: Documentation/userspace-api/landlock.rst and seccomp_filter.rst of the Linux kernel. Landlock (ABI 1: 5.13;
network from ABI 4: 6.7; signals and abstract sockets from ABI 6: 6.12) rules what may be opened from now on; open
descriptors stay. It knows TCP only, so a seccomp filter also refuses to make any socket that is not a Unix one, and
io_uring, which would pass by the filter.
"""

import ctypes
import glob
import os
import platform
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from hanse.core.errors import ConfigError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_NET_RIGHTS = 3  # bind and connect, TCP
_SCOPES = 3  # abstract Unix sockets and signals do not reach outside

SYSTEM_PATHS = tuple(
    Path(path)
    for path in (
        "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt/rocm",
        "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/ssl",
        "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems", "/proc/self",
        "/proc/driver/nvidia", "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup",
    )
)  # fmt: skip
"""What numerics read from the system; nothing in it is anybody's data."""

DEVICES = tuple(
    Path(path)
    for path in (
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
        *glob.glob("/dev/nvidia*"), "/dev/kfd", "/dev/dri",
    )
)  # fmt: skip

# audit architecture, the numbers of socket, socketpair and io_uring_setup, and (x86) where the x32 numbers begin
_ARCHITECTURES = {"x86_64": (0xC000003E, 41, 53, 425, 0x40000000), "aarch64": (0xC00000B7, 198, 199, 425, 0)}


def abi() -> int:
    """The kernel's Landlock ABI, or a negative errno."""
    if sys.platform != "linux":
        return -1
    return _syscall(_CREATE_RULESET, None, 0, 1)


def missing() -> str:
    """Why Landlock cannot be had here; empty if it can."""
    if sys.platform != "linux":
        return "Landlock is a part of Linux"
    version = abi()
    if version >= 1:
        return ""
    if version == -38:
        return f"this kernel ({platform.release()}) has no Landlock; it needs Linux 5.13"
    return "Landlock is switched off on this kernel; add it to the boot parameter lsm="


def network_rules() -> str:
    """What keeps a confined worker off the network here: `seccomp` (all of it), `tcp` (Landlock only) or `none`."""
    if platform.machine() in _ARCHITECTURES and sys.byteorder == "little":
        return "seccomp"
    return "tcp" if abi() >= 4 else "none"


def python_paths() -> tuple[Path, ...]:
    """Where this Python and the packages on its path live."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    places |= {str(Path(sys.executable).resolve().parent), str(Path(__file__).parent.parent)}
    places |= {entry for entry in sys.path if os.path.isabs(entry)}
    return tuple(sorted(Path(place) for place in places if os.path.exists(place)))


def restrict(*, read: Iterable[Path], write: Iterable[Path], network: bool = False) -> None:
    """Let this thread and what it will fork open only these paths. Irrevocable; needs no_new_privs.

    Args:
        read: may be read and executed; those that do not exist are passed over.
        write: may be read and written as well.
        network: leave sockets as they are.

    Raises:
        ConfigError: the kernel refuses.
    """
    version = abi()
    if version < 1:
        raise ConfigError(f"landlock: not available here: {missing()}")
    handled = _FS_RIGHTS[max(known for known in _FS_RIGHTS if known <= version)]
    attributes = struct.pack("<Q", handled)
    if version >= 4:
        attributes += struct.pack("<Q", 0 if network else _NET_RIGHTS)
    if version >= 6:
        attributes += struct.pack("<Q", _SCOPES)
    ruleset = _checked(_syscall(_CREATE_RULESET, attributes, len(attributes), 0), "create a ruleset")
    try:
        for path in read:
            _grant(ruleset, path, _READ & handled)
        for path in write:
            _grant(ruleset, path, handled & ~_EXECUTE)
        _checked(_syscall(_RESTRICT_SELF, ruleset, 0), "restrict the worker")
    finally:
        os.close(ruleset)
    if not network:
        _close_network()


def _grant(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # not here: nothing to see
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("<Qi", rights, fd)
        _checked(_syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), f"grant {path}")
    finally:
        os.close(fd)


def _close_network() -> None:
    """A classic BPF program: socket() and socketpair() of a family other than AF_UNIX, and io_uring, give EACCES."""
    if network_rules() != "seccomp":
        return
    architecture, sys_socket, sys_socketpair, sys_io_uring, x32 = _ARCHITECTURES[platform.machine()]
    load, equal, at_least, back = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 13
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 8, architecture),  # a foreign one (32 bit): refuse
        (load, 0, 0, 0),  # the number of the call
        (at_least, 6, 0, x32 or 0xFFFFFFFF),
        (equal, 5, 0, sys_io_uring),
        (equal, 1, 0, sys_socket),
        (equal, 0, 2, sys_socketpair),
        (load, 0, 0, 16),  # its first argument: the family
        (equal, 0, 1, 1),  # AF_UNIX
        (back, 0, 0, allow),
        (back, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("<HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, ctypes.c_ulong(2), filter_, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise ConfigError(f"seccomp: the kernel refuses to close the network: {os.strerror(ctypes.get_errno())}")


def _syscall(number: int, *arguments: "int | bytes | None") -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(ctypes.c_long(number), *(_argument(value) for value in arguments)))
    return -ctypes.get_errno() if result < 0 else result


def _argument(value: "int | bytes | None") -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise ConfigError(f"landlock: the kernel refuses to {what}: {os.strerror(-result)}")
    return result
