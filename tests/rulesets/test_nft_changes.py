"""The states of nf_tables' tables between two listings, by what the kernel told."""

from __future__ import annotations

import pytest
from handmade import udp
from hypothesis import given, settings
from hypothesis import strategies as st
from nft_handmade import (
    ACCEPT,
    CREATE,
    DEL_RULE,
    DEL_TABLE,
    DROP,
    NEW_CHAIN,
    NEW_ELEMENTS,
    NEW_RULE,
    NEW_TABLE,
    REPLACE,
    NftHandMade,
    chain,
    element,
    event,
    message,
    rule,
    table,
    text,
)

from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.rulesets.backends import history
from iptrec.rulesets.nft import NFT
from iptrec.rulesets.timeline import EVER
from iptrec.views.text import Layout, render

UDP = udp(b"x")
ONE = {"f": [(5, "drop")]}


def states(recording, name="inet fw"):
    """(texts of the rules of the chain f or None, after, time) of each state of a table, in ms."""
    timeline = history(recording, NFT, 1).table("ipv4", name)
    return [
        (
            None if one.chains is None else [each.spec for each in one.chains["f"].rules] if one.chains else [],
            *(at if at == EVER else at // 10**6 for at in times),
        )
        for one, *times in zip(timeline.states, timeline.after_ns, timeline.time_ns, strict=True)
    ]  # fmt: skip


def texts(recording):
    return [one[0] for one in states(recording)]


def elements():
    return message(NEW_ELEMENTS, (1, text("fw")), (2, text("banned")), (3, b"1234"))


def made_anew(handle, what, *rules):
    """A table gives way to a new one of its name, whose handles begin again."""
    before = rule(DEL_RULE, "f", 5, what, hits=7)
    new = [rule(NEW_RULE, "f", 5 + at, words) for at, words in enumerate(rules)]
    head = table(NEW_TABLE, handle), chain(NEW_CHAIN, "f", 90, policy=ACCEPT)
    return before, table(DEL_TABLE, handle - 1), *head, *new


def test_elements_of_sets_are_not_rules():
    """They make generations, some of which nobody lists; the rules were the same all the time."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    for number in range(5):
        recording.commit(8 + number, 110 + number, elements()).unseen(110 + number, 100)
    assert texts(recording.listed(ONE, 200, generation=12)) == [["drop"]]


def test_each_state_is_known_between_two_listings():
    """When it came, and its rules in order with the texts of a listing before or after."""
    recording = NftHandMade().listed({"f": [(5, "drop"), (6, "accept")]}, 100, generation=7)
    for time in (110, 120, 130, 140, 150):
        recording.traced(time)
    recording.commit(8, 140, rule(DEL_RULE, "f", 5, "drop")).unseen(145)
    recording.commit(9, 150, rule(NEW_RULE, "f", 7, "log", flags=CREATE))
    recording.listed({"f": [(7, "log x"), (6, "accept")]}, 300, generation=9)
    assert states(recording) == [
        (["drop", "accept"], EVER, EVER),
        (["accept"], 114, 140),  # two looks before, and the time that a commit takes
        (["log x", "accept"], 124, 150),
    ]


def test_where_nothing_was_traced_the_recorder_knows_when_it_changed():
    """What it noted of a listing holds for all changes that led to it."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 900, rule(DEL_RULE, "f", 5, "drop"))
    recording.listed({"f": []}, 950, generation=8, after=899)
    assert states(recording) == [(["drop"], EVER, EVER), ([], 893, 900)]


def test_a_table_that_is_made_anew_has_the_texts_of_its_equals():
    """Handles begin again; equal rules have equal texts, whatever they have counted."""
    other = {"f": [(5, "accept"), (6, "drop")]}
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, *made_anew(2, "drop", "accept", "drop"))
    recording.commit(
        9, 120, rule(DEL_RULE, "f", 6, "drop"), *made_anew(3, "accept", "drop")
    )  # fmt: skip
    recording.commit(10, 130, *made_anew(4, "drop", "accept", "drop"))
    recording.listed(other, 200, generation=10, handle=4)
    assert texts(recording) == [["drop"], ["accept", "drop"], ["drop"], ["accept", "drop"]]


def test_what_nobody_listed_has_no_words():
    """The rule is there, with its number; its text is not made up."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, *made_anew(2, "drop", "something else"))
    recording.commit(9, 120, *made_anew(3, "something else", "drop"))
    assert texts(recording.listed(ONE, 200, generation=9, handle=3)) == [["drop"], [""], ["drop"]]


def test_where_nothing_is_listed_in_the_end_the_kernel_tells():
    """What it told of each change: of those after the recorder's last look as well, as its own undoing."""
    recording = NftHandMade().listed({"f": [(5, "drop"), (6, "accept")]}, 100, generation=7)
    recording.commit(8, 110, rule(DEL_RULE, "f", 5, "drop")).unseen(112, 100)
    recording.commit(9, 120, rule(NEW_RULE, "f", 7, "drop")).unseen(130, 112)
    recording.commit(10, 140, rule(DEL_RULE, "f", 7, "drop"))
    assert states(recording) == [
        (["drop", "accept"], EVER, EVER),
        (["accept"], 94, 110),
        (["accept", "drop"], 94, 120),
        (["accept"], 94, 140),
    ]


def test_elements_that_changed_last_leave_the_rules_known():
    """No rule came or went, though nobody listed the ruleset any more; what was lost may be one."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, element(NEW_ELEMENTS, "s", b"x")).unseen(130, 112)
    assert texts(recording) == [["drop"]]
    assert texts(recording.lost(120)) == [["drop"], None]


def test_what_cannot_be_followed_in_the_end_is_not_known():
    """From then on; a change that is missing leaves nothing known."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, rule(NEW_RULE, "f", 6, "drop"))
    recording.commit(9, 120, rule(DEL_RULE, "f", 99, "what was never there"))
    recording.commit(10, 130, rule(NEW_RULE, "f", 7, "drop")).unseen(140, 100)
    assert texts(recording) == [["drop"], ["drop", ""], None]
    missing = NftHandMade().listed(ONE, 100, generation=7)
    missing.commit(9, 120, rule(NEW_RULE, "f", 6, "drop")).unseen(140, 100)
    assert texts(missing) == [["drop"], None]


def test_packets_of_a_rule_that_nobody_listed_are_counted():
    """`info` says how many they are."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, rule(NEW_RULE, "f", 6, "something else"))
    recording.traced(120, event(UDP, 9, "f", 6, verdict=DROP, dumps=True))
    recording.commit(9, 130, rule(DEL_RULE, "f", 6, "something else"))
    summary = summarize(recording.listed(ONE, 200, generation=9))
    assert (summary.packets, summary.unread) == (1, 1)


def test_a_rule_that_nobody_listed_is_told_as_a_rule():
    """The kernel names it by its handle; that it may be the chain's end is legacy iptables' doubt."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, rule(NEW_RULE, "f", 6, "something else"))
    recording.traced(120, event(udp(b"x"), 9, "f", 6, verdict=0, dumps=True))
    recording.commit(9, 130, rule(DEL_RULE, "f", 6, "something else"))
    (one,) = Packets(recording.listed(ONE, 200, generation=9))
    assert "\t\tMATCH RULE (#2): (its text was not recorded)\n" in render(one, Layout())


ORDERS = {
    "appended": ([(7, None, 0x800), (8, None, 0x800)], [5, 6, 7, 8]),
    "appended together": ([(7, 6, 0x800), (8, None, 0x800)], [5, 6, 7, 8]),
    "inserted together": ([(7, 8, CREATE), (8, None, CREATE)], [8, 7, 5, 6]),
    "in between": ([(7, 8, 0x800), (8, 5, 0x800)], [5, 8, 7, 6]),
}


@pytest.mark.parametrize("case", ORDERS)
def test_order_of_rules(case):
    """A new rule names the one before it, which may be a newer one; the first and the last name none."""
    new, expected = ORDERS[case]
    recording = NftHandMade().listed({"f": [(5, "r5"), (6, "r6")]}, 100, generation=7)
    messages = [rule(NEW_RULE, "f", one, after=after, flags=flags) for one, after, flags in new]
    recording.commit(8, 110, *messages)
    end = {"f": [(one, f"r{one}") for one in expected]}
    assert texts(recording.listed(end, 200, generation=8))[1:] == [[f"r{one}" for one in expected]]


def test_a_place_that_linux_5_10_does_not_tell():
    """No flags, no position: a rule is the first or the last one. It is known where there is no other."""
    first, second = (
        rule(NEW_RULE, "f", number, text, flags=0) for number, text in ((5, "drop"), (6, "accept"))
    )
    recording = NftHandMade().listed({"f": []}, 100, generation=7).commit(8, 110, first)
    assert texts(recording.listed(ONE, 200, generation=8)) == [[], ["drop"]]
    recording = NftHandMade().listed({"f": []}, 100, generation=7).commit(8, 110, first, second)
    recording.commit(9, 120, rule(DEL_RULE, "f", 6, "accept"))
    assert texts(recording.listed(ONE, 200, generation=9)) == [[], None, ["drop"]]


@pytest.mark.parametrize("last", [True, False])
def test_a_rule_that_is_replaced(last):
    """It takes the place of the other; the kernel tells no place of the last one."""
    recording = NftHandMade().listed({"f": [(5, "r5"), (6, "r6")]}, 100, generation=7)
    old, after = (6, None) if last else (5, None)
    new = rule(NEW_RULE, "f", 7, after=after, flags=REPLACE)
    recording.commit(8, 110, rule(DEL_RULE, "f", old), new)
    expected = [(5, "r5"), (7, "r7")] if last else [(7, "r7"), (6, "r6")]
    assert len(states(recording.listed({"f": expected}, 200, generation=8))) == 2
    assert None not in texts(recording)


def test_what_cannot_be_relied_on_is_unknown():
    """A commit that was not received, changes that were lost, messages that do not come to what is listed."""
    end = {"f": [(5, "drop"), (6, "accept")]}

    def recorded(*commits):
        recording = NftHandMade().listed(ONE, 100, generation=7)
        for generation, messages in commits:
            recording.commit(generation, 110, *messages)
        return recording.unseen(110, 100).listed(end, 200, generation=9)

    added = [rule(NEW_RULE, "f", 6, "accept")]
    assert texts(recorded((8, [elements()]), (9, added))) == [["drop"], ["drop", "accept"]]
    unknown = [["drop"], None, ["drop", "accept"]]
    assert texts(recorded((9, added))) == unknown
    assert texts(recorded((8, [elements()]), (9, added)).lost(105)) == unknown
    assert texts(recorded((8, added), (9, [rule(NEW_RULE, "f", 9)]))) == unknown
    assert texts(recorded((8, []), (9, [rule(DEL_RULE, "f", 99), *added]))) == unknown


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({}, [["drop"]]),
        ({"handle": 2}, [["drop"], None, ["drop"]]),
    ],
)
def test_without_messages_equal_tables_have_not_changed(end, expected):
    """Two listings tell the same of the same table; another one of its name may have had other rules before."""
    recording = NftHandMade().listed(ONE, 100).unseen(120, 110)
    assert texts(recording.listed(ONE, 200, **end)) == expected


def test_a_listing_of_several_moments_is_not_believed():
    """The ruleset changed from one command to the next, so it has no number: handles may be of other rules."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, *made_anew(2, "drop", "accept")).listed(
        {"f": [(5, "log x")]}, 115, handle=2
    )
    recording.commit(9, 120, rule(DEL_RULE, "f", 5, "accept"), rule(NEW_RULE, "f", 6, "log"))
    recording.listed({"f": [(6, "log y")]}, 200, generation=9, handle=2)
    assert texts(recording) == [["drop"], [""], ["log y"]]


def test_a_table_that_was_there_between_two_listings_only():
    """It is told as well, and nothing of it before and after."""
    recording = NftHandMade().listed(ONE, 100, generation=7, name="other")
    head = table(NEW_TABLE, 2), chain(NEW_CHAIN, "f", 90, policy=ACCEPT)
    recording.commit(8, 110, *head, rule(NEW_RULE, "f", 5, "drop"))
    recording.commit(9, 120, table(DEL_TABLE, 2))
    recording.listed(ONE, 200, generation=9, name="other")
    assert texts(recording) == [[""], []]


def changing(*events):
    """A table that is made anew while packets are traced: its rule 5 was a drop, and is an accept."""
    recording = NftHandMade().listed({"f": [(5, "drop")]}, 100, generation=7)
    recording.traced(110).traced(120).traced(130, *events)
    recording.commit(8, 131, *made_anew(2, "drop", "accept"))
    return recording.listed({"f": [(5, "accept")]}, 200, generation=8, handle=2)


@pytest.mark.parametrize("same", [True, False])
def test_where_nobody_knows_the_rules_a_packet_may_pass_two_chains_of_one_name(same):
    """The one that goes and the one that comes are attached together; the kernel's id says that it is one."""
    recording = NftHandMade().listed(ONE, 100).unseen(120, 110)
    second = 9 if same else 10
    dropped = event(UDP, second, "f", 6, verdict=DROP, dumps=True)
    recording.traced(115, event(UDP, 9, "f", policy=ACCEPT, dumps=True), dropped)
    recording.listed({"f": [(7, "drop")]}, 200)
    told = [(one.verdict, one.complete) for one in Packets(recording)]
    assert told == [("DROP", False)] if same else [("ACCEPT", False), ("DROP", False)]


@pytest.mark.parametrize(("verdict", "spec"), [(0, "drop"), (ACCEPT, "accept")])
def test_the_verdict_tells_which_of_two_rules_with_one_handle_it_was(verdict, spec):
    """The kernel says what the rule did: the other one did not."""
    packet = udp(b"x")
    (one,) = Packets(changing(event(packet, 9, "f", 5, verdict=verdict, dumps=True)))
    assert (one.steps[-1].spec, one.ambiguous, one.verdict) == (spec, False, spec.upper())


BESIDE = event(UDP, 9, "f", dumps=True), event(UDP, 9, "f", policy=ACCEPT)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ((*BESIDE, event(UDP, 9, "f", 5, verdict=DROP, dumps=True)), ["policy", "drop"]),
        (
            [event(UDP, 9, "f", 5, verdict=one, dumps=True) for one in (ACCEPT, DROP)],
            ["accept", "drop"],
        ),
    ],
)
def test_a_packet_that_passes_the_old_chain_and_the_new_one_is_told_once(way, told):
    """Both are attached for a moment, the new one first: empty before the commit, with its rules after it."""
    (one,) = Packets(changing(*way))
    assert [step.spec or step.type for step in one.steps] == told
    assert not one.ambiguous


def test_what_no_rules_explain_is_told_once_and_the_doubt_is_said():
    """The new chain is passed before the old one: it cannot have been empty and in force behind it."""
    (one,) = Packets(changing(*BESIDE, event(UDP, 9, "f", 5, verdict=ACCEPT, dumps=True)))
    assert [step.type for step in one.steps] == ["policy", "rule"]
    assert one.ambiguous
    assert one.reason.endswith("it met old and new ones")


@settings(max_examples=200)
@given(st.data())
def test_messages_of_strangers(data):
    """Whatever bytes a recording has there: states, and the last one is what was listed."""
    messages = [*made_anew(2, "drop", "accept", "drop"), elements()]
    at = data.draw(st.integers(0, len(messages) - 1))
    damaged = bytearray(messages[at])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(16, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    messages[at] = bytes(damaged)
    recording = NftHandMade().listed(ONE, 100, generation=7).commit(8, 110, *messages)
    recording.listed({"f": [(5, "accept"), (6, "drop")]}, 200, generation=8, handle=2)
    assert texts(recording)[-1] in (["accept", "drop"], ["", "drop"], ["accept", ""], ["", ""])


@pytest.mark.parametrize("listed", [True, False])
def test_a_chain_that_is_renamed(listed):
    """It has its rules as before, and those that jump to it name it so, whether they were listed or not."""
    before = {"f": [(5, "jump u")], "u": [(6, "drop")]}
    recording = NftHandMade().listed(before, 100, generation=7)
    recording.commit(8, 110, chain(NEW_CHAIN, "v", 91)).unseen(110, 100)
    recording.commit(9, 120, rule(NEW_RULE, "v", 7, "log")).unseen(120, 110)
    recording.commit(10, 130, chain(NEW_CHAIN, "u", 91)).unseen(130, 120)
    if listed:
        end = {"f": [(5, "jump u")], "u": [(6, "drop"), (7, "log x")]}
        recording.listed(end, 200, generation=10)
    assert texts(recording)[:4] == [["jump u"], ["jump v"], ["jump v"], ["jump u"]]
    timeline = history(recording, NFT, 1).table("ipv4", "inet fw")
    assert [list(one.chains) for one in timeline.states[:4]] == [
        ["f", "u"],
        ["f", "v"],
        ["f", "v"],
        ["f", "u"],
    ]
    log = "log x" if listed else ""
    assert [[each.spec for each in one.chains["v"].rules] for one in timeline.states[1:3]] == [
        ["drop"],
        ["drop", log],
    ]


def test_another_chain_of_the_old_name():
    """A rule that jumps to that one has the text that others had before; it was made in the same commit."""
    before = {"f": [(5, "jump u")], "u": [(6, "drop")]}
    recording = NftHandMade().listed(before, 100, generation=7)
    new = chain(NEW_CHAIN, "v", 91), chain(NEW_CHAIN, "u", 92)
    jump = rule(NEW_RULE, "f", 9, "jump u")
    recording.commit(8, 110, rule(NEW_RULE, "f", 10, "jump u"), *new, jump).unseen(110, 100)
    recording.commit(9, 120, chain(NEW_CHAIN, "w", 92)).unseen(120, 110)
    recording.commit(10, 130, rule(DEL_RULE, "f", 9, "jump w")).unseen(130, 120)
    recording.listed(
        {"f": [(5, "jump v"), (10, "jump v")], "v": [(6, "drop")], "w": []}, 200, generation=10
    )
    assert texts(recording) == [
        ["jump u"],
        ["jump v", "jump v", "jump u"],
        ["jump v", "jump v", "jump w"],
        ["jump v", "jump v"],
    ]


@pytest.mark.parametrize("at", range(3))
def test_a_rule_that_is_replaced_leaves_its_handle(at):
    """As the kernel does it: wherever it is, the new one is told as if it were appended."""
    before = [(5, "r5"), (6, "r6"), (7, "r7")]
    recording = NftHandMade().listed({"f": before}, 100, generation=7)
    own = 5 + at
    after = own - 1 if at == 1 else None
    for generation, old, new in ((8, f"r{own}", "second"), (9, "second", "third")):
        gone, come = rule(DEL_RULE, "f", own, old), rule(NEW_RULE, "f", own, new, after=after)
        recording.commit(generation, 10 * generation + 40, gone, come).unseen(
            10 * generation + 45, 100
        )
    end = list(before)
    end[at] = (own, "third x")
    expected = [["r5", "r6", "r7"] for _ in range(3)]
    expected[1][at], expected[2][at] = "", "third x"
    assert texts(recording.listed({"f": end}, 300, generation=9)) == expected
