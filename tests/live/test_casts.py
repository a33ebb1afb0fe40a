"""Broadcasts and multicasts: what leaves, and the copy that the kernel hands to the listeners here.

The kernel sends the copy through POSTROUTING first, then the packet (net/ipv4/ip_output.c, ip_mc_output): so
there are three traversals of one, and the rules' counters say so.
"""

from __future__ import annotations

import re

import pytest
from test_traffic import EMPTY, Net

pytestmark = pytest.mark.live

SEND = """
import socket, struct, sys, time
group, index = socket.inet_aton("224.1.2.3"), socket.if_nametoindex("v1")
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(("", 5000))
ear.settimeout(10)
ear.setsockopt(0, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", group, bytes(4), index))
ear6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
ear6.setsockopt(41, socket.IPV6_V6ONLY, 1)
ear6.bind(("::", 5000))
ear6.settimeout(10)
ear6.setsockopt(41, socket.IPV6_JOIN_GROUP, socket.inet_pton(10, "ff02::1234") + struct.pack("=I", index))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
out.setsockopt(0, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
out6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
out6.setsockopt(41, socket.IPV6_MULTICAST_IF, index)
for loop in (1, 0):
    out.setsockopt(0, socket.IP_MULTICAST_LOOP, loop)
    out6.setsockopt(41, socket.IPV6_MULTICAST_LOOP, loop)
    for to, here in (("10.0.2.255", True), ("224.1.2.3", loop), ("224.1.2.4", False), ("ff02::1234", loop)):
        six = ":" in to
        for _ in range(5):
            (out6 if six else out).sendto(b"x", (to, 5000))
            if here:
                (ear6 if six else ear).recv(9)
for one in (ear, ear6):
    one.setblocking(False)
    try:
        one.recv(9)
        raise AssertionError("more came than was looped back")
    except BlockingIOError:
        pass
"""
# Of each address: packets sent, and copies of these that are looped back.
SENT = {"10.0.2.255": 10, "224.1.2.3": 10, "224.1.2.4": 10, "ff02::1234": 10}
LOOPED = {"10.0.2.255": 10, "224.1.2.3": 5, "ff02::1234": 5}
HOOKS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
MANGLE = "".join(f"-A {hook} -p udp --dport 5000\n" for hook in HOOKS)


def load(lab, backend, translated):
    """Rules that count at each hook; ``translated``: SNAT, by the last rule."""
    if backend == "nft":
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook.lower()} priority 0; udp dport 5000 counter; }}\n"
            for hook in HOOKS
        )
        nat = "chain nat { type nat hook postrouting priority 100; udp dport 5000 snat ip to 10.0.2.77; }"
        text = f"table inet t {{\n{chains}{nat if translated else ''}\n}}\n"
        lab.run(["nft", "-f", "-"], stdin=text)
        return
    nat = "*nat\n-A POSTROUTING -p udp --dport 5000 -j SNAT --to-source 10.0.2.77\nCOMMIT\n"
    for family in ("ipv4", "ipv6"):
        of_nat = nat if translated and family == "ipv4" else ""
        lab.restore(None, family, f"{EMPTY}*mangle\n{MANGLE}COMMIT\n{of_nat}")


def counted(lab, backend):
    """The packets of each hook, of both families."""
    if backend == "nft":
        listing = lab.run(["nft", "list", "table", "inet", "t"]).stdout
        found = re.findall(r"chain ([A-Z]+) \{\n.*\n.*counter packets (\d+)", listing)
    else:
        saved = "".join(
            lab.run([f"{name}-legacy-save", "-c", "-t", "mangle"]).stdout
            for name in ("iptables", "ip6tables")
        )
        found = [
            (hook, count)
            for count, hook in re.findall(r"^\[(\d+):\d+\] -A (\w+)", saved, re.MULTILINE)
        ]
    return {hook: sum(int(count) for one, count in found if one == hook) for hook in HOOKS}


@pytest.mark.parametrize("translated", [False, True])
def test_each_copy_is_told_by_what_it_is_a_copy_of(lab, tmp_path, backend, translated):
    """What is sent, its copy at POSTROUTING, and the copy that comes in; as many as the rules counted."""
    net = Net(lab, tmp_path)
    net.hosts(2)
    load(lab, backend, translated)
    net.record("udp port 5000", SEND.replace("v1", "v2"), options=("--backend", backend))
    assert net.certain()
    sent, copies, came = {}, {}, {}
    for one in net.packets:
        assert one.verdict == "ACCEPT"
        kinds = [related.kind for related in one.related]
        where = came if one.in_ else copies if kinds == ["copy"] else sent
        assert kinds == (["looped-back"] if one.in_ else ["copy"] if where is copies else [])
        where.setdefault(one.header["dst"], []).append(one)
    assert {to: len(found) for to, found in sent.items()} == SENT
    for some in (copies, came):
        assert {to: len(found) for to, found in some.items()} == LOOPED
        for to, found in some.items():
            named = [one.related[0].packet for one in found]
            assert len({*named}) == len(named)
            assert {*named} <= {one.number for one in sent[to]}
    total, looped = sum(SENT.values()), sum(LOOPED.values())
    assert counted(lab, backend) == {
        "PREROUTING": looped, "INPUT": looped, "OUTPUT": total, "POSTROUTING": total + looped,
    }  # fmt: skip
