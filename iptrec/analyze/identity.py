"""What stays of a packet whatever the rules do to it, as one 64-bit key an event.

Nothing in nflog says which events are one packet. Addresses, ports, checksums, TTL, TOS and marks may
change from rule to rule (NAT, forwarding, mangle); the IP id, the protocol, the length, the TCP
sequence numbers and the payload do not. Events with equal keys may be one packet; whether they are is
decided by `assemble`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.decode.nflog import NflogEvents

    U64 = npt.NDArray[np.uint64]
    I64 = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

AF_INET6: Final = 10
_TCP, _UDP, _ICMP, _ICMPV6, _SCTP, _UDPLITE = 6, 17, 1, 58, 132, 136
# RFC 8200: hop-by-hop options, routing, fragment, destination options
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_EXTENSIONS_WALKED = 6
_PAYLOAD_WORDS = 4  # 32 bytes of payload tell packets apart well enough
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)


def packet_keys(events: NflogEvents) -> npt.NDArray[np.uint64]:
    """Return one key an event, shape (n,). Events without a readable packet share few keys.

    The lengths and offsets of ``events`` are checked by the decoder; what a header says about itself
    is not believed beyond the captured bytes.
    """
    packet = _Packets(events)
    key = np.full(len(events), 0x243F6A8885A308D3, np.uint64)
    for column in packet.invariants():
        key ^= column
        key *= _ODD
        key ^= key >> np.uint64(29)
    return key


class _Packets:
    """Gathers header fields of all packets of a batch; bytes beyond the capture read as zero."""

    def __init__(self, events: NflogEvents) -> None:
        self._buffer = events.buffer
        present = events.payload >= 0
        self._start = np.where(present, events.payload, 0)
        self._end = np.where(present, events.payload + events.payload_length, 0)
        self._ipv6 = events.family == AF_INET6
        if (bridged := events.family == 7).any():  # AF_BRIDGE
            self._ipv6 |= bridged & (events.protocol == 0x86DD)  # ETH_P_IPV6
        # The decoder pads its buffer: a word may begin at any byte of a packet.
        self._words = np.lib.stride_tricks.sliding_window_view(self._buffer, 8)

    def invariants(self) -> list[U64]:
        """The columns that survive rewriting, each shape (n,), uint64."""
        v6 = self._ipv6
        any_v6 = bool(v6.any())
        fixed = self._word(self._start)  # the first 8 bytes of the IP header, little endian
        version_ihl = fixed & np.uint64(0xFF)
        # IPv4: length, id, flags and offset; IPv6: flow label, payload length, next header
        identity = np.where(
            v6, fixed & np.uint64(0x00FFFFFFFFFF0F00), fixed & np.uint64(0xFFFFFFFFFFFF0000)
        )
        header = ((version_ihl & np.uint64(0x0F)) << np.uint64(2)).astype(np.int64)
        protocol = self._byte(self._start + 9)
        fragment = (_swap16(fixed >> np.uint64(48)) & np.uint64(0x1FFF)).astype(np.int64)
        layer4 = self._start + header
        if any_v6:
            layer4, protocol, fragment = self._walk_extensions(layer4, protocol, fragment)
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

        columns = [identity, (protocol | (fragment << 8)).astype(np.uint64), body]
        columns += [self._word(data + 8 * i) for i in range(_PAYLOAD_WORDS)]
        return columns

    def _walk_extensions(self, layer4: I64, protocol: I64, fragment: I64) -> tuple[I64, I64, I64]:
        """Find the transport header of the IPv6 packets (RFC 8200, section 4)."""
        v6 = self._ipv6
        layer4 = np.where(v6, self._start + 40, layer4)
        protocol = np.where(v6, self._byte(self._start + 6), protocol)
        fragment = np.where(v6, 0, fragment)
        for _ in range(_EXTENSIONS_WALKED):
            options = v6 & (
                (protocol == _HOP_BY_HOP) | (protocol == _ROUTING) | (protocol == _DESTINATION)
            )
            piece = v6 & (protocol == _FRAGMENT)
            if not (options.any() or piece.any()):
                break
            word = self._word(layer4)
            fragment[piece] = (
                _swap16((word[piece] >> np.uint64(16)) & np.uint64(0xFFFF)) >> np.uint64(3)
            ).astype(np.int64)
            step = np.where(
                piece, 8, 8 + 8 * ((word >> np.uint64(8)) & np.uint64(0xFF)).astype(np.int64)
            )
            inside = options | piece
            protocol = np.where(inside, (word & np.uint64(0xFF)).astype(np.int64), protocol)
            layer4 = np.where(inside, layer4 + step, layer4)
            v6 = v6 & ~(piece & (fragment != 0))  # a later fragment has no transport header
        return layer4, protocol, fragment

    def _word(self, at: I64) -> U64:
        """Eight bytes at each offset, little endian; zero beyond the packet's captured end."""
        left = np.clip(self._end - at, 0, 8)
        word: U64 = self._words[np.where(left > 0, at, 0)].view("<u8")[:, 0]
        shift = ((8 - left) * 8).astype(np.uint64)
        short = left < 8
        if not short.any():
            return word
        mask = np.where(
            left > 0, np.uint64(0xFFFFFFFFFFFFFFFF) >> (shift & np.uint64(63)), np.uint64(0)
        ).astype(np.uint64)
        cut: U64 = word & mask
        return cut

    def _byte(self, at: I64) -> I64:
        inside = at < self._end
        return np.where(inside, self._buffer[np.where(inside, at, 0)], 0).astype(np.int64)


def _swap16(word: U64) -> U64:
    word = word & np.uint64(0xFFFF)
    return ((word & np.uint64(0xFF)) << np.uint64(8)) | (word >> np.uint64(8))
