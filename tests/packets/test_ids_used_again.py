"""Equal packets one after the other: the first one died, and the second one has its buffer, and so its id."""

from __future__ import annotations

import pytest
from test_base_chains import DROP, FORWARD, IN, OUT, POST, PRE, SECOND, SENT, NftByHand

from iptrec.answers.packets import Packets

MS = 10**6
QUEUE = 3
DEAD, ALIVE = ("UNKNOWN", False, False), ("ACCEPT", True, False)


def told(recording):
    return [(one.verdict, one.complete, one.ambiguous) for one in Packets(recording)]


@pytest.mark.parametrize("later_ns", [1000, MS, 200 * MS])
@pytest.mark.parametrize(
    ("begun", "onward"), [([IN, PRE], FORWARD), ([SENT, OUT], POST)], ids=["came", "sent"]
)
@pytest.mark.parametrize("after_nat", [7, 9], ids=["its id", "another id"])
def test_a_new_packet_of_the_same_id_is_the_end_of_the_old_one(begun, onward, later_ns, after_nat):
    """What goes on is the new one, whenever it comes: two buffers never have one address."""
    recording = NftByHand([*begun, onward]).passes(SECOND, *begun)
    recording.passes(SECOND + later_ns, *begun)
    recording.passes(SECOND + later_ns + 1, onward, trace=after_nat)
    assert told(recording) == [DEAD, ALIVE]


@pytest.mark.parametrize(("later_ns", "known"), [(MS, False), (50 * MS, False), (200 * MS, True)])
def test_a_packet_is_not_under_way_for_ever(later_ns, known):
    """Where NAT gave the packet another id nothing but the time tells which of two it is."""
    recording = NftByHand([IN, PRE, FORWARD]).passes(SECOND, IN, PRE, trace=5)
    recording.passes(SECOND + later_ns, IN, PRE, trace=7)
    recording.passes(SECOND + later_ns + 1, FORWARD, trace=9)
    assert (told(recording) == [DEAD, ALIVE]) is known
    assert any(ambiguous for *_, ambiguous in told(recording)) is not known


def test_what_was_queued_may_take_its_time():
    """Userspace lets it pass when it likes."""
    recording = NftByHand([IN, PRE, FORWARD]).passes(SECOND, IN, PRE, last=QUEUE, trace=5)
    recording.passes(SECOND + 200 * MS, IN, PRE, trace=7)
    recording.passes(SECOND + 200 * MS + 1, FORWARD, trace=9)
    assert all(ambiguous for *_, ambiguous in told(recording))


@pytest.mark.parametrize("living", [5, 7])
def test_two_under_way_together_are_told_by_their_ids(living):
    recording = NftByHand([IN, PRE, FORWARD]).passes(SECOND, IN, PRE, trace=5)
    recording.passes(SECOND + 1, IN, PRE, trace=7).passes(SECOND + 2, FORWARD, trace=living)
    assert told(recording) == ([ALIVE, DEAD] if living == 5 else [DEAD, ALIVE])


def test_the_second_one_dies_by_a_rule():
    recording = NftByHand([IN, PRE, FORWARD]).passes(SECOND, IN, PRE)
    recording.passes(SECOND + 200 * MS, IN, PRE, FORWARD, last=DROP)
    assert told(recording) == [DEAD, ("DROP", True, False)]
