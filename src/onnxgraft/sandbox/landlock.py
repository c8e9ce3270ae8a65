"""Nothing is written but in the places that the command line names: the kernel sees to it.

Landlock (Linux 5.13 and later, landlock(7)) lets a process give up rights for itself and for what
it starts, without being root. Where it is missing, the readers' own refusals remain.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["enter_sandbox"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS = 38
_PATH_BENEATH, _NET_PORT, _VERSION = 1, 2, 1
# LANDLOCK_ACCESS_FS_*: the rights to write, by the version of Landlock that knows them.
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_RIGHTS = {
    1: _WRITE_FILE | sum(1 << bit for bit in range(4, 13)),  # remove, make
    2: 1 << 13,  # rename from folder to folder
    3: _TRUNCATE,
}
_NETWORK_SINCE = 4
_BIND, _CONNECT = 1 << 0, 1 << 1
# Devices that libraries write to, and shared memory.
_DEVICES = ("/dev/null", "/dev/tty", "/dev/pts", "/dev/ptmx", "/dev/shm", "/dev/dri")

# What container runtimes make read-only (runc's readonlyPaths), and the drivers' own settings.
_SYSTEMS = (
    "/proc/acpi", "/proc/bus", "/proc/driver", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/sys",
    "/proc/sysrq-trigger",
)  # fmt: skip
# CLONE_NEWNS; MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC | MS_PRIVATE.
_NEW_MOUNTS, _READ_ONLY, _REMOUNTED, _BOUND, _PRIVATE = 0x20000, 1, 1 << 5, 1 << 12, 0x44000


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64))


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def enter_sandbox(places: Iterable[Path], ports: Iterable[int] = ()) -> bool:
    """Let this process and its children write beside ``places`` alone, and not connect.

    Args:
        places: Files and folders to write; temporary ones stand beside them.
        ports: That may be listened on.

    Returns:
        Whether the kernel can do it.
    """
    system = ctypes.CDLL(None, use_errno=True).syscall
    system.restype = ctypes.c_long
    version = system(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    rights = sum(bits for since, bits in _RIGHTS.items() if version >= since)
    rules = _Ruleset(rights, _BIND | _CONNECT if version >= _NETWORK_SINCE else 0)
    size = ctypes.sizeof(rules) if version >= _NETWORK_SINCE else 8
    ruleset = system(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    gpus = _nvidia()
    devices = [Path(name) for name in (*_DEVICES, *gpus, *(_names_of_threads() if gpus else ()))]
    for place in {*map(_beside, places), *(d for d in devices if d.exists())}:
        allowed = rights if place.is_dir() else rights & (_WRITE_FILE | _TRUNCATE)
        opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
        system(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Beneath(allowed, opened)), 0)
        os.close(opened)
    for port in ports if version >= _NETWORK_SINCE else ():
        rule = _Port(_BIND, port)
        system(_ADD_RULE, ruleset, _NET_PORT, ctypes.byref(rule), 0)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done = system(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return bool(done == 0)


def _beside(place: Path) -> Path:
    """Return the folder that holds ``place``, or the nearest one that there is."""
    return next(folder for folder in place.absolute().parents if folder.is_dir())


def _nvidia() -> list[str]:
    return [f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("nvidia")]


def _names_of_threads() -> tuple[str, ...]:
    """Return where CUDA writes the names of its threads; where that is refused it does not begin.

    The folder in /proc of a process that the command will start is not there yet, so it has to be
    all of /proc, where the kernel lets users write what is their own. As root that is the whole
    system's: this process and those that it starts then see that part of it as it is for a
    container, read-only. Where that can't be had, this process alone may use a GPU.
    """
    if os.geteuid() != 0 or _protect_system():
        return ("/proc",)
    return ("/proc/self/task",)


def _protect_system() -> bool:
    """Make what is the system's in /proc read-only for this process; tell whether that is done."""
    system = ctypes.CDLL(None)
    parts = [part for part in map(os.fsencode, _SYSTEMS) if os.path.exists(part)]
    if any(os.statvfs(part).f_flag & os.ST_RDONLY == 0 for part in parts):
        private = system.unshare(_NEW_MOUNTS) or system.mount(None, b"/", None, _PRIVATE, None)
        for part in parts if not private else ():
            system.mount(part, part, None, _BOUND, None)
            system.mount(None, part, None, _BOUND | _REMOUNTED | _READ_ONLY, None)
    return all(os.statvfs(part).f_flag & os.ST_RDONLY for part in parts)
