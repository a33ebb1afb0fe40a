"""Network namespaces: found by name, path or process id, entered and left again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, UsageError, strerror
from iptrec.libc import failure, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED: Final = Path("/run/netns")  # man 8 ip-netns
_SEEN: Final = ("/run/netns/*", "/run/docker/netns/*", "/proc/[0-9]*/ns/net")
_OWN: Final = Path("/proc/thread-self/ns/net")
_NS_GET_NSTYPE: Final = 0xB703  # uapi/linux/nsfs.h
_CLONE_NEWNET: Final = 0x40000000
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h


def interfaces() -> list[str]:
    """The names of the interfaces here."""
    return [name for _, name in socket.if_nameindex()]


def named() -> list[str]:
    """The names of ``ip netns``."""
    return sorted(one.name for one in _NAMED.glob("*"))


def resolve(spec: str) -> Path:
    """The file of a namespace: NAME of ``ip netns``, a path, or a process id.

    Raises `UsageError` naming the namespaces that exist, or saying that there is no such process, or that
    the path is none.
    """
    if "/" in spec:
        path = Path(spec)
    elif spec.isdigit() and not (_NAMED / spec).exists():
        path = Path("/proc", spec, "ns/net")
    else:
        path = _NAMED / spec
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        names = ", ".join(named()) or "none"
        missing = f"no network namespace {spec!r} ({strerror(error)})"
        if path.parts[:2] == ("/", "proc") and spec.isdigit() and error.errno == errno.ENOENT:
            missing = f"no process {spec}, and no network namespace of that name"
        raise UsageError(f"{missing}; named ones: {names}") from None
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    finally:
        os.close(descriptor)
    if kind != _CLONE_NEWNET:
        raise UsageError(
            f"{path} is not a network namespace; give a name, a /proc/PID/ns/net, or a pid"
        )
    return path


def moved(path: Path | None) -> int:
    """Go into a namespace (None: where we are) for good: coming back would take CAP_SYS_ADMIN.

    Returns a descriptor of the one outside.
    """
    outside = _outside()
    if path is not None:
        _enter(path)
    return outside


@contextlib.contextmanager
def entered(path: Path | None) -> Iterator[int]:
    """Be in a namespace (None: where we are); gives a descriptor of the one outside."""
    outside = _outside()
    try:
        if path is not None:
            _enter(path)
        yield outside
        if path is not None:
            enter(outside)
    finally:
        os.close(outside)


def _outside() -> int:
    try:
        return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(f"there is no {_OWN}: recording needs Linux, and its /proc") from None


def enter(descriptor: int) -> None:
    """setns(2) of the calling thread."""
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        fact = failure()
        raise HostError(f"cannot enter the network namespace: {fact}; it needs root of its owner")


def _enter(path: Path) -> None:
    inside = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(inside)
    finally:
        os.close(inside)


def inode() -> int:
    """The number of the current namespace; another one may get it when this one is gone."""
    return _OWN.stat().st_ino


def cookie() -> int:
    """The number of the current namespace that no other one ever gets; 0 before Linux 5.14."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        try:
            return int.from_bytes(
                asking.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder
            )
        except OSError:
            return 0


def namespaces() -> dict[int, list[Path]]:
    """The network namespaces that can be seen from here: inode -> the files by which it is seen."""
    found: dict[int, list[Path]] = {}
    own = Path("/proc/self/ns/net")
    for path in [own, *(one for pattern in _SEEN for one in Path("/").glob(pattern[1:]))]:
        with contextlib.suppress(OSError):
            found.setdefault(path.stat().st_ino, []).append(path)
    return found
