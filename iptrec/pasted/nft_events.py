"""One event of a trace of nf_tables as a text tells it, and the message that the kernel would have sent.

`decode.nftrace` reads it. Attributes that are not told are not in it (net/netfilter/nf_tables_trace.c,
include/uapi/linux/netfilter/nf_tables.h). Numbers of attributes are big endian, headers of netlink little
endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iptrec.decode.nftrace import (
    ACCEPT,
    BREAK,
    CONTINUE,
    DROP,
    GOTO,
    JUMP,
    NFT_MSG_TRACE,
    POLICY,
    QUEUE,
    REPEAT,
    RETURN,
    STOLEN,
)  # fmt: skip
from iptrec.names import AF_INET, AF_INET6, NFT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.pasted.nft_packet import Packet
    from iptrec.pasted.sources import Interfaces

_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _LINK, _NETWORK, _TRANSPORT = range(1, 10)
_IIF, _OIF, _MARK, _NFPROTO, _POLICY = 10, 12, 14, 15, 16
_CT_ID, _CT_DIRECTION, _CT_STATUS, _CT_STATE = range(18, 22)
_CODE, _TARGET = 1, 2  # of enum nft_verdict_attributes
_RULE: Final = 2  # enum nft_trace_types: also of a chain's end
_NESTED: Final = 0x8000
_LONGEST_NAME: Final = 255  # bytes: NFT_NAME_MAXLEN, with its NUL
_EITHER: Final = "inet"  # a family whose packets are of either version of IP
_NFPROTO_OF: Final[dict[int | None, int]] = {4: AF_INET, 6: AF_INET6}
_MOST: Final = 2**32
VERDICTS: Final = {
    "accept": ACCEPT, "drop": DROP, "stolen": STOLEN, "queue": QUEUE, "repeat": REPEAT,
    "continue": CONTINUE, "break": BREAK, "jump": JUMP, "goto": GOTO, "return": RETURN,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is told of a packet's connection: bits as in `decode.events`; None for what is not told."""

    id: int | None = None
    direction: int | None = None
    status: int | None = None
    state: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Where a packet was. ``family``: of the table, as nft names it. ``trace``: the kernel's id.

    ``policy``: of a base chain. ``handle``: the rule's, None where it is not told; with neither a handle nor a
    ``text`` it is the end of a chain. ``text``: the rule's, as it was printed. ``verdict``: a number of
    netfilter's or nf_tables', as `decode.nftrace` has it. ``target``: of a jump or goto. ``mark``: None where
    it is not told. ``packet``: told with the first event of each base chain. ``version``: of IP, of any packet.
    """

    trace: int
    family: str
    table: str
    chain: str
    time_ns: int = 0  # epoch
    policy: bool = False
    handle: int | None = None
    text: str | None = None
    verdict: int = CONTINUE
    target: str | None = None
    mark: int | None = None
    packet: Packet | None = None
    version: int | None = None
    tracked: Tracked | None = None

    @property
    def end(self) -> bool:
        """Whether it is the end of a chain, and no policy."""
        return not self.policy and self.handle is None and self.text is None


def datagram(event: Event, interfaces: Interfaces) -> bytes:
    """A message of netlink with its header. Raises `ValueError` for names that are none of the kernel's."""
    body = struct.pack("!BBH", NFT_FAMILIES[event.family], 0, 0) + b"".join(
        _attributes(event, interfaces)
    )
    return _HEADER.pack(_HEADER.size + len(body), NFT_MSG_TRACE, 0, 0, 0) + body


def _attributes(event: Event, interfaces: Interfaces) -> Iterator[bytes]:
    yield _attribute(_TABLE, _name(event.table))
    yield _attribute(_CHAIN, _name(event.chain))
    if event.handle is not None:
        yield _attribute(_HANDLE, event.handle.to_bytes(8))
    yield _u32(_TYPE, POLICY if event.policy else _RULE)
    if event.policy:
        yield _u32(_POLICY, event.verdict % _MOST)
    else:
        target = b"" if event.target is None else _attribute(_TARGET, _name(event.target))
        yield _attribute(_VERDICT | _NESTED, _u32(_CODE, event.verdict % _MOST) + target)
    yield _u32(_ID, event.trace % _MOST)
    if event.mark is not None:
        yield _u32(_MARK, event.mark % _MOST)
    family = event.family
    protocol = _NFPROTO_OF.get(event.version) if family == _EITHER else NFT_FAMILIES[family]
    if protocol is not None:
        yield _u32(_NFPROTO, protocol)
    if event.packet is not None:
        yield from _packet(event.packet, interfaces)
    if event.tracked is not None:
        yield from _tracked(event.tracked)


def _packet(packet: Packet, interfaces: Interfaces) -> Iterator[bytes]:
    for kind, name in ((_IIF, packet.iif), (_OIF, packet.oif)):
        if index := interfaces.index(name):
            yield _u32(kind, index)
    for kind, header in (
        (_LINK, packet.link),
        (_NETWORK, packet.network),
        (_TRANSPORT, packet.transport),
    ):
        if header:
            yield _attribute(kind, header)


def _tracked(tracked: Tracked) -> Iterator[bytes]:
    if tracked.id is not None:
        yield _u32(_CT_ID, tracked.id)
    if tracked.direction is not None:
        yield _attribute(_CT_DIRECTION, bytes([tracked.direction]))
    if tracked.status is not None:
        yield _u32(_CT_STATUS, tracked.status)
    if tracked.state is not None:
        yield _u32(_CT_STATE, tracked.state)


def _name(text: str) -> bytes:
    name = text.encode("utf-8", "surrogateescape")
    if not name or len(name) > _LONGEST_NAME or b"\0" in name:
        raise ValueError("not a name of nf_tables")
    return name + b"\0"


def _u32(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("!I", number))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
