"""Facts about the host and the rights of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from iptrec.errors import HostError

# linux/capability.h
_CAP_NET_ADMIN: Final = 12
_KEPT: Final = {
    0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER",  # the recording, in the directory of another user
    5: "KILL",  # the command that is recorded, to end it
    12: "NET_ADMIN", 13: "NET_RAW",  # to look at the rules, and to undo
    21: "SYS_ADMIN",  # to come back from another network namespace, setns(2)
}  # fmt: skip
_CAPABILITY_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits a set
_libc = ctypes.CDLL(None, use_errno=True)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_SYSCTLS: Final = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/route_localnet",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/disable_ipv6",
    "net/bridge/bridge-nf-call-*",
    "net/netfilter/nf_log/*",
    "net/netfilter/nf_conntrack_max",
)
_MOST_SYSCTLS: Final = 10_000


def require_net_admin() -> None:
    """Raise `HostError` without CAP_NET_ADMIN (man 7 capabilities)."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1:
            return
    raise HostError("recording needs root or CAP_NET_ADMIN: run it with sudo")


def keep_freed_memory() -> None:
    """Let freed memory be used again (mallopt(3)): a fresh megabyte a time costs more than filling it."""
    mallopt = getattr(_libc, "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def drop_capabilities() -> None:
    """Give up, for this thread and those that it starts, every right but those that are needed from now on.

    Programs that root executes have all rights again (man 7 capabilities).
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if _libc.capget(header, sets):
        return
    kept = sum(1 << number for number in _KEPT)
    for at in (0, 1):
        sets[at] &= kept & 0xFFFFFFFF
        sets[at + 3] &= kept >> 32
    _libc.capset(header, sets)  # never more than we have: it cannot be refused


def sudo_owner() -> tuple[int, int] | None:
    """Uid and gid of the user behind sudo."""
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ:
        return None
    try:
        return int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1"))
    except ValueError:
        return None


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


def modprobe(module: str) -> bool:
    """Try to load a kernel module."""
    command = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if command is None:
        return False
    return subprocess.run([command, "-q", module], capture_output=True, check=False).returncode == 0


def sysctls() -> dict[str, str]:
    """The settings of the current namespace that decide where packets go."""
    found: dict[str, str] = {}
    root = Path("/proc/sys")
    for pattern in _SYSCTLS:
        for path in root.glob(pattern):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found[str(path.relative_to(root))] = path.read_text().strip()
            if len(found) >= _MOST_SYSCTLS:
                return found
    return found


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
