"""The passes of both backends in one grammar: in the order in which the kernel calls them."""

from __future__ import annotations

import pytest

from iptrec.decode.rulesets.types import Base, Chain, Ruleset
from iptrec.names import HOOKS
from iptrec.rulesets import legacy, nft_places
from iptrec.rulesets.legacy import LEGACY
from iptrec.rulesets.places import Pass
from iptrec.rulesets.timeline import EVER, Timelines

LOADED = ("raw", "mangle", "nat", "filter")


def joined(*bases, loaded=LOADED):
    """The grammar of IPv4's tables that are loaded beside base chains (hook, priority, type)."""
    tables = {f"legacy {table}": {} for table in loaded}
    tables["inet fw"] = {
        f"{hook} {priority}": Chain(
            f"{hook} {priority}", "ACCEPT", (), Base("inet", HOOKS.index(hook), priority, kind)
        )
        for hook, priority, kind in bases
    }
    return nft_places.grammar("ipv4", Ruleset(tables), frozenset(), None, legacy.ATTACHED)


def order(grammar, last):
    """The passes that may log on the way to a hook: those of equal turns together."""
    route = next(
        one for one in grammar.routes if max(one, key=one.__getitem__).hook == HOOKS.index(last)
    )
    turns = {}
    for one, turn in route.items():
        if one not in grammar.silent:
            turns.setdefault(turn, set()).add(one.base or f"{HOOKS[one.hook]} {one.table}")
    return [turns[turn] for turn in sorted(turns)]


def test_hooks_and_priorities():
    grammar = joined(
        ("PREROUTING", -301, "filter"), ("PREROUTING", -300, "filter"), ("PREROUTING", -140, "filter"),
        ("INPUT", 0, "filter"), ("INPUT", 60, "filter"), ("FORWARD", 0, "filter"),
    )  # fmt: skip
    assert order(grammar, "INPUT") == [
        {"PREROUTING -301"}, {"PREROUTING legacy raw", "PREROUTING -300"}, {"PREROUTING legacy mangle"},
        {"PREROUTING -140"}, {"PREROUTING legacy nat"}, {"INPUT legacy mangle"},
        {"INPUT legacy filter", "INPUT 0"}, {"INPUT 60"}, {"INPUT legacy nat"},
    ]  # fmt: skip


def test_what_was_never_loaded_is_silent():
    grammar = joined(("FORWARD", 10, "filter"), loaded=("filter",))
    assert order(grammar, "INPUT") == [{"INPUT legacy filter"}]
    assert {one.table for one in grammar.silent} == {
        f"legacy {table}" for table in ("raw", "mangle", "nat", "security")
    }
    assert grammar.silent <= grammar.optional


FILTER, CHAIN = Pass(1, "legacy filter"), Pass(1, "inet fw", "INPUT 0")
LATER = Pass(1, "inet fw", "INPUT 10")


@pytest.mark.parametrize(
    ("passes", "ended", "all_there"),
    [
        ([FILTER, CHAIN, LATER], None, True),
        ([FILTER, LATER], None, False),  # the chain beside the filter table was passed as well
        ([FILTER], FILTER, True),  # or not: it may have come after the drop
        ([FILTER, LATER], LATER, False),
        ([FILTER, CHAIN], CHAIN, True),
    ],
)
def test_equal_priorities(passes, ended, all_there):
    """None of them is asked for next; but that no event of it came must have a reason."""
    grammar = joined(("INPUT", 0, "filter"), ("INPUT", 10, "filter"), loaded=("filter",))
    assert grammar.passed_beside(passes, ended) == all_there


def test_one_timeline_of_both():
    """Tables of both, their states told apart by number."""
    mine, its = Timelines(single=False), Timelines(single=False)
    for found, table in ((mine, "legacy filter"), (its, "nft filter")):
        found.add("ipv4", table, {}, EVER, EVER)
        found.add("ipv4", table, None, 5, 6)
    base = Base("inet", 1, 0, "filter")
    for handle in (1, 2):  # made anew with the same rules
        its.add(
            "ipv4", "inet fw", {"c": Chain("c", "ACCEPT", (), base)}, 7, 8, (3, 3 + handle), handle
        )
    mine.adopt(its)
    known = mine.loaded("ipv4")
    assert known.keys() == {"legacy filter", "nft filter", "inet fw"}
    numbers = [state.number for one in known.values() for state in one.states]
    assert (len(set(numbers)), len(numbers)) == (5, 6)
    assert known["inet fw"].generations == [(3, 4), (3, 5)]
    assert [state.handle for state in known["inet fw"].states] == [1, 2]
    assert known["nft filter"].time_ns == [EVER, 6]
    assert known["nft filter"].after_ns == [EVER, 5]
    assert mine.hooks["ipv4", "inet fw", "c"] == 1


def test_the_plain_grammar_is_that_of_one_backend():
    """With the tables of both at hand legacy iptables' own still asks for no chain of nf_tables."""
    ruleset = joined(("INPUT", 0, "filter")).ruleset
    own = LEGACY.grammar("ipv4", ruleset, frozenset(), None, single=False)
    assert {one.table.split()[0] for route in own.routes for one in route} == {"legacy"}
