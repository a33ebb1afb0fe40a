"""Replacements of tables as they are told, and what the watch makes of them, without a kernel."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from iptrec.kernel.batches import LARGEST_BATCH, SLOTS, Batch, Overrun
from iptrec.kernel.legacy import followed, nflog
from iptrec.kernel.legacy.digest import Copy
from iptrec.kernel.legacy.followed import Followed
from iptrec.kernel.legacy.replacements import History, Replaced
from iptrec.kernel.legacy.states import Seen


def test_a_table_of_many_pages_is_replaced_once():
    """It begins with the last page that is taken, and ends with the first that is given back."""
    history = History()
    for time_ns in (1, 2, 3):
        history.begin(7, time_ns, page=time_ns)
    assert history.settled(1) is None
    for time_ns in (5, 6, 7):
        history.end(7, time_ns, page=90 + time_ns)
    assert (history.begun, history.settled(1)) == (1, [Replaced(3, 5)])
    assert history.quiet


def test_processes_that_know_no_lock_of_each_other():
    """The first change came after the first began, and not after the first has ended."""
    history = History()
    history.begin(7, 1, page=1)
    history.begin(8, 2, page=2)
    history.end(8, 5, page=1)
    assert history.settled(2) is None
    history.end(7, 9, page=90)
    assert history.settled(2) == [Replaced(1, 5), Replaced(1, 9)]


def test_what_goes_for_others_is_not_of_the_table():
    """It comes while a process replaces the table, which has other rules only later."""
    history = History()
    history.begin(7, 1, page=1)
    history.end(7, 5, page=90)  # of the rules before, which nobody saw come
    history.begin(8, 11, page=2)
    history.end(8, 12, page=91)
    assert history.settled(2) is None
    history.end(8, 15, page=1)
    assert history.settled(2) == [Replaced(1, 5), Replaced(11, 15)]


def test_who_is_refused_changes_nothing():
    """The table had another size meanwhile: the process gives its own page back."""
    history = History()
    history.begin(7, 1, page=1)
    history.end(7, 5, page=1)
    assert history.settled(1) == []
    history.begin(7, 11, page=1)
    history.end(7, 15, page=90)
    assert history.settled(2) == [Replaced(11, 15)]


def test_a_replacement_of_which_table_is_not_known():
    """It may be each one, so it begins and ends in all."""
    history = History()
    for page in (1, None):
        history.begin(7, 1, page=page)
        history.end(7, 5, page=page and 90)
    assert history.settled(2) == [Replaced(1, 5), Replaced(1, 5)]


def test_of_many_changes_the_first_and_the_last_count():
    history = History()
    for number in range(1000):
        history.begin(7, 10 * number, page=number)
        history.end(7, 10 * number + 1, page=number - 1)
    assert history.settled(1000) == [Replaced(0, 1), Replaced(9990, 9991)]


def test_what_is_lost_may_have_been_any_number():
    history = History()
    history.begin(7, 1, page=1)
    history.lose(0, 9)
    assert history.settled(2) == [Replaced(0, 9), Replaced(0, 9)]
    history.begin(7, 11, page=1)
    history.end(7, 15, page=90)
    assert history.settled(3) == [Replaced(11, 15)]


class Told:
    """Replacements that are told when they are read; in the place of `Replacements`."""

    astray = False

    def __init__(self):
        self.history = History()
        self.coming = []

    def read(self):
        if self.coming:
            self.coming.pop(0)()

    def of(self, *_):
        return self.history

    def replace(self, time_ns):
        self.history.begin(7, time_ns, page=time_ns)
        self.history.end(7, time_ns + 1, page=time_ns - 10)


@pytest.fixture
def following(monkeypatch):
    """A table that is followed: what tells, the table, what is known of it, and all that is reported."""
    told, found, table = Told(), [], SimpleNamespace(rules=0)
    tables = SimpleNamespace(
        taken=lambda _: b"%d" % table.rules, copy=lambda _, taken: Copy(taken, b"", b"")
    )
    printing = SimpleNamespace(put=lambda state, copy=None: found.append((state, copy)))
    monkeypatch.setattr(followed.time, "time_ns", lambda: 1000)
    known = Seen(b"0", 0)
    made = Followed(told, printing)

    def look():
        assert made.look(tables, "ipv4", "mangle", known, (0, 0))
        return [(copy and copy.digest, one.after_ns, one.time_ns) for one, copy in found]

    return SimpleNamespace(told=told, table=table, known=known, made=made, tables=tables, look=look)


def test_one_replacement_tells_when_the_state_came(following):
    following.told.replace(10)
    following.table.rules = 1
    assert following.look() == [(b"1", 10, 11)]


def test_the_same_rules_again_are_no_change(following):
    following.told.replace(10)
    assert following.look() == []


def test_a_state_between_is_unknown(following):
    """Though the table is as it was before."""
    following.told.replace(10)
    following.told.replace(20)
    assert following.look() == [(None, 10, 11), (b"0", 20, 21)]


def test_what_is_replaced_while_it_is_copied_is_copied_again(following):
    following.told.replace(10)
    following.table.rules = 1
    following.told.coming = [lambda: None] * 2 + [lambda: following.told.replace(20)]
    assert following.look() == [(None, 10, 11), (b"1", 20, 21)]


def test_what_is_replaced_again_and_again_is_unknown_until_it_rests(following):
    following.told.replace(10)
    following.told.coming = [lambda at=at: following.told.replace(at) for at in range(20, 120, 10)]
    assert following.look() == [(None, 10, 11)]
    following.told.coming = []
    following.table.rules = 1
    assert following.look()[-1][0] == b"1"


def test_what_is_under_way_is_awaited(following):
    following.told.history.begin(7, 10, page=10)
    following.table.rules = 1
    assert following.look() == []
    following.told.history.end(7, 12, page=0)
    assert following.look() == [(b"1", 10, 12)]


def test_what_is_under_way_in_the_end_is_unknown(following):
    following.told.history.begin(7, 10, page=10)
    following.made.finish("ipv4", "mangle", following.known)
    assert following.look() == [(None, 10, 1000)]


def test_a_change_that_nobody_told(following):
    """Then nothing that is told can be believed."""
    following.table.rules = 1
    assert not following.made.look(following.tables, "ipv4", "mangle", following.known, (0, 0))


def batch(count, received_ns=100):
    lengths = np.full(count, 2, np.uint32)
    return Batch(received_ns, lengths, b"ab" * count, 0, 0, emptied=count < SLOTS)


def told_by(marks, last_ns=0):
    """A socket that knows replacements by these marks."""
    made = object.__new__(nflog.NflogSocket)
    made._marks, made._last_ns = [], last_ns
    left = [marks]
    made._replacements = SimpleNamespace(marks=lambda: left.pop() if left else [])
    return made


@pytest.mark.parametrize(
    ("marks", "there"),
    [
        ([], []),
        ([(13, 50)], [(3, 50)]),  # of numbers 10 to 19
        ([(13, 50), (15, 60)], [(3, 50), (5, 60)]),
        ([(25, 50)], [(10, 50)]),  # others were lost
        ([(13, 60), (15, 50)], [(3, 50), (5, 50)]),  # what was there sooner counts
        ([(13, 150)], []),
        ([(-1, 50), (10, 50)], []),  # none of these
    ],
)
def test_which_events_were_there_when_a_table_was_replaced(marks, there):
    assert told_by(marks)._there(20, batch(10)) == there


def test_a_mark_that_is_ahead_waits():
    made = told_by([(25, 50)])
    made._there(20, batch(10))
    made._replacements = SimpleNamespace(marks=list)
    made._last_ns = 100
    assert made._there(30, batch(10, 200)) == [(5, 100)]
    assert made._marks == []


def test_numbers_begin_again():
    assert told_by([(2**32 + 3, 50)])._there(8, batch(10)) == [(5, 50)]


class Calls:
    """What calls bring, one after the other; in the place of `Untapped` and of `Slots`."""

    def __init__(self, *brought):
        self._brought = list(brought)
        self.later = False

    def receive(self):
        one = self._brought.pop(0)
        if one is Overrun:
            raise Overrun
        return one

    def put_off(self):
        self.later = True


@pytest.mark.parametrize(
    ("brought", "size", "emptied"),
    [
        ([batch(7, 200)], SLOTS + 7, True),
        ([batch(SLOTS, 200), None], 2 * SLOTS, True),
        ([Overrun], SLOTS, False),
        ([batch(SLOTS)] * 100, LARGEST_BATCH, False),
    ],
)
def test_after_a_replacement_all_that_is_there_is_received(brought, size, emptied):
    """Else nobody would know what was left in the socket: readers know a call that was full by its size."""
    made = told_by([(3, 50)])
    made._source = made._slots = Calls(*brought)
    found = made._whole(batch(SLOTS))
    assert (len(found.lengths), found.emptied) == (size, emptied)
    assert made._slots.later == (brought == [Overrun])
    made._replacements = SimpleNamespace(marks=list)
    assert made._there(size, found) == ([(3, 50)] if emptied else [])


def test_a_full_call_is_left_alone_where_nothing_was_replaced():
    assert len(told_by([])._whole(batch(SLOTS)).lengths) == SLOTS


def test_parts_of_a_batch():
    some = Batch(100, np.array([1, 2, 3], np.uint32), b"abbccc", 0, 0, there=[(1, 50), (1, 60)])
    assert [(one[0], one[1].tolist(), one[2]) for one in some.parts()] == [
        (50, [1], b"a"), (60, [], b""), (100, [2, 3], b"bbccc"),
    ]  # fmt: skip
