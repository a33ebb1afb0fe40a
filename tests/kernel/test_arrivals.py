"""Which packets seem to have gone no further than PREROUTING, and what the kernel is asked about them."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from handmade import HOOK, attribute, datagram, udp, udp6
from nft_handmade import DROP, message, text, u32

from iptrec.kernel.arrivals import named, of_nflog, of_nftrace
from iptrec.kernel.batches import Batch
from iptrec.kernel.questions import Question

A, B = udp(dst="10.0.0.2", ident=1), udp(dst="10.0.0.3", ident=2)
FIRST, LATER = [named("raw", "PREROUTING")], [named("fw", "input"), named("fw", "forward")]


def batch(*events):
    return Batch(1, np.array([len(one) for one in events], np.uint32), b"".join(events), 0, 0)


def legacy(prefix, packet=A, hook=None, indev=3, **more):
    chain = prefix.split(":")[1]
    return datagram(prefix, packet, hook=HOOK[chain] if hook is None else hook, indev=indev, **more)


def traced(number, chain, table="fw", *, packet=None, iif=3, oif=0, mark=0, policy=None, rule=1):
    """An event of nf_tables, with the packet where it is the first one of its base chain."""
    parts = [(15, u32(2)), (4, u32(1 if policy is not None else 3)), (6, u32(number))]
    parts += [(2, text(chain)), (1, text(table))]
    parts.append((16, u32(policy)) if policy is not None else (5, attribute(1, u32(rule))))
    parts += [(14, u32(mark))] * bool(mark)
    if packet:
        parts += [(10, u32(iif))] * bool(iif) + [(12, u32(oif))] * bool(oif)
        parts += [(8, packet[:20]), (9, packet[20:])]
    return message(17, *parts)


def shown(questions):
    """Destination, and what else is not as usual."""
    return [
        ".".join(map(str, one.dst)) if len(one.dst) == 4 else socket.inet_ntop(10, one.dst)
        for one in questions
    ]


RAW, MANGLE, NAT = (f"{table}:PREROUTING:policy:1" for table in ("raw", "mangle", "nat"))
INPUT, FORWARD = "filter:INPUT:policy:1", "filter:FORWARD:policy:1"
LEGACY = {
    "alone": ([(RAW, A)], ["10.0.0.2"]),
    "through several tables": ([(RAW, A), (MANGLE, A), (NAT, A)], ["10.0.0.2"]),
    "two rules of raw": ([("raw:PREROUTING:rule:1", A), (RAW, A)], ["10.0.0.2"]),
    "goes on to this host": ([(RAW, A), (MANGLE, A), (INPUT, A)], []),
    "is forwarded": ([(RAW, A), (FORWARD, A)], []),
    "the next one goes on": ([(RAW, A), (RAW, B), (INPUT, B)], ["10.0.0.2"]),
    "the next one is sent": ([(RAW, A), ("raw:OUTPUT:policy:1", B)], ["10.0.0.2"]),
    "both are gone": ([(RAW, A), (MANGLE, A), (RAW, B), (MANGLE, B)], ["10.0.0.2", "10.0.0.3"]),
    "of this host": ([("raw:OUTPUT:policy:1", A)], []),
}


@pytest.mark.parametrize("case", LEGACY)
def test_of_legacy_iptables(case):
    events, expected = LEGACY[case]
    assert shown(of_nflog(batch(*(legacy(*one) for one in events)))) == expected


PRE, POLICY = {"chain": "before", "policy": 1}, {"chain": "PREROUTING", "table": "raw", "policy": 1}
BEGUN = {"chain": "PREROUTING", "table": "raw", "packet": A}
NFT = {
    "alone": ([(1, BEGUN), (1, POLICY)], ["10.0.0.2"]),
    "another chain": ([(1, BEGUN), (1, POLICY), (1, PRE | {"packet": A})], ["10.0.0.2"]),
    "a chain that no one knew": ([(1, BEGUN), (1, {"chain": "new", "packet": B})], ["10.0.0.3"]),
    "dropped by a rule": ([(1, BEGUN), (1, {"chain": "u", "rule": DROP})], []),
    "dropped by a policy": ([(1, BEGUN), (1, PRE | {"policy": DROP})], []),
    "comes to this host": ([(1, BEGUN), (1, {"chain": "input", "packet": A})], []),
    "in a chain behind that": (
        [(1, BEGUN), (1, {"chain": "input", "packet": A}), (1, {"chain": "u"})],
        [],
    ),
    "is forwarded": ([(1, BEGUN), (1, {"chain": "new", "packet": A, "oif": 4})], []),
    "ids that change": ([(1, BEGUN), (2, PRE | {"packet": B})], ["10.0.0.3"]),
    "the next one goes on": (
        [(1, BEGUN), (2, BEGUN | {"packet": B}), (2, {"chain": "input", "packet": B})],
        ["10.0.0.2"],
    ),
    "by no interface": ([(1, BEGUN | {"iif": 0})], []),
    "on lo": ([(1, BEGUN | {"iif": 1})], []),
}


@pytest.mark.parametrize("case", NFT)
def test_of_nf_tables(case):
    events, expected = NFT[case]
    some = batch(*(traced(number, **more) for number, more in events))
    assert shown(of_nftrace(some, FIRST, LATER)) == expected


def test_numbers_of_rulesets_stand_between_events():
    number = message(15, (1, u32(7)))
    some = batch(number, traced(1, **BEGUN), number, traced(1, **POLICY), number)
    assert shown(of_nftrace(some, FIRST, LATER)) == ["10.0.0.2"]
    assert list(of_nftrace(batch(number), FIRST, LATER)) == []


SIX = udp6()
UDP = struct.pack("!HHHH", 1000, 53, 8, 0)


def six(protocol, behind, traffic_class=0):
    head = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(behind), protocol, 64)
    return head + SIX[8:40] + behind


def extension(following, size=8):
    return bytes([following, size // 8 - 1]) + bytes(size - 2)


def fragment(following, offset):
    return struct.pack("!BBHI", following, 0, offset << 3 | 1, 7)


PORTS = (17, 1000, 53)
PACKETS = {
    "IPv4": (A, (17, 1000, 53)),
    "options": (b"\x46" + A[1:20] + bytes(4) + A[20:], PORTS),
    "a later fragment": (A[:6] + struct.pack("!H", 185) + A[8:], (17, 0, 0)),
    "cut behind its header": (A[:20], (17, 0, 0)),
    "ICMP": (A[:9] + b"\1" + A[10:], (1, 0, 0)),
    "a protocol that cannot be asked for": (A[:9] + b"\x2f" + A[10:], (0, 0, 0)),
    "IPv6": (SIX, PORTS),
    "extension headers": (six(0, extension(60) + extension(17, 24) + UDP), PORTS),
    "IPv6's first fragment": (six(44, fragment(17, 0) + UDP), PORTS),
    "IPv6's later fragment": (six(44, fragment(17, 100) + UDP), (17, 0, 0)),
    "without end": (six(0, extension(0) * 20), (0, 0, 0)),
    "an extension that is cut": (six(0, b"\x3c\xff"), (0, 0, 0)),
    "ICMP in IPv6 of the other kind": (six(1, UDP), (0, 0, 0)),
    "ICMPv6": (six(58, UDP), (58, 0, 0)),
}


@pytest.mark.parametrize("case", PACKETS)
def test_what_routing_sees_of_a_packet(case):
    packet, expected = PACKETS[case]
    family = 10 if packet[0] >> 4 == 6 else 2
    (found,) = Question.about(family, 3, 0, packet)
    assert (found.protocol, found.sport, found.dport) == expected
    assert (found.src, found.dst) == (
        (packet[12:16], packet[16:20]) if family == 2 else (packet[8:24], packet[24:40])
    )


@pytest.mark.parametrize("packet", [b"", b"\x45", A[:19], SIX[:39], b"\0" * 64, b"\xff" * 64])
@pytest.mark.parametrize("family", [0, 2, 7, 10, 255])
def test_no_question_about_what_is_not_ip(family, packet):
    if packet and packet[0] >> 4 in (4, 6) and len(packet) >= 40:
        pytest.skip("that is IP")
    assert list(Question.about(family, 3, 0, packet)) == []


def test_mark_and_tos_go_with_it():
    """Without the bits of ECN: routing does not look at them."""
    marked = A[:1] + b"\x2b" + A[2:]
    (found,) = of_nflog(batch(legacy(RAW, marked, mark=0x17)))
    assert (found.mark, found.tos, found.iif) == (0x17, 0x28, 3)
    (found,) = of_nftrace(batch(traced(1, **BEGUN), traced(1, **POLICY, mark=0x17)), FIRST, LATER)
    assert (found.mark, found.tos, found.iif) == (0x17, 0, 3)
    (found,) = Question.about(10, 3, 0, six(17, UDP, 0x2B))
    assert found.tos == 0x28


def test_garbage_asks_nothing():
    """Whatever is in a packet, and in what comes in the place of an event."""
    rng = np.random.default_rng(3)
    for size in (1, 19, 20, 26, 27, 31, 44, 45, 60, 200):
        junk = [rng.bytes(size) for _ in range(20)]
        heads = [struct.pack("=IHHII", 20 + size, 0x0A11, 0, 0, 0) + bytes(4) + one for one in junk]
        for some in (junk, heads):
            assert list(of_nftrace(batch(*some), FIRST, LATER)) == []
            assert list(of_nflog(batch(*some))) == []
    for size in range(60):
        assert len(list(of_nflog(batch(legacy(RAW, b"\x45" + rng.bytes(size)))))) == (size >= 19)
