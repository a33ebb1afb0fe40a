"""Packets by the word of their end: every way to select them has to find the same ones."""

from __future__ import annotations

from collections import Counter

from iptrec.answers.expectation import Expectation, check
from iptrec.answers.index import Index
from iptrec.answers.packets import Packets
from iptrec.answers.path_counts import count_paths
from iptrec.answers.selection import Selection
from iptrec.answers.summary import summarize

NOBODYS = "IP_INVALID_DEST"


def by_reason(recording):
    """The numbers of the packets of each word, by the packets as they are shown; all answers agree."""
    told = {NOBODYS: []}
    for one in Packets(recording):
        if one.end is not None:
            told.setdefault(one.end.reason, []).append(one.number)
    index = Index()
    assert _columns(recording, Selection(), index) != []
    for word, numbers in told.items():
        assert _columns(recording, Selection(reasons=frozenset({word})), index) == numbers
    every = sorted(number for numbers in told.values() for number in numbers)
    _agree(recording, Selection(reasons=frozenset(told)), every)
    sure = Selection(reasons=frozenset(told), verdicts=frozenset({"DISCARDED"}))
    found = Counter(one.end.reason for one in Packets(recording, sure))
    assert found == Counter(summarize(recording).ends)
    return {word: numbers for word, numbers in told.items() if numbers}


def _agree(recording, selection, expected):
    assert [one.number for one in Packets(recording, selection)] == expected
    assert [one.number for one in Packets(recording, selection).last(2)] == expected[-2:]
    assert _columns(recording, selection, None) == expected
    paths = count_paths(recording, selection)
    assert sum(one.count.packets for one in paths) == len(expected)
    wanted = Expectation("so many", 1, selection, least=len(expected), most=len(expected))
    others = Expectation("all", 1, Selection())
    assert [one.failure for one in check(recording, [others, wanted])] == [None, None]


def _columns(recording, selection, index):
    """The numbers, where no packet is to be made."""
    batches = Packets(recording, selection, index).batches(objects=False)
    return [
        batch.window.number + position for batch in batches for position in batch.positions.tolist()
    ]
