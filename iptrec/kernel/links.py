"""Interfaces, addresses, routes, rules and neighbours of the current namespace, and what becomes of links."""

from __future__ import annotations

import socket
from typing import Final

from iptrec.kernel import netlink
from iptrec.kernel.dumps import dump
from iptrec.kernel.netlink import Listener

_GROUP_LINK: Final = 1  # RTNLGRP_LINK
_AF_BRIDGE: Final = 7
# Kind of snapshot -> type of the request, and the struct behind its header, all of whose rest is zero: every
# family, every table, every interface (include/uapi/linux/rtnetlink.h).
_DUMPS: Final = {
    "links": (18, bytes(16)),  # RTM_GETLINK, struct ifinfomsg
    "addresses": (22, bytes(8)),  # RTM_GETADDR, struct ifaddrmsg
    "routes": (26, bytes(12)),  # RTM_GETROUTE, struct rtmsg
    "ip-rules": (34, bytes(12)),  # RTM_GETRULE, struct fib_rule_hdr
    "neighbours": (30, bytes(12)),  # RTM_GETNEIGH, struct ndmsg
    "fdb": (30, bytes([_AF_BRIDGE]) + bytes(11)),
}


class LinkSocket(Listener):
    """Tells of interfaces that come, change and go: raw datagrams of the group RTNLGRP_LINK.

    man 7 rtnetlink. Opened before `dumps` is called it misses nothing. A context manager.
    """

    def __init__(self) -> None:
        opened = netlink.connected(netlink.ROUTE)
        netlink.join(opened, _GROUP_LINK)
        super().__init__(opened, netlink.LARGEST)


def dumps() -> dict[str, bytes]:
    """Kind of snapshot -> the messages that rtnetlink answers."""
    return {kind: dump(netlink.ROUTE, request, body) for kind, (request, body) in _DUMPS.items()}


def names() -> list[str]:
    """The interfaces' names."""
    return [name for _, name in socket.if_nameindex()]
