"""Every datagram into the file, every loss counted once."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_recorder import EventSocket, Side, SideSocket, Stage, Writer, batch, options

from iptrec.errors import HostError
from iptrec.kernel.batches import NOTE, SLOTS, Gap, Overrun
from iptrec.recorder.options import Progress, Report
from iptrec.recorder.streams import Events, Streams
from iptrec.recording.kinds import no_room


@pytest.fixture
def streams():
    """Makes streams, with what they write into and the progress."""
    with contextlib.ExitStack() as opened:
        yield functools.partial(make, opened)


@pytest.fixture
def side():
    """Makes a socket that gives these."""
    with contextlib.ExitStack() as opened:
        yield lambda *script: opened.enter_context(SideSocket(script))


def make(opened, events=(), *, sides=(), unseen=0, **given):
    stage = Stage()
    writer, progress = Writer(stage), Progress()
    socket = opened.enter_context(EventSocket(stage, events, unseen))
    made = Streams(
        writer, 1, sides, [Events(socket, "nflog", {"group": 0})],
        options=options(**given), report=Report(progress, lambda _: None),
        traversals=lambda data: data.count(b"ev"),
    )  # fmt: skip
    return SimpleNamespace(made=made, writer=writer, progress=progress)


def losses(one):
    """(stream, events, how it is known) of each loss."""
    return [(loss.stream, loss.events, loss.how) for loss in one.writer.losses]


def test_events_go_into_their_stream(streams):
    """In the order in which they came; how many says whether more are there."""
    one = streams([3, SLOTS])
    assert [one.made.fetch() for _ in range(3)] == [3, SLOTS, 0]
    assert [(stream, len(lengths)) for stream, lengths, _ in one.writer.appended] == [
        (1, 3),
        (1, SLOTS),
    ]
    assert (one.progress.events, one.progress.lost) == (3 + SLOTS, 0)
    assert losses(one) == []


def test_when_what_comes_next_was_logged(streams):
    """After the last time that the sockets were found empty."""
    one = streams([3, SLOTS])
    known = [one.made.since_ns]
    for _ in range(3):
        one.made.fetch()
        known.append(one.made.since_ns)
    assert [after > before for before, after in itertools.pairwise(known)] == [True, False, True]


def test_a_tap_that_was_emptied(streams):
    """Of it a look may bring all that is there, however much that is: it says so itself."""
    more = batch(SLOTS + 1)
    one = streams([more, replace(more, emptied=True)])
    known = [one.made.since_ns]
    for _ in range(2):
        one.made.fetch()
        known.append(one.made.since_ns)
    assert [after > before for before, after in itertools.pairwise(known)] == [False, True]


def test_nothing_comes_between_events_and_what_is_beside(streams):
    """Where the recording stops, or goes on in another file: it is asked until nothing is left."""
    one = streams([1, 1, 1, 0, 1])
    one.made.settle(0)
    assert one.progress.events == 3


def test_a_stream_says_what_it_is(streams):
    """With the receive buffer and what the user let go, which explain what is missing; and whose times."""
    one = streams(ring_bytes=1000)
    said = {"group": 0, "receive_buffer": 4096, "ring_bytes": 1000}
    assert one.writer.streams == [("nflog", said | {"slots": SLOTS, "untapped": "a fake"})]
    assert one.progress.details == ["receive buffer: 4,096 bytes", "nflog: no tap: a fake"]


def test_a_stream_with_a_tap(streams, monkeypatch):
    """Its calls tell nothing of time: each event has its own. What came beside the ring is told, not lost."""
    monkeypatch.setattr(EventSocket, "untapped", "")
    some = np.array([(1000, 1, 2), (0, 0xFFFF, 2)], NOTE)
    beside = replace(batch(2, received_ns=3_000_000_000), notes=some, overflowing=1)
    one = streams([beside, replace(beside, received_ns=3_500_000_000, overflowing=0)])
    assert one.made.tapped
    assert one.writer.streams == [("nflog", {"group": 0, "receive_buffer": 4096, "tap": True})]
    one.made.end_events()
    assert [(loss.events, loss.how, loss.of_events) for loss in one.writer.losses] == [
        (1, "overflow", False)
    ]
    assert one.progress.lost == 0
    assert [[time.tolist() for time in noted] for noted in one.writer.notes] == [
        [[1000, 0], [1, 0xFFFF]]
    ] * 2


@pytest.mark.parametrize(
    ("come", "lost", "expected"),
    [
        (batch(2, lost=3), 3, [(1, 3, "sequence")]),
        (batch(2, truncated=1), 0, [(1, None, "truncated")]),  # cut, not missing
        (batch(2, lost=1, truncated=1), 1, [(1, 1, "sequence"), (1, None, "truncated")]),
        (Overrun(5), 5, [(1, 5, "enobufs")]),
        (Overrun(), 0, []),  # a later batch will say how many
    ],
    ids=["gap", "truncated", "both", "overrun", "overrun-uncounted"],
)
def test_losses_are_counted(come, lost, expected, streams):
    """Each in its way, once."""
    one = streams([come])
    fetched = one.made.fetch()
    assert one.progress.lost == lost
    assert losses(one) == expected
    # An overrun says that the socket was full: the next call comes at once.
    assert fetched == (SLOTS if isinstance(come, Overrun) else 2)


@pytest.mark.parametrize(
    ("come", "expected"),
    [
        ([Overrun(), batch(2, lost=3)], [(1, 3, "sequence")]),
        ([Overrun(), batch(2)], [(1, None, "enobufs")]),
        ([Overrun()], [(1, None, "enobufs")]),
        ([batch(2), Overrun(), batch(2, lost=3), batch(2)], [(1, 3, "sequence")]),
    ],
    ids=["counted", "not counted", "nothing follows", "between others"],
)
def test_an_overrun_that_a_later_batch_counts(streams, come, expected):
    """Is one loss, not two."""
    one = streams(come)
    one.made.end_events()
    assert losses(one) == expected


def noted(*times_ns, received_ns, **more):
    """A batch through a tap; 0: not noted."""
    notes = np.array([(one, 0, 2) for one in times_ns], NOTE)
    return replace(batch(len(times_ns)), received_ns=received_ns, notes=notes, **more)


def spans(one):
    return [(loss.first_ns, loss.last_ns) for loss in one.writer.losses]


@pytest.fixture
def at_zero(monkeypatch):
    """Nothing is known of the time of a look: the clock stands still."""
    monkeypatch.setattr(time, "time_ns", lambda: 0)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (Gap(0, 0), (30, 510)),
        (Gap(1, 1), (510, 520)),
        (Gap(1, 3), (510, 540)),
        (Gap(4, 4), (540, 9000)),  # no time is noted behind it
        (Gap(4, 4, after_ns=545), (545, 9000)),  # but what was before it has its packet's arrival
        (None, (30, 510)),
    ],
)
@pytest.mark.usefixtures("at_zero")
def test_a_loss_is_between_the_events_beside_it(streams, gap, expected):
    """By their own times: not when somebody noticed that they were missing."""
    lossy = noted(510, 520, 0, 540, 0, received_ns=9000, lost=3, gap=gap)
    one = streams([noted(10, 30, 20, received_ns=5000), lossy])
    one.made.fetch()
    one.made.fetch()
    assert spans(one) == [expected]


def test_a_loss_without_times(streams, monkeypatch):
    """Since the socket was found empty for the last time but one, until its end was reached.

    What came before that time may have been dropped after some that were there then.
    """
    clock = itertools.count(1000, 1000)
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    one = streams([batch(2), batch(2), Overrun(7)])
    one.made.fetch()
    (looked,) = (source.empty_ns[1] for source in one.made._sources)
    one.made.fetch()
    one.made.fetch()
    ((first, last),) = spans(one)
    assert (first, last) == (looked, next(clock) - 1000)


def test_an_overrun_has_the_latest_own_time_before_it(streams):
    """And the present behind it: until the socket was empty the kernel went on to drop."""
    one = streams([noted(10, 30, received_ns=5000, emptied=False), Overrun(4)])
    one.made._sources[0].empty_ns = (7, 8)
    one.made.fetch()
    one.made.fetch()
    ((first, last),) = spans(one)
    assert first == 30
    assert last > 10**18


def test_the_end_of_the_stream(streams):
    """All that is still in the socket, and what found no room in it at the very end."""
    one = streams([3, batch(1, lost=2)], unseen=4)
    one.made.end_events()
    assert (one.progress.events, one.progress.lost) == (4, 6)
    assert losses(one) == [(1, 2, "sequence"), (1, 4, "enobufs")]
    assert "net.core.rmem_max" in one.progress.notes[0]


def test_a_loss_with_all_the_room_that_was_asked_for(streams):
    """The advice to ask for more would be wrong."""
    one = streams([batch(1, lost=2)], receive_buffer=4096)
    one.made.end_events()
    assert one.progress.notes == []


def test_packets_are_counted_on_demand(streams):
    """Counting costs; without --packets nobody asks."""
    for packets, counted in ((None, 0), (100, 5)):
        one = streams([5], packets=packets)
        one.made.fetch()
        assert one.progress.packets == counted


def test_what_is_there_comes_first(streams, side):
    """Connections that began before the recording, then those that the kernel tells of."""
    told = []
    side = Side(
        side(b"new", b"gone"),
        "conntrack",
        {},
        there=lambda: [b"old"],
        received=lambda _, datagram: told.append(datagram),
    )
    one = streams(sides=[side])
    one.made.take_sides()
    assert [(stream, data) for stream, _, data in one.writer.appended] == [
        (1, b"old"), (1, b"new"), (1, b"gone"),
    ]  # fmt: skip
    assert one.writer.streams[0] == ("conntrack", {})
    assert told == [b"new", b"gone"]
    assert (one.progress.events, one.progress.lost) == (0, 0)  # these are no events


def test_times_of_datagrams_beside_the_events(streams, side):
    """When the kernel sent them, where their socket has that noted; not of those that were there before."""
    times = iter([3000, 0])
    noted = Side(
        side(b"new", b"gone"), "rtnetlink", {}, there=lambda: [b"old"], sent_ns=lambda: next(times)
    )
    one = streams(sides=[noted, Side(side(b"x"), "conntrack", {})])
    one.made.take_sides()
    assert len(one.writer.appended) == 4
    assert [notes.sent_ns.tolist() for notes in one.writer.notes] == [[0], [3000], [0]]


def test_datagrams_that_were_missed_beside_the_events(streams, side):
    """A loss of unknown size; whoever can looks again."""
    missed = []
    socket = side(b"one", OSError(errno.ENOBUFS, "x"), b"two")
    one = streams(sides=[Side(socket, "rtnetlink", {}, missed=lambda: missed.append(1))])
    one.made.take_sides()
    one.made.take_sides()
    assert losses(one) == [(1, None, "enobufs")]
    assert missed == [1]
    assert [data for _, _, data in one.writer.appended] == [b"one", b"two"]
    # Not of events, as `info` says of the file.
    assert one.progress.lost == 0
    assert one.progress.notes == [no_room("rtnetlink")]


def test_a_socket_that_cannot_be_read(streams, side):
    """One line, as everywhere."""
    one = streams(sides=[Side(side(OSError(errno.EIO, "Input/output error")), "rtnetlink", {})])
    with pytest.raises(HostError, match="cannot read netlink: Input/output error"):
        one.made.take_sides()


def test_side_datagrams_without_end_do_not_hold_up_the_events(streams, side):
    """So many at a time; the rest is still there afterwards."""
    one = streams(sides=[Side(side(*[b"x"] * 2500), "nftables", {})])
    for taken in (1000, 2000, 2500, 2500):
        one.made.take_sides()
        assert len(one.writer.appended) == taken


def test_in_the_end_all_is_taken_that_waits_beside_the_events(streams, side):
    """However much that is: the answers about the last packets are among it."""
    one = streams(sides=[Side(side(*[b"a"] * 2500), "route-answers", {})])
    one.made.take_sides()
    assert len(one.writer.appended) == 1000
    one.made.finish()
    assert len(one.writer.appended) == 2500
