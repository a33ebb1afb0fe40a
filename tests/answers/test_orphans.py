"""Events that belong to no packet are counted and shown, whatever else is in the recording."""

from __future__ import annotations

from handmade import UUID, HandMade, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from validation import fits

from iptrec.answers.orphans import orphans
from iptrec.answers.summary import summarize
from iptrec.packets import window
from iptrec.views.orphans import as_json, as_text
from iptrec.views.timestamps import Clock

UTC = Clock(utc=True)

RAW = (
    "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    f'-A PREROUTING -m comment --comment "iptrec:{UUID}" -j TRACE\nCOMMIT\n'
)


def recorded(kinds):
    """Traced packets ("t"), events of somebody's NFLOG rule ("n"), datagrams of nothing ("x")."""
    recording = HandMade().ruleset(RAW)
    events = []
    for number, kind in enumerate(kinds):
        prefix = "raw:PREROUTING:policy:2" if kind == "t" else f"mine:INPUT\x1b{number}"
        events.append((prefix, udp(b"%d" % number, ident=number), {"mark": number}))
    if events:
        recording.events(events)
        chunk = recording.chunks_[0]
        data, start = bytearray(chunk.data), 0
        for kind, length in zip(kinds, chunk.lengths.tolist(), strict=True):
            if kind == "x":
                data[start + 4] = 0xFF  # another message type
            start += length
        recording.chunks_[0] = type(chunk)(1, 1, chunk.received_ns, chunk.lengths, bytes(data))
    return recording


@settings(max_examples=60)
@given(kinds=st.lists(st.sampled_from("tnx"), max_size=20), size=st.integers(1, 5))
def test_every_event_is_in_a_packet_or_an_orphan(kinds, size):
    """However windows cut the recording."""
    recording = recorded(kinds)
    before = window.WINDOW_EVENTS
    try:
        window.WINDOW_EVENTS = size
        found = list(orphans(recording))
        summary = summarize(recording)
    finally:
        window.WINDOW_EVENTS = before
    assert sorted(one.mark for one in found if one.header) == [
        number for number, kind in enumerate(kinds) if kind == "n"
    ]
    assert sum(one.header is None for one in found) == kinds.count("x")
    assert summary.orphans == len(found)
    assert summary.events == len(kinds)


def test_views():
    """A line each; JSON as the schema says; nothing raw from the file."""
    event, nothing = orphans(recorded("tnx"))
    for one in (event, nothing):
        fits("orphans", as_json(one))
    assert as_text(event, UTC).startswith(
        r"1970-01-01T00:00:00.000Z PREROUTING 'TRACE: mine:INPUT\x1b1 ' NFMARK=0x1 SRC=10.0.0.1"
    )
    assert "\x1b" not in as_text(event, UTC)
    assert as_text(nothing, UTC).endswith("(a datagram that holds no event)")
