"""By which interface one comes to an address, at each time."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

import pytest
from handmade import HandMade, attribute, netlink

from iptrec.context.interfaces import Interfaces
from iptrec.context.routes import Routes
from iptrec.recording.rows import Stream

DONE = netlink(3, bytes(4))
THERE = ipaddress.ip_address("10.9.9.9")
WATCHED = {"groups": ["link", "route"], "looked_at": ["routes", "ip-rules"]}


def routes(*links):
    """Routes to 10.9.0.0/16 by interfaces, and one of the host's own address."""
    net = bytes([10, 9, 0, 0])
    found = [
        netlink(24, struct.pack("<BBBBBBBBI", 2, 16, 0, 0, 254, 3, 0, 1, 0) + attribute(1, net)
                + attribute(4, struct.pack("<i", link)))
        for link in links
    ]  # fmt: skip
    own = struct.pack("<BBBBBBBBI", 2, 32, 0, 0, 255, 2, 254, 2, 0) + attribute(
        1, bytes([10, 0, 0, 1])
    )
    return b"".join([*found, netlink(24, own + attribute(4, struct.pack("<i", 1))), DONE])


def rules(*more):
    """The rules from the beginning, and more tables."""
    tables = {0: 255, 32766: 254, 32767: 253} | dict.fromkeys(more, 100)
    found = [
        netlink(32, struct.pack("<BBBBBxxBI", 2, 0, 0, 0, table, 1, 0)
                + attribute(6, struct.pack("<I", priority)) + attribute(15, struct.pack("<I", table)))
        for priority, table in tables.items()
    ]  # fmt: skip
    return b"".join([*found, DONE])


def known(*lists, detail=WATCHED, closed=True):
    """Routes by lists of (before, after, routes[, rules])."""
    recording = HandMade()
    recording.facts = replace(recording.facts, closed=closed)
    recording.streams.append(Stream(2, 1, "rtnetlink", detail))
    for time_ns, after_ns, *contents in lists:
        for kind, content in zip(("routes", "ip-rules"), [*contents, rules()], strict=False):
            recording.snapshot(kind, content, time_ns, after_ns)
    return Routes(recording, 1, Interfaces(recording, 1))


AWAY = [(100, None, routes(2)), (300, 200, routes()), (500, 450, routes(2)), (900, None, routes(2))]


@pytest.mark.parametrize(
    ("time", "ways"),
    [
        (50, {"if2"}),
        (150, {"if2"}),
        (200, {"if2"}),
        (250, {"if2", ""}),
        (350, {""}),
        (470, {"", "if2"}),
        (600, {"if2"}),
        (950, {"if2"}),
    ],
)
def test_a_way_that_is_gone_for_a_while(time, ways):
    """It is there at both ends; between two looks it may have been there or not."""
    fib = known(*AWAY).at((time, time))
    assert fib.ways(THERE, None) == ways
    assert fib.types(THERE, None) == {1}


@pytest.mark.parametrize(
    ("lists", "options", "time"),
    [
        (AWAY, {"detail": {"groups": ["link", "route"]}}, 150),  # of a recorder that did not look
        (AWAY[:2], {"closed": False}, 350),  # killed after the last look, or some time later
        ([(100, None, routes(2)), (300, 200, routes(2)[:-20]), (900, None, routes(2))], {}, 350),
        ([(100, None, routes(2)), (300, 200, routes(2)[:-20]), (900, None, routes(2))], {}, 250),
        ([(100, None, routes(2)), (300, 200, routes(2), rules(5))], {}, 350),
        ([(100, None, routes(2)), (300, 200, routes(2), rules(5))], {}, 250),
        ([(100, None, routes(2)), (300, 200, routes(2), rules()[:-20])], {}, 350),
    ],
)
def test_nobody_knows(lists, options, time):
    """A way may have come and gone unseen, or a rule may lead elsewhere; the host's own addresses are known."""
    fib = known(*lists, **options).at((time, time))
    assert fib.ways(THERE, None) is None
    assert fib.types(ipaddress.ip_address("10.0.0.1"), None) == {2}


def test_what_is_not_seen_to_change_has_not():
    """Also where the recorder was killed: up to its last list."""
    assert known(*AWAY[:2], closed=False).at((150, 150)).ways(THERE, None) == {"if2"}
    assert known(AWAY[0]).at((800, 800)).ways(THERE, None) == {"if2"}
