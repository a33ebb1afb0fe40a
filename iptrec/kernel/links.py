"""Interfaces, addresses, routes, rules and neighbours of the current namespace, and what becomes of them."""

from __future__ import annotations

import contextlib
import errno
import sys
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import netlink
from iptrec.kernel.bpf import bpf, sent
from iptrec.kernel.dumps import LIMIT, dump
from iptrec.kernel.netlink import Listener
from iptrec.names import AF_BRIDGE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR = 1, 5, 7, 8, 9  # RTNLGRP_...
_IPV6_ROUTE, _IPV6_RULE, _NEXTHOP = 11, 19, 32
SETTINGS: Final = (24, 25)  # RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF
_GROUPS: Final = (_LINK, _IPV4_ROUTE, _IPV6_ROUTE)
# Routes of IPv4 that end with their link, address or next hop are told by nobody, but these are.
OF_WAYS: Final = (*_GROUPS, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_RULE, _IPV6_RULE, _NEXTHOP)
WAYS: Final = ("routes", "ip-rules")  # what they are changes of
_ENOUGH: Final = 64  # bytes, of what is cut
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
_R0: Final = 0
# The same for a program of `sent`.
_WANTED: Final[bpf.Code] = [
    bpf.load_packet(bpf.BYTE, _TYPE),
    (bpf.EQUAL, _R0, 24, "route"),
    (bpf.NOT_EQUAL, _R0, 25, sent.IN),
    "route",
    bpf.load_packet(bpf.BYTE, _TABLE),
    (bpf.EQUAL, _R0, 255, sent.IN),
    bpf.number(_R0, 0),
    bpf.EXIT,
]
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

    ``sent_ns``: gives when the datagram was sent that was received last (epoch), 0 where that is not known;
    None where it never is: without a tap.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as opening:
            opened = opening.enter_context(netlink.connected(netlink.ROUTE))
            # Tables of routes may change a hundred times a second; what addresses the host has is in one.
            self.sent_ns: Callable[[], int] | None = None
            try:
                self._times = opening.enter_context(sent.SentTimes(opened, _WANTED))
                self.sent_ns = self._last_sent
            except HostError:
                netlink.attach(opened, _LINKS_AND_LOCAL)
            self._lost = False
            for group in _GROUPS:
                netlink.join(opened, group)
            self._opening = opening.pop_all()
        super().__init__(opened, netlink.LARGEST)

    def __exit__(self, *_: object) -> None:
        self._opening.close()

    def receive(self) -> bytes | None:
        """See `Listener`."""
        try:
            datagram = super().receive()
        except OSError:
            self._lost = True  # it was counted: which note is of which one is not known any more
            raise
        self._sent_ns = 0
        if datagram is not None and self.sent_ns is not None and not self._lost:
            self._sent_ns = self._times.of_next()
        return datagram

    def _last_sent(self) -> int:
        return self._sent_ns


class WaySocket(Listener):
    """Tells that routes of any table, or rules of routing, may have changed; a context manager.

    It is asked now and then. What finds no room in it meanwhile is a change, too. ``groups``: of what else it
    tells, such as `SETTINGS` of interfaces: forwarding, rp_filter.
    """

    def __init__(self, groups: Sequence[int] = OF_WAYS) -> None:
        opened = netlink.connected(netlink.ROUTE)
        for group in groups:
            with contextlib.suppress(OSError):  # a kernel without objects for next hops
                netlink.join(opened, group)
        super().__init__(opened, _ENOUGH)

    def changed(self) -> bool:
        """Whether anything was told since the last time."""
        found = False
        while True:
            try:
                if self.receive() is None:
                    return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            found = True


def dumps(kinds: Collection[str] = _DUMPS.keys(), limit: int = LIMIT) -> dict[str, bytes]:
    """Kind of snapshot -> the messages that rtnetlink answers, ``limit`` bytes at most."""
    return {kind: dump(netlink.ROUTE, *_DUMPS[kind], limit) for kind in _DUMPS if kind in kinds}
