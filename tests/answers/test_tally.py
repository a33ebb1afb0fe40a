"""Counts by verdict and rule are those of the packets one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from iptrec.answers import tally
from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.packets.window import windows
from iptrec.recording.reader import Reader

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))


def counted(reader):
    found = tally.Tally()
    for window in windows(reader):
        found.add(window)
    return found


def one_by_one(reader):
    """The same of each packet as an object."""
    found = Counter()
    for one in Packets(reader):
        by, text = one.decided_by, ""
        if by is None:
            found[(one.verdict, one.family, "", "", "", "")] += 1
            continue
        rule = "policy" if by.rule is None else str(by.rule)
        steps = [
            step
            for step in one.steps
            if (step.table, step.chain, step.rule) == (by.table, by.chain, by.rule)
        ]
        if by.rule is not None:
            text = (steps[-1].spec or "")[:200]
        found[(one.verdict, one.family, by.table, by.chain, rule, text)] += 1
    return found


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_counts_are_those_of_the_packets(path):
    with Reader(path) as reader:
        found, summary = counted(reader), summarize(reader)
        expected = one_by_one(reader)
    assert {(*one[:5], one.text[:199]): count for one, count in found.packets.items()} == {
        (*one[:5], one[5][:199]): count for one, count in expected.items()
    }
    assert found.incomplete == summary.incomplete
    assert found.ambiguous == summary.ambiguous
    assert found.events == summary.events
    assert found.packets.total() == summary.packets > 0


def test_rules_may_be_many_and_long(monkeypatch):
    """Beyond a number of them they are counted together, and each text is cut."""
    monkeypatch.setattr(tally, "MOST", 2)
    monkeypatch.setattr(tally, "_LONGEST", 9)
    with Reader(SAMPLES[0].with_name("nftables.db")) as reader:
        found = counted(reader)
        whole = summarize(reader).packets
    others = [one for one in found.packets if one.rule == tally.OTHER]
    assert len(found.packets) - len(others) == 2
    assert others
    assert {one.text for one in others} == {""}
    assert found.packets.total() == whole
    assert max(len(one.text) for one in found.packets) <= 9
