"""Packets behind IPv6's authentication header, plain and translated: one packet each, on both backends."""

from __future__ import annotations

import ipaddress
import json
import struct
import sys

import frames
import pytest
import recorder

pytestmark = pytest.mark.live

FAR, SRC, HERE = "fd00:2::2", "fd00:1::2", "fd00:1::1"
# What the router has, by where it is loaded; {nat}: that of NAT, if any
RULES = {
    "legacy": "*mangle\n-A PREROUTING -j MARK --set-mark 3\n-A FORWARD -j ACCEPT\nCOMMIT\n"
              "*filter\n-A FORWARD -m ah -j ACCEPT\nCOMMIT\n",
    "nft": "table ip6 t {\nchain p { type filter hook prerouting priority -150; meta mark set 3; }\n"
           "chain f { type filter hook forward priority 0; ah spi 5 accept; }\n"
           "chain l { type filter hook postrouting priority 200; accept; }\n}\n",
}  # fmt: skip
NAT = {
    "legacy": "*nat\n-A PREROUTING -d fd00:1::1 -j DNAT --to-destination fd00:2::2\n"
              "-A POSTROUTING -o to-b -j MASQUERADE\nCOMMIT\n",
    "nft": "table ip6 n {\nchain p { type nat hook prerouting priority -100;\n"
           "ip6 daddr fd00:1::1 dnat to fd00:2::2; }\n"
           "chain s { type nat hook postrouting priority 100; oif to-b masquerade; }\n}\n",
}  # fmt: skip


ROUTE = bytes(7)  # of type 0, no segments left
ATOMIC = bytes.fromhex("00000000000005")
FIRST = 32  # bytes of a datagram in its first fragment
# What is around the header of authentication: before it, and behind it.
AROUND = {
    "hop": ([(0, frames.OPTION)], []),
    "routing": ([(43, ROUTE)], []),
    "destination": ([(60, frames.OPTION)], []),
    "all": ([(0, frames.OPTION), (60, frames.OPTION), (43, ROUTE)], []),
    "behind": ([], [(60, frames.OPTION)]),
    "both": ([(0, frames.OPTION)], [(60, frames.OPTION)]),
    "atomic": ([(44, ATOMIC)], []),
    "hop and atomic": ([(0, frames.OPTION), (44, ATOMIC)], [(60, frames.OPTION)]),
}


def auth(number, inner, dst, before=(), behind=()):
    """A packet behind the header of RFC 4302 with 12 bytes of check; ``number``: its sequence number."""
    protocol, data = frames.summed(inner, SRC, dst)
    for kind, extension in reversed(behind):
        protocol, data = frames.before(extension, kind, (protocol, data))
    head = struct.pack("!BBHII", protocol, 4, 0, 5, number) + bytes(range(12))
    body = 51, head + data
    for kind, extension in reversed(before):
        body = frames.before(extension, kind, body)
    return frames.ipv6(*body, src=SRC, dst=dst)


def recorded(lab, tmp_path, backend, sent, *, nat):
    """What is told of packets that a router between two hosts got from one of them."""
    for number, name in enumerate("ab", 1):
        lab.host(name)
        lab.link(name, "eth0", f"fd00:{number}::2/64", peer=f"to-{name}")
        lab.ip(None, f"address add fd00:{number}::1/64 dev to-{name}")
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.settle()
    rules = RULES[backend] + (NAT[backend] if nat else "")
    if backend == "legacy":
        lab.restore(None, "ipv6", rules)
    else:
        lab.run(["nft", "-f", "-"], stdin=rules)
    told = json.dumps(
        frames.framed(sent, frames.mac(lab, None, "to-a"), frames.mac(lab, "a", "eth0"))
    )
    path = tmp_path / "t.db"
    words = ["--backend", backend, "--family", "ipv6", "-o", path, f"host {SRC} and not icmp6"]
    child = recorder.start(lab, *words, notes=True)
    lab.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "a", stdin=told)
    recorder.stop(child)
    return recorder.packets(path)


INNER = [
    frames.udp(9, 53, b"a"),
    frames.udp(9, 53, b"a"),
    frames.tcp(9, 80, 2),
    frames.udp(8, 53),
]


@pytest.mark.parametrize("nat", ["plain", "nat"])
def test_it_is_one_packet(lab, tmp_path, backend, nat):
    """Each of several with the same ports, whose sequence numbers alone differ; what is known is told."""
    dst = HERE if nat == "nat" else FAR
    sent = [auth(number, one, dst) for number, one in enumerate(INNER, 1)]
    found = recorded(lab, tmp_path, backend, sent, nat=nat == "nat")
    assert [(one.verdict, one.complete, one.ambiguous) for one in found] == [
        ("ACCEPT", True, False)
    ] * len(sent)
    for one, (protocol, _) in zip(found, INNER, strict=True):
        header = one.header
        assert header["ext"] == ["ah"]
        assert header["proto"] == {17: "udp", 6: "tcp"}[protocol]
        assert (header["src"], header["dst"]) == (SRC, dst)


@pytest.mark.parametrize("nat", ["plain", "nat"])
@pytest.mark.parametrize("around", AROUND)
def test_among_other_headers(lab, tmp_path, backend, nat, around):
    """Each is one packet."""
    dst = HERE if nat == "nat" else FAR
    sent = [auth(number, one, dst, *AROUND[around]) for number, one in enumerate(INNER, 1)]
    found = recorded(lab, tmp_path, backend, sent, nat=nat == "nat")
    assert [(one.verdict, one.complete, one.ambiguous) for one in found] == [
        ("ACCEPT", True, False)
    ] * len(sent)
    if backend == "legacy" or around == "behind":
        assert all("ah" in one.header["ext"] for one in found)


def fragments(number, packet, before):
    """Two fragments of a packet, behind other extension headers; ``number``: the datagram's."""
    for part, offset in ((packet[40 : 40 + FIRST], 1), (packet[40 + FIRST :], FIRST)):
        body = frames.before(struct.pack("!xHI", offset, number), 44, (packet[6], part))
        for kind, extension in reversed(before):
            body = frames.before(extension, kind, body)
        yield frames.ipv6(*body, src=SRC, dst=str(ipaddress.ip_address(packet[24:40])))


@pytest.mark.parametrize("nat", ["plain", "nat"])
@pytest.mark.parametrize("before", [[], [(0, frames.OPTION)]], ids=["alone", "hop"])
def test_fragments(lab, tmp_path, backend, nat, before):
    """Each fragment is one packet; where connection tracking puts them together each datagram is."""
    dst = HERE if nat == "nat" else FAR
    sent = [
        fragment
        for number, one in enumerate(INNER, 1)
        for fragment in fragments(number, auth(number, one, dst), before)
    ]
    found = recorded(lab, tmp_path, backend, sent, nat=nat == "nat")
    assert [(one.verdict, one.complete, one.ambiguous) for one in found] == [
        ("ACCEPT", True, False)
    ] * len(INNER if nat == "nat" else sent)
