"""About each kind of packet once, within the time that there is; the rest is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_recorder import Asker

from iptrec.kernel.batches import Batch
from iptrec.kernel.questions import Question
from iptrec.recorder import asking
from iptrec.recorder.asking import Asking
from iptrec.recorder.options import Options

SECOND = 1_000_000_000
SOME = Batch(1, np.full(10, 2, np.uint32), b"ev" * 10, 0, 0)


def question(number, port=1):
    return Question(2, 3, number.to_bytes(4, "big"), b"\x0a\0\0\1", protocol=6, sport=port)


class Clock:
    """Time of the recorder's thread, and of the wall."""

    def __init__(self, monkeypatch):
        self.used = self.now = 0
        monkeypatch.setattr(asking.time, "thread_time_ns", lambda: self.used)
        monkeypatch.setattr(asking.time, "monotonic_ns", lambda: self.now)

    def pass_(self, used, now):
        self.used += int(used)
        self.now += int(now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def made(clock):  # noqa: ARG001 - before it is made
    with Asker() as asker:
        yield Asking(asker, None)


def look(asking_, *questions, batch=SOME):
    asking_.take(lambda _: iter(questions), batch)
    asking_.work(last=True)


def test_each_kind_is_asked_about_once(made):
    look(made, question(1), question(2), question(1, port=2))
    look(made, question(2), question(3))
    assert made.asker.asked == [question(1), question(2), question(3)]


def test_ports_matter_where_rules_of_routing_ask_for_them(made):
    made.asker.by_ports = True
    look(made, question(1), question(1, port=2), question(1))
    assert made.asker.asked == [question(1), question(1, port=2)]


def test_it_asks_again_after_a_change_and_in_another_file(made):
    look(made, question(1))
    made.asker.changes += 1
    look(made, question(1))
    assert made.begin() == ()
    look(made, question(1))
    assert made.asker.asked == [question(1)] * 3


@pytest.mark.parametrize(
    ("ring", "asked"),
    [({}, 1), ({"ring_bytes": 1 << 20}, 3), ({"ring_s": 60}, 3), ({"ring_s": 1}, 45)],
    ids=["none", "bytes", "a minute", "a second"],
)
def test_where_a_ring_lets_go_of_answers_it_asks_again(clock, ring, asked):
    """No packet of the ring is without an answer."""
    with Asker() as asker:
        made = Asking(asker, Options(Path("t.db"), {}, **ring).asking_again_s)
        for _ in range(90):
            look(made, question(1))
            clock.pass_(0, SECOND // 3)
        assert len(asker.asked) == asked


def test_what_finds_no_room_is_counted_and_told(made, clock):
    made.asker.room = 2
    look(made, *map(question, range(5)))
    assert made.asker.unasked == []
    clock.pass_(0, 2 * SECOND)
    made.work()
    assert made.asker.unasked == [(3, 0)]
    made.finish()
    assert made.asker.unasked == [(3, 0)]


def test_it_remembers_so_many_and_asks_so_many(made, monkeypatch):
    monkeypatch.setattr(asking, "_REMEMBERED", 2)
    monkeypatch.setattr(asking, "_MOST_ASKED", 4)
    look(made, question(1), question(2), question(3), question(2), question(1), question(4))
    assert made.asker.asked == [question(one) for one in (1, 2, 3, 1)]
    made.finish()
    assert made.asker.unasked == [(1, 0)]


def test_looking_takes_a_small_part_of_the_time(made, clock):
    """A part of what the recorder takes, and a two thousandth of a processor."""
    looks = []

    def find(_):
        looks.append(clock.now)
        clock.pass_(10e6, 10e6)
        return iter(())

    for _ in range(1000):  # ten seconds, half of them busy
        made.take(find, SOME)
        made.work(last=True)
        clock.pass_(5e6, 10e6)
    spent, used, wall = 10e6 * len(looks), clock.used, clock.now
    assert spent <= 0.02 * used + 0.0005 * wall + 10e6 + 10e6
    assert spent >= 0.02 * (used - spent)
    made.finish()
    events = sum(unseen for _, unseen in made.asker.unasked)
    assert events == 10 * (1000 - len(looks))


def test_events_are_looked_at_together(made, clock):
    """Many at once, or few that have waited; those of a socket in their order."""
    looks = []

    def find(batch):
        looks.append((len(batch.lengths), batch.data))
        return iter(())

    some = [Batch(1, np.full(1, 2, np.uint32), b"%d." % number, 0, 0) for number in range(4)]
    made.take(find, some[0])
    made.work()
    assert looks.pop() == (1, b"0.")  # there is time
    made._left_ns = 0
    for one in some[1:]:
        made.take(find, one)
        made.work()
    assert looks == []
    clock.pass_(0, 101e6)
    made.work()
    assert looks == [(3, b"1.2.3.")]
    made._left_ns = 0
    clock.pass_(0, 1e6)
    many = Batch(1, np.full(2048, 2, np.uint32), b"ev" * 2048, 0, 0)
    for _ in range(2):
        made.take(find, many)
        made.work()
    assert [count for count, _ in looks] == [3, 4096]


def test_no_more_wait_to_be_looked_at_than_may(made, monkeypatch):
    monkeypatch.setattr(asking, "_MOST_HELD", 40)
    for number in range(7):
        made.take(lambda _, number=number: iter([question(number)]), SOME)
    made.finish()
    assert made.asker.asked == [question(one) for one in range(4)]
    assert made.asker.unasked == [(0, 30)]


def test_it_stops_looking_where_the_time_is_over(made, clock):
    """In the midst of events, where each one is of a new sender."""

    def find(_):
        for number in range(1000):
            clock.pass_(1e6, 1e6)
            yield question(number)

    made.take(find, SOME)
    made.finish()
    assert 10 <= len(made.asker.asked) <= 32
    assert made.asker.unasked == [(0, 10)]
