"""Sockets of the current network namespace that take packets from anybody, and what becomes of them.

man 7 sock_diag; include/uapi/linux/inet_diag.h. Connections of TCP are left out: there may be a million.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from iptrec.kernel import netlink
from iptrec.kernel.dumps import dump, is_whole
from iptrec.kernel.netlink import Listener

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST: Final = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_MEMORY: Final = 1 << 6  # INET_DIAG_SKMEMINFO as a bit: of UDP, for its drops
_LISTEN: Final = 1 << 10  # states as bits, TCP_LISTEN
_EVERY: Final = 0xFFFFFFFF
_ASKED: Final = (
    (socket.AF_INET, socket.IPPROTO_TCP, 0, _LISTEN),
    (socket.AF_INET6, socket.IPPROTO_TCP, 0, _LISTEN),
    (socket.AF_INET, socket.IPPROTO_UDP, _MEMORY, _EVERY),
    (socket.AF_INET6, socket.IPPROTO_UDP, _MEMORY, _EVERY),
)
_LIMIT: Final = 1 << 20  # bytes of each answer
_DESTROY: Final = (1, 2, 3, 4)  # SKNLGRP_INET_TCP_DESTROY and its like
_LARGEST: Final = 1 << 14
_STATE, _PEER_PORT = 17, 22  # in struct inet_diag_msg behind a netlink header
# Those without a peer pass, and of those with one UDP's (TCP_ESTABLISHED): TCP's are closed (TCP_CLOSE).
_WANTED: Final = (
    (0x28, 0, 0, _PEER_PORT),  # load two bytes
    (0x15, 2, 0, 0),  # jump if equal
    (0x30, 0, 0, _STATE),  # load a byte
    (0x15, 0, 1, 1),
    (0x06, 0, 0, 0xFFFFFFFF),  # return
    (0x06, 0, 0, 0),
)


def dumps() -> bytes:
    """The snapshot "sockets": four answers, back to back, up to one that is not whole."""
    found = b""
    for asked in _ASKED:
        answer = dump(_SOCK_DIAG, _BY_FAMILY, _REQUEST.pack(*asked), _LIMIT)
        found += answer
        if not is_whole(answer):
            break
    return found


class ClosedSockets(Listener):
    """Tells of sockets that are gone, as `dumps` lists those that are there; a context manager.

    Raises OSError where the kernel does not tell them.
    """

    def __init__(self) -> None:
        opened = netlink.connected(_SOCK_DIAG)
        try:
            netlink.attach(opened, _WANTED)
            for group in _DESTROY:
                netlink.join(opened, group)
        except OSError:
            opened.close()
            raise
        super().__init__(opened, _LARGEST)


def closed() -> ClosedSockets | None:
    """The same; None where the kernel or the rights do not allow it."""
    with contextlib.suppress(OSError):
        return ClosedSockets()
    return None
