"""When events were logged: bounds that always hold the truth."""

from __future__ import annotations

import numpy as np
from handmade import datagram, udp
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import nflog
from iptrec.packets import clock
from iptrec.packets.clock import bounds, floor_after, moments, receipt
from iptrec.recording.packing import Notes

MS = 1_000_000
SLOTS = 3


def receive(logged, pauses):
    """Receive times of events logged at ascending times, by calls of `SLOTS` with pauses between them."""
    received, now, at, pause = [], 0, 0, iter(pauses)
    while at < len(logged):
        now = max(now + next(pause, MS), logged[at])
        call = [one for one in logged[at : at + SLOTS] if one <= now]
        received += [now] * len(call)
        at += len(call)
    return np.array(received, np.int64)


def noted(received, sent_ns, before_ns, under_way_ns):
    """What is known of datagrams through a tap; 0: it did not note when it was sent."""
    notes = Notes(np.asarray(sent_ns, np.int64), np.zeros(len(sent_ns), np.uint16))
    return clock.noted(*notes.sent(received, before_ns), before_ns, under_way_ns)


@given(
    steps=st.lists(st.integers(0, 5 * MS), min_size=1, max_size=40),
    pauses=st.lists(st.integers(1, 50 * MS), max_size=40),
    stamped=st.lists(st.booleans(), max_size=40),
)
def test_bounds_hold_the_truth(steps, pauses, stamped):
    """However the recorder falls behind, and whichever events carry a stamp of their packet's arrival."""
    logged = (10**9 + np.cumsum(steps)).tolist()
    received = receive(logged, pauses)
    stamps = [
        (time - MS) // 1000 * 1000 if flag else 0
        for time, flag in zip(logged, [*stamped, *[False] * len(logged)], strict=False)
    ]
    data = [datagram("raw:x", udp(), hook=0, stamp_ns=stamp) for stamp in stamps]
    events = nflog.decode(b"".join(data), np.array([len(one) for one in data], np.uint32), received)
    known = receipt(received, 0, SLOTS)
    earliest, latest = bounds(events, known)
    assert (earliest <= logged).all()
    assert (logged <= latest).all()
    guessed = moments(events, known)
    assert (guessed <= latest).all()
    assert all(guess == stamp for guess, stamp in zip(guessed, stamps, strict=True) if stamp)


def test_an_idle_recorder_receives_at_once():
    """After a pause the event was logged when it was received, not when the last one was."""
    received = np.array([10**9, 10**9, 9 * 10**9], np.int64)
    known = receipt(received, 0, SLOTS)
    assert known.guess.tolist() == received.tolist()
    assert known.floor[2] == 10**9 - 20 * MS


def test_what_was_listed_before_the_first_call_was_listed_before_what_later_calls_bring():
    """Also what full calls bring, after one that found the socket empty soon after the lists."""
    listed, first = 10**9, 10**9 + 5 * MS
    received = np.array([first, *[9 * 10**9] * SLOTS, 10**10], np.int64)
    known = receipt(received, 0, SLOTS, listed)
    assert known.floor.tolist() == [0, *[listed] * (SLOTS + 1)]
    assert known.guess.tolist() == [first, *[9 * 10**9] * SLOTS, listed]
    assert floor_after(received[:1], 0, SLOTS, listed) == listed
    assert floor_after(received[:1], 0, SLOTS, first + 1) == first - 20 * MS  # listed later


def test_a_recorder_behind_says_so():
    """Full calls tell nothing about when their events were logged."""
    received = np.array([10**9] * SLOTS + [2 * 10**9], np.int64)
    known = receipt(received, 5, SLOTS)
    assert known.floor.tolist() == [5] * 4
    assert known.guess.tolist() == [10**9] * SLOTS + [5]


@given(
    steps=st.lists(st.integers(0, 5 * MS), min_size=1, max_size=40),
    late=st.lists(st.integers(0, 50 * MS), min_size=1, max_size=40),
    beside=st.lists(st.booleans(), max_size=40),
)
def test_times_that_a_tap_noted_hold_the_truth(steps, late, beside):
    """Also of those that came beside its ring: between their neighbours."""
    logged = 10**9 + np.cumsum(steps)
    delays = np.resize(late, len(logged))
    received = np.maximum.accumulate(logged + delays)
    unknown = np.array([*beside, *[False] * len(logged)][: len(logged)])
    known = noted(received, np.where(unknown, 0, logged), 0, MS)
    assert (known.sent[~unknown] == logged[~unknown]).all()
    assert (known.floor < logged).all()
    assert (known.sent >= logged).all()
    assert (known.sent <= received).all()


def test_a_clock_that_was_set_back():
    """What came beside the ring before it is not told by what follows."""
    received = np.array([9 * 10**9, 9 * 10**9, 5 * 10**9], np.int64)
    known = noted(received, np.array([8 * 10**9, 0, 4 * 10**9]), 0, MS)
    assert known.sent.tolist() == [8 * 10**9, 8 * 10**9, 4 * 10**9]


def test_a_stranger_s_times():
    """None is after its receipt; what is not known anywhere is that."""
    received = np.array([10, 20, 30], np.int64)
    assert noted(received, np.array([2**62, 0, -5]), 0, MS).sent.tolist() == [10, 20, 30]
    assert noted(received, np.zeros(3, np.int64), 7, MS)[0].tolist() == [7, 7, 7]


def test_times_at_the_seams_of_ring_and_socket():
    """What found no room in the ring has a time between its neighbours', wherever chunks end."""
    sent_ns = np.array([100, 110, 0, 0, 0, 0, 300, 310, 0, 0]) * MS
    received = np.full(len(sent_ns), 5000 * MS)
    data = [datagram("raw:x", udp(), hook=4) for _ in sent_ns]
    lengths = np.array([len(one) for one in data], np.uint32)
    for cut in range(1, len(sent_ns)):
        parts, floor = [], 7 * MS
        for part in (slice(0, cut), slice(cut, None)):
            parts.append(noted(received[part], sent_ns[part], floor, 5 * MS))
            floor = int(parts[-1].floor[-1])
        known = clock.Receipt(*map(np.concatenate, zip(*parts, strict=True)))
        events = nflog.decode(b"".join(data), lengths, known.sent)
        found = moments(events, known)
        assert (np.diff(found) >= 0).all()
        assert (found[sent_ns > 0] == sent_ns[sent_ns > 0]).all()
        assert (found[2:6] < 300 * MS).all()
        assert (known.sent[2:6] >= 300 * MS).all()
        assert clock.estimated(events, known).tolist() == (sent_ns == 0).tolist()


def test_a_stamp_is_better_than_a_guess():
    """An event after one that has its packet's arrival was logged soon after it, however late it was read."""
    stamps = [0, 200 * MS, 0, 300 * MS, 0]
    data = [datagram("raw:x", udp(), hook=4, stamp_ns=stamp) for stamp in stamps]
    lengths = np.array([len(one) for one in data], np.uint32)
    known = noted(np.full(5, 5000 * MS), [100 * MS, 0, 0, 0, 0], 0, MS)
    events = nflog.decode(b"".join(data), lengths, known.sent)
    assert moments(events, known).tolist() == [one * MS for one in (100, 200, 200, 300, 300)]
    assert clock.estimated(events, known).tolist() == [False, False, True, False, True]
