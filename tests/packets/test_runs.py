"""Packets that are looked at once for several events have the keys that each event has."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from handmade import datagram, udp, udp6
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import nflog
from iptrec.packets import runs
from iptrec.packets.identity import Packets
from iptrec.packets.runs import by_keys


def decoded(*packets):
    """An event for each packet."""
    events = [datagram("raw:PREROUTING:policy:2", packet, hook=0) for packet in packets]
    lengths = np.array([len(event) for event in events], np.uint32)
    return nflog.decode(b"".join(events), lengths, np.zeros(len(events), np.int64))


def sorted_one_by_one(events, rows):
    """The same of each event alone."""
    keys = Packets.of(events).keys()[rows]
    order = np.argsort(keys, kind="stable")
    return rows[order].tolist(), keys[order].tolist()


def check(*packets, rows=None):
    """Compare both."""
    events = decoded(*packets)
    rows = np.arange(len(packets)) if rows is None else rows
    assert [one.tolist() for one in by_keys(events, rows)] == [*sorted_one_by_one(events, rows)]


LONG = bytes(range(200))
TCP = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0xF0, 2, 0, 0, 0) + LONG[:40]  # the longest header
OPTIONS = b"\x4f" + udp()[1:20] + bytes(40) + TCP
SIX = b"\x60\0\0\0" + struct.pack("!HBB", 300, 6, 64) + bytes(32)
HOP = b"\x60\0\0\0" + struct.pack("!HBB", 300, 0, 64) + bytes(32) + bytes([6, 7]) + bytes(62)
PACKETS = [
    udp(b"a"), udp(b"a", ttl=63), udp(b"b"), udp6(), udp6(last=2), udp()[:9], b"\x45", LONG,
    *(front + TCP + bytes(20) + end + bytes(30) for front in (SIX, HOP) for end in (b"\0", b"\1")),
    *(OPTIONS + bytes(20) + end + bytes(30) for end in (b"\0", b"\1")),
    *(udp()[:9] + b"\6" + udp()[10:20] + TCP + bytes(20) + end + bytes(30) for end in (b"\0", b"\1")),
]  # fmt: skip


@given(st.lists(st.sampled_from(PACKETS), min_size=1, max_size=30), st.data())
def test_runs_of_equal_packets_are_sorted_as_each_event_is(packets, data):
    """Whatever the packets are, and whichever events are chosen."""
    chosen = data.draw(st.sets(st.integers(0, len(packets) - 1), min_size=1))
    check(*packets, rows=np.array(sorted(chosen)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_runs_go_on_from_one_block_to_the_next(size, monkeypatch):
    """Events are compared in blocks: at their edges, too."""
    monkeypatch.setattr(runs, "_BLOCK", size)
    check(*[PACKETS[0]] * 3, PACKETS[2], PACKETS[0], *[PACKETS[2]] * 4)


def test_an_equal_packet_is_read_once(monkeypatch):
    """Of the events of a packet that no rule changes only the first one's is."""
    read = []
    of = Packets.of
    monkeypatch.setattr(
        Packets, "of", lambda events, rows: read.append(len(rows)) or of(events, rows)
    )
    events = decoded(*[PACKETS[0]] * 5, *[PACKETS[2]] * 5)
    by_keys(events, np.arange(10))
    assert read == [2]
