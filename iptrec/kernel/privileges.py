"""Gives up rights: what a process cannot do, nobody can make it do.

man 7 capabilities, man 2 prctl. Capabilities belong to a thread; threads and processes that it starts
afterwards have no more. With no_new_privs this holds for programs as well, which root otherwise executes with
every right of the bounding set.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.libc import failure, libc

if TYPE_CHECKING:
    from collections.abc import Collection

# linux/capability.h
DAC_READ_SEARCH: Final = 2
KILL: Final = 5
SETGID: Final = 6
SETUID: Final = 7
NET_ADMIN: Final = 12
NET_RAW: Final = 13

# What each is for while a recorder records, and while a guardian waits.
RECORDER: Final = {
    KILL: "end the command that is recorded, whoever it runs as by now",
    NET_ADMIN: "look at rules, put ours back, undo; read netlink, sets and connections",
    NET_RAW: "iptables-legacy, and looking at its tables, take a raw socket",
}
GUARDIAN: Final = {
    NET_ADMIN: "take out our rules, put back loggers",
    NET_RAW: "iptables-legacy takes a raw socket",
}

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2  # linux/prctl.h
_CAPABILITY_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits a set
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS: Final = 38
_MOST: Final = 64


def has_net_admin() -> bool:
    """Whether we may trace."""
    return bool(_sets()[0] >> NET_ADMIN & 1)


def require_net_admin() -> None:
    """Raise `HostError` without CAP_NET_ADMIN, which root of a container has only if it was given."""
    if not has_net_admin():
        if os.geteuid() == 0:
            raise HostError(
                "recording needs CAP_NET_ADMIN, which this root does not have; a container gets it by"
                " --cap-add NET_ADMIN"
            )
        raise HostError("recording needs root or CAP_NET_ADMIN: run it with sudo")


def keep(needed: Collection[int]) -> None:
    """Give up, for this thread and all that it starts, every capability but these; programs gain none.

    Raises `HostError` where the kernel refuses.
    """
    _bound(needed)
    mask = _mask(needed)
    _set(*(one & mask for one in _sets()))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise HostError(f"cannot give up rights: {failure()}")


def look_as(uid: int, gid: int) -> None:
    """Act as a user, with the right to read any file, until `give_up`. Raises `HostError`.

    Root stays root by its real uid: SQLite asks access(2) for files that it cannot write, which asks with the
    rights of that one.
    """
    _require_one_thread()
    _bound(())
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
        with contextlib.suppress(OSError):
            os.setresgid(gid, gid, gid)
        with contextlib.suppress(OSError):
            os.setresuid(-1, uid, uid)
        _, permitted, inheritable = _sets()
        _set(permitted, permitted, inheritable)
    keep((DAC_READ_SEARCH,))


def give_up() -> None:
    """Be nobody else than whom we act as, without any right. Raises `HostError`.

    Root that could not change its user (user_namespaces(7) that does not map it, a container without
    CAP_SETUID) stays who it is.
    """
    _require_one_thread()
    os.setresuid(*[os.geteuid()] * 3)
    keep(())


def apart(capability: int) -> None:
    """Be in new namespaces of users and networks, with one right there, and none outside.

    What is executed has that right as well. Raises `HostError` where one may not have such namespaces.
    """
    _require_one_thread()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise HostError(f"cannot have namespaces of its own: {failure()}")
    mask = _mask((capability,))
    _set(mask, mask, mask)
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0):
        raise HostError(f"cannot pass on rights: {failure()}")


def _require_one_thread() -> None:
    """The others would keep their rights: nobody can give up those of another thread."""
    if (count := len(os.listdir("/proc/self/task"))) > 1:  # noqa: PTH208
        raise HostError(f"cannot give up rights: this process has {count} threads")


def _mask(capabilities: Collection[int]) -> int:
    return sum(1 << number for number in capabilities)


def _bound(needed: Collection[int]) -> None:
    """Limit the bounding set. Without CAP_SETPCAP it cannot be: then no_new_privs has to do."""
    for number in range(_MOST):
        if number not in needed and libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def _sets() -> tuple[int, int, int]:
    """Effective, permitted and inheritable set of this thread."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()
    if libc.capget(header, words):
        raise HostError(f"cannot read capabilities: {failure()}")
    effective, permitted, inheritable = (words[at] | words[at + 3] << 32 for at in range(3))
    return effective, permitted, inheritable


def _set(effective: int, permitted: int, inheritable: int) -> None:
    """Change this thread's sets (capset(2))."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    low = [one & 0xFFFFFFFF for one in (effective, permitted, inheritable)]
    high = [one >> 32 for one in (effective, permitted, inheritable)]
    if libc.capset(header, (ctypes.c_uint32 * 6)(*low, *high)):
        raise HostError(f"cannot give up rights: {failure()}")
