"""Facts about the host."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from iptrec.identity import behind_sudo
from iptrec.kernel import process
from iptrec.libc import libc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# __NR_gettimeofday of 64 bits
_GETTIMEOFDAY: Final = {
    "x86_64": 96, "aarch64": 169, "riscv64": 169, "loongarch64": 169, "ppc64le": 78,
}  # fmt: skip
_OVERFLOW_ID: Final = 65534  # /proc/sys/kernel/overflowuid


def keep_freed_memory() -> None:
    """Let freed memory be used again (mallopt(3)): a fresh megabyte a time costs more than filling it."""
    mallopt = getattr(libc, "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def give_back_memory() -> None:
    """Return what is free to the kernel (malloc_trim(3)): kept for hours it spreads over more pages."""
    malloc_trim = getattr(libc, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def nobody() -> tuple[int, int]:
    """Uid and gid of somebody to be who needs no rights: the user behind sudo, or nobody."""
    if (user := behind_sudo()) is not None:
        return user.uid, user.gid
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return _OVERFLOW_ID, _OVERFLOW_ID
    return entry.pw_uid, entry.pw_gid


def kernel() -> str:
    """As uname -srvm."""
    facts = os.uname()
    return f"{facts.sysname} {facts.release} {facts.version} {facts.machine}"


def hostname() -> str:
    """The host's name."""
    return os.uname().nodename


def clock() -> tuple[int, int]:
    """CLOCK_REALTIME and CLOCK_MONOTONIC of one moment, ns."""
    return time.time_ns(), time.monotonic_ns()


def timezone() -> bytes:
    """The snapshot "timezone": how far west of UTC the kernel's own is, in minutes (gettimeofday(2)).

    null where this machine's number of that call is not known; the C library asks for the time alone. Who reads
    a recording that has it knows as well that nft was asked in UTC (`kernel.nft.piecewise`).
    """
    number = _GETTIMEOFDAY.get(os.uname().machine)
    found = (ctypes.c_int * 2)()  # struct timezone
    told = number is not None and libc.syscall(number, None, ctypes.byref(found)) == 0
    return json.dumps({"kernel_minutes_west": found[0] if told else None}).encode()


def modprobe(module: str) -> bool:
    """Try to load a kernel module."""
    command = shutil.which("modprobe", path=process.search_path())
    if command is None:
        return False
    done = subprocess.run(
        [command, "-q", module],
        capture_output=True,
        check=False,
        env=process.environment(),
    )
    return done.returncode == 0


def read(path: Path) -> str:
    """A short file of /proc, in as few calls as it takes: some are looked at for days. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)


def socket_owner(port: int) -> str | None:
    """The process that holds a netlink port: "tcpdump (pid 123)"; None if it cannot be seen."""
    inode = None
    for line in Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "12" and int(fields[2]) == port:
            inode = fields[9]
    if inode is None:
        return None
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) == f"socket:[{inode}]":
                pid = descriptor.parts[2]
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (pid {pid})"
    return None
