"""Ask the kernel for a list and keep its answer whole: the messages as they came, back to back.

An answer tells by itself how it ended (man 7 netlink): with NLMSG_DONE where it is whole, with NLMSG_ERROR and
a number of errno where the kernel refused, with neither where it was larger than `LIMIT` and is cut. So "there
are none" is not "nobody may look". `decode.snapshots.state` reads it.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import netlink

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT: Final = 16 << 20  # bytes of one answer: 150,000 routes, half a million members of a set
# The kernel puts the asking socket's port into each message: with the same one each time equal lists are equal.
_PORT: Final = 0x49505452  # "IPTR"
_HEADER: Final = struct.Struct("=IHH8x")  # struct nlmsghdr
_PATIENCE_S: Final = 10
_ATTEMPTS: Final = 3


def dump(protocol: int, kind: int, body: bytes, limit: int = LIMIT) -> bytes:
    """The answer to a request of ``kind`` on a netlink ``protocol``, ``limit`` bytes at most.

    It is asked for again where the list changed meanwhile; the last answer counts.
    """
    for _ in range(_ATTEMPTS):
        answer = _answer(protocol, kind, body, limit)
        if not any(flags & netlink.INTERRUPTED for _, flags in _headers(answer)):
            break
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether the kernel told all of it."""
    return any(kind == netlink.DONE for kind, _ in _headers(answer))


def datagrams(protocol: int, kind: int, body: bytes) -> Iterator[bytes]:
    """The answer's datagrams, the one that ends it included. Raises OSError and `HostError`."""
    request = netlink.message(kind, netlink.REQUEST | netlink.DUMP, body, sequence=1)
    with netlink.connected(protocol, _PORT) as asking:
        asking.settimeout(_PATIENCE_S)
        asking.send(request)
        ended = False
        while not ended:
            datagram = asking.recv(netlink.LARGEST)
            yield datagram
            ended = any(kind in (netlink.ERROR, netlink.DONE) for kind, _ in _headers(datagram))


def _headers(messages: bytes) -> Iterator[tuple[int, int]]:
    """Type and flags of each message: there may be many."""
    at = 0
    while at + _HEADER.size <= len(messages):
        size, kind, flags = _HEADER.unpack_from(messages, at)
        yield kind, flags
        at += max(size, _HEADER.size) + 3 & ~3


def _answer(protocol: int, kind: int, body: bytes, limit: int) -> bytes:
    found = bytearray()
    try:
        for datagram in datagrams(protocol, kind, body):
            if len(found) + len(datagram) > limit:
                break
            found += datagram
    except TimeoutError:
        pass  # cut
    except (OSError, HostError) as error:
        found += _refused(error if isinstance(error, OSError) else error.__cause__)
    return bytes(found)


def _refused(error: object) -> bytes:
    """As the kernel says it, where it refused before it could be asked: it does not know this protocol."""
    number = error.errno if isinstance(error, OSError) else None
    return netlink.message(netlink.ERROR, 0, struct.pack("=i", -(number or errno.EIO)), sequence=1)
