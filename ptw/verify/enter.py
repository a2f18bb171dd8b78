"""How does a process shut the door behind itself before it runs code that is not trusted?

Started by `ptw.verify.sandbox` as a script, with the standard library only: `enter.py STATUS_FD SPEC`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPABILITY_VERSION_3, LAST_CAPABILITY = 0x20080522, 63
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
DEVICES = ("null", "zero", "urandom", "random")
ROOM_BYTES = 2 << 30  # of memory-backed files in /tmp
STRANGER = 1 << 20  # user ids from here on belong to nobody on this machine
BOOT = """
import sys
sys.path.insert(0, {path!r})
from ptw.verify.apart import run
run({module!r}, {folders!r}, {processes!r}, {status})
"""
ENVIRONMENT = {
    "PATH": os.defpath,
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
WITHOUT_NAMESPACES = (
    "no file tree of its own: transformers and this machine's files are on the port's disk",
    "no network namespace: only a guard inside the process refuses sockets",
    "no process table of its own: the port sees other processes",
)
libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    status, spec = int(sys.argv[1]), json.loads(sys.argv[2])
    missing = [] if spec["namespaced"] else list(WITHOUT_NAMESPACES)
    folders = {**spec["inputs"], "output": spec["output"]}
    package = spec["package"]
    if spec["namespaced"]:
        room = _build_room(spec, missing)
        folders = {name: f"/room/{name}" for name in folders}
        package = "/room/ptw"
        if spec["linked"]:
            _link(missing)
        os.chroot(room)
        os.chdir("/tmp")
    _limit(spec)
    _drop_privileges(spec, missing)
    os.write(status, json.dumps({"missing": missing}).encode() + b"\n")
    boot = BOOT.format(
        path=str(Path(package).parent),
        module=spec["module"],
        folders=folders,
        processes=spec["side_by_side"],
        status=status,
    )
    os.execve(spec["executable"], [spec["executable"], "-I", "-B", "-c", boot], ENVIRONMENT)


def _build_room(spec: dict[str, Any], missing: list[str]) -> str:
    """A file tree in memory that shows Python, the inputs and one folder to write into, and nothing else."""
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    room = "/mnt"
    _mount("ptw", room, "tmpfs", MS_NOSUID | MS_NODEV, f"size={ROOM_BYTES},mode=755")
    for folder in spec["system"]:
        _show(folder, room + folder, MS_RDONLY)
    for folder in spec["hidden"]:
        if os.path.isdir(room + folder):
            _mount("none", room + folder, "tmpfs", MS_RDONLY, "size=4k,mode=555")
    _show(spec["package"], f"{room}/room/ptw", MS_RDONLY)
    for name, path in spec["inputs"].items():
        _show(path, f"{room}/room/{name}", MS_RDONLY)
    _show(spec["output"], f"{room}/room/output", 0)
    for path in spec["shown"]:
        if not os.path.exists(room + path):
            _show(path, room + path, MS_RDONLY)
    for device in DEVICES:
        _show(f"/dev/{device}", f"{room}/dev/{device}", 0)
    for folder in ("/tmp", "/dev/shm"):
        os.makedirs(room + folder, exist_ok=True)
        os.chmod(room + folder, 0o1777)
    if os.path.isdir("/sys/devices/system/cpu"):
        _show("/sys/devices/system/cpu", f"{room}/sys/devices/system/cpu", MS_RDONLY)
    os.makedirs(f"{room}/proc", exist_ok=True)
    try:
        _mount("proc", f"{room}/proc", "proc", MS_NOSUID | MS_NODEV)
    except OSError:
        missing.append("no /proc of its own: the process table is closed instead")
    return room


def _link(missing: list[str]) -> None:
    """Bring up the loopback of this network, which has nothing else, for its processes to speak over."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            request = struct.pack("16sh14x", b"lo", 0)
            (flags,) = struct.unpack_from("h", fcntl.ioctl(one, SIOCGIFFLAGS, request), 16)
            fcntl.ioctl(one, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    except OSError as error:
        missing.append(f"no loopback of its own: {error.strerror}")


def _show(source: str, target: str, flags: int) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    _mount(source, target, None, MS_BIND | MS_REC)
    if flags & MS_RDONLY:
        try:
            _mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
        except OSError:  # a user's namespace must keep the flags that the source was mounted with
            _mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None)
    if libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None):
        error = ctypes.get_errno()
        raise OSError(error, f"mount: {os.strerror(error)}", target)


def _limit(spec: dict[str, Any]) -> None:
    for name, value in (
        (resource.RLIMIT_AS, spec["memory_bytes"]),
        (resource.RLIMIT_FSIZE, spec["file_bytes"]),
        (resource.RLIMIT_CPU, spec["seconds"]),
        (resource.RLIMIT_NPROC, spec["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _drop_privileges(spec: dict[str, Any], missing: list[str]) -> None:
    """Give up every capability; real root becomes a stranger, for whom process limits hold too."""
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if spec["is_root"] and spec["namespaced"]:
        stranger = STRANGER + int.from_bytes(os.urandom(3), "big")
        os.chown("/room/output", stranger, stranger)
        os.setgroups([])
        os.setgid(stranger)
        os.setuid(stranger)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing):
        missing.append("capabilities could not be given up")
    if spec["is_root"] and not spec["namespaced"]:
        missing.append("runs as root: no limit on processes")


if __name__ == "__main__":
    main()
