"""Connections as connection tracking makes and forgets them: raw datagrams of ctnetlink.

include/uapi/linux/netfilter/nfnetlink_conntrack.h. NEW is sent when a connection's first packet is
through, with both tuples, so that what NAT made of it is known from then on.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, Self

from iptrec.errors import HostError
from iptrec.kernel.dumps import datagrams

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NEW, _DESTROY = 1, 3  # enum nfnetlink_groups
_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LARGEST: Final = 1 << 17
_RECEIVE_BUFFER: Final = 64 << 20
_SO_RCVBUFFORCE: Final = 33


class ConntrackSocket:
    """Subscribed to new and ended connections of the current network namespace; a context manager."""

    def __init__(self) -> None:
        self._socket = _open()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # not root of the host
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        try:
            for group in (_NEW, _DESTROY):
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"cannot listen to connection tracking: {error.strerror}; the kernel needs"
                " nf_conntrack_netlink, or leave --conntrack out"
            ) from None
        self._socket.setblocking(False)

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


def dump() -> Iterator[bytes]:
    """The connections that there are, as datagrams of the same kind; nothing where the kernel refuses."""
    for datagram in datagrams(_NETLINK_NETFILTER, _GET, bytes(4)):
        if struct.unpack_from("=H", datagram, 4)[0] not in (_NLMSG_DONE, _NLMSG_ERROR):
            yield datagram


def _open() -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    )
    opened.bind((0, 0))  # without a port of its own a socket is not sent what others cause
    opened.connect((0, 0))  # to the kernel: nobody else can send to it
    return opened
