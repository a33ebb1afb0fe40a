"""Routes and rules by hand: which of them takes a packet, and where nobody can know that."""

from __future__ import annotations

import ipaddress

import pytest

from iptrec.context.route import route, words
from iptrec.context.routing import Tables
from iptrec.context.routing_rules import Flow, rules

UNICAST, LOCAL, BLACKHOLE, THROW = 1, 2, 6, 9
NAMES = {1: "lo", 2: "eth0", 3: "eth1"}
BEGINNING = {0: 255, 32766: 254, 32767: 253}


def entry(to, *, table=254, kind=UNICAST, oif=2, metric=0, **more):
    """A message of rtnetlink, decoded; more attributes by their names."""
    network = ipaddress.ip_network(to)
    row = {"family": {4: 2, 6: 10}[network.version], "dst_len": network.prefixlen, "src_len": 0, "tos": 0,
           "table": table, "scope": 0, "type": kind, "flags": 0, "priority": metric}  # fmt: skip
    if network.prefixlen:
        row["dst"] = str(network.network_address)
    if "multipath" not in more and kind != BLACKHOLE:
        row["oif"] = oif
    return row | more


def rule(priority, table=None, *, version=4, action=1, flags=0, **more):
    row = {"family": {4: 2, 6: 10}[version], "dst_len": 0, "src_len": 0, "tos": 0, "action": action,
           "flags": flags, "priority": priority}  # fmt: skip
    for name in ("src", "dst"):
        if name in more:
            network = ipaddress.ip_network(more[name])
            more |= {name: str(network.network_address), f"{name}_len": network.prefixlen}
    return row | ({} if table is None else {"table": table}) | more


def flow(dst="10.1.2.3", src="192.0.2.1", iif=2, **more):
    return Flow(ipaddress.ip_address(src), ipaddress.ip_address(dst), iif, NAMES[iif], **more)


def told(routes, more_rules, asked):
    """The answers in words: routes, or "rule N", or "none"."""
    version = asked.dst.version
    every = [rule(one, table, version=version) for one, table in BEGINNING.items()] + more_rules
    every.sort(key=lambda one: one["priority"])
    tables = Tables([found for one in routes if (found := route(one))], rules(every))
    return [
        words(one.route, NAMES)
        if one.route
        else f"rule {one.rule.priority}"
        if one.rule
        else "none"
        for one in tables.lookup(asked)
    ]


WIDE, NEAR, FAR = (
    entry("10.0.0.0/8"),
    entry("10.1.0.0/16", oif=3),
    entry("10.1.2.0/24", table=100, oif=3),
)
NEAR_SAID, WIDE_SAID, FAR_SAID = (
    "10.1.0.0/16 dev eth1",
    "10.0.0.0/8 dev eth0",
    "10.1.2.0/24 dev eth1 table 100",
)
CASES = {
    "the longest prefix": ([WIDE, NEAR], [], flow(), [NEAR_SAID]),
    "none": ([NEAR], [], flow("10.2.0.1"), ["none"]),
    "the best metric": ([NEAR, entry("10.1.0.0/16", metric=5)], [], flow(), [NEAR_SAID]),
    "equal ones": ([NEAR, entry("10.1.0.0/16")], [], flow(), [NEAR_SAID, "10.1.0.0/16 dev eth0"]),
    "a TOS": ([NEAR, entry("10.1.0.0/16", tos=8)], [], flow(tos=8), ["10.1.0.0/16 tos 0x8 dev eth0"]),
    "another TOS": ([NEAR, entry("10.1.0.0/16", tos=8)], [], flow(tos=4), [NEAR_SAID]),
    "a TOS that nobody knows": ([NEAR, entry("10.1.0.0/16", tos=8)], [], flow(tos=None),
                                ["10.1.0.0/16 tos 0x8 dev eth0", NEAR_SAID]),
    "a dead link": ([WIDE, entry("10.1.0.0/16", oif=3, flags=1)], [], flow(), [WIDE_SAID]),
    "a link without carrier":
        ([WIDE, entry("10.1.0.0/16", oif=3, flags=16)], [], flow(), [NEAR_SAID, WIDE_SAID]),
    "blackhole": ([WIDE, entry("10.1.0.0/16", kind=BLACKHOLE)], [], flow(), ["blackhole 10.1.0.0/16"]),
    "throw": ([WIDE, entry("10.1.0.0/16", table=100, kind=THROW)], [rule(5, 100)], flow(), [WIDE_SAID]),
    "several ways":
        ([entry("10.1.0.0/16", multipath=[{"oif": 2, "flags": 0}, {"oif": 3, "flags": 0}])], [], flow(),
                     ["10.1.0.0/16 nexthop dev eth0 nexthop dev eth1"]),
    "a gateway": ([entry("0.0.0.0/0", gateway="10.9.9.9")], [], flow(), ["default via 10.9.9.9 dev eth0"]),
    "local first":
        ([WIDE, entry("10.1.2.3/32", table=255, kind=LOCAL)], [], flow(), ["local 10.1.2.3/32 dev eth0"]),
    "a table": ([WIDE, FAR], [rule(5, 100)], flow(), [FAR_SAID]),
    "a table without it": ([WIDE, FAR], [rule(5, 101)], flow(), [WIDE_SAID]),
    "from": ([WIDE, FAR], [rule(5, 100, src="192.0.2.0/24")], flow(), [FAR_SAID]),
    "from others": ([WIDE, FAR], [rule(5, 100, src="192.0.3.0/24")], flow(), [WIDE_SAID]),
    "not from others": ([WIDE, FAR], [rule(5, 100, src="192.0.3.0/24", flags=2)], flow(), [FAR_SAID]),
    "to": ([WIDE, FAR], [rule(5, 100, dst="10.1.0.0/16")], flow(), [FAR_SAID]),
    "iif": ([WIDE, FAR], [rule(5, 100, iif="eth0")], flow(), [FAR_SAID]),
    "another iif": ([WIDE, FAR], [rule(5, 100, iif="eth1")], flow(), [WIDE_SAID]),
    "an iif that is gone": ([WIDE, FAR], [rule(5, 100, iif="eth0", flags=8)], flow(), [WIDE_SAID]),
    "oif": ([WIDE, FAR], [rule(5, 100, oif="eth1")], flow(), [WIDE_SAID]),
    "a mark": ([WIDE, FAR], [rule(5, 100, fwmark=1, fwmask=3)], flow(mark=5), [FAR_SAID]),
    "another mark": ([WIDE, FAR], [rule(5, 100, fwmark=1, fwmask=3)], flow(mark=6), [WIDE_SAID]),
    "a mark that nobody knows": ([WIDE, FAR], [rule(5, 100, fwmark=1)], flow(mark=None), [FAR_SAID, WIDE_SAID]),
    "protocol": ([WIDE, FAR], [rule(5, 100, ip_proto=17)], flow(protocol=17), [FAR_SAID]),
    "a port": ([WIDE, FAR], [rule(5, 100, dport_range=[50, 60])], flow(protocol=17, dport=53), [FAR_SAID]),
    "another port":
        ([WIDE, FAR], [rule(5, 100, sport_range=[50, 60])], flow(protocol=17, sport=61), [WIDE_SAID]),
    "root": ([WIDE, FAR], [rule(5, 100, uid_range=[0, 9])], flow(), [FAR_SAID]),
    "somebody": ([WIDE, FAR], [rule(5, 100, uid_range=[1, 9])], flow(), [WIDE_SAID]),
    "a VRF": ([WIDE, FAR], [rule(5, 100, l3mdev=1)], flow(), [FAR_SAID, WIDE_SAID]),
    "the whole DSCP": ([WIDE, FAR], [rule(5, 100, dscp=2)], flow(tos=9), [FAR_SAID]),
    "suppressed":
        ([WIDE, entry("0.0.0.0/0", table=100)], [rule(5, 100, suppress_prefixlen=0)], flow(), [WIDE_SAID]),
    "not suppressed": ([WIDE, FAR], [rule(5, 100, suppress_prefixlen=0)], flow(), [FAR_SAID]),
    "prohibit": ([WIDE], [rule(5, action=8)], flow(), ["rule 5"]),
    "nop": ([WIDE], [rule(5, action=3)], flow(), [WIDE_SAID]),
    "goto": ([WIDE, FAR], [rule(5, action=2, goto=9), rule(6, action=8), rule(9, 100)], flow(), [FAR_SAID]),
    "goto nowhere": ([WIDE], [rule(5, action=2, goto=9, flags=4)], flow(), [WIDE_SAID]),
    "IPv6":
        ([entry("fd00::/8"), entry("fd01::/16", oif=3)], [], flow("fd01::1", "fd00::1"),
        ["fd01::/16 dev eth1"]),
    "IPv6, by where it came in":
        ([entry("fd01::/16"), entry("fd01::/16", oif=3)], [], flow("fd01::1", "fd00::1", 3),
                                  ["fd01::/16 dev eth1"]),
    "IPv6, link-local": ([entry("fe80::/64"), entry("fe80::/64", oif=3)], [],
                         flow("fe80::1", "fe80::2", 3, strict=True), ["fe80::/64 dev eth1"]),
    "IPv6, from": ([entry("fd01::/16"), entry("fd01::/16", oif=3, src="fd00::", src_len=16)], [],
                   flow("fd01::1", "fd00::1"), ["fd01::/16 from fd00::/16 dev eth1"]),
    "IPv6, from others": ([entry("fd01::/16"), entry("fd01::/16", oif=3, src="fd02::", src_len=16)], [],
                          flow("fd01::1", "fd00::1"), ["fd01::/16 dev eth0", "none"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_found(case):
    routes, more, asked, expected = CASES[case]
    assert told(routes, more, asked) == expected


def test_an_mtu_and_a_lock():
    """RTAX_LOCK has a bit of RTAX_MTU."""
    one = route(entry("10.0.0.0/8", metrics={"2": "78050000", "1": "04000000"}))
    assert (one.mtu, one.locked) == (1400, True)
    assert route(entry("10.0.0.0/8")).mtu == 0


@pytest.mark.parametrize(
    "row", [{"dst": "10.0.0.1", "dst_len": 99}, {"flags": 0x200}, {"family": 28}]
)
def test_what_is_no_route(row):
    """Of a stranger; of the cache; of another family."""
    assert route(entry("10.0.0.0/8") | row) is None


def test_a_circle_ends():
    """A rule leads to what is behind it alone; made-up files may say otherwise."""
    assert told([], [rule(5, action=2, goto=3), rule(3, action=2, goto=5)], flow()) == ["none"]
