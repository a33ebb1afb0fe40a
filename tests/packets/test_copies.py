"""Copies that the kernel makes of a packet in the midst of its way, and what only looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import OWN, RAW, HandMade, udp, udp6

from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.packets import window
from iptrec.packets.assembler import Assembler
from iptrec.packets.copies import FLOOD_NS
from iptrec.recording.rows import Loss, Stream

RULES = f"""{RAW}*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m physdev --physdev-out p3 -j DROP
-A FORWARD -m physdev --physdev-out p4 -j NFQUEUE
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
"""
FRAME = b"\xff" * 6 + bytes(6) + b"\x08\x00"
BYTES = udp(b"to all", ident=0)
PASSES = {
    "in": [("raw:PREROUTING:policy:2", 0), ("mangle:PREROUTING:policy:1", 0)],
    "on": [("mangle:FORWARD:policy:1", 1), ("filter:FORWARD:policy:3", 1), ("mangle:POSTROUTING:policy:1", 1)],
    "drop": [("mangle:FORWARD:policy:1", 1), ("filter:FORWARD:rule:1", 1)],
    "halfway": [("mangle:FORWARD:policy:1", 1)],
    "queue": [("mangle:FORWARD:policy:1", 1), ("filter:FORWARD:rule:2", 1)],
    "here": [("mangle:INPUT:policy:1", 0), ("filter:INPUT:policy:1", 0)],
}  # fmt: skip


KEPT = """*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING {own}
-A OUTPUT {own}
COMMIT
*mangle
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -m statistic --mode nth --every 2 --packet 0 -j DROP
COMMIT
"""
SENT = ["raw:OUTPUT:policy:2", "mangle:OUTPUT:policy:1"]
REFUSED, LEFT = ["mangle:POSTROUTING:rule:1"], ["mangle:POSTROUTING:policy:2"]
REFUSED_COPY = ("DROP", "whole", 1)


def passes(*steps, **more):
    """The events of some parts of ways: (name in `PASSES`, keywords of a datagram)."""
    events = []
    for name, own in (step if isinstance(step, tuple) else (step, {}) for step in steps):
        for prefix, out in PASSES[name]:
            known = {"indev": 2, "outdev": 2 * out, "link": FRAME} | more | own
            if "POSTROUTING" in prefix:
                known |= {"indev": 0, "stamp_ns": 0, "link": b""}
            packet = known.pop("packet", BYTES)
            events.append((prefix, packet, known))
    return events


def recorded(events, *, losses=(), detail=None, **times):
    recording = HandMade().ruleset(RULES).events(events, **times)
    recording.losses += losses
    recording.streams[0] = Stream(1, 1, "nflog", {"slots": 512} | (detail or {}))
    return recording


def told(recording):
    """Of each packet: verdict, whether it is whole and sure, and of which it is a copy."""
    found = []
    for one in Packets(recording):
        assert all(other.kind == "copy" for other in one.related)
        state = "whole" if one.complete else "incomplete"
        if one.ambiguous:
            state = "ambiguous"
        found.append((one.verdict, state, *(other.packet for other in one.related)))
    return found


WHOLE, LOST = ("ACCEPT", "whole"), ("ACCEPT", "incomplete")
COPY = (*WHOLE, 1)
CASES = {
    "out of each port, and here": (passes("in", "on", "on", "on", "here"), [WHOLE, COPY, COPY, COPY]),
    "each with its own verdict": (
        passes("in", "drop", "on", "drop"), [("DROP", "whole"), COPY, ("DROP", "whole", 1)]
    ),
    "the same bytes again": (
        passes("in", "on", "on", "here", "in", "on", "on", "here"),
        [WHOLE, COPY, COPY, WHOLE, (*WHOLE, 4), (*WHOLE, 4)],
    ),
    "the same bytes again, to one": (passes("in", "on", "in", "on", "in", "here"), [WHOLE, WHOLE, WHOLE]),
    "the same bytes meanwhile": (  # by another processor: of which of them it is a copy nobody can tell
        passes("in", "on", "in", "on", "on"), [WHOLE, WHOLE, ("ACCEPT", "ambiguous", 2)],
    ),
    "the same bytes while there are copies": (
        passes("in", "on", "on", "in", "on"), [WHOLE, COPY, ("ACCEPT", "ambiguous")],
    ),
    "the same from another port while there are copies": (
        passes("in", "on", "on") + passes("in", "on", "on", packet=udp(b"to all", ident=0, sport=9)),
        [WHOLE, COPY, WHOLE, (*WHOLE, 3)],
    ),
    "other bytes": (passes("in", "on", ("on", {"packet": udp(b"others", ident=0)})), [WHOLE, LOST]),
    "dropped untold": (  # by rules of nf_tables
        passes("in", ("halfway", {"physout": 3}), ("on", {"physout": 4}), ("on", {"physout": 5})),
        [("UNKNOWN", "incomplete"), COPY, COPY],
    ),
    "dropped untold, and no ports told": (  # one copy after the other
        passes("in", "halfway", "on", "on"), [("UNKNOWN", "incomplete"), COPY, COPY],
    ),
    "another interface": (passes("in", "on", ("on", {"indev": 3})), [WHOLE, LOST]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_a_copy(name):
    """What comes from nowhere, where one equal packet alone is under way."""
    events, expected = CASES[name]
    assert told(recorded(events)) == expected


OTHERS = passes("in", "here", packet=udp(b"others"))
LATER = {  # after how long it is received, what is received in between, and what it is then
    "soon": (FLOOD_NS // 2, [], COPY),
    "late, but as the next": (3 * FLOOD_NS, [], COPY),  # the recorder may have had no time
    "late": (3 * FLOOD_NS, OTHERS, LOST),
    "much later": (20 * FLOOD_NS, [], LOST),
}


@pytest.mark.parametrize("name", LATER)
def test_when(name):
    """The kernel makes all copies in one go."""
    after_ns, between, expected = LATER[name]
    recording = recorded(passes("in", "on"))
    if between:
        recording.events(between, start_ns=after_ns // 2)
    recording.events(passes("on"), start_ns=after_ns)
    copy = told(recording)[-1]
    assert copy == expected


STAMPED = {"stamps_ns": 1}
FIRST, SECOND = {"stamp_ns": 10**9}, {"stamp_ns": 10**9 + 5000}
ARRIVALS = {
    "interleaved": (
        passes(("in", FIRST), ("on", FIRST), ("in", SECOND), ("on", FIRST), ("on", SECOND), ("here", FIRST)),
        [WHOLE, WHOLE, COPY, COPY],
    ),
    "one of them later": (
        passes(("in", FIRST), ("on", FIRST), ("in", SECOND), ("on", SECOND), ("on", SECOND)),
        [WHOLE, WHOLE, (*WHOLE, 2)],
    ),
    "of none": (passes(("in", FIRST), ("on", FIRST), ("on", SECOND)), [WHOLE, LOST]),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRIVALS)
def test_stamps_of_arrival(name):
    """They tell equal packets apart: copies have that of what they are copied from."""
    events, expected = ARRIVALS[name]
    assert told(recorded(events, detail=STAMPED, start_ns=2 * 10**9)) == expected


LOSSES = {  # between these times; whether what is received at 1,000 to 20,000 ns may have lost its beginning
    "before": ((-3 * FLOOD_NS, -2 * FLOOD_NS), False),
    "just before": ((-3 * FLOOD_NS, 0), True),
    "meanwhile": ((3000, 5000), True),
    "after": ((10**6, 10**7), False),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("stamped", [False, True])
def test_lost_events(name, stamped):
    """What was lost may be the beginning of another packet, unless the stamp of its arrival tells."""
    (first_ns, last_ns), lossy = LOSSES[name]
    at = 2 * 10**9
    lost = [Loss(1, at + first_ns, at + last_ns, 2, "sequence")]
    more = FIRST if stamped else {}
    recording = recorded(
        passes("in", "on", "on", **more),
        losses=lost,
        start_ns=at,
        detail=STAMPED if stamped else {},
    )
    assert told(recording) == [WHOLE, LOST if lossy and not stamped else COPY]


def test_a_tap_that_was_full_has_lost_nothing():
    """What found no room in it came through the socket."""
    at = 2 * 10**9
    beside = [Loss(1, at + 3000, at + 5000, 2, "overflow")]
    assert told(recorded(passes("in", "on", "on"), losses=beside, start_ns=at)) == [WHOLE, COPY]


def test_losses_that_could_not_be_seen():
    """Of an imported capture."""
    assert told(recorded(passes("in", "on", "on"), detail={"sequence": False})) == [WHOLE, LOST]


@pytest.mark.parametrize(
    "link", [FRAME, b""], ids=["for many", "to a host that the bridge does not know"]
)
def test_a_window_does_not_end_amid_copies(monkeypatch, link):
    """Whatever is read at a time."""
    monkeypatch.setattr(window, "WINDOW_EVENTS", 1)
    events = passes("in", "on", "on", "on", "here", link=link)
    recording = recorded(events, per_chunk=1)
    assert told(recording) == [WHOLE, COPY, COPY, COPY]


def test_a_window_does_not_end_before_what_is_kept(monkeypatch):
    """What a host sends may have a copy as long as the kernel may be at it."""
    monkeypatch.setattr(window, "WINDOW_EVENTS", 1)
    recording = HandMade().ruleset(KEPT.format(own=OWN))
    recording.events([(one, BYTES, {"outdev": 2}) for one in SENT + LEFT * 2], per_chunk=1)
    assert told(recording) == [WHOLE, COPY]


def test_a_copy_that_waits(monkeypatch):
    """Its packet waits with it: in a window of its own it would come from nowhere."""
    monkeypatch.setattr(window, "WINDOW_EVENTS", 1)
    recording = recorded(passes("in", "on", "queue"), per_chunk=1)
    for late in (FLOOD_NS, 3 * FLOOD_NS):
        recording.events(
            passes("in", "here", packet=udp(b"others")), start_ns=2 * late, per_chunk=1
        )
    assert told(recording) == [WHOLE, ("QUEUE", "incomplete", 1), WHOLE, WHOLE]


KEEPS = {
    "IPv4, the copy is refused": (4, SENT + REFUSED + LEFT, [WHOLE, REFUSED_COPY]),
    "IPv4, what is sent is refused": (4, SENT + LEFT + REFUSED, [("DROP", "whole"), COPY]),
    "IPv6, the copy is refused": (6, SENT + LEFT + REFUSED, [WHOLE, REFUSED_COPY]),
    "no copy": (6, SENT + REFUSED, [("DROP", "whole")]),
    "one copy at most": (4, SENT + LEFT * 3, [WHOLE, COPY, LOST]),
    "one copy of each": (4, (SENT + LEFT * 2) * 2, [WHOLE, COPY, WHOLE, (*WHOLE, 3)]),
}


@pytest.mark.parametrize("name", KEEPS)
def test_what_is_kept_for_the_listeners_here(name):
    """IP version 4 hands the copy through POSTROUTING first, version 6 what is sent."""
    version, prefixes, expected = KEEPS[name]
    packet = BYTES if version == 4 else udp6(b"to all")
    kind = "iptables-save" if version == 4 else "ip6tables-save"
    recording = HandMade().ruleset(KEPT.format(own=OWN), kind)
    more = {"outdev": 2}
    recording.events([(prefix, packet, more) for prefix in prefixes])
    assert told(recording) == expected


def test_many_equal_packets():
    """Copies of each, however many; nobody waits for those of long ago."""
    events = passes(*["in", "on", "on", "here"] * 300)
    found = told(recorded(events))
    assert len(found) == 900
    assert [one[2:] for one in found] == [
        of for at in range(300) for of in ((), (3 * at + 1,), (3 * at + 1,))
    ]


def test_how_many():
    """`info` says how many packets were copied."""
    assert summarize(recorded(passes("in", "on", "on", "here", "in", "on"))).copies == 2


def test_answers_are_in_columns():
    """An assembly says of which event's packet each traversal is a copy."""
    (only,) = window.windows(recorded(passes("in", "on", "on")))
    assert only.assembly.copy_of.tolist() == [-1, 0]
    assert np.all(only.assembly.first == [0, 5])


def test_losses_are_looked_for_where_copies_may_begin(monkeypatch):
    """A recorder under load notes thousands of them: ordinary packets do not wait for that."""
    looked, whole = [], Assembler._whole
    monkeypatch.setattr(
        Assembler, "_whole", lambda own, *times: looked.append(own) or whole(own, *times)
    )
    made = HandMade().ruleset(RULES)
    for _ in range(2):  # equal ones, dealt out one by one
        made.events([(site, BYTES, {"indev": 2}) for site, _ in PASSES["in"]])
    list(Packets(made))
    assert looked == []
