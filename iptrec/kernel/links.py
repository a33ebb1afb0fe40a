"""Interfaces, addresses, routes, rules and neighbours of the current namespace, and what becomes of them."""

from __future__ import annotations

import socket
import sys
from typing import Final

from iptrec.kernel import netlink
from iptrec.kernel.dumps import dump
from iptrec.kernel.netlink import Listener
from iptrec.names import AF_BRIDGE

_GROUPS: Final = (1, 7, 11)  # RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE
_TYPE: Final = 4 if sys.byteorder == "little" else 5  # the low byte of nlmsg_type
_TABLE: Final = 20  # rtm_table behind a netlink header
# RTM_NEWROUTE and RTM_DELROUTE pass where the table is RT_TABLE_LOCAL, all else passes.
_LINKS_AND_LOCAL: Final = (
    (0x30, 0, 0, _TYPE),  # load a byte
    (0x15, 1, 0, 24),  # jump if equal
    (0x15, 0, 2, 25),
    (0x30, 0, 0, _TABLE),
    (0x15, 0, 1, 255),
    (0x06, 0, 0, 0xFFFFFFFF),  # return
    (0x06, 0, 0, 0),
)
# Kind of snapshot -> type of the request, and the struct behind its header, all of whose rest is zero: every
# family, every table, every interface (include/uapi/linux/rtnetlink.h).
_DUMPS: Final = {
    "links": (18, bytes(16)),  # RTM_GETLINK, struct ifinfomsg
    "addresses": (22, bytes(8)),  # RTM_GETADDR, struct ifaddrmsg
    "routes": (26, bytes(12)),  # RTM_GETROUTE, struct rtmsg
    "ip-rules": (34, bytes(12)),  # RTM_GETRULE, struct fib_rule_hdr
    "neighbours": (30, bytes(12)),  # RTM_GETNEIGH, struct ndmsg
    "fdb": (30, bytes([AF_BRIDGE]) + bytes(11)),
}


class LinkSocket(Listener):
    """Tells of interfaces and local routes that come, change and go, in raw datagrams.

    man 7 rtnetlink. Opened before `dumps` is called it misses nothing. A context manager.
    """

    def __init__(self) -> None:
        opened = netlink.connected(netlink.ROUTE)
        # Tables of routes may change a hundred times a second; what addresses the host has is in one.
        netlink.attach(opened, _LINKS_AND_LOCAL)
        for group in _GROUPS:
            netlink.join(opened, group)
        super().__init__(opened, netlink.LARGEST)


def dumps() -> dict[str, bytes]:
    """Kind of snapshot -> the messages that rtnetlink answers."""
    return {kind: dump(netlink.ROUTE, request, body) for kind, (request, body) in _DUMPS.items()}


def names() -> list[str]:
    """The interfaces' names."""
    return [name for _, name in socket.if_nameindex()]
