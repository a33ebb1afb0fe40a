"""The answers of the kernel: decoded, put together, and the one that a packet of a moment may count on."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from handmade import HandMade, attribute, netlink

from iptrec.context.asked import Asked
from iptrec.decode.route_answers import (
    ALL,
    Answer,
    Answers,
    Changed,
    Exchange,
    Ports,
    Settings,
    Unasked,
    Way,
)
from iptrec.kernel.questions import GET_NETCONF, GET_ROUTE, Question, settings, way_out
from iptrec.recording.rows import Stream

MS = 1_000_000
SRC, DST = bytes([10, 0, 0, 9]), bytes([192, 0, 2, 1])
ASKED = Question(2, 3, SRC, DST, 0x17, 0x28, 17, 1000, 53)
WAY, PORTS = Way(2, 3, SRC, DST, 0x17, 0x28), Ports(17, 1000, 53)
CHANGED = netlink(1)
NO_ROUTE = -101


def question(number, asked=ASKED):
    return netlink(GET_ROUTE, asked.body(), number=number)


def error(number, code=NO_ROUTE):
    return netlink(2, struct.pack("<i", code), number=number)


def route(number, kind=1, oif=4):
    body = struct.pack("<BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, kind, 0)
    return netlink(24, body + attribute(4, struct.pack("<i", oif)), number=number)


def netconf(number, forwarding, rp_filter):
    values = ((2, forwarding), (3, rp_filter))
    told = b"".join(attribute(kind, struct.pack("<i", one)) for kind, one in values)
    return netlink(80, bytes([2, 0, 0, 0]) + told, number=number)


def recorded(*datagrams, rules=None):
    """A recording with datagrams (time, bytes)."""
    made = HandMade()
    made.streams.append(Stream(2, 1, "route-answers", {}))
    made.received(2, *zip(*datagrams, strict=True))
    return made if rules is None else made.snapshot("ip-rules", rules)


def test_an_answer_belongs_to_its_question():
    found = list(Answers().read([(5, question(1)), (6, error(1)), (7, question(2)), (8, route(2))]))
    refused = Exchange(5, WAY, PORTS, Answer(101))
    assert found == [refused, replace(refused, time_ns=7, answer=Answer(0, 1, 4))]


def test_what_an_answer_leaves_open_is_asked_after_it():
    told = [
        question(1), error(1, -22),
        netlink(GET_ROUTE, way_out(2, SRC, 0x28), number=2), route(2, oif=7),
        netlink(GET_ROUTE, way_out(2, DST, 0x28), number=3), error(3),
        netlink(GET_NETCONF, settings(2, 3), number=4), netconf(4, 1, 2),
        netlink(GET_NETCONF, settings(2, ALL), number=5), netconf(5, 0, 1),
        question(6), error(6, -22),
        CHANGED,
        question(7), error(7, -22),
    ]  # fmt: skip
    first, second, changed, third = Answers().read(enumerate(told))
    here, of_all = Settings(1, 2), Settings(0, 1)
    assert first == Exchange(0, WAY, PORTS, Answer(22), Answer(0, 1, 7), Answer(101), here, of_all)
    assert (second.here, second.all, second.back) == (here, of_all, None)
    assert changed == Changed(12)
    assert (third.here, third.all) == (Settings(), Settings())


def test_a_question_may_stay_without_an_answer():
    (found,) = Answers().read(enumerate([question(1), question(2), error(2)]))
    assert found.time_ns == 1


@pytest.mark.parametrize(
    "datagram",
    [
        b"", b"\0" * 15, CHANGED[:10], question(1)[:-9], error(9),
        netlink(GET_ROUTE, b"\2", number=1), netlink(GET_NETCONF, number=1), netlink(2, b"\0", number=1),
        netlink(24, b"\0", number=1), netlink(80, number=1), netlink(4, b"1234567", number=1),
        struct.pack("<IHHII", 9999, 26, 1, 1, 0),
    ],
)  # fmt: skip
def test_what_cannot_be_is_left_out(datagram):
    """Also between a question and its answer."""
    assert list(Answers().read([(1, datagram)])) == []
    found = list(Answers().read([(1, question(5)), (2, datagram), (3, error(5))]))
    assert [one.answer for one in found] == [Answer(101)]


def test_what_was_not_asked_is_counted():
    counts = netlink(4, struct.pack("<II", 3, 500))
    assert list(Answers().read([(1, counts)])) == [Unasked(3, 500)]
    asked = Asked(recorded((1, counts), (2, counts), (3, question(1)), (3, error(1))), 1)
    assert (asked.questions, asked.unasked, asked.unseen) == (1, 6, 1000)


TIMES = {
    "the nearest": ([(100, "a"), (300, "b")], 280, ("b", True)),
    "before the packet": ([(100, "a")], 5000, ("a", True)),
    "a change in between": ([(100, None), (200, "a")], 90, ("a", False)),
    "a change just before": ([(100, None), (110, "a")], 101, ("a", True)),
    "a change that is told late": ([(100, None), (200, "a")], 60, ("a", False)),
    "rather without a change": ([(100, "a"), (750, None), (760, "b")], 600, ("a", True)),
    "an answer long before a change": ([(100, "a"), (270, None)], 100, ("a", True)),
    "an answer just before a change": ([(100, "a"), (130, None)], 90, ("a", False)),
}


@pytest.mark.parametrize("case", TIMES)
def test_which_answer_counts(case):
    told, moment, expected = TIMES[case]
    datagrams = []
    for number, (time_ms, what) in enumerate(told):
        code = {"a": -101, "b": -13}.get(what)
        some = [CHANGED] if what is None else [question(number), error(number, code)]
        datagrams += [(time_ms * MS, one) for one in some]
    found = Asked(recorded(*datagrams), 1).about(WAY, PORTS, moment * MS)
    assert ({101: "a", 13: "b"}[found.exchange.answer.code], found.unchanged) == expected


def test_only_about_such_a_packet():
    asked = Asked(recorded((1, question(1)), (1, error(1))), 1)
    for other in (
        WAY._replace(iif=4),
        WAY._replace(dst=SRC),
        WAY._replace(mark=0),
        WAY._replace(tos=0),
    ):
        assert asked.about(other, PORTS, 1) is None
    assert asked
    assert not Asked(HandMade(), 1)


@pytest.mark.parametrize(
    ("selector", "counts"), [((6, struct.pack("<I", 5)), True), ((23, b"5\0\x35\0"), False)]
)
def test_ports_count_where_rules_ask_for_them(selector, counts):
    rule = struct.pack("<BBBBBxxBI", 2, 0, 0, 0, 254, 1, 0) + attribute(*selector)
    asked = Asked(recorded((1, question(1)), (1, error(1)), rules=netlink(32, rule)), 1)
    assert asked.about(WAY, PORTS, 1) is not None
    assert (asked.about(WAY, PORTS._replace(dport=54), 1) is not None) == counts
