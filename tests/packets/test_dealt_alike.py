"""Keys whose events tell the same story are dealt out once, as if each were dealt by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade import HOOK, RAW, HandMade, datagram, udp, udp6
from hypothesis import given
from hypothesis import strategies as st

from iptrec.packets import dealt_alike, window
from iptrec.packets.dealt_alike import Dealer
from iptrec.recording.packing import Notes
from iptrec.recording.rows import Loss, Stream

RULES = f"""{RAW}*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A FORWARD -m mark --mark 1 -j NFQUEUE
COMMIT
"""
LATER = RULES.replace("--mark 1 -j NFQUEUE", "--mark 1 -j TEE --gateway 10.0.0.9")
SITES = (
    "raw:PREROUTING:policy:2", "mangle:PREROUTING:policy:1", "mangle:INPUT:policy:1",
    "mangle:FORWARD:rule:1", "mangle:FORWARD:policy:2", "raw:OUTPUT:policy:2", "mangle:OUTPUT:policy:1",
    "mangle:POSTROUTING:policy:1",
)  # fmt: skip
SECOND = 10**9
EVENT = st.tuples(
    st.sampled_from(SITES),
    st.sampled_from((0, 2, 3)),  # indev
    st.sampled_from((0, 2, 3)),  # outdev
    st.sampled_from((0, 1, 2)),  # stamp
    st.sampled_from((1000, 2000)),  # port
    st.sampled_from((0, 1)),  # processor
    st.sampled_from((0, 7, 8)),  # connection
    st.sampled_from((10**3, 10**3, 10**3, 2 * 10**8)),  # time to the next one
    st.sampled_from((64, 64, 64, 26)),  # bytes captured
)
FORWARDED = [(SITES[0], 2, 0), (SITES[1], 2, 0), (SITES[4], 2, 3), (SITES[7], 0, 3)]
QUEUED = [*FORWARDED[:2], (SITES[3], 2, 3), FORWARDED[3]]
LOOPED = [(SITES[5], 0, 3), (SITES[6], 0, 3), (SITES[7], 0, 3), *FORWARDED[:2], (SITES[2], 2, 0)]
STEADY = [(SITES[0], 2, 0, 1, 1000, 0, 0, 10**3, 64), (SITES[4], 2, 3, 2, 1000, 0, 0, 10**3, 64)]


def recorded(stories, *, six=False, changed=False, lost=False):
    """One key a story, all of them one after the other."""
    times, datagrams, cpus = [], [], []
    now_ns = 2 * SECOND
    for ident, story in enumerate(stories):
        for site, indev, outdev, stamp, port, cpu, conntrack, pause_ns, captured in story:
            packet = udp6(bytes([ident])) if six else udp(ident=ident, sport=port)
            known = {"indev": indev, "outdev": outdev, "conntrack": conntrack}
            if stamp:
                known["stamp_ns"] = SECOND + 1_000_000 * ident + 1_000 * stamp
            hook = HOOK[site.split(":")[1]]
            datagrams.append(datagram(site, packet[: captured + six * 20], hook=hook, **known))
            times.append(now_ns)
            cpus.append(cpu)
            now_ns += pause_ns
    made = HandMade().ruleset(RULES)
    if changed:
        made.ruleset(LATER, time_ns=(2 * SECOND + now_ns) // 2, after_ns=2 * SECOND)
    made.streams[0] = Stream(1, 1, "nflog", {"slots": 512, "stamps_ns": 0})
    if lost:
        made.losses.append(Loss(1, times[-1], 3, "sequence", times[0]))
    made.received(1, times, datagrams)
    (chunk,) = made.chunks_
    made.chunks_ = [replace(chunk, notes=Notes(chunk.received_ns, np.array(cpus, np.uint16)))]
    return made


def one_by_one(_dealer, keys):
    return dict.fromkeys(range(len(keys.size)), np.zeros(0, np.int64))


def dealt(made):
    """All that the windows hold of the packets."""
    found = []
    for one in window.windows(made):
        assembly = one.assembly
        arrays = (assembly.rows, assembly.first, assembly.count, assembly.outcome, assembly.copy_of)
        found.append(([each.tolist() for each in arrays], assembly.outcomes, one.decided))
    return found


@st.composite
def stories(draw):
    """Packets on their ways, their events in any order; and the same with single values changed."""
    ways = draw(st.lists(st.sampled_from((FORWARDED, QUEUED, LOOPED)), min_size=2, max_size=3))
    lanes = [[*way[: draw(st.integers(1, len(way)))]] for way in ways]
    stamps, ports, cpus = (
        [draw(st.sampled_from(some)) for _ in lanes] for some in ((0, 1, 2), (1000, 2000), (0, 1))
    )
    told = []
    while any(lanes):
        at = draw(st.sampled_from([at for at, one in enumerate(lanes) if one]))
        site, indev, outdev = lanes[at].pop(0)
        stamp = stamps[at] if indev else 0
        told.append((site, indev, outdev, stamp, ports[at], cpus[at], 0, 10**3, 64))
    found = [told]
    for _ in range(draw(st.integers(1, 6))):
        at, column = draw(st.integers(0, len(told) - 1)), draw(st.integers(1, 8))
        event = [*told[at]]
        event[column] = draw(EVENT)[column]
        found.append([*told[:at], tuple(event), *told[at + 1 :]])
    return found


@given(stories(), st.data())
def test_as_if_dealt_one_by_one(stories, data):
    """Whatever the events are, and however often each story is told."""
    several = data.draw(st.permutations(stories * 2))
    kind = data.draw(
        st.fixed_dictionaries(dict.fromkeys(("six", "changed", "lost"), st.booleans()))
    )
    made = recorded(several, **kind)
    together = dealt(made)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Dealer, "_alike", one_by_one)
        assert together == dealt(made)


@pytest.fixture
def deals(monkeypatch):
    """How many events each call of `deal` was given."""
    sizes, deal = [], dealt_alike.deal

    def counted(events, stamps, changing, logged, rows, path, walker):
        sizes.append(len(rows))
        return deal(events, stamps, changing, logged, rows, path, walker)

    monkeypatch.setattr(dealt_alike, "deal", counted)
    return sizes


def test_once_for_all(deals):
    """Packets cut short that came in and went out again: their keys are all alike."""
    (only,) = window.windows(recorded([STEADY * 2] * 50))
    assert len(only.assembly) == 50 * 2
    assert deals == [4]


def test_what_differs_is_dealt_by_itself(deals):
    """A story that ends otherwise, or in which time passed, is another one."""
    late = [(*STEADY[0][:7], 2 * 10**8, 64), *STEADY[1:], *STEADY]
    list(window.windows(recorded([STEADY * 2, STEADY * 3, STEADY * 2, STEADY * 3, late, late])))
    assert sorted(deals) == [4, 4, 4, 6]
