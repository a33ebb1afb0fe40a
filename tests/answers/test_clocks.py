"""How far clocks are apart: by packets that surely crossed, and times of the kernel alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from handmade import RAW, HandMade, datagram, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from validation import validator

from iptrec.answers.clock_bounds import Bounds
from iptrec.answers.clocks import Clock, clocks
from iptrec.recording.hosts import Host
from iptrec.recording.packing import Notes
from iptrec.recording.rows import Stream
from iptrec.views.clocks import as_objects, as_text
from iptrec.views.timestamps import Clock as Times

US, MS, S = 1_000, 1_000_000, 1_000_000_000
RULES = RAW + "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
TAP = {"tap": "bpf"}


def host(name, told, detail=TAP, span=(0, 1 << 60)):
    """A host whose kernel sent events at these times by its clock: (time_ns, datagram).

    ``span``: between which times it was recorded.
    """
    made = HandMade(streams=[Stream(1, 1, "nflog", detail)])
    made.facts = replace(made.facts, started_ns=span[0], stopped_ns=span[1])
    made.ruleset(RULES)
    told = sorted(told, key=lambda one: one[0])
    times = np.array([one for one, _ in told], np.int64)
    made.received(1, times + 100 * US, [one for _, one in told])
    if detail:
        chunk = made.chunks_[0]
        made.chunks_[0] = replace(chunk, notes=Notes(times, np.zeros(len(times), np.uint16)))
    return Host(name, f"{name}.db", made, False)


def leaves(packet, time_ns):
    return [
        (time_ns, datagram("raw:OUTPUT:policy:2", packet, hook=3, outdev=2)),
        (time_ns, datagram("filter:OUTPUT:policy:1", packet, hook=3, outdev=2)),
    ]


def comes(packet, time_ns, stamp_ns):
    return [
        (time_ns, datagram("raw:PREROUTING:policy:2", packet, hook=0, indev=2, stamp_ns=stamp_ns)),
        (time_ns, datagram("filter:INPUT:policy:1", packet, hook=1, indev=2, stamp_ns=stamp_ns)),
    ]


def crossed(ways, ahead, *, stamped=True):
    """Events of the hosts a and b; ``ways``: (whether from a to b, when it left, how long it took), true times.

    ``ahead``: of the clock of b, ns, at a time.
    """
    a, b = [], []
    for number, (there, left, took) in enumerate(ways):
        packet = udp(b"%06d" % number, ident=number + 1)
        begin, end = (left, left + took) if there else (left + ahead(left), left + took)
        end += ahead(left + took) if there else 0
        stamp = end if stamped else 0
        (a if there else b).extend(leaves(packet, begin))
        (b if there else a).extend(comes(packet, end + 20 * US, stamp))
    return a, b


ALWAYS = (0, 1 << 60)


def apart(a, b, *details, spans=(ALWAYS, ALWAYS)):
    one, other = (*details, TAP, TAP)[:2]
    return clocks(
        SimpleNamespace(hosts=[host("b", b, other, spans[1]), host("a", a, one, spans[0])])
    )


def words(a, b, **given):
    return list(as_text(apart(a, b, **given), Times(utc=True)))


START = 10_000 * S
BOTH = [(number % 2 == 0, START + number * 10 * MS, (1 + number % 7) * MS) for number in range(40)]


@pytest.mark.parametrize("offset_ns", [0, 12 * MS, -3 * S, 3600 * S])
def test_both_ways(offset_ns):
    """The truth is within what is told; how wrong that is, is half of the least time there and back."""
    (found,) = apart(*crossed(BOTH, lambda _: offset_ns))
    assert (found.host, found.of, found.pieces) == ("b", "a", ())
    bounds = found.bounds
    assert abs(bounds.offset_ns - offset_ns) <= bounds.within_ns
    assert bounds.within_ns == pytest.approx(1 * MS, abs=22 * US)  # 50 ppm of 0.4 s
    assert (bounds.there, bounds.back) == (20, 20)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(-(10**12), 10**12),
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 10**9), st.integers(0, 10**8)),
        min_size=1,
        max_size=20,
    ),
)
def test_the_truth_is_within_the_bounds(offset_ns, ways):
    """Whatever the ways took, and however few they are."""
    ways = [(there, 10**13 + left, took) for there, left, took in ways]
    (found,) = apart(*crossed(ways, lambda _: offset_ns))
    bounds = found.bounds
    assert bounds.at_most_ns is None or bounds.at_most_ns >= offset_ns
    assert bounds.at_least_ns is None or bounds.at_least_ns <= offset_ns
    count = sum(there for there, *_ in ways)
    assert (bounds.at_most_ns is None) == (count < 3)
    assert (bounds.at_least_ns is None) == (len(ways) - count < 3)
    assert bounds.there + bounds.back == len(ways)


def test_one_way_is_a_bound():
    ways = [(True, S + number * MS, 2 * MS) for number in range(5)]
    (found,) = apart(*crossed(ways, lambda _: 7 * MS))
    assert (found.bounds.offset_ns, found.bounds.at_least_ns) == (None, None)
    assert found.bounds.at_most_ns == pytest.approx(9 * MS, abs=2 * US)
    assert list(as_text([found], Times(utc=True))) == [
        "clock of b is at most 9.002 ms ahead of a (no packet went back to a), by 5 packets"
    ]


def test_words():
    (found,) = apart(*crossed(BOTH, lambda _: 12 * MS))
    (line,) = as_text([found], Times(utc=True))
    assert line == "clock of b is 11.998 ms ahead of a, +- 1.017 ms, by 40 packets"
    (found,) = apart(*crossed(BOTH, lambda _: -12 * MS))
    (line,) = as_text([found], Times(utc=True))
    assert line == "clock of b is 12.002 ms behind a, +- 1.017 ms, by 40 packets"


def test_clocks_that_run_apart_are_told_in_pieces():
    """Of each piece the truth of its time is within what is told."""

    def ahead(time_ns):
        return (time_ns - S) // 5000  # 0.2 ms a second

    ways = [(number % 2 == 0, S + number * 10 * MS, 200 * US) for number in range(1000)]
    (found,) = apart(*crossed(ways, ahead))
    assert found.bounds.contradictory
    assert len(found.pieces) > 2
    for one in found.pieces:
        assert not one.contradictory
        if one.offset_ns is not None:
            assert (
                ahead(one.from_ns) - one.within_ns
                <= one.offset_ns
                <= ahead(one.to_ns) + one.within_ns
            )
    lines = list(as_text([found], Times(utc=True)))
    assert lines[0].startswith(
        "clock of b does not run as that of a does, by 1,000 packets; taken as one"
    )
    assert len(lines) == 1 + len(found.pieces)


def test_contradictory_times_are_told():
    """A clock that jumps back and forth."""
    ways = [(number % 2 == 0, S + number * MS, 100 * US) for number in range(4000)]
    (found,) = apart(*crossed(ways, lambda time_ns: -S if time_ns // MS % 4 < 2 else S))
    assert list(as_text([found], Times(utc=True))) == [
        "clock of b: not known, its times and those of a contradict each other, by 4,000 packets"
    ]


def test_times_of_a_recorder_prove_nothing():
    """Without a tap: a way that ends with a stamp has no time where it begins."""
    events = crossed(BOTH, lambda _: 12 * MS)
    assert apart(*events, {}, {}) == []
    (found,) = apart(*events, TAP, {})  # stamps of b, and the kernel's times of a
    assert (found.bounds.there, found.bounds.back) == (20, 0)
    assert apart(*events, {"tap": "bpf", "untapped": "no room"}, {}) == []


def test_the_kernels_times_are_enough():
    (found,) = apart(*crossed(BOTH, lambda _: 12 * MS, stamped=False))
    assert abs(found.bounds.offset_ns - 12 * MS) <= found.bounds.within_ns


UNSURE = {
    "no number of its own": lambda number: udp(b"%06d" % number, ident=0),
    "all alike": lambda _: udp(b"x", ident=7),
}


@pytest.mark.parametrize("case", UNSURE)
def test_what_is_not_sure_proves_nothing(case):
    a, b = [], []
    for number in range(10):
        packet = UNSURE[case](number)
        a += leaves(packet, S + number * MS)
        b += comes(packet, S + number * MS + 9, S + number * MS + 9)
    assert apart(a, b) == []


def test_addresses_and_ports_do_not_matter():
    """They may be translated on the way."""
    a, b = [], []
    for ident in (5, 6, 7):
        a += leaves(udp(b"one", ident=ident, src="10.0.0.1", sport=1), S)
        there = udp(b"one", ident=ident, src="192.0.2.9", sport=999, ttl=63)
        b += comes(there, S + 5 * MS, S + 5 * MS)
    (found,) = apart(a, b)
    assert found.bounds.at_most_ns == 5 * MS + US


def test_packets_that_look_alike_are_two():
    """Both hosts took one, or sent one, with the same number: none of them crossed."""
    packet, other = udp(b"same", ident=9), udp(b"same", ident=9, src="10.0.0.9", ttl=60)
    assert apart(comes(packet, S, S), comes(other, S + MS, S + MS)) == []
    assert apart(leaves(packet, S), leaves(other, S + MS)) == []
    (found,) = apart(leaves(packet, S), comes(other, S + MS, S + MS))  # as one that crossed
    assert (found.bounds.there, found.bounds.nothing) == (1, True)


def test_one_host_has_one_clock():
    """Two recordings of one are not compared."""
    a, b = crossed(BOTH, lambda _: 0)
    assert clocks(SimpleNamespace(hosts=[host("a", a), host("a", b)])) == []


def one_way(number, apart_ns, count, *, there=True):
    """Packets that left a, or b, each 10 ms after the other, and came to the other host so much later."""
    ways = [(there, START + one * 10 * MS, apart_ns) for one in range(count)]
    left, came = [], []
    for one, (_, begin, took) in enumerate(ways):
        packet = udp(b"%06d" % (number + one), ident=number + one + 1)
        left += leaves(packet, begin)
        came += comes(packet, begin + took, begin + took)
    return (left, came) if there else (came, left)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_packets_sent_twice_are_no_crossing(count):
    """Equal packets, 5 s apart: b took the first ones; that the second ones left, the recorder of a saw."""
    a, b = one_way(0, -5 * S, count)
    assert words(a, b, spans=((START - S, START + 9 * S), (START - 9 * S, START - 2 * S))) == [
        "clock of b: not compared with that of a: they were not recorded at the same time"
    ]
    spans = (START - S, START + 9 * S), (START - 9 * S, START)
    assert words(a, b, spans=spans) == [
        "clock of b: not compared with that of a: too few packets crossed while both were recorded"
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_mistaken_packets_are_no_bound(count):
    """Also while both are recorded: two packets that are taken for one do not move what others tell."""
    a, b = one_way(1000, -5 * S, count)
    assert apart(a, b)[0].bounds.nothing
    more_a, more_b = crossed(BOTH, lambda _: 12 * MS)
    (found,) = apart(a + more_a, b + more_b)
    assert abs(found.bounds.offset_ns - 12 * MS) <= found.bounds.within_ns < 4 * MS


def test_a_clock_that_is_wrong_by_hours():
    """By their own clocks the recordings have no time in common: packets of both ways tell, and it says so."""
    a, b = crossed(BOTH, lambda _: 3 * 3600 * S)
    spans = (START - S, START + S), (START + 10_799 * S, START + 10_801 * S)
    (line,) = words(a, b, spans=spans)
    assert line == (
        "clock of b is 10,799,999.998 ms ahead of a, +- 1.017 ms, by 40 packets;"
        " by their own clocks, the two were not recorded at the same time when these crossed"
    )
    late = spans[0], (START + 10_800 * S + 200 * MS, START + 10_801 * S)
    (found,) = apart(
        a, b, spans=late
    )  # by the estimate the first half of them cannot have been seen
    assert found.bounds.there + found.bounds.back < 22


def test_a_clock_that_is_wrong_by_years():
    """Not a nanosecond is lost for that."""
    ahead_ns = 1_900_000_000 * S + 1
    (found,) = apart(*crossed(BOTH, lambda _: ahead_ns), spans=((0, 2**62), (0, 2**62)))
    (near,) = apart(*crossed(BOTH, lambda _: 1))
    assert found.bounds.offset_ns - ahead_ns == near.bounds.offset_ns - 1
    assert found.bounds.within_ns == near.bounds.within_ns


def test_json_is_as_the_schema_says():
    schema = validator("info-hosts").schema["properties"]["clocks"]
    ways = [(number % 2 == 0, START + number * 10 * MS, 200 * US) for number in range(1000)]
    pieces = apart(*crossed(ways, lambda time_ns: (time_ns - START) // 5000))
    untold = apart(*one_way(0, -5 * S, 2))
    for found in (pieces, untold, apart(*crossed(BOTH, lambda _: 0))):
        jsonschema.validate(as_objects(found), schema)
    assert pieces[0].pieces


@pytest.mark.parametrize("ppm", [-20, -0.3, 0.02, 0.1, 0.3, 1, 45])
@pytest.mark.parametrize("seconds", [20, 600])
def test_the_truth_is_within_what_is_told_also_of_clocks_that_drift(ppm, seconds):
    """At each time that it is told of, by one offset or in pieces."""

    def ahead(time_ns):
        return int((time_ns - START) * ppm * 1e-6)

    ways = [
        (number % 2 == 0, START + number * seconds * 5 * MS // 2, (90 + number * 37 % 60) * US)
        for number in range(400)
    ]
    (found,) = apart(*crossed(ways, ahead))
    for one in found.pieces or (found.bounds,):
        assert 0 < one.within_ns < 5 * MS
        for time_ns in (one.from_ns, (one.from_ns + one.to_ns) // 2, one.to_ns):
            assert abs(one.offset_ns - ahead(time_ns)) <= one.within_ns + 2 * US


def test_words_are_rounded_outward():
    def told(*values):
        return list(as_text([Clock("", "a", Bounds(0, 1, *values))], Times(utc=True)))

    assert told(1_000, 1_000, 5, 5) == [
        "clock of unknown is 0.001 ms ahead of a, +- 0.001 ms, by 10 packets"
    ]
    assert told(1_400, 2_500, 5, 5) == [
        "clock of unknown is 0.002 ms ahead of a, +- 0.001 ms, by 10 packets"
    ]
    assert told(None, -5_637_000_100, 5, 1) == [
        "clock of unknown is at least 5,637.000 ms behind a (only 1 packet went back to a), by 6 packets"
    ]
    assert told(-1_500, None, 0, 5) == [
        "clock of unknown is at most 0.002 ms behind a (no packet came from a), by 5 packets"
    ]
