"""What of the streams beside events belongs to some packets: drops, connections, what was asked about routes.

It is known by addresses: both of a packet, as its events have them, before and after NAT, and those that it
quotes. What of the kernel's messages is about none of these packets is taken out; what is about no packet at
all (settings of interfaces, that routes changed, what there was no time to ask) stays.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iptrec.decode import packet
from iptrec.decode.attributes import attributes, headers
from iptrec.decode.conntrack import connections
from iptrec.decode.route_answers import way_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from iptrec.decode.conntrack import Connection, Flow
    from iptrec.decode.events import TraceEvents

CONNECTIONS, ANSWERS = "conntrack", "route-answers"
_FAST: Final = frozenset({6, 17})  # protocols that quote no packet, and carry none
_IPV4, _IPV6 = 20, 40  # bytes of a header
_HEADER: Final = 16  # struct nlmsghdr
_NUMBER_AT: Final = 8
_ROUTE: Final = 12  # struct rtmsg
_CONTROL: Final = 16  # NLMSG_MIN_TYPE
_ERROR, _NEW_ROUTE, _GET_ROUTE = 2, 24, 26
_Pair = frozenset[str]


@dataclass(slots=True)
class Belongs:
    """What is known of the packets that are packed.

    ``pairs``: their addresses, both of one, of any order. ``addresses``: each of them, in bytes. ``labels``:
    the first four bytes of those of IPv6, without the traffic class. ``ids``: of their connections.
    """

    pairs: set[_Pair] = field(default_factory=set)
    addresses: set[bytes] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    _masters: set[Flow] = field(default_factory=set)
    _seen: set[bytes] = field(default_factory=set)

    def see(self, events: TraceEvents, rows: Iterable[int]) -> None:
        """Note the events of packets that are packed."""
        for row in rows:
            content = events.packet(row)
            if (identity := int(events.conntrack[row])) >= 0:
                self.ids.add(identity)
            if not content:
                continue
            if _protocol(content) not in _FAST:
                self._note_quoted(events.header(row))
            ends = content[:4] + content[8:_IPV6] if content[0] >> 4 == 6 else content[12:_IPV4]  # noqa: PLR2004
            if ends not in self._seen:
                self._seen.add(ends)
                self._note(content)

    def _note(self, content: bytes) -> None:
        src, dst = _ends(content)
        if src:
            self.pairs.add(frozenset(map(packet.address, (src, dst))))
            self.addresses.update((src, dst))
        if content[0] >> 4 == 6:  # noqa: PLR2004 - a version
            self.labels.add(_label(content))

    def _note_quoted(self, header: packet.Header) -> None:
        inner = header.get("inner")
        while isinstance(inner, dict):
            if inner.get("src") and inner.get("dst"):
                self.pairs.add(frozenset((inner["src"], inner["dst"])))
            inner = inner.get("inner")

    def is_ipv6(self, content: bytes) -> bool:
        """Whether a packet of IPv6 may be one of them: NAT leaves its label, and one of its ends or both."""
        if len(content) < _IPV6:
            return True
        return _label(content) in self.labels and not self.addresses.isdisjoint(_ends(content))

    def learn_masters(self, datagrams: Iterable[bytes]) -> None:
        """Of connections that stay, the one that each belongs to stays, too."""
        for datagram in datagrams:
            for one in connections(datagram):
                if one.master is not None and self._is_theirs(one):
                    self._masters.add(one.master)

    def _is_theirs(self, one: Connection) -> bool:
        return one.id in self.ids or any(
            _pair(flow) in self.pairs for flow in (one.orig, one.reply)
        )

    def change(self, kind: str) -> Callable[[bytes], bytes]:
        """What is to be done to the datagrams of a stream, in their order from the first one on."""
        return self._connections if kind == CONNECTIONS else _Routes(self.pairs)

    def _connections(self, datagram: bytes) -> bytes:
        return _without(datagram, self._is_kept)

    def _is_kept(self, kind: int, message: bytes) -> bool:
        return kind < _CONTROL or any(
            self._is_theirs(one) or one.orig in self._masters for one in connections(message)
        )


class _Routes:
    """Takes out questions about the ways of other packets, with their answers.

    What was asked about interfaces with one of them stays. A question about nobody (all of it 0) before that
    has it not be taken for a part of what was asked about a packet that is packed.
    """

    def __init__(self, pairs: set[_Pair]) -> None:
        self._pairs = pairs
        self._other = False  # what is asked now is about another packet
        self._nobody = b""  # the question that stands for it, until that is there
        self._gone: set[int] = set()  # numbers of questions that were taken out

    def __call__(self, datagram: bytes) -> bytes:
        found, whole = [], True
        for kind, message in _messages(datagram):
            (number,) = struct.unpack_from("<I", message, _NUMBER_AT)
            if kind == _GET_ROUTE:
                self._asked(message, number)
            if kind not in (_ERROR, _NEW_ROUTE, _GET_ROUTE):
                whole = whole and not self._nobody
                found += [self._nobody, message]
                self._nobody = b""
            elif number in self._gone:
                whole = False
            else:
                found.append(message)
        return datagram if whole else b"".join(found)

    def _asked(self, message: bytes, number: int) -> None:
        way = way_of(message[_HEADER:])
        if way is not None:
            self._gone.clear()
            ends = map(packet.address, (way.src, way.dst))
            self._other = frozenset(ends) not in self._pairs
            self._nobody = _blank(message) if self._other else b""
        if self._other:
            self._gone.add(number)
        else:
            self._gone.discard(number)


def _blank(message: bytes) -> bytes:
    """A question whose attributes are all 0."""
    found = message[: _HEADER + _ROUTE]
    for kind, value in attributes(message[_HEADER + _ROUTE :]):
        found += struct.pack("<HH", 4 + len(value), kind) + bytes(len(value) + (-len(value) & 3))
    return found


def _messages(datagram: bytes) -> list[tuple[int, bytes]]:
    """Type and bytes of each message, filled up to what the next one needs."""
    return [
        (kind, datagram[start - _HEADER : end] + bytes(-(end - start) & 3))
        for kind, _, start, end in headers(datagram)
    ]


def _without(datagram: bytes, keeps: Callable[[int, bytes], bool]) -> bytes:
    """Messages back to back, but those that are not kept; as it is where all are."""
    told = _messages(datagram)
    kept = [message for kind, message in told if keeps(kind, message)]
    return datagram if len(kept) == len(told) else b"".join(kept)


def _pair(flow: Flow) -> _Pair:
    return frozenset((flow.src, flow.dst))


def _protocol(content: bytes) -> int:
    at = 9 if content[0] >> 4 == 4 else 6  # noqa: PLR2004 - a version
    return content[at] if len(content) > at else -1


def _label(content: bytes) -> int:
    """The flow label of IPv6."""
    return int.from_bytes(content[:4], "big") & 0xFFFFF


def _ends(content: bytes) -> tuple[bytes, bytes]:
    """Both addresses; empty where they are not there."""
    version = content[0] >> 4
    if version == 4 and len(content) >= _IPV4:  # noqa: PLR2004
        return content[12:16], content[16:20]
    if version == 6 and len(content) >= _IPV6:  # noqa: PLR2004
        return content[8:24], content[24:40]
    return b"", b""
