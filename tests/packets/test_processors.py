"""Equal packets under way together, which the processors that they were on tell apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade import RAW, HandMade, udp
from hypothesis import given
from hypothesis import strategies as st

from iptrec.answers.packets import Packets
from iptrec.recording.packing import Notes
from iptrec.recording.rows import Stream

RULES = f"""{RAW}*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A FORWARD -m mark --mark 0 -j NFQUEUE
COMMIT
"""
FORWARDED = (
    ("raw:PREROUTING:policy:2", 2, 0),
    ("mangle:PREROUTING:policy:1", 2, 0),
    ("mangle:FORWARD:policy:2", 2, 3),
    ("mangle:POSTROUTING:policy:1", 0, 3),
)
QUEUED = *FORWARDED[:2], ("mangle:FORWARD:rule:1", 2, 3), FORWARDED[3]
SENT = ("raw:OUTPUT:policy:2", 0, 3), ("mangle:OUTPUT:policy:1", 0, 3), FORWARDED[3]
SECOND = 10**9
NOBODY = 0xFFFF  # noted it


def recorded(told, ways=FORWARDED):
    """``told``: of each event its packet's number, step and processor. The mark is the packet's number.

    Up to FORWARD the kernel tells when a packet arrived.
    """
    events = []
    for packet, step, _ in told:
        prefix, indev, outdev = ways[step]
        known = {"indev": indev, "outdev": outdev, "mark": packet}
        if "FORWARD" in prefix or "PREROUTING" in prefix:
            known["stamp_ns"] = SECOND + 1_000 * packet
        events.append((prefix, udp(ident=0), known))
    recording = HandMade().ruleset(RULES).events(events, start_ns=2 * SECOND)
    recording.streams[0] = Stream(1, 1, "nflog", {"slots": 512, "stamps_ns": 0})
    (chunk,) = recording.chunks_
    cpu = np.array([one[2] for one in told], np.uint16)
    recording.chunks_ = [replace(chunk, notes=Notes(chunk.received_ns, cpu))]
    return list(Packets(recording))


def marks(packets):
    """Of each packet those that its steps have."""
    return [{step.mark for step in one.steps} for one in packets]


def crossed(first, second):
    """Two packets whose last steps come in the other order; on which processors they are."""
    one, other = enumerate(first), enumerate(second)
    *begin, last = ((1, step, cpu) for step, cpu in one)
    return [*begin, *((2, step, cpu) for step, cpu in other), last]


@given(st.data())
def test_a_processor_is_through_with_one_before_it_takes_the_next(data):
    """However the steps of two processors come, each packet is told with its own, and sure."""
    lanes = [
        [(packet, step, cpu) for packet in range(cpu, 8, 2) for step in range(len(FORWARDED))]
        for cpu in (0, 1)
    ]
    told = []
    while any(lanes):
        lane = data.draw(st.sampled_from([one for one in lanes if one]))
        told.append(lane.pop(0))
    packets = recorded(told)
    assert sorted(map(sorted, marks(packets))) == [[one] for one in range(8)]
    assert not any(one.ambiguous for one in packets)


@pytest.mark.parametrize(
    ("way", "first", "second"),
    [
        (FORWARDED, [NOBODY] * 4, [NOBODY] * 4),
        (QUEUED, [0, 0, 0, 1], [1, 1, 1, 0]),  # userspace gives each back on whatever processor
        (SENT, [0] * 3, [1] * 3),  # a process may be preempted, and go on elsewhere
        (FORWARDED, [0, 0, 0, 2], [1, 1, 1, 2]),  # as no kernel does
    ],
)
def test_where_processors_tell_nothing(way, first, second):
    packets = recorded(crossed(first, second), way)
    assert [one.ambiguous for one in packets] == [True, True]


def test_the_last_one_of_a_processor():
    """One that it had before is gone: the kernel dropped it behind FORWARD."""
    packets = recorded([*((1, step, 0) for step in range(3)), *((2, step, 0) for step in range(4))])
    assert marks(packets) == [{1}, {2}]
    assert not any(one.ambiguous for one in packets)
