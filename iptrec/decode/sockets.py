"""Sockets out of sock_diag's messages: struct inet_diag_msg (include/uapi/linux/inet_diag.h).

The protocol is not in them: the answers to four requests lie back to back, IPv4 and IPv6 of TCP, then of UDP.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.attributes import headers, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_FAMILY, _DONE = 20, 3
_SOCKET: Final = struct.Struct(">BB2xHH16s16s")
_REST: Final = struct.Struct("<I24xI")  # the interface; the user
_ASKED: Final = (6, 6, 17, 17)
_SIZES: Final = {2: 4, 10: 16}  # bytes of an address


def rows(content: bytes) -> Iterator[dict[str, Any]]:
    """Each socket as field -> value; ``state``: of TCP_LISTEN (10) and its like."""
    answer = 0
    for message in messages(content):
        if message.kind == _DONE:
            answer += 1
        size = _SOCKET.size + _REST.size
        if message.kind != _BY_FAMILY or len(message.body) < size or answer >= len(_ASKED):
            continue
        family, state, port, peer_port, *ends = _SOCKET.unpack_from(message.body)
        index, uid = _REST.unpack_from(message.body, _SOCKET.size)
        if family in _SIZES:
            own, peer = (str(ipaddress.ip_address(one[: _SIZES[family]])) for one in ends)
            yield {
                "family": family, "protocol": _ASKED[answer], "state": state, "address": own, "port": port,
                "peer": peer, "peer_port": peer_port, "index": index, "uid": uid,
            }  # fmt: skip


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
