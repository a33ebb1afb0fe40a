"""What a packet's key depends on, and what it does not."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from handmade import datagram, udp, udp6
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import nflog
from iptrec.packets.identity import Packets


def keys(*packets):
    """The keys of the packets, as one batch."""
    events = [datagram("raw:PREROUTING:policy:2", packet, hook=0) for packet in packets]
    lengths = np.array([len(event) for event in events], np.uint32)
    decoded = nflog.decode(b"".join(events), lengths, np.zeros(len(events), np.int64))
    return Packets.of(decoded).keys().tolist()


def ip(protocol, body, *, ident=7, tos=0):
    """An IPv4 packet around a transport header."""
    return struct.pack(
        "!BBHHHBBH4s4s", 0x45, tos, 20 + len(body), ident, 0, 64, protocol, 0, b"\1\1\1\1", b"\2\2\2\2"
    ) + body  # fmt: skip


def tcp(*, seq=1, ack=2, ports=(10, 20), options=b"", data=b""):
    """A TCP segment in IPv4."""
    offset = (20 + len(options)) // 4 << 4
    return ip(6, struct.pack("!HHIIBBHHH", *ports, seq, ack, offset, 2, 0, 0, 0) + options + data)


def ip6(first, body):
    """An IPv6 packet."""
    return struct.pack("!IHBB", 0x60000000, len(body), first, 64) + bytes(32) + body


def echo(ident, seq, kind=8):
    """An ICMP echo."""
    return ip(1, struct.pack("!BBHHH", kind, 0, 0, ident, seq) + b"data")


HOP = b"\x11\0\1\4\0\0\0\0"  # hop-by-hop options, then UDP
SAME = {
    "addresses_and_ports": (udp(b"a"), udp(b"a", src="9.9.9.9", dst="8.8.8.8", sport=5, dport=6)),
    "ttl": (udp(), udp(ttl=3)),
    "tos": (ip(17, bytes(8)), ip(17, bytes(8), tos=0x10)),
    "tcp_ports": (tcp(), tcp(ports=(30, 40))),
    "tcp_options": (tcp(options=b"\2\4\5\xb4", data=b"x"), tcp(options=b"\2\4\5\x00", data=b"x")),
    "icmp_id_is_translated": (echo(1, 5), echo(2, 5)),
    "icmp_error_quotes_translated_addresses": (
        ip(1, struct.pack("!BBHI", 3, 3, 0, 0) + udp(src="1.2.3.4")),
        ip(1, struct.pack("!BBHI", 3, 3, 0, 0) + udp(src="4.3.2.1")),
    ),
    "ipv6_addresses": (udp6(last=1), udp6(last=2)),
    "ipv6_hop_limit": (udp6(), udp6()[:7] + b"\x09" + udp6()[8:]),
}
DIFFERENT = {
    "ip_id": (udp(ident=1), udp(ident=2)),
    "payload": (udp(b"a"), udp(b"b")),
    "length": (udp(b"a"), udp(b"aa")),
    "protocol": (ip(17, bytes(8)), ip(136, bytes(8))),
    "late_payload_byte": (udp(bytes(31) + b"a"), udp(bytes(31) + b"b")),
    "tcp_seq": (tcp(seq=1), tcp(seq=2)),
    "tcp_ack": (tcp(ack=1), tcp(ack=2)),
    "icmp_seq": (echo(1, 5), echo(1, 6)),
    "icmp_type": (echo(1, 5, 8), echo(1, 5, 0)),
    "payload_behind_extension_headers": (
        ip6(0, HOP + bytes(8) + b"a"),
        ip6(0, HOP + bytes(8) + b"b"),
    ),
    "family": (ip(17, bytes(20)), ip6(17, bytes(8))),
    "unknown_protocol": (ip(47, b"\0\0\x08\0"), ip(47, b"\0\0\x86\xdd")),
}


@pytest.mark.parametrize("case", SAME)
def test_key_survives(case):
    """What rules and forwarding may rewrite does not change the key."""
    first, second = SAME[case]
    assert first != second or case == "tcp_options"
    one, two = keys(first, second)
    assert one == two


@pytest.mark.parametrize("case", DIFFERENT)
def test_key_tells_apart(case):
    """What stays with a packet changes the key."""
    one, two = keys(*DIFFERENT[case])
    assert one != two


@given(st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=8))
def test_any_bytes_have_a_key_of_their_own(packets):
    """Truncated and senseless packets never raise, nor depend on their neighbours."""
    assert keys(*packets) == [keys(packet)[0] for packet in packets]


@given(st.binary(max_size=80), st.integers(1, 80))
def test_truncation_is_read_as_zeros_not_as_the_next_message(payload, cut):
    """A packet cut by the snaplen has the same key whatever follows it in the buffer."""
    packet = udp(payload)[:cut]
    assert keys(packet, udp(b"\xff" * 90))[0] == keys(packet, udp(b"\0" * 90))[0]
