"""Headers of real and of broken packets."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import packet

IP4 = "0a0000010a000002"
IP6 = "20010db800000000000000000000000120010db8000000000000000000000002"
TCP = "d2a004dab7b04f5000000000a002faf0585b0000"
# name -> bytes, family, what the header must have
PACKETS = {
    "tcp_syn": (
        "4510003c0e04400040060000" + IP4 + TCP, 2,
        {"proto": "tcp", "length": 60, "ttl": 64, "id": 3588, "tos": 16, "sport": 53920, "dport": 1242,
         "flags": "SYN", "seq": 3081785168, "ack": 0, "window": 64240, "csum": 0x585B},
    ),
    "udp": ("4500001d000700004011ffff" + IP4 + "03e8003500090102", 2,
            {"src": "10.0.0.1", "dst": "10.0.0.2", "sport": 1000, "dport": 53, "csum": 0x102}),
    "echo": ("45000020000000004001ffff" + IP4 + "0800f7ff00010005", 2,
             {"type": 8, "code": 0, "name": "echo-request", "icmp_id": 1, "icmp_seq": 5}),
    "port_unreachable": (
        "45000038000000004001ffff" + IP4 + "0303f7ff00000000" + "4500001d000700004011ffff" + IP4
        + "03e8003500090000", 2, {"name": "destination-unreachable/port-unreachable"},
    ),
    "later_fragment": ("4500001d0007200240110000" + IP4 + "ffffffff", 2, {"frag": 16, "mf": True}),
    "sctp": ("45000020000000004084ffff" + IP4 + "000100020000000300000004", 2,
             {"proto": "sctp", "sport": 1, "dport": 2}),
    "gre": ("4500001800000000402fffff" + IP4 + "00000800", 2, {"proto": "gre"}),
    "esp": ("450000180000000040320000" + IP4 + "0000000100000002", 2,
            {"proto": "esp", "spi": 1, "seq": 2}),
    "ah": ("450000240000000040330000" + IP4 + "0604000000000001000000020badcafe", 2,
           {"proto": "ah", "spi": 1, "seq": 2}),
    "cut_ah": ("450000240000000040330000" + IP4 + "060400000000", 2, {"spi": None, "truncated": True}),
    "igmp": ("4500001c0000000001020000" + IP4 + "16000903e0000016", 2,
             {"proto": "igmp", "type": 22, "group": "224.0.0.22", "csum": 0x903}),
    "vrrp": ("4500001c00000000ff700000" + IP4 + "210164010001ba52", 2,
             {"proto": "vrrp", "vrid": 1, "priority": 100, "csum": 0xBA52}),
    "unknown": ("450000180000000040fd0000" + IP4 + "00000000", 2, {"proto": "253"}),
    "neighbour_solicitation": (
        "6000000000183aff" + IP6 + "8700abcd00000000" "fe800000000000000000000000000009", 10,
        {"proto": "icmpv6", "hop_limit": 255, "name": "neighbour-solicitation", "target": "fe80::9",
         "length": 64},
    ),
    "extension_headers": (
        "6ab12345001c0040" + IP6 + "2b00010400000000" "1100000000000000" "03e80035000c0001deadbeef", 10,
        {"proto": "udp", "ext": ["hopopt", "routing"], "sport": 1000, "tos": 0xAB, "flow_label": 0x12345},
    ),
    "ipv6_fragment": (
        "6000000000102c40" + IP6 + "1100001900000007" "0000000000000000", 10,
        {"proto": "udp", "ext": ["fragment"], "frag": 24, "mf": True, "id": 7},
    ),
    "cut_tcp": ("4510003c0e04400040060000" + IP4 + TCP[:16], 2,
                {"sport": 53920, "dport": 1242, "truncated": True}),
    "cut_echo": ("45000020000000004001ffff" + IP4 + "0800f7ff00", 2,
                 {"type": 8, "code": 0, "csum": 0xF7FF, "icmp_id": None, "truncated": True}),
    "quoted_nothing": ("45000038000000004001ffff" + IP4 + "0303f7ff00000000", 2,
                       {"name": "destination-unreachable/port-unreachable", "truncated": True}),
    "eight_bytes_of_tcp": ("4510003c0e04400040060000" + IP4 + TCP[:16], 2,
                           {"seq": 3081785168, "ack": None, "truncated": True}),
    "cut_solicitation": ("6000000000183aff" + IP6 + "8700abcd00000000fe80", 10,
                         {"name": "neighbour-solicitation", "target": None, "truncated": True}),
    "cut_extension": ("6ab12345001c0040" + IP6 + "2b0001", 10,
                      {"proto": None, "ext": ["hopopt"], "truncated": True}),
    "other_version": ("6000000000183aff" + IP6, 2, {"src": None, "truncated": True}),
    "cut_ip": ("4510003c", 2, {"src": None, "truncated": True}),
    "senseless_ihl": ("4110003c0e04400040060000" + IP4 + TCP, 2, {"truncated": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKETS)
def test_header(name):
    """The fields of the wire, under their names; what is cut off is said."""
    data, family, expected = PACKETS[name]
    found = packet.header(bytes.fromhex(data), family)
    assert {key: found.get(key) for key in expected} == expected
    if not expected.get("truncated"):
        assert "truncated" not in found


def test_icmp_error_quotes_its_packet():
    """The inner packet's addresses and ports, one level deep."""
    found = packet.header(bytes.fromhex(PACKETS["port_unreachable"][0]), 2)
    assert (found["inner"]["proto"], found["inner"]["dport"]) == ("udp", 53)


def test_link():
    """Ethernet, with and without a VLAN tag; nothing of other lengths."""
    assert packet.link(bytes(range(12)) + b"\x08\x00") == {
        "src": "06:07:08:09:0a:0b", "dst": "00:01:02:03:04:05", "type": "0x0800",
    }  # fmt: skip
    assert packet.link(bytes(12) + b"\x81\x00\x00\x05\x86\xdd")["vlan"] == 5
    assert packet.link(b"short") is None
    assert packet.link(bytes(24)) is None  # of a GRE tunnel


@given(
    st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1), st.integers(0, 255),
)  # fmt: skip
def test_tcp_as_dpkt_writes_it(sport, dport, seq, ack, flags):
    """Every field comes back; the checksum is the one on the wire."""
    segment = dpkt.tcp.TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags)
    whole = bytes(dpkt.ip.IP(src=b"\n\0\0\1", dst=b"\n\0\0\2", p=6, data=segment, len=40))
    found = packet.header(whole, 2)
    assert (found["sport"], found["dport"], found["seq"], found["ack"]) == (sport, dport, seq, ack)
    assert found["csum"] == int.from_bytes(whole[36:38], "big")
    assert len([word for word in found["flags"].split(",") if word]) == flags.bit_count()


@given(st.binary(max_size=200), st.sampled_from([2, 10]))
def test_any_bytes(data, family):
    """Whatever was captured has a header with the four keys that all have."""
    assert {"src", "dst", "proto", "length"} <= set(packet.header(data, family))


@given(st.sampled_from(sorted(PACKETS)), st.integers(0, 100), st.binary(max_size=40))
def test_mutated_packets(name, at, junk):
    """A real packet that goes wrong anywhere never raises."""
    data, family, _ = PACKETS[name]
    packet.header(bytes.fromhex(data)[:at] + junk, family)
