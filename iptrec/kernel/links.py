"""Interfaces, addresses, routes, rules and neighbours of the current namespace, and what becomes of links."""

from __future__ import annotations

import socket
import struct
from typing import Final, Self

from iptrec.kernel.dumps import dump

_RTMGRP_LINK: Final = 1
_LARGEST: Final = 65536
_AF_BRIDGE: Final = 7
# Kind of snapshot -> type of the request, and the struct behind its header, all of whose rest is zero: every
# family, every table, every interface (include/uapi/linux/rtnetlink.h).
_DUMPS: Final = {
    "links": (18, bytes(16)),  # RTM_GETLINK, struct ifinfomsg
    "addresses": (22, bytes(8)),  # RTM_GETADDR, struct ifaddrmsg
    "routes": (26, bytes(12)),  # RTM_GETROUTE, struct rtmsg
    "ip-rules": (34, bytes(12)),  # RTM_GETRULE, struct fib_rule_hdr
    "neighbours": (30, bytes(12)),  # RTM_GETNEIGH, struct ndmsg
    "fdb": (30, struct.pack("B11x", _AF_BRIDGE)),
}


class LinkSocket:
    """Tells of interfaces that come, change and go: raw datagrams of the group RTNLGRP_LINK.

    man 7 rtnetlink. Opened before `dumps` is called it misses nothing. A context manager.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        self._socket.bind((0, _RTMGRP_LINK))
        self._socket.connect((0, 0))  # to the kernel: nobody else can send to it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """The next datagram; None if there is none. Raises OSError (ENOBUFS) where some were lost."""
        try:
            return self._socket.recv(_LARGEST)
        except BlockingIOError:
            return None


def dumps() -> dict[str, bytes]:
    """Kind of snapshot -> the messages that rtnetlink answers."""
    return {
        kind: dump(socket.NETLINK_ROUTE, request, body) for kind, (request, body) in _DUMPS.items()
    }


def names() -> list[str]:
    """The interfaces' names."""
    return [name for _, name in socket.if_nameindex()]
