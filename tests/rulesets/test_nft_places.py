"""What differs in nf_tables: base chains of any name, types and families."""

from __future__ import annotations

import pytest

from iptrec.decode import nftrace
from iptrec.decode.nftrace import NftSite
from iptrec.decode.rulesets.types import Base, Chain, Rule, Ruleset
from iptrec.rulesets import nft_places
from iptrec.rulesets.places import Pass

FORWARD = 2


def grammar(table, chain, *, late=(), type_="filter", rules=()):
    base = Base("inet", FORWARD, 0, type_)
    chains = {chain: Chain(chain, "ACCEPT", tuple(rules), base)}
    return nft_places.grammar("ipv4", Ruleset({table: chains}), frozenset(late), None)


@pytest.mark.parametrize("table", ["inet fw", "inet a/b"])
@pytest.mark.parametrize("chain", ["c", "c/d", "c/d/e"])
def test_a_table_that_came_late_need_not_log(table, chain):
    """Whatever its name and that of its chains."""
    assert Pass(FORWARD, table, chain) in grammar(table, chain, late=[table]).optional
    assert Pass(FORWARD, table, chain) not in grammar(table, chain).optional


@pytest.mark.parametrize(("type_", "optional"), [("filter", False), ("nat", True), ("new", True)])
def test_chains_that_need_not_log(type_, optional):
    """Those of NAT see the first packet of a flow, and of an unknown type nobody knows."""
    assert (
        Pass(FORWARD, "inet fw", "c") in grammar("inet fw", "c", type_=type_).optional
    ) == optional


def site(verdict, target=None, handle=1):
    return NftSite("inet", "fw", "c", policy=False, handle=handle, verdict=verdict, target=target)


@pytest.mark.parametrize(
    ("verdict", "target"),
    [
        (nftrace.DROP, "DROP"), (nftrace.ACCEPT, "ACCEPT"), (nftrace.JUMP, "__chain7"),
        (nftrace.RETURN, "RETURN"), (nftrace.CONTINUE, None), (nftrace.QUEUE, "QUEUE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("handle", [1, 99])
def test_the_kernels_verdict_is_told(verdict, target, handle):
    """Of a rule whose text leaves it open, and of one that is not in the ruleset."""
    rule = Rule(
        "log jump { drop; }", "LOG", None, goto=False, comment=None, conditional=True, handle=1
    )
    known = grammar("inet fw", "c", rules=[rule])
    passed = Pass(FORWARD, "inet fw", "c")
    said = "__chain7" if verdict == nftrace.JUMP else None
    place = nft_places.place(site(verdict, said, handle), "inet fw", passed, known)
    assert place.nameless == (handle == 99)
    assert place.target == (target or (None if handle == 99 else "LOG"))


def test_of_equal_priorities_the_tracing_chain_is_the_first_to_be_seen():
    """Which of them the kernel passes first depends on their age, which nobody recorded."""
    rule = Rule("meta nftrace set 1", "TRACE", None, False, None, False, handle=1)
    tables = {
        table: {"p": Chain("p", "ACCEPT", rules, Base("ip", 0, -300, "filter"))}
        for table, rules in (("ip a", ()), ("raw", (rule,)), ("ip z", ()))
    }
    ranks = nft_places.grammar("ipv4", Ruleset(tables), frozenset(), None).ranks
    assert {one.table: rank for one, rank in ranks.items()} == {"raw": 0, "ip a": 1, "ip z": 1}
