"""What `why` folds: nothing is lost, and what decided is not folded."""

from __future__ import annotations

from collections import Counter

import pytest
from explained import ADDRESS, FITS, OTHER, PORT, STATE, Way
from hypothesis import given
from hypothesis import strategies as st

from iptrec.answers.folds import Fold, Met, Section, Through, fold

REASONS = st.sampled_from([ADDRESS, OTHER, PORT, STATE, FITS])
TARGETS = st.sampled_from(["LOG", "MARK", "NFLOG", "DNAT"])
RULES = st.recursive(
    st.lists(REASONS | TARGETS, max_size=6),
    lambda rules: st.lists(REASONS | TARGETS | rules, max_size=6),
    max_leaves=12,
)


@st.composite
def explanations(draw):
    """A packet through some base chains, decided by any of its steps, or nobody knows by which."""
    way = Way()
    for number in range(draw(st.integers(1, 4))):
        way.base(
            f"table{number % 2}", *draw(RULES), policy=draw(st.sampled_from(["ACCEPT", "DROP"]))
        )
    known = [at for at, one in enumerate(way.steps) if one.step.type != "return"]
    return way.explanation(draw(st.none() | st.sampled_from(known)))


def told(part):
    """The steps of a part, each with the rules that were passed over before it or by its fold."""
    if isinstance(part, Through):
        return list(part.steps), [rule for one in part.steps for rule in one.passed]
    steps, passed = [], []
    for row in part.rows:
        found = [row.step] if isinstance(row, Met) else row.went_on
        steps += found
        passed += [] if isinstance(row, Met) else row.passed
        passed += [rule for one in found for rule in one.passed]
    return steps, passed


OPTIONS = st.fixed_dictionaries(
    {"effects": st.booleans(), "callers": st.booleans(), "most": st.integers(1, 5)}
)


@given(explanations(), OPTIONS)
def test_nothing_is_lost(explanation, options):
    """Each rule that was passed over is in exactly one fold, each step in one place, in order."""
    found = list(map(told, fold(explanation, **options)))
    steps = [one.step for part, _ in found for one in part]
    assert steps == [one.step for one in explanation.steps]
    passed = Counter(id(rule) for _, part in found for rule in part)
    assert passed == Counter(id(rule) for one in explanation.steps for rule in one.passed)
    assert set(passed.values()) <= {1}


@given(explanations(), OPTIONS)
def test_what_decided_stands_by_itself(explanation, options):
    """With the calls that led to it: its chain is shown."""
    parts = list(fold(explanation, **options))
    place = explanation.packet.decided_by
    rows = [
        (part.chain, row.step.step)
        for part in parts
        if isinstance(part, Section)
        for row in part.rows
        if isinstance(row, Met) and row.decided
    ]
    expected = [] if place is None else [(place.chain, place.rule)]
    assert [(chain, step.rule) for chain, step in rows] == expected


@given(explanations(), st.integers(1, 5))
def test_no_more_folds_than_asked_for(explanation, most):
    """Between two rules that are shown."""
    for part in fold(explanation, most=most):
        run = 0
        for row in part.rows if isinstance(part, Section) else ():
            run = run + 1 if isinstance(row, Fold) else 0
            assert run <= most


def numbers(part):
    """Sections in short: the chain, and for each row the numbers of its rules."""
    if isinstance(part, Through):
        return "leads" if part.leads else "through"
    return [
        (
            [rule.number for rule in row.passed] + [one.step.rule for one in row.went_on]
            if isinstance(row, Fold)
            else row.step.step.target
        )
        for row in part.rows
    ]


CASES = {
    "one chain": (
        Way().base("filter", ADDRESS, OTHER, PORT, policy="DROP"), {}, [[[1, 2], [3], "DROP"]],
    ),
    "chains before and after": (
        Way().base("raw", ADDRESS).base("mangle").base("filter", "DROP", policy=None), {},
        ["through", "through", ["DROP"]],
    ),
    "a call that led nowhere": (
        Way().base("filter", [ADDRESS], ["LOG"], [], "DROP", policy=None), {},
        [[[1, None], [2, 1, None, 3, None], "DROP"]],
    ),
    "a call that decided": (
        Way().base("filter", ADDRESS, ["LOG", "DROP"]), {"decided": 2},
        [[[1], "CALLED1"], [[1], "DROP", "RETURN"], ["ACCEPT"]],
    ),
    "an effect": (
        Way().base("nat", "DNAT", policy=None).base("filter", policy="DROP"), {}, [["DNAT"], ["DROP"]],
    ),
    "an effect that does not matter": (
        Way().base("nat", "DNAT", policy=None).base("filter", policy="DROP"), {"effects": False},
        ["through", ["DROP"]],
    ),
    "an effect in a chain": (
        Way().base("mangle", ["MARK"], policy="ACCEPT").base("filter", policy="DROP"), {},
        [["CALLED1"], ["MARK", "RETURN"], ["ACCEPT"], ["DROP"]],
    ),
    "an effect without what led to it": (
        Way().base("mangle", ["LOG", ["MARK"]]).base("filter", policy="DROP"), {"callers": False},
        ["leads", ["MARK", "RETURN"], "through", ["DROP"]],
    ),
    "an effect below a call that led nowhere": (
        Way().base("filter", [["MARK"], "LOG"], policy="DROP"), {"callers": False},
        [[[1, 1]], ["MARK", "RETURN"], [[2, None], "DROP"]],
    ),
    "too many folds": (
        Way().base("filter", ADDRESS, PORT, ADDRESS, PORT, policy="DROP"), {"most": 3},
        [[[1, 2, 3, 4], "DROP"]],
    ),
    "nobody knows what decided": (Way().base("raw").base("filter"), {"decided": None}, ["through", ["ACCEPT"]]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_folds(case):
    """What is shown, and what shares a line."""
    way, options, expected = CASES[case]
    explanation = way.explanation(options.pop("decided", -1))
    assert [numbers(part) for part in fold(explanation, **options)] == expected


def test_a_packet_without_steps():
    """That is not an error."""
    assert list(fold(Way().explanation(None))) == []


def test_very_deep_calls():
    """A stranger's chains may call each other ten thousand deep."""
    rules = ["DROP"]
    way = Way()
    for number in range(10_000):
        way._step("filter", f"C{number}", "rule", 1, f"-j C{number + 1}", f"C{number + 1}")
    way._step("filter", "C10000", "rule", 1, "-j DROP", *rules)
    assert len(list(fold(way.explanation()))) == 10_001
