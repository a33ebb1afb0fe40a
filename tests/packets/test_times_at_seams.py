"""Times of packets of which some events came through the tap's ring and some through the socket beside it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from handmade import HandMade, udp

from iptrec.answers.packets import Packets
from iptrec.recording.packing import Notes
from iptrec.views import json_lines, packet_json, text, title
from iptrec.views.text import Layout

RULES = (
    "*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n*mangle\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"
    "*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
)
PLACES = ("raw:OUTPUT", "mangle:OUTPUT", "filter:OUTPUT", "mangle:POSTROUTING")
BEGUN, LATE = 10**9, 5 * 10**9


def recorded(noted, per_chunk):
    """Packets whose events were received late; ``noted``: the number of which events a tap noted the time."""
    made = HandMade().ruleset(RULES)
    count = len(noted)
    places = [PLACES[number % 4] for number in range(count)]
    packets = [udp(ident=number // 4) for number in range(count)]
    made.events(
        [(f"{place}:policy:1", one, {}) for place, one in zip(places, packets, strict=True)],
        start_ns=LATE, per_chunk=per_chunk,
    )  # fmt: skip
    at = 0
    for index, chunk in enumerate(made.chunks_):
        times = [
            BEGUN + 1000 * number if noted[number] else 0
            for number in range(at, at + len(chunk.lengths))
        ]
        at += len(chunk.lengths)
        notes = Notes(np.array(times, np.int64), np.zeros(len(times), np.uint16))
        made.chunks_[index] = replace(chunk, notes=notes)
    made.streams = [replace(made.streams[0], detail={"tap": True})]
    return made


@pytest.mark.parametrize("per_chunk", [1, 3, 4, 7, 100])
@pytest.mark.parametrize(
    "noted",
    [
        [True] * 6 + [False] * 12 + [True] * 6,
        [True] * 5 + [False] * 19,
        [False] * 6 + [True] * 18,
        [True, False] * 12,
        [True] * 24,
    ],
    ids=["between", "to the end", "from the beginning", "in turn", "none"],
)
def test_times_of_a_packet_never_descend(noted, per_chunk):
    """Each event has its own time, or one between those of its neighbours, wherever chunks end."""
    packets = list(Packets(recorded(noted, per_chunk)))
    times = [step.time_ns for packet in packets for step in packet.steps]
    assert len(times) == len(noted)
    assert times == sorted(times)
    for number, (time_ns, known) in enumerate(zip(times, noted, strict=True)):
        if known:
            assert time_ns == BEGUN + 1000 * number
        else:
            assert time_ns <= BEGUN + 1000 * number
    told = [step.time_estimated for packet in packets for step in packet.steps]
    assert told == [not known for known in noted]


def test_views_say_which_times_are_estimated():
    """In JSON, of one packet and of many alike; in text before the time of the packet."""
    noted = ([True] * 4 + [False] * 4) * 10
    made = recorded(noted, 100)
    packets = list(Packets(made))
    alone = [packet_json.as_object(packet) for packet in packets]
    written = "".join(some for batch in Packets(made).batches() for some in json_lines.text(batch))
    assert [json.loads(line) for line in written.splitlines()] == alone
    for number, told in enumerate(alone):
        estimated = number % 2 == 1
        assert told.get("time_estimated", False) is estimated
        assert {step.get("time_estimated", False) for step in told["steps"]} == {estimated}
        for line in (
            title.brief(packets[number], Layout()),
            text.render(packets[number], Layout()),
        ):
            assert (" ~" in line.splitlines()[0]) is estimated
