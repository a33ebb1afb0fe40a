"""Run iptrec without what only Linux has: `python other_system.py ARGUMENT...`."""

import fcntl
import fnmatch
import mmap
import os
import select
import signal
import socket

ONLY_LINUX = {
    os: (
        "O_PATH", "O_TMPFILE", "O_DIRECT", "O_NOATIME", "memfd_create", "pidfd_open", "unshare", "setns",
        "eventfd", "timerfd_create", "splice", "copy_file_range", "sched_getaffinity", "sched_setaffinity",
        "posix_fadvise", "posix_fallocate", "fdatasync", "getrandom", "getxattr", "setxattr", "listxattr",
        "pipe2", "getresuid", "getresgid", "setresuid", "setresgid", "P_PIDFD", "CLONE_*", "MFD_*", "EFD_*",
    ),
    signal: ("sigtimedwait", "sigwaitinfo", "SIGSTKFLT", "SIGPWR", "SIGRTM*", "pidfd_send_signal"),
    socket: (
        "AF_NETLINK", "NETLINK_*", "AF_PACKET", "PACKET_*", "AF_VSOCK", "SOCK_CLOEXEC", "SOCK_NONBLOCK",
        "SO_BINDTODEVICE", "SO_MARK", "SO_PEERCRED", "SO_PASSCRED", "MSG_CMSG_CLOEXEC", "MSG_ERRQUEUE",
    ),
    select: ("epoll*", "EPOLL*"),
    fcntl: ("F_OFD*", "F_ADD_SEALS", "F_GET_SEALS", "F_SEAL*", "F_SETPIPE", "F_GETPIPE", "F_NOTIFY", "DN_*"),
    mmap: ("MAP_POPULATE", "MAP_STACK"),
}  # fmt: skip

for module, patterns in ONLY_LINUX.items():
    for name in dir(module):
        if any(fnmatch.fnmatchcase(name, one) for one in patterns):
            delattr(module, name)

from iptrec.__main__ import main  # noqa: E402 - without these names from its first line on

main()
