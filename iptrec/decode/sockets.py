"""Sockets out of sock_diag's messages: struct inet_diag_msg (include/uapi/linux/inet_diag.h).

The protocol is not in them: the answers to four requests lie back to back, IPv4 and IPv6 of TCP, then of UDP.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.attributes import first, headers, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_FAMILY, _DONE = 20, 3
_SOCKET: Final = struct.Struct(">BB2xHH16s16s")
# The interface; the cookie, which no other socket has; both queues; user; inode
_REST: Final = struct.Struct("<IQ4xIIII")
_MEMORY, _PROTOCOL, _V6ONLY, _CGROUP_ID = 7, 10, 11, 21  # INET_DIAG_...
_DROPS: Final = slice(32, 36)  # SK_MEMINFO_DROPS, of four bytes each
_ASKED: Final = (6, 6, 17, 17)
_SIZES: Final = {2: 4, 10: 16}  # bytes of an address


def rows(content: bytes) -> Iterator[dict[str, Any]]:
    """Each socket as field -> value; ``state``: of TCP_LISTEN (10) and its like. ``cgroup``: 0 if not told.

    ``waiting``, ``room``: as ss(8) has Recv-Q and Send-Q; of one that listens, how many connections wait to be
    accepted, and how many may. ``drops``: how many packets it had no room for, or that it refused; None if not
    told.
    """
    answer = 0
    for message in messages(content):
        if message.kind == _DONE:
            answer += 1
        if message.kind == _BY_FAMILY and answer < len(_ASKED):
            yield from _socket(message.body, _ASKED[answer])


def _socket(body: bytes, protocol: int | None) -> Iterator[dict[str, Any]]:
    """One socket, or none; ``protocol``: None where it is told among the attributes."""
    size = _SOCKET.size + _REST.size
    if len(body) < size or body[0] not in _SIZES:
        return
    family, state, port, peer_port, *ends = _SOCKET.unpack_from(body)
    index, cookie, waiting, room, uid, inode = _REST.unpack_from(body, _SOCKET.size)
    own, peer = (str(ipaddress.ip_address(one[: _SIZES[family]])) for one in ends)
    told = first(body[size:])
    yield {
        "family": family, "protocol": _number(told, _PROTOCOL) if protocol is None else protocol,
        "state": state, "address": own, "port": port, "peer": peer, "peer_port": peer_port,
        "index": index, "uid": uid, "inode": inode, "cookie": cookie,
        "cgroup": _number(told, _CGROUP_ID), "v6only": bool(_number(told, _V6ONLY)),
        "waiting": waiting, "room": room, "drops": _drops(told),
    }  # fmt: skip


def _number(told: dict[int, bytes], attribute: int) -> int:
    return int.from_bytes(told.get(attribute, b""), "little")


def _drops(told: dict[int, bytes]) -> int | None:
    counted = told.get(_MEMORY, b"")[_DROPS]
    return int.from_bytes(counted, "little") if counted else None


def listed(content: bytes) -> set[tuple[int, int]] | None:
    """Protocol and port of each socket; None where the list is not whole."""
    kinds = [kind for kind, *_ in headers(content)]
    if kinds.count(_DONE) != len(_ASKED) or set(kinds) - {_DONE, _BY_FAMILY}:
        return None
    return {(one["protocol"], one["port"]) for one in rows(content)}


def closed(datagram: bytes) -> Iterator[int]:
    """The ports of sockets that are gone; of which protocol is not told."""
    for kind, _, start, end in headers(datagram):
        if kind == _BY_FAMILY and end - start >= _SOCKET.size:
            yield _SOCKET.unpack_from(datagram, start)[2]


def ended(datagram: bytes) -> Iterator[dict[str, Any]]:
    """Sockets that are gone, as `rows`; of their users and control groups nothing is told."""
    for message in messages(datagram):
        if message.kind == _BY_FAMILY:
            yield from _socket(message.body, None)
