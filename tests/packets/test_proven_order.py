"""The order of chains of equal priority by the times and the marks of packets."""

from __future__ import annotations

import numpy as np
import pytest

from iptrec.decode.rulesets.types import Rule
from iptrec.packets.outcome import Unordered
from iptrec.packets.proven_order import LEGACY_FIRST, NFT_FIRST, UNPROVEN, Told, proven
from iptrec.rulesets.places import Place

BOTH = Unordered("INPUT", ("filter/INPUT", "fw/in"))


def place(table, base, spec=None, target=None, syntax="nft", effect="continue"):
    rule = None if spec is None else Rule(spec, target, None, False, None, True, syntax=syntax)
    number = None if rule is None else 1
    return Place(
        1,
        table,
        base or "INPUT",
        number,
        number,
        rule is None,
        True,
        False,
        rule,
        effect,
        base=base,
    )


MANGLE = place("mangle", None)
LEGACY_END = place("filter", None)
LEGACY_MARK = place("filter", None, "-j MARK --set-xmark 0x5/0xffffffff", "MARK", "iptables")
NFT_END = place("fw", "in")
NFT_RULE = place("fw", "in", "udp dport 5 counter")
NFT_MARK = place("fw", "in", "meta mark set 0x00000007")
NFT_QUEUE = place("fw", "in", "queue num 0", "QUEUE", effect="queue")
BEHIND = place("security", None)


def by_marks(marks):
    """Of events whose times nobody noted."""
    return Told(marks, np.zeros_like(marks), np.zeros(marks.shape, np.bool_))


@pytest.mark.parametrize(
    ("places", "parts", "marks", "order"),
    [
        # Legacy iptables saw what nf_tables had set, or did not.
        ([LEGACY_END, NFT_MARK, NFT_END], [0, 1, 1], [7, 7, 7], UNPROVEN),
        ([MANGLE, LEGACY_END, NFT_MARK, NFT_END], [0, 0, 1, 1], [1, 7, 7, 7], NFT_FIRST),
        ([MANGLE, LEGACY_END, NFT_MARK, NFT_END], [0, 0, 1, 1], [1, 1, 7, 7], LEGACY_FIRST),
        # And the other way round.
        ([LEGACY_MARK, LEGACY_END, NFT_RULE, NFT_END], [0, 0, 1, 1], [1, 5, 5, 5], LEGACY_FIRST),
        ([LEGACY_MARK, LEGACY_END, NFT_RULE, NFT_END], [0, 0, 1, 1], [1, 5, 1, 1], NFT_FIRST),
        # What comes behind both tells it as well.
        ([LEGACY_MARK, LEGACY_END, NFT_MARK, BEHIND], [0, 0, 1, 0], [7, 5, 7, 5], NFT_FIRST),
        # Nobody changes the mark, or all of it contradicts itself.
        ([MANGLE, LEGACY_END, NFT_RULE, NFT_END], [0, 0, 1, 1], [1, 1, 1, 1], UNPROVEN),
        ([MANGLE, LEGACY_END, NFT_RULE, NFT_END], [0, 0, 1, 1], [1, 2, 3, 3], UNPROVEN),
        # What userspace did to it nobody knows.
        ([MANGLE, LEGACY_END, NFT_QUEUE], [0, 0, 1], [5, 7, 5], NFT_FIRST),
        ([MANGLE, LEGACY_END, NFT_QUEUE, BEHIND], [0, 0, 1, 0], [5, 5, 5, 7], LEGACY_FIRST),
        ([MANGLE, NFT_END, LEGACY_END], [0, 1, 0], [5, 5, 5], UNPROVEN),
        # Chains of another hook, or that do not stand side by side.
        ([LEGACY_END, MANGLE, NFT_MARK], [0, 0, 1], [1, 1, 7], UNPROVEN),
    ],
)
def test_orders(places, parts, marks, order):
    assert proven(places, parts, by_marks(np.array(marks)[:, None]), BOTH).tolist() == [order]


def test_each_packet_has_its_own_marks():
    marks = np.array([[1, 1], [7, 1], [7, 7], [7, 7]])
    found = proven([MANGLE, LEGACY_END, NFT_MARK, NFT_END], [0, 0, 1, 1], by_marks(marks), BOTH)
    assert found.tolist() == [NFT_FIRST, LEGACY_FIRST]


SECOND = place("aside", "also")
ALL = Unordered("INPUT", ("filter/INPUT", "fw/in", "aside/also"))
TWO = [MANGLE, LEGACY_MARK, LEGACY_END, NFT_RULE, NFT_END, BEHIND], [0, 0, 0, 1, 1, 0]
# Tracing may begin in one of nf_tables, which is shown first.
TURNED = [MANGLE, NFT_RULE, NFT_END, LEGACY_MARK, LEGACY_END, BEHIND], [0, 1, 1, 0, 0, 0]
OTHER = Unordered("INPUT", ("fw/in", "filter/INPUT"))
THREE = [LEGACY_END, NFT_RULE, NFT_END, SECOND], [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("way", "chains", "sent", "order"),
    [
        (TWO, BOTH, [0, 1000, 2000, 3000, 4000, 5000], LEGACY_FIRST),
        (TWO, BOTH, [0, 3000, 4000, 1000, 2000, 5000], NFT_FIRST),
        (TURNED, OTHER, [0, 1000, 2000, 3000, 4000, 5000], NFT_FIRST),
        (TURNED, OTHER, [0, 3000, 4000, 1000, 2000, 5000], LEGACY_FIRST),
        # Both overlap, or are so near that the clocks may have told it wrongly.
        (TWO, BOTH, [0, 1000, 3000, 2000, 4000, 5000], UNPROVEN),
        (TWO, BOTH, [0, 1000, 2000, 2200, 4000, 5000], UNPROVEN),
        # Other steps contradict it: the clocks of the two differ by more.
        (TWO, BOTH, [0, 11000, 12000, 1000, 2000, 5000], UNPROVEN),
        (TWO, BOTH, [9000, 1000, 2000, 3000, 4000, 15000], UNPROVEN),
        (THREE, ALL, [0, 1000, 2000, 3000], 0),
        (THREE, ALL, [2500, 1000, 2000, 3000], 1),
        (THREE, ALL, [4000, 1000, 2000, 3000], 2),
        (THREE, ALL, [4000, 5000, 6000, 3000], UNPROVEN),  # not the order of nf_tables itself
        (THREE, ALL, [1500, 1000, 2000, 3000], UNPROVEN),
    ],
)
def test_by_times(way, chains, sent, order):
    sent = np.array(sent)[:, None] + 1_795_000_000_000_000_000
    marks, own = np.ones_like(sent), np.ones(sent.shape, np.bool_)
    assert proven(*way, Told(marks, sent, own), chains).tolist() == [order]
    for step in range(len(way[0])):
        if way[0][step] not in (MANGLE, BEHIND):
            some = own.copy()
            some[step] = False
            assert proven(*way, Told(marks, sent, some), chains).tolist() == [UNPROVEN]
