"""What stays of a packet whatever the rules do to it, as one 64-bit key an event; and of its flow.

Nothing in nflog says which events are one packet. Addresses, ports, checksums, TTL, TOS, marks and options
of TCP may change from rule to rule (NAT, forwarding, mangle); the IP id, the protocol, the length (of TCP
that of the payload), the TCP sequence numbers and the payload do not. Events with equal keys may be one
packet; whether they are is decided by `assemble`. A frame that is not IP is told by its first bytes.

What a header says about itself is not believed beyond the captured bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask


_TCP, _UDP, _ICMP, _ICMPV6, _SCTP, _UDPLITE = 6, 17, 1, 58, 132, 136
_IPIP, _IPV6, _GRE = 4, 41, 47
WITH_PORTS: Final = (_TCP, _UDP, _SCTP, _UDPLITE)
_PORTS_SIZE: Final = 4  # of ICMP type, code and checksum
_ICMP_ERRORS: Final = (3, 4, 5, 11, 12)
_VXLAN_PORTS: Final = (4789, 8472)  # IANA's, and the one that Linux began with
_ETH_P_IP, _ETH_P_IPV6, _ETH_P_TEB = 0x0800, 0x86DD, 0x6558
# RFC 8200: hop-by-hop options, routing, fragment, destination options
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_OPTIONS: Final = (_HOP_BY_HOP, _ROUTING, _DESTINATION)
EXTENSIONS: Final = (*_OPTIONS, _FRAGMENT)
AUTH: Final = 51  # RFC 4302: NAT changes what follows it, and not its SPI and number
_EXTENSIONS_WALKED = 6
_PROTOCOL_BYTES: Final = 10  # of IPv4, up to the protocol
_NEXT_HEADER: Final = 6  # where IPv6 tells it
_NETWORK_ROOM, _TRANSPORT_ROOM = 40, 20  # what nf_tables dumps of both headers
DUMPED: Final = _NETWORK_ROOM + _TRANSPORT_ROOM
_PAYLOAD_WORDS = 4  # 32 bytes of payload tell packets apart well enough
_FRAME_WORDS = 5  # all that nf_tables dumps
_PORT: Final = np.uint64(0xFFFF)
# _FIRST_BYTES[n] keeps the first n bytes of a word.
_FIRST_BYTES: Final = np.array([(1 << 8 * kept) - 1 for kept in range(9)], np.uint64)
# Odd numbers of 64 bits without a pattern: multiplying by one spreads what differs over all bits
ODD: Final = np.uint64(0x9E3779B97F4A7C15)
MIX: Final = np.uint64(0xD6E8FEB86659FD93)


def protocols(events: TraceEvents) -> I64:
    """The number of the transport protocol of each packet, -1 where that is not known; shape (n,)."""
    return Packets.of(events).protocols()


def addressed(events: TraceEvents) -> Mask:
    """Of which packets the addresses are known, shape (n,)."""
    size = np.where(events.ipv6, 40, 20)
    there: Mask = events.ip & (events.payload >= 0) & (events.payload_length >= size)
    return there


def pair_keys(events: TraceEvents) -> U64:
    """One key an event for source and destination address, shape (n,)."""
    return Packets.of(events).pair_keys()


def lengths(events: TraceEvents) -> I64:
    """The length of each packet (bytes) as its IP header says it, 0 without one; shape (n,)."""
    return Packets.of(events).lengths()


def combined(columns: list[U64]) -> U64:
    """One key for several columns."""
    key = np.full(len(columns[0]), 0x243F6A8885A308D3, np.uint64)
    for column in columns:
        key ^= column
        key *= ODD
        key ^= key >> np.uint64(29)
    return key


class Packets:
    """The packets that lie between ``start`` and ``end`` of a buffer; all columns have shape (n,).

    Bytes beyond the capture read as zero.
    """

    def __init__(self, buffer: npt.NDArray[np.uint8], start: I64, end: I64, v6: Mask) -> None:
        self._buffer = buffer
        self._end = end
        self._start = start
        self._ipv6 = v6
        # The decoder pads its buffer: a word may begin at any byte of a packet.
        self._words: U64 = np.ndarray((len(buffer) - 7,), "<u8", buffer, strides=(1,))
        self._transport: tuple[I64, I64, I64] | None = None
        self._ends: tuple[U64, list[U64], list[U64]] | None = None
        self._frames: tuple[I64, U64] | None = None  # those that are not IP, and their keys

    @classmethod
    def of(cls, events: TraceEvents, rows: I64 | None = None) -> Self:
        """The packets of some events, or of all."""
        every: I64 | slice = slice(None) if rows is None else rows
        start, length = events.payload[every], events.payload_length[every]
        v6, ip = events.ipv6[every], events.ip[every]
        end = np.where(start >= 0, start + length, 0)
        start = np.maximum(start, 0)
        if ip.all():
            return cls(events.buffer, start, end, v6)
        packets = cls(events.buffer, start, np.where(ip, end, start), v6)
        other = np.flatnonzero(~ip)
        frames = cls(events.buffer, start[other], end[other], v6[other])
        words = [frames._word(frames._start + 8 * i) for i in range(_FRAME_WORDS)]
        packets._frames = other, combined(words)
        return packets

    def dumped(self, most: int = DUMPED) -> Packets:
        """The same as far as nf_tables dumps them: headers and little more; no more than ``most`` bytes."""
        end = np.minimum(self._end, self._start + np.minimum(self.rooms(), most))
        cut = Packets(self._buffer, self._start, end, self._ipv6)
        cut._frames = self._frames
        return cut

    def rooms(self) -> I64:
        """How many bytes of each nf_tables dumps at most (nf_tables_trace.c)."""
        _, _, fragment = self._layer4()
        header = (self._byte(self._start) & 0x0F) * 4
        extended = np.isin(self._byte(self._start + _NEXT_HEADER), EXTENSIONS)
        header = np.where(self._ipv6, np.where(extended, _NETWORK_ROOM + 1, _NETWORK_ROOM), header)
        room = np.where(header <= _NETWORK_ROOM, header + _TRANSPORT_ROOM, _NETWORK_ROOM)
        return np.where(self._ipv6 & (fragment > 0), _TRANSPORT_ROOM, room)

    def keys(self) -> U64:
        """One key a packet. Those without anything readable share few keys."""
        keys = combined(self._invariants())
        if self._frames is not None:
            keys[self._frames[0]] = self._frames[1]
        return keys

    def flow_keys(self, *, back: bool = False) -> U64:
        """One key a packet for its addresses, ports and protocol.

        The two directions of a flow have different keys; ``back`` gives those of the other direction.
        """
        return combined(self.ends(back=back))

    def end_keys(self) -> tuple[U64, U64]:
        """Keys of each packet's source and of its destination: address, port and protocol."""
        protocol, *ends = self.ends()
        half = len(ends) // 2
        return combined([protocol, *ends[:half]]), combined([protocol, *ends[half:]])

    def pair_keys(self) -> U64:
        """One key a packet for source and destination address."""
        return combined(self._pair())

    def datagram_keys(self) -> tuple[U64, Mask]:
        """One key a packet for the IPv4 datagram that it is a fragment of, or whole; and which are fragments.

        RFC 791: source, destination, protocol and identification; 0 for IPv6.
        """
        keys, fragment = self._datagram()
        return np.where(self._ipv6, np.uint64(0), combined(keys)), fragment & ~self._ipv6

    def inner_keys(self) -> tuple[U64, U64, Mask]:
        """Keys of the packets inside of packets: `keys` and `flow_keys`; 0 without one.

        Inside are what a tunnel carries (IPIP, 6in4, GRE, VXLAN) and what an ICMP error quotes: the third
        tells which are quotes.
        """
        start, v6, quoted = self._inner()
        there = np.flatnonzero(start >= 0)
        key, flow = np.zeros(len(start), np.uint64), np.zeros(len(start), np.uint64)
        if len(there):
            inner = Packets(self._buffer, start[there], self._end[there], v6[there])
            key[there], flow[there] = inner.keys(), inner.flow_keys()
        return key, flow, quoted

    def ends(self, *, back: bool = False) -> list[U64]:
        """Protocol, then address (two columns) and port of the source and of the destination.

        All have shape (n,), uint64, in the byte order of the packet.
        """
        if self._ends is None:
            self._ends = self._read_ends()
        protocol, source, destination = self._ends
        return [protocol, *destination, *source] if back else [protocol, *source, *destination]

    def _read_ends(self) -> tuple[U64, list[U64], list[U64]]:
        """Protocol, source and destination as `ends` tells them."""
        layer4, protocol, fragment = self._layer4()
        ported = np.isin(protocol, WITH_PORTS) & (fragment == 0)
        ports = np.where(ported, self._word(layer4), np.uint64(0))
        four = self._word(self._start + 12)
        six = [self._word(self._start + 8 * i) for i in range(1, 5)] if self._ipv6.any() else []
        source, destination = (
            [*_address(four >> np.uint64(32 * i), six[2 * i : 2 * i + 2], self._ipv6), port]
            for i, port in enumerate((ports & _PORT, ports >> np.uint64(16) & _PORT))
        )
        return protocol.astype(np.uint64), source, destination

    def protocols(self) -> I64:
        """Behind the extension headers of IPv6; -1 where they were not captured."""
        _, protocol, _ = self._layer4()
        cut = (self._end <= self._start) | (self._ipv6 & np.isin(protocol, EXTENSIONS))
        cut |= ~self._ipv6 & (self._end < self._start + _PROTOCOL_BYTES)
        return np.where(cut, -1, protocol)

    def transports(self, at: int = 0) -> tuple[U64, Mask, Mask]:
        """Of each transport header eight bytes from ``at`` on, little endian; later fragments; what is cut off.

        A later fragment has no such header; of others the ports, or type and code, may be missing.
        """
        layer4, _, fragment = self._layer4()
        later: Mask = fragment != 0
        return self._word(layer4 + at), later, ~later & (layer4 + _PORTS_SIZE > self._end)

    def resets(self) -> Mask:
        """Which are TCP's resets."""
        reset: Mask = self.flags() & 4 != 0
        return reset

    def flags(self) -> I64:
        """Those of TCP, 0 for what is not TCP. RFC 9293: they are the fourteenth byte."""
        layer4, protocol, fragment = self._layer4()
        tcp = (protocol == _TCP) & (fragment == 0)
        return np.where(tcp, self._byte(layer4 + 13), 0)

    def _pair(self) -> list[U64]:
        """Source and destination address, each shape (n,), uint64."""
        four = np.where(self._ipv6, np.uint64(0), self._word(self._start + 12))
        six = [
            np.where(self._ipv6, self._word(self._start + 8 + 8 * i), np.uint64(0))
            for i in range(4)
        ]
        return [four, *six]

    def lengths(self) -> I64:
        """IPv4: total length; IPv6: payload length and the header."""
        fixed = self._word(self._start)
        four = swapped16(fixed >> np.uint64(16)).astype(np.int64)
        if not self._ipv6.any():
            return four
        return np.where(self._ipv6, swapped16(fixed >> np.uint64(32)).astype(np.int64) + 40, four)

    def _datagram(self) -> tuple[list[U64], Mask]:
        """Source and destination, protocol and id of IPv4; and whether it is a fragment."""
        fixed = self._word(self._start)
        place = swapped16(fixed >> np.uint64(48))  # more fragments, and the offset
        fragment: Mask = (place & np.uint64(0x3FFF)) != 0
        number = (fixed >> np.uint64(32)) & np.uint64(0xFFFF)
        protocol = self._byte(self._start + 9).astype(np.uint64)
        return [self._word(self._start + 12), protocol << np.uint64(16) | number], fragment

    def _inner(self) -> tuple[I64, Mask, Mask]:
        """Where the packet inside begins (-1: there is none), whether it is IPv6, and a quote."""
        layer4, protocol, fragment = self._layer4()
        first = self._word(layer4)
        flags = (first & np.uint64(0xFF)).astype(
            np.int64
        )  # GRE: checksum, key, sequence (RFC 2890)
        ethertype = swapped16(first >> np.uint64(16)).astype(np.int64)
        gre = protocol == _GRE
        body = layer4 + 4 + 4 * ((flags >> 7) + (flags >> 5 & 1) + (flags >> 4 & 1))
        vxlan = (protocol == _UDP) & np.isin(swapped16(first >> np.uint64(16)), _VXLAN_PORTS)
        framed = vxlan | (gre & (ethertype == _ETH_P_TEB))
        frame = np.where(vxlan, layer4 + 16, body)
        ethertype = np.where(framed, swapped16(self._word(frame + 12)).astype(np.int64), ethertype)
        quoted = ((protocol == _ICMP) & np.isin(flags, _ICMP_ERRORS)) | (
            (protocol == _ICMPV6) & (flags < 128)
        )
        start = np.full(len(layer4), -1, np.int64)
        start = np.where((protocol == _IPIP) | (protocol == _IPV6), layer4, start)
        known = (ethertype == _ETH_P_IP) | (ethertype == _ETH_P_IPV6)
        start = np.where(gre & ~framed & known, body, start)
        start = np.where(framed & known, frame + 14, start)
        start = np.where(quoted, layer4 + 8, start)
        start = np.where((fragment == 0) & (start < self._end), start, -1)
        v6 = (protocol == _IPV6) | ((gre | framed) & (ethertype == _ETH_P_IPV6))
        return start, v6 | (protocol == _ICMPV6), quoted & (start >= 0)

    def _layer4(self) -> tuple[I64, I64, I64]:
        """Where the transport header is, which protocol, and the fragment's offset."""
        if self._transport is not None:
            return self._transport
        fixed = self._word(self._start)
        header = ((fixed & np.uint64(0x0F)) << np.uint64(2)).astype(np.int64)
        fragment = (swapped16(fixed >> np.uint64(48)) & np.uint64(0x1FFF)).astype(np.int64)
        found = self._start + header, self._byte(self._start + 9), fragment
        self._transport = self._walk_extensions(*found) if self._ipv6.any() else found
        return self._transport

    def _invariants(self) -> list[U64]:
        """Return what no rule rewrites, as columns of shape (n,), uint64."""
        v6 = self._ipv6
        fixed = self._word(self._start)  # the first 8 bytes of the IP header, little endian
        # IPv4: id, flags and offset; IPv6: flow label, next header
        identity = np.where(
            v6, fixed & np.uint64(0x00FF0000FFFF0F00), fixed & np.uint64(0xFFFFFFFF00000000)
        )
        layer4, protocol, fragment = self._layer4()
        first = self._word(layer4)
        second = self._word(layer4 + 8)
        tcp = (protocol == _TCP) & (fragment == 0)
        udp = ((protocol == _UDP) | (protocol == _UDPLITE)) & (fragment == 0)
        icmp = ((protocol == _ICMP) | (protocol == _ICMPV6)) & (fragment == 0)
        sctp = (protocol == _SCTP) & (fragment == 0)
        known = tcp | udp | icmp | sctp

        # TCP: sequence and acknowledgement number; ICMP: type, code, and the sequence of echoes
        # (their id is rewritten like a port); SCTP: verification tag; others: all of the bytes.
        body = first.copy()
        body[tcp] = (first[tcp] >> np.uint64(32)) | (second[tcp] << np.uint64(32))
        body[udp] = 0
        body[sctp] = first[sctp] >> np.uint64(32)
        kind = first & np.uint64(0xFF)
        body[icmp] = first[icmp] & np.uint64(0xFFFF)
        echo = icmp & np.where(v6, (kind == 128) | (kind == 129), (kind == 8) | (kind == 0))
        body[echo] = first[echo] & np.uint64(0xFFFF00000000FFFF)

        signed = np.flatnonzero(v6 & (fixed >> np.uint64(48) & np.uint64(0xFF) == AUTH))
        body[signed] ^= self._word(self._start + 44)[signed]

        data = layer4.copy()
        offset = ((second >> np.uint64(34)) & np.uint64(0x3C)).astype(
            np.int64
        )  # byte 12, high nibble
        data[tcp] += np.maximum(offset[tcp], 20)
        data[udp] += 8
        data[icmp] += 8
        data[sctp] += 12
        # An ICMP error quotes a packet whose addresses are translated too: its payload is no witness.
        error = icmp & np.where(
            v6, kind < 128, (kind == 3) | (kind == 11) | (kind == 12) | (kind == 5)
        )
        data[error] = self._end[error]
        data[~known] += 8

        # TCPMSS gives a SYN an option that it did not have (net/netfilter/xt_TCPMSS.c).
        length = self.lengths()
        length[tcp] -= data[tcp] - self._start[tcp]
        columns = [identity, (protocol | fragment << 8 | length << 32).astype(np.uint64), body]
        columns += [self._word(data + 8 * i) for i in range(_PAYLOAD_WORDS)]
        return columns

    def _walk_extensions(self, layer4: I64, protocol: I64, fragment: I64) -> tuple[I64, I64, I64]:
        """Find the transport header of the IPv6 packets (RFC 8200, section 4)."""
        v6 = self._ipv6
        layer4 = np.where(v6, self._start + 40, layer4)
        protocol = np.where(v6, self._byte(self._start + 6), protocol)
        fragment = np.where(v6, 0, fragment)
        for _ in range(_EXTENSIONS_WALKED):
            options = v6 & np.isin(protocol, _OPTIONS)
            piece, signed = v6 & (protocol == _FRAGMENT), v6 & (protocol == AUTH)
            if not (options.any() or piece.any() or signed.any()):
                break
            word = self._word(layer4)
            fragment[piece] = (
                swapped16((word[piece] >> np.uint64(16)) & np.uint64(0xFFFF)) >> np.uint64(3)
            ).astype(np.int64)
            units = ((word >> np.uint64(8)) & np.uint64(0xFF)).astype(np.int64)
            step = np.where(piece, 8, np.where(signed, 8 + 4 * units, 8 + 8 * units))
            inside = (options | piece | signed) & (layer4 < self._end)
            if not inside.any():
                break
            protocol = np.where(inside, (word & np.uint64(0xFF)).astype(np.int64), protocol)
            layer4 = np.where(inside, layer4 + step, layer4)
            v6 = v6 & ~(piece & (fragment != 0))  # a later fragment has no transport header
        return layer4, protocol, fragment

    def _word(self, at: I64) -> U64:
        """Eight bytes at each offset, little endian; zero beyond the packet's captured end."""
        left = self._end - at
        if not (left < 8).any():
            return self._words[at]
        left = np.clip(left, 0, 8)
        word: U64 = self._words[np.where(left > 0, at, 0)] & _FIRST_BYTES[left]
        return word

    def _byte(self, at: I64) -> I64:
        inside = at < self._end
        return np.where(inside, self._buffer[np.where(inside, at, 0)], 0).astype(np.int64)


def _address(four: U64, six: list[U64], v6: Mask) -> list[U64]:
    """Two columns of addresses; ``four``: its lowest bytes are IPv4's; ``six``: empty where none is IPv6."""
    low, zero = four & np.uint64(0xFFFFFFFF), np.zeros(len(four), np.uint64)
    return [np.where(v6, six[0], low), np.where(v6, six[1], zero)] if six else [low, zero]


def swapped16(word: U64) -> U64:
    """The lowest two bytes of each word, as a number in network byte order."""
    word = word & np.uint64(0xFFFF)
    return ((word & np.uint64(0xFF)) << np.uint64(8)) | (word >> np.uint64(8))
