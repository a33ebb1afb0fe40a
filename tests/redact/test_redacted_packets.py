"""Packets: checksums, what is inside of others, and whatever a stranger wrote."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.answers.checksums import wrong_in
from iptrec.recording.reader import Reader
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.packets import Packets
from iptrec.redact.recorded import _changed, _Changes

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
SRC, DST = ipaddress.ip_address("8.8.4.4").packed, ipaddress.ip_address("10.9.8.7").packed
SIX = ipaddress.ip_address("2a01:4f8::7").packed, ipaddress.ip_address("fd00:9::1").packed


def maps(keeps=()):
    key = Key(b"any")
    addresses, _ = surveyed(key, keeps)
    return Redaction(key, addresses, keeps, ())


def ipv4(protocol, data):
    return bytes(dpkt.ip.IP(src=SRC, dst=DST, p=protocol, ttl=9, data=data, sum=0))


def ipv6(protocol, data):
    return bytes(
        dpkt.ip6.IP6(src=SIX[0], dst=SIX[1], nxt=protocol, plen=len(data), hlim=9, data=data)
    )


def tcp(payload):
    return dpkt.tcp.TCP(sport=1000, dport=443, seq=1, flags=2, data=payload, sum=0)


def udp(payload):
    return dpkt.udp.UDP(sport=1000, dport=53, ulen=8 + len(payload), data=payload, sum=0)


@given(st.binary(max_size=80))
@settings(max_examples=40)
def test_right_checksums_are_right_afterwards(payload):
    """Of TCP, UDP and ICMP, of both families; lengths stay."""
    made = Packets(maps())
    echo = dpkt.icmp.ICMP(type=8, data=dpkt.icmp.ICMP.Echo(id=1, seq=1, data=payload))
    for packet in (
        ipv4(6, tcp(payload)),
        ipv4(17, udp(payload)),
        ipv4(1, echo),
        ipv6(6, tcp(payload)),
        ipv6(17, udp(payload)),
    ):
        assert wrong_in(packet) is None
        after = made(packet)
        assert len(after) == len(packet)
        assert wrong_in(after) is None
        if packet[0] >> 4 == 4:
            assert sum(struct.unpack(">10H", after[:20])) % 0xFFFF == 0


@pytest.mark.parametrize("build", [lambda one: ipv4(6, tcp(one)), lambda one: ipv6(17, udp(one))])
def test_a_wrong_checksum_is_wrong_afterwards(build):
    """The kernel dropped it for that."""
    packet = bytearray(build(b"any payload at all"))
    packet[-1] ^= 1
    assert wrong_in(bytes(packet)) is not None
    assert wrong_in(Packets(maps())(bytes(packet))) is not None


def test_a_checksum_that_was_left_to_the_device_is_so_afterwards():
    """There is only the sum of the pseudo-header."""
    packet = bytearray(ipv4(17, udp(b"any payload")))
    ends = sum(struct.unpack(">4H", packet[12:20])) + 17 + len(packet) - 20
    packet[26:28] = (ends % 0xFFFF).to_bytes(2, "big")
    after = Packets(maps())(bytes(packet))
    ends = sum(struct.unpack(">4H", after[12:20])) + 17 + len(after) - 20
    assert int.from_bytes(after[26:28], "big") == ends % 0xFFFF


def test_udp_without_a_checksum_has_none_afterwards():
    """0 says so."""
    packet = bytearray(ipv4(17, udp(b"any payload")))
    packet[26:28] = b"\0\0"
    assert Packets(maps())(bytes(packet))[26:28] == b"\0\0"


def test_what_an_error_quotes_is_mapped_as_the_packet_itself():
    """Addresses and ports."""
    made = Packets(maps())
    packet = ipv4(17, udp(b"any payload at all"))
    error = ipv4(1, b"\3\3\0\0\0\0\0\0" + packet[:28])
    after, quote = made(packet), made(error)[28:]
    assert quote[12:24] == after[12:24]
    assert SRC not in made(error)
    assert wrong_in(made(error)) == wrong_in(error)


def test_what_a_tunnel_carries_is_mapped():
    """IP in IP, GRE."""
    made = Packets(maps())
    packet = ipv4(17, udp(b"any payload at all"))
    after = made(packet)
    assert made(ipv4(4, packet))[20:] == after
    assert made(ipv4(47, b"\0\0\x08\0" + packet))[24:] == after


@pytest.mark.parametrize("port", [4789, 8472])
def test_what_vxlan_carries_is_mapped(port):
    """Frames, of which the packet inside is told apart by its headers; the checksum outside is right again."""
    made = Packets(known := maps())
    packet = ipv4(17, udp(b"any payload at all"))
    macs = bytes.fromhex("525400123456"), bytes.fromhex("52540065432a")
    frame = b"".join(macs) + b"\x08\0" + packet
    outside = udp(b"\x08\0\0\0\0\0\x2a\0" + frame)
    outside.dport = port
    after = made(ipv4(17, outside))
    assert after[36:48] == b"".join(map(known.mac, macs))
    assert after[50:] == made(packet)
    assert wrong_in(after) is None
    assert made(ipv4(47, b"\0\0\x65\x58" + frame))[24:] == after[36:]


def test_what_is_in_the_place_of_a_link_header_goes():
    """What was in that memory before, of a packet that has none: a piece of a payload, from nf_tables."""
    before = b"ecret\0\0\0\0\0\0\0\0\0"
    after = Packets(maps()).frame(before)
    assert after[:6] != before[:6]
    assert b"ecret" not in after
    assert after[0] & 3 == before[0] & 3  # a group's, given by hand
    assert after[6:] == before[6:]
    known = bytes.fromhex("01005e0000fb") + bytes.fromhex("3333000000fb") + b"\x08\0"
    assert Packets(maps()).frame(known) == known


def test_payloads_go():
    """Equal ones stay equal; --keep payload has them."""
    made = Packets(maps())
    secret = b"a secret of some length"
    assert secret not in made(ipv4(17, udp(secret)))
    assert made(ipv4(17, udp(secret)))[28:] == made(ipv4(17, udp(secret)))[28:]
    assert made(ipv4(17, udp(secret)))[28:] != made(ipv4(17, udp(secret[:-1] + b"x")))[28:]
    assert Packets(maps(["payload"]))(ipv4(17, udp(secret)))[28:] == secret


@pytest.mark.parametrize("made", [ipv4, ipv6])
def test_what_is_dumped_is_of_one_protocol(made):
    """nf_tables dumps the beginning of what is behind a header, which may equal that of another protocol."""
    inner = ipv4(17, b"ports" * 8)
    packets = Packets(maps())
    whole = [made(protocol, inner) for protocol in (4, 94)]
    for packet in whole:
        packets.learn(packet)
    for packet in whole:
        dumped = packet[: len(packet) - len(inner) + 20]
        assert packets.begin(dumped) == packets(packet)[: len(dumped)]


@pytest.mark.parametrize("size", [2, 3, 36])
@pytest.mark.parametrize("transport", [tcp, udp])
def test_errors_that_begin_alike_have_one_checksum(transport, size):
    """That of ICMPv6 does not tell which packet is quoted, nor does what nf_tables dumps of it."""
    protocol = 6 if transport is tcp else 17
    packets, errors = Packets(maps()), []
    for port in (1000, 1001, 1002):
        inner = transport(bytes(range(size)))
        inner.sport = port
        quote = ipv6(protocol, inner)[:8] + SIX[1] + SIX[0] + ipv6(protocol, inner)[40:]
        quote = bytes(dpkt.ip6.IP6(quote))
        errors.append(ipv6(58, dpkt.icmp6.ICMP6(type=1, code=4, sum=0, data=bytes(4) + quote)))
    assert len({one[:60] for one in errors}) == 1
    for one in errors:
        packets.learn(one)
    made = [packets(one) for one in errors]
    assert {one[:60] for one in made} == {packets.begin(errors[0][:60])}
    assert len({*made}) == len(made)
    assert [wrong_in(one) for one in made] == [None] * len(made)


def test_neighbours_are_mapped_as_their_addresses():
    """Target and link-layer address of a solicitation."""
    made = maps()
    target = ipaddress.ip_address("fd00:9::2").packed
    body = b"\x87\0\0\0\0\0\0\0" + target + b"\1\1\x52\x54\0\x12\x34\x56"
    after = Packets(made)(ipv6(58, body))
    assert after[48:64] == made.address(target)
    assert after[66:72] == made.mac(bytes.fromhex("525400123456"))


@given(st.binary(max_size=120))
def test_any_bytes_are_mapped_to_as_many(packet):
    """Whatever a stranger says is a packet."""
    assert len(Packets(maps())(packet)) == len(packet)


PROTOCOLS = [0, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 60, 132, 135, 136]


@given(st.sampled_from(PROTOCOLS), st.binary(max_size=90), st.integers(0, 130))
def test_any_headers_are_mapped_to_as_many(protocol, data, cut):
    """Of both families, cut anywhere."""
    made = Packets(maps())
    for build in (ipv4, ipv6):
        packet = build(protocol, data)[:cut]
        assert len(made(packet)) == len(packet)


def datagrams():
    """One of each kind of stream in the samples."""
    for sample in SAMPLES:
        with Reader(sample) as reader:
            kinds = {one.id: one.kind for one in reader.streams}
            for chunk in reader.chunks():
                for _, one in list(chunk.datagrams())[:2]:
                    yield kinds[chunk.stream], one


KNOWN = [*datagrams()]


@given(st.sampled_from(KNOWN), st.integers(0, 400), st.binary(min_size=1, max_size=4))
@settings(max_examples=300)
def test_any_datagram_is_mapped_or_goes(known, at, change):
    """Bytes of it replaced: no error, and nothing but a message that is counted."""
    kind, datagram = known
    made = _Changes(maps(), {})
    at %= len(datagram)
    changed = datagram[:at] + change + datagram[at + len(change) :]
    assert isinstance(_changed(made.maps, kind, made.streams[kind], changed), bytes)
