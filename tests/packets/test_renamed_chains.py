"""What packets are told of a chain of nf_tables that was renamed: it, and that no rule came or went."""

from __future__ import annotations

import pytest
from handmade import udp
from nft_handmade import (
    ACCEPT,
    DROP,
    NEW_CHAIN,
    NEW_RULE,
    NftHandMade,
    attribute,
    chain,
    event,
    message,
    rule,
    text,
    u32,
)

from iptrec.answers.packets import Packets
from iptrec.views.text import Layout, render

UDP = udp(b"x")
JUMP, RETURN = 2**32 - 3, 2**32 - 5
TRACE = 17


def jump(trace, name, handle=5):
    """Rule 5 of the base chain jumps to a chain."""
    verdict = attribute(1, u32(JUMP)) + attribute(2, text(name))
    parts = (1, text("fw")), (2, text("f")), (3, u32(0) + u32(handle)), (4, u32(2))
    more = (5, verdict), (6, u32(trace)), (15, u32(2))
    return message(TRACE, *parts, *more, (8, UDP[:20]), (9, UDP[20:40]))


def passed(trace, name, verdict):
    """A packet that meets the rule 6 of that chain, which ends it or not."""
    if verdict == DROP:
        return jump(trace, name), event(UDP, trace, name, 6, verdict=DROP)
    end = (
        event(UDP, trace, name, verdict=RETURN),
        event(UDP, trace, "f"),
        event(UDP, trace, "f", policy=ACCEPT),
    )
    return jump(trace, name), *end


def recorded(verdict, *more):
    recording = NftHandMade().listed(
        {"f": [(5, "jump u")], "u": [(6, "x drop")]}, 100, generation=7
    )
    recording.traced(110, *passed(1, "u", verdict)).traced(120).traced(130).traced(140)
    recording.commit(8, 150, chain(NEW_CHAIN, "v", 91), *more)
    for time in (160, 170, 180):
        recording.traced(time)
    recording.traced(190, *passed(2, "v", verdict))
    rules = [(7, "log x")] * len(more) + [(6, "x drop")]
    return recording.listed({"f": [(5, "jump v")], "v": rules}, 300, generation=8)


@pytest.mark.parametrize("verdict", [DROP, ACCEPT])
def test_a_rename_is_told(verdict):
    """Neither a rule that was inserted, nor the policy of a chain that has none."""
    first, second = Packets(recorded(verdict))
    assert (first.ambiguous, second.ambiguous, first.altered_by) == (False, False, None)
    told = second.altered_by
    assert (told.kind, told.chain, told.rule, told.spec) == ("renamed", "u", None, "v")
    assert "(inet fw/u renamed to v at " in render(second, Layout())


def test_what_came_with_it_comes_first():
    """A rule that took part says more than a name."""
    new = rule(NEW_RULE, "f", 8, "drop")
    recording = recorded(DROP)
    recording.commit(9, 310, new).traced(320).traced(330).traced(340)
    recording.traced(
        350, jump(3, "v"), event(UDP, 3, "v", verdict=RETURN), event(UDP, 3, "f", 8, verdict=DROP)
    )
    rules = {"f": [(5, "jump v"), (8, "drop")], "v": [(6, "x drop")]}
    *_, last = Packets(recording.listed(rules, 400, generation=9))
    assert (last.altered_by.kind, last.altered_by.spec) == ("inserted", "drop")


def test_the_end_of_a_chain_that_is_new_is_no_policy():
    """That of a user's chain: a rule that jumps there is what came."""
    recording = NftHandMade().listed({"f": []}, 100, generation=7)
    recording.traced(110, event(UDP, 1, "f", dumps=True), event(UDP, 1, "f", policy=ACCEPT))
    recording.traced(120).traced(130).traced(140)
    recording.commit(8, 150, chain(NEW_CHAIN, "n", 91), rule(NEW_RULE, "f", 5, "jump n"))
    for time in (160, 170, 180):
        recording.traced(time)
    recording.traced(190, *passed(2, "n", ACCEPT))
    recording.listed({"f": [(5, "jump n")], "n": []}, 300, generation=8)
    _, second = Packets(recording)
    assert (second.altered_by.kind, second.altered_by.spec) == ("inserted", "jump n")
