"""What differs in nf_tables: base chains of any name, types and families."""

from __future__ import annotations

import pytest

from iptrec.decode import nftrace
from iptrec.decode.nftrace import Site
from iptrec.decode.rulesets.types import Base, Chain, Rule, Ruleset
from iptrec.rulesets.grammar import Stage
from iptrec.rulesets.nft_places import NftGrammar

FORWARD = 2


def grammar(table, chain, *, late=(), type_="filter", rules=()):
    base = Base("inet", FORWARD, 0, type_)
    chains = {chain: Chain(chain, "ACCEPT", tuple(rules), base)}
    return NftGrammar.of("ipv4", Ruleset({table: chains}), None, frozenset(late))


@pytest.mark.parametrize("table", ["inet fw", "inet a/b"])
@pytest.mark.parametrize("chain", ["c", "c/d", "c/d/e"])
def test_a_table_that_came_late_need_not_log(table, chain):
    """Whatever its name and that of its chains."""
    assert grammar(table, chain, late=[table])._optional(Stage(FORWARD, table, chain))
    assert not grammar(table, chain)._optional(Stage(FORWARD, table, chain))


@pytest.mark.parametrize(("type_", "optional"), [("filter", False), ("nat", True), ("new", True)])
def test_chains_that_need_not_log(type_, optional):
    """Those of NAT see the first packet of a flow, and of an unknown type nobody knows."""
    assert (
        grammar("inet fw", "c", type_=type_)._optional(Stage(FORWARD, "inet fw", "c")) == optional
    )


def site(verdict, target=None, handle=1):
    return Site("inet", "fw", "c", policy=False, handle=handle, verdict=verdict, target=target)


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
    said = "__chain7" if verdict == nftrace.JUMP else None
    place = known.site(site(verdict, said, handle), "inet fw", "c", FORWARD)
    assert place.nameless == (handle == 99)
    assert place.target == (target or (None if handle == 99 else "LOG"))


def test_of_equal_priorities_the_tracing_chain_is_the_first_to_be_seen():
    """Which of them the kernel passes first depends on their age, which nobody recorded."""
    rule = Rule("meta nftrace set 1", "TRACE", None, False, None, False, handle=1)
    tables = {
        table: {"p": Chain("p", "ACCEPT", rules, Base("ip", 0, -300, "filter"))}
        for table, rules in (("ip a", ()), ("raw", (rule,)), ("ip z", ()))
    }
    ranks = NftGrammar.of("ipv4", Ruleset(tables), None, frozenset())._ranks
    assert {stage.table: rank for stage, rank in ranks.items()} == {"raw": 0, "ip a": 1, "ip z": 1}
