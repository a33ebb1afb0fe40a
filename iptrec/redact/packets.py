"""Packets: addresses mapped, payloads in the place of others, headers and lengths as they are.

Headers inside are mapped, too: what ICMP errors quote, what tunnels carry (IP in IP, GRE, VXLAN). So is ARP.
A packet may be cut anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.redact import sums
from iptrec.redact.icmp import DUMPED, Icmp, filled
from iptrec.redact.quoted import CUT, HEADER, Quoted

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

_CACHED: Final = 1 << 15
_MOST_BEGINS: Final = 1 << 20
_IPV4, _IPV6 = 20, 40  # bytes of headers
_ICMP, _IGMP, _IPIP, _TCP, _UDP, _SIX, _GRE, _ESP, _AH, _ICMPV6, _SCTP, _UDPLITE, _DCCP = (
    1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 132, 136, 33,
)  # fmt: skip
_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _MOBILITY = 0, 43, 44, 60, 135
_WITH_SUM: Final = {_TCP: 16, _UDP: 6, _ICMPV6: 2, _DCCP: 6}
_LEAST_TCP, _UDP_HEADER, _ICMP_HEADER = 20, 8, 8
_HEADS: Final = {_ESP: 8, 103: 4, 89: 4, 112: 4, 108: 4}  # bytes of the header without addresses
_ARP: Final = b"\0\x01\x08\0\x06\x04"
_END, _NOOP, _TIMESTAMPS = 0, 1, 8  # options of TCP
_PLAIN_OPTIONS: Final = frozenset({2, 3, 4, 5})  # MSS, scale, SACK
_ROUTER_ALERT: Final = 148
_IP: Final = (b"\x08\0", b"\x86\xdd")  # ethertypes
_BRIDGED: Final = b"\x65\x58"  # of GRE: frames (RFC 7637)
_VXLAN: Final = (4789, 8472)  # as `packets.identity` knows it
_VXLAN_FRAME, _ETHERNET = 16, 14  # bytes of both headers, of UDP and VXLAN (RFC 7348); of a frame's
_MOST_INSIDE: Final = 4  # packets in packets


class Packets:
    """Maps packets, the same ones always to the same one."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._known: dict[bytes, bytes] = {}
        self._icmp = Icmp(maps, self._quote)
        self._quoted = Quoted(maps)
        self._begins: dict[tuple[bytes, bytes], bytes] = {}
        self._depth = self._quotes = 0

    def learn(self, packet: bytes) -> None:
        """Have the beginning of a transport header be mapped as that of this packet, which is known whole."""
        if len(self._begins) < _MOST_BEGINS:
            at, ends = _transport_of(packet)
            begin = slice(at, at + DUMPED)
            self._begins.setdefault((ends, packet[begin]), self(packet)[begin])

    def begin(self, packet: bytes) -> bytes:
        """What nf_tables dumps of a packet: its header, and 20 bytes behind it."""
        at, ends = _transport_of(packet)
        made, known = self(packet), self._begins.get((ends, packet[at:]))
        return made if known is None else made[:at] + known

    def __call__(self, packet: bytes) -> bytes:
        """A packet from its network header on; it stays as long as it is."""
        found = self._known.get(packet)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._depth = 0
            found = self._known[packet] = self._as_begun(packet, self._inside(packet))
        return found

    def _as_begun(self, packet: bytes, made: bytes) -> bytes:
        at, ends = _transport_of(packet)
        known = self._begins.get((ends, packet[at : at + DUMPED]))
        of_error = ends[:1] == bytes([_ICMPV6]) and Icmp.quotes_6(packet[at:])
        return _beginning_as(known, made, at) if known and of_error else made

    def frame(self, header: bytes) -> bytes:
        """A header of Ethernet, with VLAN tags perhaps."""
        macs = b"".join(self._mac(header[at : at + 6]) for at in (0, 6) if header[at:])
        return macs + (header[12:14] if header[14:] == b"" else self._tags(header[12:]))

    def _tags(self, rest: bytes) -> bytes:
        at = 0
        while rest[at : at + 2] in (b"\x81\0", b"\x88\xa8"):
            at += 4
        return rest[: at + 2] + self._maps.filler(rest[at + 2 :])

    def _mac(self, part: bytes) -> bytes:
        return self._maps.mac(part) if len(part) == 6 else self._maps.filler(part)  # noqa: PLR2004

    def _inside(self, packet: bytes) -> bytes:
        self._depth += 1
        try:
            if self._depth > _MOST_INSIDE or not packet:
                return self._maps.filler(packet)
            if packet[0] >> 4 == 4 and packet[0] & 15 >= 5:  # noqa: PLR2004
                return self._ipv4(packet)
            if packet[0] >> 4 == 6:  # noqa: PLR2004
                return self._ipv6(packet)
            if packet.startswith(_ARP):
                return self._arp(packet)
            return self._maps.filler(packet)
        finally:
            self._depth -= 1

    def _quote(self, packet: bytes) -> bytes:
        """What an error quotes."""
        self._quotes += 1
        try:
            return self._inside(packet)
        finally:
            self._quotes -= 1

    def _address(self, part: bytes, size: int) -> bytes:
        """An address, or as much of it as there is."""
        return self._maps.address(part.ljust(size, b"\0"))[: len(part)]

    def _arp(self, packet: bytes) -> bytes:
        parts = [packet[:8]]
        for at in (8, 18):
            parts += [self._mac(packet[at : at + 6]), self._address(packet[at + 6 : at + 10], 4)]
        return b"".join(parts) + self._maps.filler(packet[28:])

    def _ipv4(self, packet: bytes) -> bytes:
        size = (packet[0] & 15) * 4
        if len(packet) == HEADER and self._depth > 1:
            return self._quoted.header(packet)
        if len(packet) >= size and self._depth == 1:
            self._quoted.see(packet)
        header = bytearray(packet[:size])
        addresses = packet[12:16], packet[16:20]
        header[12:20] = b"".join(self._address(one, 4) for one in addresses)
        header[_IPV4:] = self._options(packet[_IPV4:size])
        if len(header) >= 12:  # noqa: PLR2004
            told = int.from_bytes(header[10:12], "big")
            header[10:12] = sums.adjusted(
                told, sums.total(packet[:size]), sums.total(bytes(header))
            ).to_bytes(2, "big")
        length = int.from_bytes(packet[2:4], "big")
        end = length if size <= length else len(packet)
        body, rest = packet[size:end], packet[end:]
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            mapped = self._maps.filler(body)
        else:
            protocol = packet[9] if len(packet) > 9 else 0  # noqa: PLR2004
            ends = sums.total(packet[12:20]), sums.total(bytes(header[12:20]))
            mapped = self._transport(protocol, body, ends, max(length - size, 0))
        return bytes(header) + mapped + self._maps.filler(rest)

    def _ipv6(self, packet: bytes) -> bytes:
        addresses = self._address(packet[8:24], 16) + self._address(packet[24:_IPV6], 16)
        length = int.from_bytes(packet[4:6], "big")
        end = _IPV6 + length if length else len(packet)
        body, rest = packet[_IPV6:end], packet[end:]
        ends = sums.total(packet[8:_IPV6]), sums.total(addresses)
        following = packet[6] if len(packet) > 6 else 59  # noqa: PLR2004
        mapped = self._extensions(following, body, ends, length)
        return packet[:8] + addresses + mapped + self._maps.filler(rest)

    def _extensions(self, kind: int, body: bytes, ends: tuple[int, int], length: int) -> bytes:
        """What is behind the header of IPv6."""
        found = b""
        while kind in (_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _MOBILITY):
            size = 8 if kind == _FRAGMENT else 8 + 8 * body[1] if len(body) > 1 else 8
            header, body, length = body[:size], body[size:], max(length - size, 0)
            if kind == _FRAGMENT:
                found += header
                if len(header) >= 4 and int.from_bytes(header[2:4], "big") & 0xFFF8:  # noqa: PLR2004
                    return found + self._maps.filler(body)
            elif kind == _ROUTING:
                found += header[:8] + b"".join(
                    self._address(header[at : at + 16], 16) for at in range(8, len(header), 16)
                )
            else:
                found += header[:2] + _options6(self._maps, header[2:])
            kind = header[0] if header else 59
            if kind == _MOBILITY:
                break
        return found + self._transport(kind, body, ends, length)

    def _options(self, options: bytes) -> bytes:
        """Of IPv4: types and lengths stay."""
        found, at = b"", 0
        while at < len(options):
            kind = options[at]
            size = 1 if kind <= 1 else max(options[at + 1], 2) if at + 1 < len(options) else 1
            found += options[at : at + 2][:size]
            value = options[at + 2 : at + size]
            found += value if kind == _ROUTER_ALERT else self._maps.filler(value)
            at += size
        return found

    def _transport(self, protocol: int, body: bytes, ends: tuple[int, int], length: int) -> bytes:
        """``ends``: the sums of both addresses before and after; ``length``: of all behind the headers."""
        match protocol:
            case 4 | 41:
                return self._inside(body)
            case 47:
                return self._gre(body)
            case 51:
                return self._auth(body, ends, length)
            case 132:
                return self._sctp(body, length)
            case 1:
                return self._icmp_of_ipv4(body)
            case 2:
                return self._summed(body, self._igmp(body), 2, (0, 0), 0)
            case 136:
                return self._udplite(body, ends, length)
        if protocol in _WITH_SUM:
            mapped = {_TCP: self._tcp, _UDP: self._udp, _ICMPV6: self._icmp.ipv6, _DCCP: self._dccp}
            both = ends[0] + protocol, ends[1] + protocol
            after = mapped[protocol](body)
            no_sum = protocol == _UDP and body[6:8] == b"\0\0"
            return after if no_sum else self._summed(body, after, _WITH_SUM[protocol], both, length)
        size = _HEADS.get(protocol, 0)
        after = body[:size] + filled(self._maps, body, size)
        at = {112: 6, 103: 2}.get(protocol)
        return after if at is None else self._summed(body, after, at, (0, 0), 0)

    def _icmp_of_ipv4(self, body: bytes) -> bytes:
        after = self._icmp.ipv4(body)
        if len(body) == CUT and after[:CUT] != body and Icmp.quotes(body):
            # The sum of a header with its own checksum is the same for all addresses.
            return body[:8] + after[8:]
        return self._summed(body, after, 2, (0, 0), 0)

    def _summed(
        self, before: bytes, after: bytes, at: int, ends: tuple[int, int], length: int
    ) -> bytes:
        """With its checksum, which is at ``at``."""
        if len(before) < at + 2:
            return after
        if self._quotes and ends != (0, 0):
            # NAT maps the addresses of a quote, and leaves this sum as it is: it depends on none of them.
            return after[:at] + self._maps.digest(before[at : at + 2])[:2] + after[at + 2 :]
        told = int.from_bytes(before[at : at + 2], "big")
        bodies = (
            before[:at] + b"\0\0" + before[at + 2 :],
            after[:at] + b"\0\0" + after[at + 2 :],
        )
        if ends == (0, 0):
            made = sums.adjusted(told, *map(sums.total, bodies))
        else:
            made = sums.transport(told, bodies, ends, length)
        of_udp = at == _WITH_SUM[_UDP] and ends != (0, 0)
        if not made and (of_udp or told == sums.ONES):
            made = sums.ONES  # which is 0, too
        return after[:at] + made.to_bytes(2, "big") + after[at + 2 :]

    def _tcp(self, body: bytes) -> bytes:
        size = max((body[12] >> 4) * 4, _LEAST_TCP) if len(body) > 12 else _LEAST_TCP  # noqa: PLR2004
        options = self._tcp_options(body[_LEAST_TCP:size])
        return body[:_LEAST_TCP] + options + self._maps.filler(body[size:])

    def _tcp_options(self, options: bytes) -> bytes:
        found, at = b"", 0
        while at < len(options):
            kind = options[at]
            size = 1 if kind <= _NOOP else max(options[at + 1], 2) if at + 1 < len(options) else 1
            value = options[at + 2 : at + size]
            found += options[at : at + 2][:size]
            found += value if kind in _PLAIN_OPTIONS else self._maps.filler(value)
            at += size
        return found

    def _udp(self, body: bytes) -> bytes:
        if int.from_bytes(body[2:4], "big") in _VXLAN and len(body) >= _VXLAN_FRAME + _ETHERNET:
            return body[:_VXLAN_FRAME] + self._framed(body[_VXLAN_FRAME:])
        return body[:_UDP_HEADER] + filled(self._maps, body, _UDP_HEADER)

    def _framed(self, frame: bytes) -> bytes:
        """A frame of Ethernet that a tunnel carries, and the packet in it."""
        inside = frame[12:_ETHERNET] in _IP
        rest = frame[_ETHERNET:]
        mapped = self._inside(rest) if inside else self._maps.filler(rest)
        return self.frame(frame[:_ETHERNET]) + mapped

    def _udplite(self, body: bytes, ends: tuple[int, int], length: int) -> bytes:
        """Its sum covers as many bytes as its header says, 0 being all (RFC 3828)."""
        covered = int.from_bytes(body[4:6], "big") or len(body)
        after = self._udp(body)
        both = ends[0] + _UDPLITE, ends[1] + _UDPLITE
        return self._summed(body[:covered], after[:covered], 6, both, length) + after[covered:]

    def _dccp(self, body: bytes) -> bytes:
        size = min(body[4] * 4, 16) if len(body) > 4 else 12  # noqa: PLR2004
        return body[:size] + filled(self._maps, body, size)

    def _igmp(self, body: bytes) -> bytes:
        group = self._address(body[4:8], 4)
        return body[:4] + group + self._maps.filler(body[8:])

    def _gre(self, body: bytes) -> bytes:
        """RFC 2784, 2890: flags tell what is in the header; the sum is left as it is."""
        if len(body) < 4:  # noqa: PLR2004
            return body
        size = 4 + sum(4 for bit in (0x80, 0x20, 0x10) if body[0] & bit)
        inside = body[2:4] in _IP and not body[1] & 7
        rest = body[size:]
        if body[2:4] == _BRIDGED and len(rest) >= _ETHERNET:
            return body[:size] + self._framed(rest)
        return body[:size] + (self._inside(rest) if inside else self._maps.filler(rest))

    def _auth(self, body: bytes, ends: tuple[int, int], length: int) -> bytes:
        size = (body[1] + 2) * 4 if len(body) > 1 else len(body)
        rest = body[size:]
        inside = self._transport(body[0], rest, ends, max(length - size, 0)) if rest else b""
        return body[:12] + filled(self._maps, body[:size], 12) + inside

    def _sctp(self, body: bytes, length: int) -> bytes:
        """The headers of chunks stay; the sum is right again where it was, and all is there."""
        found, at = body[:12], 12
        while at < len(body):
            size = max(int.from_bytes(body[at + 2 : at + 4], "big"), 4)
            found += body[at : at + 4] + self._maps.filler(body[at + 4 : at + size])
            padded = size + 3 & ~3
            found += bytes(len(body[at + size : at + padded]))
            at += padded
        if len(body) >= 12 and len(body) == length:  # noqa: PLR2004
            right = sums.crc32c(body[:8] + bytes(4) + body[12:]) == body[8:12]
            if right:
                return found[:8] + sums.crc32c(found[:8] + bytes(4) + found[12:]) + found[12:]
        return found


def _transport_of(packet: bytes) -> tuple[int, bytes]:
    """Where the transport header is; of which protocol it is, and between which addresses."""
    if packet[:1] and packet[0] >> 4 == 4:  # noqa: PLR2004
        return (packet[0] & 15) * 4, packet[9:10] + packet[12:20]
    at = transport_at(packet)
    return at, packet[6:7] + packet[8:at]


def _options6(maps: Maps, options: bytes) -> bytes:
    """Types and lengths stay, and the values of padding and of router alert (RFC 8200, 2711)."""
    found, at = b"", 0
    while at < len(options):
        kind = options[at]
        end = at + 1 if kind == 0 else at + 2 + (options[at + 1] if at + 1 < len(options) else 0)
        value = options[at + 2 : end]
        found += options[at : at + 2][: end - at]
        found += value if kind in (1, 5) and not value.strip(b"\0")[2:] else maps.filler(value)
        at = end
    return found


def _beginning_as(known: bytes, error: bytes, at: int) -> bytes:
    """An error of ICMPv6 with the checksum of one that begins alike: for nf_tables they are one.

    Their checksums were equal, as the sum of what each quotes does not depend on its addresses. A word of the
    payload that is quoted makes up for it.
    """
    begun, word = error[at : at + DUMPED], len(error) - 2 - (len(error) - at) % 2
    if begun == known or word < _payload_of_quote(error, at + _ICMP_HEADER):
        return error
    told, wanted = (int.from_bytes(one[2:4], "big") for one in (begun, known))
    other = (int.from_bytes(error[word : word + 2], "big") + told - wanted) % sums.ONES
    return (
        error[:at]
        + known
        + error[at + DUMPED : word]
        + other.to_bytes(2, "big")
        + error[word + 2 :]
    )


def _payload_of_quote(packet: bytes, at: int) -> int:
    """Where the payload of the packet of IPv6 begins that is quoted at ``at``."""
    quote = packet[at:]
    if len(quote) < _IPV6:
        return len(packet)
    behind = transport_at(quote)
    size = (quote[behind + 12] >> 4) * 4 if quote[6] == _TCP and len(quote) > behind + 12 else 8
    return at + behind + size


def transport_at(packet: bytes) -> int:
    """Where the transport header of a packet of IPv6 is."""
    at, kind = _IPV6, packet[6] if len(packet) > 6 else 59  # noqa: PLR2004
    while kind in (_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _AH) and at + 8 <= len(packet):
        size = 8 + 8 * packet[at + 1]
        if kind == _FRAGMENT:
            size = 8
        elif kind == _AH:
            size = (packet[at + 1] + 2) * 4
        kind, at = packet[at], at + size
    return at
