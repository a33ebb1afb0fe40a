"""What the counters of a recording say of themselves: how far behind they are, and what they lack."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from iptrec.answers.tally import Tally
from iptrec.metrics import counter
from iptrec.recording.rows import Chunk, Loss


class Growing:
    """A recording of one stream, whose ring lets go of the first chunks."""

    def __init__(self):
        self.streams = [
            SimpleNamespace(id=1, kind="nflog"),
            SimpleNamespace(id=2, kind="rtnetlink"),
        ]
        self.losses = []
        self.size = 4096
        self.running = True
        self.there = {}

    def grow(self, *numbers):
        for number in numbers:
            times, lengths = np.array([number * 10**9]), np.array([4], np.uint32)
            self.there[number] = Chunk(number, 1, times, lengths, b"abcd")

    def let_go(self, *numbers):
        for number in numbers:
            del self.there[number]

    def chunk_sizes(self, stream, after=0):
        return [(one, 1) for one in self.there if stream == 1 and one > after]

    def chunks(self, stream=None, after=0):
        yield from [
            one for number, one in self.there.items() if number > after and stream in (None, 1)
        ]


@pytest.fixture
def growing():
    return Growing()


def read(watched, after):
    """As `follow` reads: all that is there behind the last one."""
    return max([one.id for one in watched.chunks(1, after)], default=after)


def test_chunks_that_were_let_go_unread_are_told(growing):
    """Those that were there at a look; none that was read."""
    watched = counter._Watched(growing)
    growing.grow(1, 2, 3)
    watched.look()
    growing.let_go(1)
    last = read(watched, 0)
    growing.grow(4)
    watched.look()
    assert watched.uncounted == 1
    assert read(watched, last) == 4
    growing.let_go(2, 3)
    watched.look()
    assert watched.uncounted == 1


def test_how_far_it_reaches_and_how_far_behind_it_is(growing):
    watched = counter._Watched(growing)
    assert (watched.oldest_ns(), watched.waiting_ns()) == (None, None)
    growing.grow(1, 2)
    watched.look()
    read(watched, 0)
    assert (watched.oldest_ns(), watched.waiting_ns()) == (10**9, None)
    growing.let_go(1)
    growing.grow(3, 4)
    assert (watched.oldest_ns(), watched.waiting_ns()) == (2 * 10**9, 3 * 10**9)


def test_losses_are_counted_once():
    """Whether a ring has let go of them or not; equal ones are two."""
    losses = counter._Losses()
    gap, unknown = Loss(1, 5, 6, 3, "sequence"), Loss(1, 5, 6, None, "enobufs")
    beside = Loss(2, 5, 6, 9, "ring-full")
    losses.look([gap, unknown])
    losses.look([gap, unknown, gap, beside])
    losses.look([beside])
    losses.look([beside, gap])
    assert losses.times == {"sequence": 3, "enobufs": 1, "ring-full": 1}
    assert losses.events["sequence"] == 9
    assert losses.events["ring-full"] == 0


def test_it_tells_at_once_and_then_as_often_as_asked(growing, monkeypatch, capfd):
    """The first time before anything is read, so that there is a file."""
    clock = itertools.count(0, 4)
    monkeypatch.setattr(counter.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(counter.time, "sleep", lambda _: None)
    watched = counter._Watched(growing)
    ticks = counter._ticks(watched, Tally(), counter._Losses(), 15.0)
    told = []
    for _ in range(9):
        next(ticks)
        told.append(len(capfd.readouterr().out.splitlines()))
    growing.running = False
    assert next(ticks, None) is None
    assert told[0] == 1
    assert 0 < sum(told[1:]) < 4


def test_a_line_has_all_that_was_counted(growing, capfd):
    growing.grow(1)
    watched = counter._Watched(growing)
    watched.look()
    growing.losses = [Loss(1, 5, 6, 3, "sequence")]
    tally = Tally()
    tally.events = 7
    counter._tell(watched, tally, counter._Losses())
    told = counter.Counts.of_json(json.loads(capfd.readouterr().out))
    assert (told.events, told.lost, told.losses) == (7, {"sequence": 3}, {"sequence": 1})
    assert (told.size, told.oldest_ns) == (4096, 10**9)
    assert told.behind_ns == 0  # it is listed, and about to be read
