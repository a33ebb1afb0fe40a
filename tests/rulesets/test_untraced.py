"""Chains that packets may pass untraced, by where they and our rules are attached."""

from __future__ import annotations

import pytest

from iptrec.decode.rulesets.types import Base, Chain, Rule
from iptrec.rulesets.timeline import EVER, Timelines
from iptrec.rulesets.untraced import untraced

OURS = "iptrec:1"


def rule(spec, target=None, comment=None):
    return Rule(spec, target, None, goto=False, comment=comment, conditional=True, syntax="nft")


TRACE = rule("nftrace", "TRACE", OURS)
DROP = rule("drop", "DROP")
FRAMES = "meta protocol != ip meta protocol != ip6 counter packets 0 bytes 0 meta nftrace set 1"


def recorded(*tables, ours=(TRACE,), where="raw", priority=-300):
    """What was recorded of a table with our rules, and of others."""
    found = Timelines()
    start = Chain("P", "ACCEPT", tuple(ours), Base("ip", 0, priority, "filter"))
    for name, chains in [(where, [start]), *tables]:
        found.add("ipv4", name, {one.name: one for one in chains}, EVER, EVER)
    return found


def base(family, hook, priority=0, rules=(DROP,)):
    return Chain("c", "ACCEPT", tuple(rules), Base(family, hook, priority, "filter"))


@pytest.mark.parametrize(
    ("family", "hook", "priority", "why"),
    [
        ("inet", 0, -301, "before"),
        ("ip", 0, -2147483648, "before"),
        ("inet", 0, -300, None),
        ("inet", 0, -299, None),
        ("inet", 1, -450, None),  # who comes to INPUT came through PREROUTING
        ("inet", 3, -450, None),  # we trace nothing there
        ("netdev", 0, 7, "before"),
        ("netdev", 4, 7, "beside"),
        ("bridge", 0, 300, "before"),
        ("bridge", 1, 0, "beside"),
        ("bridge", 2, 0, "beside"),
        ("bridge", 3, 0, "beside"),  # the host may send what is not IP
        ("bridge", 4, 0, "beside"),
        ("arp", 1, 0, "beside"),
    ],
)
def test_by_hook_and_priority(family, hook, priority, why):
    """Ours is the chain at PREROUTING's raw, made by us."""
    known = recorded((f"{family} fw", [base(family, hook, priority)]))
    owner = "ipv4" if family == "ip" else family
    assert untraced(known, OURS) == ({(owner, f"{family} fw", "c"): why} if why else {})


def test_an_older_raw_chain_is_passed_after_newer_ones_of_equal_priority():
    """Whether ours came with it is told by whose rules it has."""
    known = recorded(("inet fw", [base("inet", 0, -300)]), ours=(TRACE, DROP))
    assert untraced(known, OURS) == {("inet", "inet fw", "c"): "before"}


@pytest.mark.parametrize("priority", [-300, -299])
@pytest.mark.parametrize("anew", [True, False])
def test_a_chain_of_equal_priority_that_comes_later_is_passed_before_ours(anew, priority):
    """The table is made anew, or a rule of it alone is."""
    known = recorded(("inet fw", [base("inet", 0, priority)]))
    chain = Chain("c", "ACCEPT", (DROP, DROP), Base("inet", 0, priority, "filter"))
    known.add("ipv4", "inet fw", {"c": chain}, 1, 2, handle=2 if anew else None)
    before = anew and priority == -300
    assert untraced(known, OURS) == ({("inet", "inet fw", "c"): "before"} if before else {})


def test_where_nothing_is_traced_nothing_is_known():
    """Legacy iptables, or a recording of somebody else."""
    known = recorded(("inet fw", [base("inet", 0, -450)]), ours=(DROP,))
    assert untraced(known, OURS) == {}
    assert untraced(known, None) == {}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([rule("jump a", "a")], {"a"}),
        ([rule("tcp dport vmap { 1 : jump a, 2 : goto b }")], {"a", "b"}),
        ([rule("tcp dport vmap @ports")], {"a", "b", "d"}),
        ([DROP], set()),
    ],
)
def test_what_such_a_chain_calls(calls, expected):
    """A map of a name may call any."""
    others = [Chain(one, None, (DROP,)) for one in "abd"]
    known = recorded(("inet fw", [base("inet", 0, -450, calls), *others]))
    assert {chain for _, _, chain in untraced(known, OURS)} == {"c", *expected}


@pytest.mark.parametrize(("priority", "seen"), [(-450, False), (-300, True)])
def test_a_table_of_our_own(priority, seen):
    """It is not told itself."""
    known = recorded(("inet fw", [base("inet", 0, priority)]), where="inet iptrec-1", priority=-300)
    assert untraced(known, OURS) == ({} if seen else {("inet", "inet fw", "c"): "before"})


@pytest.mark.parametrize(
    ("devices", "why"),
    [({"a"}, None), ({"a", "b"}, None), ({"a", "c"}, "before"), (set(), "before")],
)
def test_ingress_is_traced_on_some_devices(devices, why):
    """Where a device is not known it may be any."""
    ours = Chain("i", "ACCEPT", (TRACE,), Base("netdev", 0, -9, "filter", frozenset("ab")))
    theirs = Chain("c", "ACCEPT", (DROP,), Base("netdev", 0, 0, "filter", frozenset(devices)))
    known = recorded(("inet iptrec-1", [ours]), ("netdev fw", [theirs]))
    assert untraced(known, OURS) == ({("netdev", "netdev fw", "c"): why} if why else {})


@pytest.mark.parametrize("spec", ["meta protocol ip counter", FRAMES])
def test_a_bridge_is_traced_from_its_ports_on(spec):
    """All of its chains, then; where there is a filter, frames that are not IP are not."""
    ours = Chain("b", "ACCEPT", (rule(spec, "TRACE", OURS),), Base("bridge", 0, -9, "filter"))
    theirs = [base("bridge", hook) for hook in range(5)]
    tables = [(f"bridge {number}", [one]) for number, one in enumerate(theirs)]
    found = untraced(recorded(("bridge iptrec-1", [ours]), *tables), OURS)
    assert [*found.values()] == ([] if spec == FRAMES else ["beside"] * 5)


def test_our_rules_may_have_been_taken_out_for_a_while():
    """The chain that they were in is where tracing began all the same."""
    known = recorded(ours=(TRACE, DROP))
    gone = Chain("P", "ACCEPT", (DROP,), Base("ip", 0, -300, "filter"))
    known.add("ipv4", "raw", {"P": gone}, 1, 2)
    assert untraced(known, OURS) == {}
