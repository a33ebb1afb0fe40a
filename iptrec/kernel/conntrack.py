"""Connections as connection tracking makes and forgets them: raw datagrams of ctnetlink.

include/uapi/linux/netfilter/nfnetlink_conntrack.h. NEW is sent when a connection's first packet is
through, with both tuples, so that what NAT made of it is known from then on.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, strerror
from iptrec.kernel import dumps, netlink
from iptrec.kernel.netlink import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW, _DESTROY = 1, 3  # enum nfnetlink_groups
_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_LARGEST: Final = 1 << 17
_RECEIVE_BUFFER: Final = 64 << 20


class ConntrackSocket(Listener):
    """Subscribed to new and ended connections of the current network namespace; a context manager."""

    def __init__(self) -> None:
        opened = netlink.connected()
        netlink.ask_for_room(opened, _RECEIVE_BUFFER)
        try:
            for group in (_NEW, _DESTROY):
                netlink.join(opened, group)
        except OSError as error:
            opened.close()
            raise HostError(
                f"cannot listen to connection tracking: {strerror(error)}; the kernel needs"
                " nf_conntrack_netlink, or leave --conntrack out"
            ) from None
        super().__init__(opened, _LARGEST)


def dump() -> Iterator[bytes]:
    """The connections that there are, as datagrams of the same kind; nothing where the kernel refuses."""
    body = netlink.netfilter_body(socket.AF_UNSPEC)
    for datagram in dumps.datagrams(netlink.NETFILTER, _GET, body):
        if next(netlink.messages(datagram)).kind not in (netlink.ERROR, netlink.DONE):
            yield datagram
