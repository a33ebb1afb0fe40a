"""What is the same of a packet on two hosts, made by hand."""

from __future__ import annotations

import struct

import pytest
from handmade import HandMade, sent_from, udp, udp6

from iptrec.answers.packets import Packets
from iptrec.lake.rows import Rows

RULES = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def tcp(seq=1, ack=2, *, ident=0, payload=b"x" * 40):
    """An IPv4 TCP segment without options."""
    body = struct.pack("!HHIIBBHHH", 1000, 80, seq, ack, 0x50, 0x18, 500, 0, 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), ident, 0, 64, 6, 0)
    return head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + body


def keys(*packets):
    """(key, sure) of each, as a recording of them has it in a lake."""
    events = [("filter:INPUT:policy:1", one, {"indev": 2}) for one in packets]
    made = HandMade().ruleset(RULES).ruleset(RULES, "ip6tables-save").events(events)
    ((_, batch),) = [one for one in Rows(made, Packets(made), "x").batches() if one[0] == "packets"]
    columns = batch.to_pydict()
    return [*zip(columns["packet_key"], columns["key_sure"], strict=True)]


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (udp(), udp(src="192.0.2.1", sport=4, dst="192.0.2.2", dport=7, ttl=9), True),
        (udp(), sent_from(udp(), "192.0.2.1", 9), True),
        (udp(), udp(ident=8), False),
        (udp(b"x"), udp(b"y"), False),
        (udp(b"x"), udp(b"xx"), False),
        (tcp(), tcp(seq=3), False),
        (tcp(), tcp(ack=3), False),
        (udp6(b"x"), udp6(b"y"), False),
        (udp6(b"x", last=1), udp6(b"x", last=2), True),
        (udp(b"x" * 12 + b"y"), udp(b"x" * 12 + b"z"), True),  # nf_tables dumps no more of it
    ],
)
def test_what_makes_a_key(first, second, equal):
    """What NAT and forwarding leave alone, as far as both backends tell it."""
    ((one, _), (other, _)) = keys(first, second)
    assert (one == other) == equal


@pytest.mark.parametrize(
    ("packet", "sure"),
    [
        (udp(), 1),
        (udp(ident=0), 0),
        (udp6(), 0),
        (tcp(), 1),
        (udp(b"x" * 100)[:40], 1),
        (udp(b"x" * 100)[:39], 0),  # as --snaplen cuts it
        (udp()[:24], 0),
    ],
)
def test_which_keys_are_sure(packet, sure):
    """Those with numbers of the sender's, captured as far as they are asked for."""
    assert [one for _, one in keys(packet)] == [sure]
