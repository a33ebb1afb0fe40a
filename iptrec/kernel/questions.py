"""What the kernel is asked about a packet: which way it would go, had it come in by an interface.

RTM_GETROUTE with RTA_IIF goes through ip_route_input or ip6_route_input_lookup, as a packet does
(net/ipv4/route.c, net/ipv6/route.c: inet_rtm_getroute, inet6_rtm_getroute), and anybody may ask.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.kernel.netlink import packed
from iptrec.names import AF_INET, AF_INET6

if TYPE_CHECKING:
    from collections.abc import Iterator

GET_ROUTE, GET_NETCONF = 26, 82  # RTM_GETROUTE, RTM_GETNETCONF
_DST, _SRC, _IIF, _MARK, _IP_PROTO, _SPORT, _DPORT = 1, 2, 3, 16, 27, 28, 29  # RTA_
_IFINDEX: Final = 1  # NETCONFA_IFINDEX
ALL: Final = -1  # NETCONFA_IFINDEX_ALL
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ECN: Final = 3
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
# What rules of routing may ask for; of other protocols the kernel takes no question.
_PROTOCOLS: Final = {AF_INET: (_ICMP, _TCP, _UDP), AF_INET6: (_TCP, _UDP, _ICMPV6)}
_PORTS: Final = struct.Struct("!HH")
_IPV4: Final = struct.Struct("!BBxxxxHxBxx4s4s")
_IPV6: Final = struct.Struct("!HxxxxBx16s16s")
_OFFSET: Final = 0x1FFF  # of a fragment
_FRAGMENT: Final = 44
# Headers before that of the protocol: hop by hop, routing, fragment, destination
_EXTENSIONS: Final = frozenset({0, 43, _FRAGMENT, 60})
_MOST_EXTENSIONS: Final = 8
_SHORTEST: Final = 8  # bytes of one


class Question(NamedTuple):
    """A packet as routing sees it; ``src``, ``dst``: of 4 or 16 bytes. Without a protocol, ports: 0."""

    family: int
    iif: int
    src: bytes
    dst: bytes
    mark: int = 0
    tos: int = 0  # without the bits of ECN
    protocol: int = 0
    sport: int = 0
    dport: int = 0

    @classmethod
    def about(
        cls, family: int, iif: int, mark: int, packet: bytes, transport: bytes | None = None
    ) -> Iterator[Question]:
        """At most one; none about what is not IP, or cut too short.

        ``transport``: the header of that layer, where it is not in ``packet``.
        """
        if family == AF_INET and len(packet) >= _IPV4.size and packet[0] >> 4 == 4:  # noqa: PLR2004
            first, tos, fragment, protocol, src, dst = _IPV4.unpack_from(packet)
            behind = packet[(first & 15) * 4 :] if transport is None else transport
            behind = b"" if fragment & _OFFSET else behind
        elif family == AF_INET6 and len(packet) >= _IPV6.size and packet[0] >> 4 == 6:  # noqa: PLR2004
            first, protocol, src, dst = _IPV6.unpack_from(packet)
            tos, behind = first >> 4 & 255, packet[_IPV6.size :]
            protocol, behind = _without_extensions(protocol, behind)
            behind = behind if transport is None else transport
        else:
            return
        protocol = protocol if protocol in _PROTOCOLS[family] else 0
        known = protocol in (_TCP, _UDP) and len(behind) >= _PORTS.size
        ports = _PORTS.unpack_from(behind) if known else (0, 0)
        yield cls(family, iif, src, dst, mark, tos & ~_ECN, protocol, *ports)

    @property
    def without_ports(self) -> Question:
        """As far as it matters where no rule of routing asks for protocols or ports."""
        return self._replace(protocol=0, sport=0, dport=0)

    def body(self) -> bytes:
        """Of RTM_GETROUTE."""
        found = [(_DST, self.dst), (_SRC, self.src), (_IIF, struct.pack("=i", self.iif))]
        if self.mark:
            found.append((_MARK, struct.pack("=I", self.mark)))
        if self.protocol:
            found.append((_IP_PROTO, bytes([self.protocol])))
        ports = (_SPORT, self.sport), (_DPORT, self.dport)
        found += [(kind, struct.pack("!H", port)) for kind, port in ports if port]
        bits = 8 * len(self.dst)
        return _ROUTE.pack(self.family, bits, bits, self.tos, 0, 0, 0, 0, 0) + packed(found)


def way_out(family: int, dst: bytes, tos: int) -> bytes:
    """The body of RTM_GETROUTE for what this host sends to an address."""
    header = _ROUTE.pack(family, 8 * len(dst), 0, tos, 0, 0, 0, 0, 0)
    return header + packed([(_DST, dst)])


def settings(family: int, index: int) -> bytes:
    """The body of RTM_GETNETCONF: forwarding and rp_filter of an interface, or of `ALL`."""
    return struct.pack("=Bxxx", family) + packed([(_IFINDEX, struct.pack("=i", index))])


def _without_extensions(protocol: int, behind: bytes) -> tuple[int, bytes]:
    """The protocol and its header; no header in a fragment that is not the first, or where it is cut."""
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in _EXTENSIONS or len(behind) < _SHORTEST:
            break
        if protocol == _FRAGMENT and int.from_bytes(behind[2:4], "big") >> 3:
            return behind[0], b""
        size = _SHORTEST * (1 if protocol == _FRAGMENT else 1 + behind[1])
        protocol, behind = behind[0], behind[size:]
    return protocol, behind
