"""Which traversals of two backends are one packet, by hand: keys, times, and a judge that is a table."""

from __future__ import annotations

import numpy as np
import pytest

from iptrec.packets.pairs import Pairs, Side, pair

MS = 1_000_000
# Ways: 1 goes through, 2 is dropped; of both it is the other backend that has the word behind.
THROUGH, DROPPED = 1, 2


def judge(mine, its):
    """A packet that legacy drops is not told of by nf_tables, if its turn is later; else both tell."""
    if its < 0:
        return True, mine == DROPPED
    if mine < 0:
        return True, False
    return mine != DROPPED, mine != DROPPED


def side(*rows):
    """Traversals as (exact key, loose key, way, time in ms), each of two events."""
    exact, loose, outcome, time = (np.array(one) for one in zip(*rows, strict=True))
    first = 2 * np.arange(len(rows))
    time = time * MS
    return Side(
        exact.astype(np.uint64), loose.astype(np.uint64), outcome, first, first + 1, time, time, time + MS
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        ([(1, 1, 1, 0)], [(1, 1, 1, 0)], [(0, 0)]),
        ([(1, 1, 1, 0)], [(9, 9, 1, 0)], [(0, -1), (-1, 0)]),
        ([(1, 5, 1, 0)], [(2, 5, 1, 0)], [(0, 0)]),  # NAT between the first events
        ([(1, 5, 1, 0), (2, 5, 1, 0)], [(2, 5, 1, 0), (1, 5, 1, 0)], [(0, 1), (1, 0)]),
        ([(1, 1, 1, 0)], [(1, 1, 1, 5000)], [(0, -1), (-1, 0)]),  # the same bytes, later
        ([(1, 1, 1, 0), (1, 1, 1, 1000)], [(1, 1, 1, 1000)], [(0, -1), (1, 0)]),
        # What is dropped needs no partner, whatever comes first.
        ([(1, 1, 2, 0), (1, 1, 1, 1)], [(1, 1, 1, 1)], [(0, -1), (1, 0)]),
        ([(1, 1, 1, 0), (1, 1, 2, 1), (1, 1, 1, 2)], [(1, 1, 1, 0), (1, 1, 1, 2)], [(0, 0), (1, -1), (2, 1)]),
        ([(1, 1, 2, 0)], [(1, 1, 1, 0)], [(0, -1), (-1, 0)]),  # the rules allow no such way
    ],
)  # fmt: skip
def test_pairs(one, other, pairs):
    found = pair(side(*one), side(*other), judge)
    assert list(zip(found.one.tolist(), found.other.tolist(), strict=True)) == pairs
    assert not found.doubtful.any()


def overlapping(ways):
    """Equal packets of which each began before the one before had ended."""
    made = side(*((1, 1, way, 0) for way in ways))
    return made._replace(last=made.first + 3)


@pytest.mark.parametrize(
    ("mine", "its", "doubtful"),
    [
        ([1, 1], [1, 1], False),
        ([1, 1], [1, 3], False),  # whose is whose makes no difference to what is told
        ([1, 3], [1, 1], False),
        ([1, 3], [1, 3], True),
        ([1, 3, 1], [3, 1, 1], True),
    ],
)
def test_equal_packets_at_once(mine, its, doubtful):
    found = pair(overlapping(mine), overlapping(its), judge)
    assert (found.one >= 0).all()
    assert (found.other >= 0).all()
    assert found.doubtful.tolist() == [doubtful] * len(mine)


def test_what_can_have_no_other_partner_is_no_doubt():
    """What is dropped has none, and the other one is not whole without its own."""
    found = pair(overlapping([1, DROPPED]), overlapping([1]), judge)
    assert list(zip(found.one.tolist(), found.other.tolist(), strict=True)) == [(0, 0), (1, -1)]
    assert not found.doubtful.any()


def test_one_after_the_other_is_no_doubt():
    made = [side((1, 1, 1, 0), (1, 1, 3, 1)), side((1, 1, 3, 0), (1, 1, 1, 1))]
    assert not pair(*made, judge).doubtful.any()
    # But one is missing, so that any of the others may be another's.
    lost = side((1, 1, 1, 0), (1, 1, 3, 1), (1, 1, 1, 2))
    assert pair(lost, made[1], judge).doubtful.all()


def test_many_equal_ones():
    """A flood of equal packets (IPv6 has no id) is not compared each with each."""
    rows = [(1, 1, 1, number) for number in range(20_000)]
    found = pair(side(*rows), side(*rows), judge)
    assert (found.one == found.other).all()


def test_nothing():
    empty = Side(*(np.zeros(0, kind) for kind in (np.uint64, np.uint64, *[np.int64] * 6)))
    assert pair(empty, empty, judge).one.tolist() == []
    assert pair(side((1, 1, 1, 0)), empty, judge).one.tolist() == [0]


def test_what_turns_out_to_be_no_pair():
    """Each is by itself then, and in doubt."""
    some = Pairs(np.array([0, 1, -1]), np.array([1, 0, 2]), np.zeros(3, np.bool_))
    found = some.without(np.array([False, True, False]))
    told = list(zip(found.one.tolist(), found.other.tolist(), found.doubtful.tolist(), strict=True))
    assert told == [(0, 1, False), (1, -1, True), (-1, 2, False), (-1, 0, True)]
