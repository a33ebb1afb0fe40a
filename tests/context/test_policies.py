"""Which of IPsec's policies a packet meets: the first one that fits counts."""

from __future__ import annotations

import ipaddress

import pytest
from handmade import netlink
from policies import default, ended, policy, states

from iptrec.context.policies import Policies
from iptrec.context.routing_rules import Flow

SRC, DST, NET = "10.1.0.9", "10.2.0.9", "10.1.0.0/16"
ALL, SIX = "0.0.0.0/0", "::/0"
BLOCK = f"src {NET} dst {ALL} dir fwd action block"
BY_IPSEC = "none fits what came by IPsec"
CASES = {
    "none": ([], [None]),
    "blocked": ([policy(NET, ALL)], [BLOCK]),
    "of another direction": ([policy(NET, ALL, "in"), policy(NET, ALL, "out")], [None]),
    "from elsewhere": ([policy("10.3.0.0/16", ALL)], [None]),
    "of the other family": ([policy(SIX, SIX)], [None]),
    "the lower number counts": (
        [policy(ALL, ALL, priority=9), policy(NET, ALL, action="allow", priority=8)], [None]),
    "of one number any may": (
        [policy(ALL, ALL, action="allow"), policy(NET, ALL)], [None, BLOCK]),
    "a port": ([policy(NET, ALL, protocol=17, dport=53)],
               [f"src {NET} dst {ALL} proto 17 dport 53 dir fwd action block"]),
    "another port": ([policy(NET, ALL, protocol=17, dport=54)], [None]),
    "another protocol": ([policy(NET, ALL, protocol=6)], [None]),
    "a mark": ([policy(NET, ALL, mark=(1, 1))], [None]),
    "with templates": ([policy(NET, ALL, action="allow", templates=1)],
                       [f"src {NET} dst {ALL} dir fwd action allow with templates", None]),
    "templates for others": (
        [policy("10.3.0.0/16", ALL, "out", action="allow", templates=1)], [None, BY_IPSEC]),
    "of a socket": ([policy(NET, ALL, socket=True)], [None]),
    "by default": ([default(fwd=True)], ["the default of dir fwd is block, and none fits"]),
    "by the other default": ([default(in_=True, out=True)], [None]),
    "allowed, by default not": ([default(fwd=True), policy(NET, ALL, action="allow")], [None]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_why_it_is_dropped(case):
    messages, expected = CASES[case]
    flow = Flow(ipaddress.ip_address(SRC), ipaddress.ip_address(DST), 2, "eth0", 0, 0, 17, 1000, 53)
    assert Policies.listed(b"".join(messages)).why("fwd", flow, 3) == expected


def test_what_is_not_known_is_possible():
    """The port of a fragment; the interface by which it goes."""
    flow = Flow(
        ipaddress.ip_address(SRC), ipaddress.ip_address(DST), 2, "eth0", 0, 0, 17, None, None
    )
    found = Policies.listed(policy(NET, ALL, protocol=17, dport=53)).why("fwd", flow, 3)
    assert found == [f"src {NET} dst {ALL} proto 17 dport 53 dir fwd action block", None]


UNUSED = {
    "nothing": ([states(0), ended()], True),
    "a state": ([states(1), ended()], False),
    "a policy that drops": ([states(0), policy(NET, ALL), ended()], True),
    "a policy for states": ([states(0), policy(NET, ALL, templates=1), ended()], False),
    "a list that is cut": ([states(0)], False),
    "no number of states": ([policy(NET, ALL), ended()], False),
    "a number that is cut": ([netlink(0x22, bytes(4) + b"\5\0\1\0\0"), ended()], False),
    "not loaded": ([ended(93)], True),
    "not loaded, but there is PF_KEY": ([ended(95)], False),
    "no right to ask": ([ended(1)], False),
}


@pytest.mark.parametrize("case", UNUSED)
def test_whether_there_is_ipsec(case):
    """By the number of states and the policies that ask for them, if all of it was told."""
    messages, expected = UNUSED[case]
    assert Policies.listed(b"".join(messages)).unused == expected


def test_of_strangers():
    """Lengths and families that cannot be are left out."""
    good = policy(NET, ALL)
    for at, value in ((16 + 40, 9), (16 + 42, 33), (16 + 43, 200), (16 + 161, 7)):
        bad = good[:at] + bytes([value]) + good[at + 1 :]
        assert Policies.listed(bad) == Policies()
    for size in range(len(good)):
        assert Policies.listed(good[:size]) == Policies()
        assert Policies.listed(netlink(0x13, good[16:size])) == Policies()
