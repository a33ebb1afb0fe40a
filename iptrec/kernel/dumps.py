"""Ask the kernel for a list and keep its answer whole: the messages as they came, back to back.

An answer tells by itself how it ended (man 7 netlink): with NLMSG_DONE where it is whole, with NLMSG_ERROR and
a number of errno where the kernel refused, with neither where it was larger than `LIMIT` and is cut. So "there
are none" is not "nobody may look". `decode.snapshots.state` reads it.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT: Final = 16 << 20  # bytes of one answer: 150,000 routes, half a million members of a set
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST, NLM_F_DUMP
_DUMP_INTR: Final = 0x10  # NLM_F_DUMP_INTR: the list changed while it was read
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LARGEST: Final = 1 << 17  # of a datagram
_PATIENCE_S: Final = 10
_ATTEMPTS: Final = 3


def dump(protocol: int, kind: int, body: bytes, limit: int = LIMIT) -> bytes:
    """The answer to a request of ``kind`` on a netlink ``protocol``, ``limit`` bytes at most.

    It is asked for again where the list changed meanwhile; the last answer counts.
    """
    for _ in range(_ATTEMPTS):
        answer = _answer(protocol, kind, body, limit)
        if not any(flags & _DUMP_INTR for flags in _flags(answer)):
            break
    return answer


def datagrams(protocol: int, kind: int, body: bytes) -> Iterator[bytes]:
    """The answer's datagrams, the one that ends it included. Raises OSError."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
    ) as asking:
        asking.connect((0, 0))  # to the kernel: nobody else can send to it
        asking.settimeout(_PATIENCE_S)
        asking.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, 1, 0) + body)
        ended = False
        while not ended:
            datagram = asking.recv(_LARGEST)
            yield datagram
            ended = any(kind in (_NLMSG_ERROR, _NLMSG_DONE) for kind in _kinds(datagram))


def _answer(protocol: int, kind: int, body: bytes, limit: int) -> bytes:
    found = bytearray()
    try:
        for datagram in datagrams(protocol, kind, body):
            if len(found) + len(datagram) > limit:
                break
            found += datagram
    except TimeoutError:
        pass  # cut
    except OSError as error:  # refused before it was asked, as by a kernel without this protocol
        found += _HEADER.pack(_HEADER.size + 4, _NLMSG_ERROR, 0, 1, 0)
        found += struct.pack("=i", -(error.errno or errno.EIO))
    return bytes(found)


def _kinds(messages: bytes) -> Iterator[int]:
    return (kind for kind, _ in _headers(messages))


def _flags(messages: bytes) -> Iterator[int]:
    return (flags for _, flags in _headers(messages))


def _headers(messages: bytes) -> Iterator[tuple[int, int]]:
    """Type and flags of each message."""
    at = 0
    while at + _HEADER.size <= len(messages):
        size, kind, flags, *_ = _HEADER.unpack_from(messages, at)
        yield kind, flags
        at += max(size, _HEADER.size) + 3 & ~3
