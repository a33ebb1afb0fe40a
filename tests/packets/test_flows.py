"""Which packets are of one flow."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from handmade import datagram, udp, udp6

from iptrec.decode import nflog
from iptrec.packets import flows
from iptrec.packets.flows import Flow, Flows

SYN, SYN_ACK, ACK, RST = 2, 18, 16, 4


def transport(protocol, body, *, src="10.0.0.1", dst="10.0.0.2", offset=0):
    """An IPv4 packet of a protocol."""
    addresses = b"".join(bytes(map(int, host.split("."))) for host in (src, dst))
    size = 20 + len(body)
    return struct.pack("!BBHHHBBH", 0x45, 0, size, 1, offset, 64, protocol, 0) + addresses + body


def tcp(sport, dport, flags, *, back=False):
    ends = {"src": "10.0.0.2", "dst": "10.0.0.1"} if back else {}
    return transport(6, struct.pack("!HHIIHH4x", sport, dport, 1, 0, 5 << 12 | flags, 0), **ends)


def events(*packets):
    data = [datagram("raw:PREROUTING:policy:1", one, hook=0) for one in packets]
    lengths = np.array([len(one) for one in data], np.uint32)
    return nflog.decode(b"".join(data), lengths, np.zeros(len(data), np.int64))


def told(known, *packets, sent=False):
    """Each packet's flow; None where it is not known."""
    keys, sure = known.keys(events(*packets), np.full(len(packets), sent))
    return [
        Flow.of(key).header if one else None
        for key, one in zip(keys.tolist(), sure.tolist(), strict=True)
    ]


THERE = {"proto": "tcp", "src": "10.0.0.1", "dst": "10.0.0.2"}
BACK = {"proto": "tcp", "src": "10.0.0.2", "dst": "10.0.0.1"}
CASES = {
    "clients have high ports": (
        [tcp(40000, 443, ACK), tcp(443, 40000, ACK, back=True)],
        [THERE | {"dport": 443}, BACK | {"sport": 443}],
    ),
    "a handshake tells": (
        [tcp(1024, 50000, SYN), tcp(50000, 1024, SYN_ACK, back=True), tcp(1024, 50000, ACK)],
        [THERE | {"dport": 50000}, BACK | {"sport": 50000}, THERE | {"dport": 50000}],
    ),
    "so does its refusal": (
        [tcp(1024, 50000, SYN), tcp(50000, 1024, RST, back=True)],
        [THERE | {"dport": 50000}, BACK | {"sport": 50000}],
    ),
    "a low port alone is no server's": (
        [udp(sport=53, dport=5353), udp(sport=40000, dport=50000)],
        [THERE | {"proto": "udp", "dport": 5353}, THERE | {"proto": "udp", "dport": 50000}],
    ),
    "of equal ports the destination's": (
        [udp(sport=123, dport=123)],
        [THERE | {"proto": "udp", "dport": 123}],
    ),
    "ICMP has its message": (
        [transport(1, bytes([8, 0]) + bytes(6)), transport(1, bytes([3, 3]) + bytes(30))],
        [
            THERE | {"proto": "icmp", "type": 8, "code": 0, "name": "echo-request"},
            THERE
            | {"proto": "icmp", "type": 3, "code": 3, "name": "destination-unreachable/port-unreachable"},
        ],
    ),
    "IPv6": (
        [udp6()],
        [{"proto": "udp", "src": "::1", "dst": "::2", "dport": 53}],
    ),
    "other protocols have addresses": (
        [transport(50, bytes(8))],
        [THERE | {"proto": "esp"}],
    ),
    "a later fragment": (
        [transport(17, b"payload of it", offset=185)],
        [THERE | {"proto": "udp"}],
    ),
    "what is cut off": (
        [transport(17, b"ab"), transport(6, b""), udp()[:12]],
        [None, None, None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_flows(case):
    """Protocol, addresses, and what all of its packets have."""
    packets, expected = CASES[case]
    assert told(Flows(), *packets) == expected


def test_who_serves_is_remembered():
    """From an earlier batch on."""
    known = Flows()
    told(known, tcp(1024, 50000, SYN))
    assert told(known, tcp(1024, 50000, ACK)) == [THERE | {"dport": 50000}]


def test_servers_are_bounded(monkeypatch):
    """A scan leaves no room."""
    monkeypatch.setattr(flows, "_MOST_SERVERS", 1)
    known = Flows()
    told(known, tcp(1024, 50000, SYN))
    told(known, tcp(1024, 50001, SYN))
    assert told(known, tcp(1024, 50001, ACK)) == [THERE | {"sport": 1024}]
    assert told(known, tcp(1024, 50000, ACK)) == [THERE | {"dport": 50000}]


def test_what_this_host_sends_is_another_flow():
    """On lo the same packet passes twice."""
    known, packets = Flows(), events(udp())
    out, came = (known.keys(packets, np.array([one]))[0].tolist()[0] for one in (True, False))
    assert (Flow.of(out).sent, Flow.of(came).sent) == (True, False)
    assert Flow.of(out).header == Flow.of(came).header


def test_frames_that_are_not_ip():
    """A flow for each kind, whoever sends them."""
    arp = replace(
        events(bytes(28)), family=np.array([7], np.uint8), protocol=np.array([0x0806], np.uint16)
    )
    keys, known = Flows().keys(arp, np.array([False]))
    assert known.all()
    assert Flow.of(keys.tolist()[0]) == Flow("ipv4", {"ethertype": "0x0806"}, sent=False)
