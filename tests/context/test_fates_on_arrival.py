"""What becomes of a packet that comes in: each way to be dropped, and what passes."""

from __future__ import annotations

import ipaddress

import pytest
from policies import policy
from test_routing import BEGINNING, NAMES, entry, rule

from iptrec.context.arrival import fates
from iptrec.context.policies import Policies
from iptrec.context.route import route
from iptrec.context.routing import Tables
from iptrec.context.routing_rules import Flow, rules
from iptrec.context.world import Arrived, Device, World, dotted

LOCAL, BROADCAST = 2, 3
ROUTES = [
    entry("10.0.1.0/24"), entry("10.0.2.0/24", oif=3),
    entry("fd00:1::/64"), entry("fd00:2::/64", oif=3),
    entry("10.0.1.1/32", table=255, kind=LOCAL),
    entry("10.0.2.1/32", table=255, kind=LOCAL, oif=3),
    entry("10.0.1.255/32", table=255, kind=BROADCAST),
    entry("127.0.0.0/8", table=255, kind=LOCAL, oif=1),
    entry("10.6.0.0/16", kind=6), entry("10.7.0.0/16", kind=7), entry("10.8.0.0/16", kind=8),
    entry("fd00:1::1/128", table=255, kind=LOCAL), entry("fd06::/16", kind=6), entry("fd07::/16", kind=7),
    entry("10.5.0.0/24", oif=3, metrics={"2": "20030000"}),
]  # fmt: skip
SETTINGS = {
    **{f"net/ipv4/conf/{name}/{key}": 0 for name in ("eth0", "all")
       for key in ("rp_filter", "accept_local", "route_localnet", "src_valid_mark")},
    "net/ipv4/conf/eth0/forwarding": 1, "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/send_redirects": 1,
    "net/ipv4/conf/all/bc_forwarding": 0, "net/ipv4/conf/all/mc_forwarding": 0,
    "net/ipv6/conf/all/mc_forwarding": 0,
}  # fmt: skip
STRICT = {"net/ipv4/conf/all/rp_filter": 1}
LOOSE = {"net/ipv4/conf/eth0/rp_filter": 2}
DEVICES = {1: Device("lo", 65536), 2: Device("eth0", 1500), 3: Device("eth1", 1400)}
NONE = "0.0.0.0"  # noqa: S104 - nothing is bound
A, B = "10.0.1.9", "10.0.2.9"
A6, B6 = "fd00:1::9", "fd00:2::9"


def world(settings=(), more=(), devices=(), groups=(), policies=()):
    every = [
        rule(priority, table, version=version)
        for version in (4, 6)
        for priority, table in BEGINNING.items()
        if version == 4 or priority != 32767
    ]
    tables = Tables(
        [route(one) for one in ROUTES],
        rules(sorted([*every, *more], key=lambda one: one["priority"])),
    )
    known = SETTINGS | dict(settings)
    joined = {ipaddress.ip_address(one) for one in groups}
    return World(
        tables, known.get, DEVICES | dict(devices), lambda _, group: group in joined,
        Policies.listed(b"".join(policies)),
    )  # fmt: skip


def told(src, dst, *, hops=64, length=100, whole=False, mark=0, **worlds):
    flow = Flow(ipaddress.ip_address(src), ipaddress.ip_address(dst), 2, NAMES[2], mark)
    found = fates(world(**worlds), Arrived(flow, hops, length, whole))
    return [one.reason or one.what for one in found]


FWD, OUT = (policy("0.0.0.0/0", "0.0.0.0/0", one) for one in ("fwd", "out"))
FWD6, OUT6 = (policy("::/0", "::/0", one) for one in ("fwd", "out"))
IPSEC = policy("0.0.0.0/0", "0.0.0.0/0", action="allow", templates=1)
OFF = {"net/ipv4/conf/eth0/disable_policy": 1, "net/ipv4/conf/eth1/disable_xfrm": 1}
CASES = {
    "policy": ((A, B), {"policies": [FWD]}, ["XFRM_POLICY"]),
    "policy, before its TTL": ((A, B), {"policies": [FWD], "hops": 1}, ["XFRM_POLICY"]),
    "policy, before the MTU": ((A, B), {"policies": [FWD], "length": 1450, "whole": True}, ["XFRM_POLICY"]),
    "policy, not without a route": ((A, "192.0.2.1"), {"policies": [FWD]}, ["IP_INNOROUTES"]),
    "policy, not of what comes here": ((A, "10.0.1.1"), {"policies": [FWD]}, ["local"]),
    "policy, the way out": ((A, B), {"policies": [OUT]}, ["XFRM_POLICY"]),
    "policy, the way out, after its TTL": ((A, B), {"policies": [OUT], "hops": 1}, ["IP_INHDR"]),
    "policy, switched off": ((A, B), {"policies": [FWD, OUT], "settings": OFF}, ["forwarded"]),
    "policy, templates": ((A, B), {"policies": [IPSEC], "hops": 1}, ["XFRM_POLICY", "IP_INHDR"]),
    "policy, of the other family": ((A, B), {"policies": [FWD6]}, ["forwarded"]),
    "policy 6, before its hop limit": ((A6, B6), {"policies": [FWD6], "hops": 1}, ["XFRM_POLICY"]),
    "policy 6, the way out": ((A6, B6), {"policies": [OUT6], "length": 1450}, ["XFRM_POLICY"]),
    "policy 6, not without forwarding": (
        (A6, B6), {"policies": [FWD6], "settings": {"net/ipv6/conf/all/forwarding": 0}},
        ["IP_INADDRERRORS"]),
    "onward": ((A, B), {}, ["forwarded"]),
    "here": ((A, "10.0.1.1"), {}, ["local"]),
    "broadcast": ((A, "10.0.1.255"), {}, ["local"]),
    "to all": ((A, "255.255.255.255"), {}, ["local"]),
    "for an address": ((NONE, "255.255.255.255"), {}, ["local"]),
    "strict": ((B, B), {"settings": STRICT}, ["IP_RPFILTER"]),
    "strict, and right": ((A, B), {"settings": STRICT}, ["forwarded"]),
    "strict, from nowhere": (("192.0.2.1", B), {"settings": STRICT}, ["IP_RPFILTER"]),
    "loose": ((B, B), {"settings": LOOSE}, ["forwarded"]),
    "loose, from nowhere": (("192.0.2.1", B), {"settings": LOOSE}, ["IP_RPFILTER"]),
    "loose, from a blackhole": (("10.6.0.1", B), {"settings": LOOSE}, ["IP_RPFILTER"]),
    "unfiltered, from nowhere": (("192.0.2.1", B), {}, ["forwarded"]),
    "own source": (("10.0.2.1", B), {}, ["IP_LOCAL_SOURCE"]),
    "own source, strict": (("10.0.2.1", B), {"settings": STRICT}, ["IP_LOCAL_SOURCE"]),
    "own source, accepted": (
        ("10.0.2.1", B), {"settings": {"net/ipv4/conf/all/accept_local": 1}}, ["forwarded"]),
    "loopback source": (("127.0.0.2", B), {}, ["IP_LOCALNET"]),
    "loopback destination": ((A, "127.0.0.1"), {}, ["IP_LOCALNET"]),
    "loopback, allowed": ((A, "127.0.0.1"), {"settings": {"net/ipv4/conf/eth0/route_localnet": 1}}, ["local"]),
    "multicast source": (("224.0.0.9", B), {}, ["IP_INVALID_SOURCE"]),
    "broadcast source": (("10.0.1.255", B), {"settings": STRICT}, ["IP_INVALID_SOURCE"]),
    "a source of zeros": ((NONE, B), {}, ["IP_INVALID_SOURCE"]),
    "a destination of zeros": ((A, NONE), {}, ["IP_INVALID_DEST"]),
    "no route": ((A, "192.0.2.1"), {}, ["IP_INNOROUTES"]),
    "blackhole": ((A, "10.6.0.1"), {}, ["BLACKHOLE"]),
    "unreachable": ((A, "10.7.0.1"), {}, ["UNREACHABLE"]),
    "prohibit": ((A, "10.8.0.1"), {}, ["PROHIBIT"]),
    "a rule": ((A, B), {"more": [rule(5, action=8, fwmark=1)], "mark": 1}, ["PROHIBIT"]),
    "a rule, for who knows which mark": (
        (A, B), {"more": [rule(5, action=8, fwmark=1)], "mark": None}, ["PROHIBIT", "forwarded"]),
    "not forwarded": ((A, B), {"settings": {"net/ipv4/conf/eth0/forwarding": 0}}, ["IP_INADDRERRORS"]),
    "not forwarded, to a blackhole": (
        (A, "10.6.0.1"), {"settings": {"net/ipv4/conf/eth0/forwarding": 0}}, ["IP_INADDRERRORS"]),
    "not forwarded, here": ((A, "10.0.1.1"), {"settings": {"net/ipv4/conf/eth0/forwarding": 0}}, ["local"]),
    "TTL": ((A, B), {"hops": 1}, ["IP_INHDR"]),
    "TTL, here": ((A, "10.0.1.1"), {"hops": 1}, ["local"]),
    "MTU": ((A, B), {"length": 1401, "whole": True}, ["PKT_TOO_BIG"]),
    "MTU, to fragment": ((A, B), {"length": 1401}, ["forwarded"]),
    "MTU, of the route": ((A, "10.5.0.1"), {"length": 801, "whole": True}, ["PKT_TOO_BIG"]),
    "a length that nobody knows": ((A, B), {"length": None}, ["unknown"]),
    "group": ((A, "239.1.1.1"), {}, ["NOT_JOINED"]),
    "group, joined": ((A, "239.1.1.1"), {"groups": ["239.1.1.1"]}, ["local"]),
    "a VRF": ((A, B), {"devices": {2: Device("eth0", 1500, vrf=True)}}, ["unknown"]),
    "no setting": ((A, B), {"settings": {"net/ipv4/conf/eth0/rp_filter": None}}, ["unknown"]),
    "onward 6": (("fd00:1::9", "fd00:2::9"), {}, ["forwarded"]),
    "here 6": (("fd00:1::9", "fd00:1::1"), {}, ["local"]),
    "no route 6": (("fd00:1::9", "2001:db8::1"), {}, ["IP_INNOROUTES"]),
    "blackhole 6": (("fd00:1::9", "fd06::1"), {}, ["BLACKHOLE"]),
    "unreachable 6": (("fd00:1::9", "fd07::1"), {}, ["IP_INNOROUTES"]),
    "not forwarded 6": (
        ("fd00:1::9", "fd00:2::9"), {"settings": {"net/ipv6/conf/all/forwarding": 0}}, ["IP_INADDRERRORS"]),
    "hop limit": (("fd00:1::9", "fd00:2::9"), {"hops": 1}, ["IP_INHDR"]),
    "MTU 6": (("fd00:1::9", "fd00:2::9"), {"length": 1401}, ["PKT_TOO_BIG"]),
    "MTU 6, by a setting": (
        ("fd00:1::9", "fd00:2::9"),
        {"length": 1301, "settings": {"net/ipv6/conf/eth1/mtu": 1300}}, ["PKT_TOO_BIG"]),
    "from the link": (("fe80::9", "fd00:2::9"), {}, ["IP_INADDRERRORS"]),
    "group 6": (("fd00:1::9", "ff05::9"), {}, ["NOT_JOINED"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_becomes_of_it(case):
    ends, given, expected = CASES[case]
    assert told(*ends, **given) == expected


def test_a_setting_as_sysctl_names_it():
    assert dotted("net/ipv4/conf/eth0.100/rp_filter") == "net.ipv4.conf.eth0/100.rp_filter"
