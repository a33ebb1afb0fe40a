"""``why`` in words: what was not recorded is said to be so, and what is folded is told in a line."""

from __future__ import annotations

import re

import pytest
from explained import ADDRESS, FITS, OTHER, PORT, STATE, Way
from hypothesis import given
from hypothesis import strategies as st
from test_text_layout import packet, step

from iptrec.answers.why import ExplainedStep, Explanation
from iptrec.matching.facts import Clause, Judgement
from iptrec.views import folded, why
from iptrec.views.reasons import because, ranges
from iptrec.views.text import Layout

PLAIN = Layout()


@pytest.mark.parametrize(
    ("met", "line"),
    [
        (step(), "#2    -p udp -j DROP"),
        (step(spec=None), "#2    (its text was not recorded)  => DROP"),
        (step(spec="counter", target=None), "#2    counter  => goes on"),
        (step(spec="udp dport vmap @x"), "#2    udp dport vmap @x  => DROP"),
        (step(spec="udp dport 53 drop"), "#2    udp dport 53 drop"),
        (step(spec='log prefix "drop " counter'), '#2    log prefix "drop " counter  => DROP'),
        (step(spec="-j own", target="own"), "#2    -j own"),
        (step(spec="-j own2", target="own"), "#2    -j own2  => own"),
        (step(spec="-p udp -j DNAT --to 1", target="DNAT"), "#2    -p udp -j DNAT --to 1"),
        (
            step(spec=None, target=None, type="unknown"),
            "#2    or the end: (not in the recorded ruleset)  => ?",
        ),
        (step(spec=None, rule=None), "#-    (not in the recorded ruleset)  => DROP"),
    ],
)
def test_a_rule_with_and_without_its_text(met, line):
    """No question mark where a rule is known by its number alone; no target that its text has already."""
    explanation = Explanation(packet(met), (ExplainedStep(met, ()),))
    last = list(folded.as_text(explanation, PLAIN))[-1]
    assert last.removeprefix("-->").strip() == line
    whole = list(why.as_text(explanation, PLAIN))[-1].strip()
    assert whole in (line, f"{line}  => {met.target}")


REASONS = {
    "no": (ADDRESS, "no: -d 10.0.0.1/32 (it is 10.0.0.9)"),
    "fits": (FITS, "did not match although all that is known of the packet fits"),
    "state": (STATE, "did not match (depends on connection tracking: --ctstate NEW)"),
    "ct": (
        Judgement(None, Clause("ct mark", "0x1", "ct")),
        "did not match (depends on connection tracking: ct mark 0x1)",
    ),
    "limit": (
        Judgement(None, Clause("limit rate 5/second", "", "limit")),
        "did not match (depends on a limit: limit rate 5/second)",
    ),
    "set": (
        Judgement(None, Clause("--match-set", "bad src", "set"), "the packet was not in it when it was read"),
        ("did not match (depends on the members of a set: --match-set bad src;"
         " the packet was not in it when it was read)"),
    ),
    "named set": (
        Judgement(None, Clause("ip saddr", "@bad", "ip")),
        "did not match (depends on the members of a set: ip saddr @bad)",
    ),
    "other": (Judgement(None, Clause("--tcp-option", "5", "tcp")), "did not match (depends on --tcp-option 5)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_reasons(case):
    """Of one rule."""
    judgement, text = REASONS[case]
    way = Way().base("filter", judgement)
    assert because(way.steps[0].passed[0]) == text
    assert f"  <- {text}" in "\n".join(why.as_text(way.explanation(), PLAIN))


FOLDED = {
    "one is told with its text": (
        [ADDRESS], ["    #1    -m rule --number 1  <- no: -d 10.0.0.1/32 (it is 10.0.0.9)"],
    ),
    "the same condition": (
        [ADDRESS, OTHER], ["    #1-#2 no, -d 10.0.0.1/32, 10.0.0.2/32 (it is 10.0.0.9)"],
    ),
    "too many values": (
        [Judgement(False, Clause("-d", f"10.0.1.{at}/32"), "it is 10.0.0.9") for at in range(200)],
        ["    #1-#200 no, -d (it is 10.0.0.9)"],
    ),
    "unknown": ([STATE, STATE], ["    #1-#2 did not match (depends on connection tracking)"]),
    "all fits": ([FITS, FITS], ["    #1-#2 did not match although all that is known of the packet fits"]),
    "in turn": (
        [ADDRESS, OTHER, PORT, PORT, ADDRESS],
        [
            "    #1-#2 no, -d 10.0.0.1/32, 10.0.0.2/32 (it is 10.0.0.9)",
            "    #3-#4 no, --dport 22 (it is 53)",
            "    #5    -m rule --number 5  <- no: -d 10.0.0.1/32 (it is 10.0.0.9)",
        ],
    ),
    "too often in turn": (
        [ADDRESS, PORT, STATE] * 100 + [FITS],
        [
            (
                "    #1-#301 100 of #1-#298 no, -d 10.0.0.1/32 (it is 10.0.0.9);"
                " 100 of #2-#299 no, --dport 22 (it is 53); 100 of #3-#300 did not match (depends on"
                " connection tracking); #301 did not match although all that is known of the packet fits"
            )
        ],
    ),
    "chains that returned": (
        [[], [], "LOG"], ["    #1-#3 1 rule matched and went on; went through CALLED1, CALLED2"],
    ),
    "a chain that passed over rules": (
        [[ADDRESS, STATE, OTHER]],
        [
            ("    #1    went through CALLED1: #1, #3 no, -d 10.0.0.1/32, 10.0.0.2/32 (it is 10.0.0.9);"
             " #2 did not match (depends on connection tracking)")
        ],
    ),
    "chains within": (
        [[[ADDRESS], PORT]],
        [
            "    #1    went through CALLED1, CALLED2",
            "            CALLED1: #2 no, --dport 22 (it is 53)",
            "            CALLED2: #1 no, -d 10.0.0.1/32 (it is 10.0.0.9)",
        ],
    ),
    "too many chains within": (
        [[[ADDRESS], PORT] for _ in range(30)],
        [
            (
                "    #1-#30 went through CALLED1, CALLED2, CALLED3, CALLED4 and 56 more, where 60 rules did"
                " not match"
            )
        ],
    ),
    "a rule that only logs": (["LOG"], ["    #1    -p udp -j LOG"]),
    "many chains": (
        [[] for _ in range(9)], ["    #1-#9 went through CALLED1, CALLED2, CALLED3, CALLED4 and 5 more"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_folds(case):
    """What shares a line, and what it says."""
    rules, lines = FOLDED[case]
    found = list(folded.as_text(Way().base("filter", *rules, policy="DROP").explanation(), PLAIN))
    assert found[1:] == ["  filter/BASE0", *lines, "--> policy => DROP"]


def test_base_chains_that_let_it_go_on():
    """They share a line, with what was passed over in them."""
    way = Way().base("raw").base("mangle", ADDRESS, PORT).base("nat", [ADDRESS], [])
    found = list(folded.as_text(way.base("filter", policy="DROP").explanation(), PLAIN))
    assert found[1:] == [
        (
            "  raw/BASE0, mangle/BASE1 (#1-#2 did not match), nat/BASE2 (went through CALLED3, CALLED4,"
            " where 1 rule did not match): policy => ACCEPT"
        ),
        "  filter/BASE5",
        "--> policy => DROP",
    ]


def test_where_the_trace_ends():
    """The last that was seen is told, also where it goes without saying else."""
    way = Way().base("raw").base("mangle", ADDRESS)
    explanation = way.explanation(None, "UNKNOWN", complete=False, reason="not seen after mangle")
    assert list(folded.as_text(explanation, PLAIN))[1:] == [
        "  raw/BASE0: policy => ACCEPT",
        "  mangle/BASE1",
        "    #1    -m rule --number 1  <- no: -d 10.0.0.1/32 (it is 10.0.0.9)",
        "    policy => ACCEPT",
    ]


def test_an_effect_far_below():
    """Where there is no room for all the calls that led to it, they share a line."""
    deep = ["DNAT"]
    for _ in range(12):
        deep = [ADDRESS, deep]
    way = Way().base("nat", *deep).base("filter", policy="DROP")
    assert list(folded.as_text(way.explanation(), PLAIN))[1:] == [
        "  nat/BASE0 > CALLED1 > CALLED2 > CALLED3 and 8 more (12 rules did not match)",
        "  nat/CALLED12",
        "    #1    -p udp -j DNAT",
        "  nat/BASE0 (went through CALLED11, CALLED10, CALLED9, CALLED8 and 7 more): policy => ACCEPT",
        "  filter/BASE13",
        "--> policy => DROP",
    ]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "#3"),
        ([1, 2, 3], "#1-#3"),
        ([1, 2, 4], "#1-#2, #4"),
        ([1, 3, 5, 7, 9, 10], "6 of #1-#10"),
        ([], ""),
    ],
)
def test_ranges(numbers, text):
    """Short, however many."""
    assert ranges(numbers) == text


MARGIN = re.compile(r"(?:   |-->) #(\d+)(?:-#(\d+))? ")
RULES = st.lists(
    st.sampled_from([ADDRESS, PORT, STATE, FITS, "MARK", "LOG"]) | st.just([]), max_size=80
)


@given(st.lists(RULES, min_size=1, max_size=6), RULES)
def test_a_screenful_at_any_size(before, rules):
    """At most 25 lines, and each rule of a chain that is shown is in exactly one of them."""
    way = Way()
    for one in before:
        way.base("mangle", *one)
    way.base("filter", *rules, policy="DROP")
    lines = list(folded.as_text(way.explanation(), PLAIN))
    assert len(lines) < 25
    told = []
    for line in lines[lines.index(f"  filter/{way.steps[-1].step.chain}") :]:
        if found := MARGIN.match(line):
            told += range(int(found[1]), int(found[2] or found[1]) + 1)
    assert told == list(range(1, len(rules) + 1))


@given(RULES, st.integers(40, 200))
def test_as_wide_as_the_terminal(rules, width):
    """Its words are those of a pipe, where a rule is one line."""
    explanation = Way().base("filter", *rules, policy="DROP").explanation()
    for as_text in (folded.as_text, why.as_text):
        title, *lines = as_text(explanation, PLAIN)
        first, *fitted = "\n".join(as_text(explanation, PLAIN, width)).splitlines()
        assert first == title
        assert " ".join(fitted).split() == " ".join(lines).split()
        assert max(map(len, fitted)) <= width


@given(RULES)
def test_all_tells_all(rules):
    """Each rule that was passed over has its line, whatever is folded else."""
    explanation = Way().base("filter", *rules, policy="DROP").explanation()
    lines = [line for line in why.as_text(explanation, PLAIN) if "  <- " in line]
    assert len(lines) == sum(isinstance(one, Judgement) for one in rules)


@given(st.text(min_size=1))
def test_a_stranger_s_names(name):
    """Every line is one line, and printable."""
    clause = Judgement(False, Clause(name, name, name), name)
    way = Way().base(name, clause, clause, [clause, STATE], STATE, name, policy=name)
    explanation = way.explanation(verdict=name, reason=name)
    for as_text in (folded.as_text, why.as_text):
        assert all(line.isprintable() for line in as_text(explanation, PLAIN))
