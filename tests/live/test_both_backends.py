"""Rules of both backends: a packet is one traversal with the steps of both, and fares as the kernel lets it.

Each datagram has a number of its own, which the host that it is for tells; every rule of either backend counts.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter

import pytest
from ground_truth import counters, run
from recorder import start
from test_nft import router

import iptrec

pytestmark = pytest.mark.live

NUMBERS = 40
LAST = 5999  # a port that nobody drops
SEND = """\
import socket, sys
host, count = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for number in [*range(count), 9999]:
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        out.bind(("", 20000 + number))
        try:
            out.sendto(b"%08d" % number + bytes(24), (host, 5999 if number == 9999 else 5000 + number % 10))
        except OSError:
            pass  # dropped at once
"""
RECEIVE = """\
import select, socket
ears = []
for port in [*range(5000, 5010), *range(6000, 6010), 5999]:
    ears.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    ears[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    ears[-1].bind(("::", port))
print("ready", flush=True)
last = False
while found := select.select(ears, [], [], 0 if last else None)[0]:
    for one in found:
        number = int(one.recv(100)[:8])
        last |= number == 9999
        print(number, flush=True)
"""
DROPS = "*filter\n-A FORWARD -p udp -m udp --dport %d -j DROP\n-A FORWARD -p udp -m udp --dport %d -j DROP\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n"
FW = "table inet fw { chain through { type filter hook forward priority %d; udp dport %d counter drop; udp dport %d counter drop; }; }"
LEGACY, NFT = "legacy", "nft"
CASES = {
    "legacy first": [(LEGACY, DROPS % (5001, 5002)), (NFT, FW % (10, 5002, 5003))],
    "nft first": [(LEGACY, DROPS % (5001, 5002)), (NFT, FW % (-10, 5002, 5003))],
    "equal priorities, nft newer": [(LEGACY, DROPS % (5001, 5002)), (NFT, FW % (0, 5002, 5003))],
    "equal priorities, legacy newer": [(NFT, FW % (0, 5002, 5003)), (LEGACY, DROPS % (5001, 5002))],
    "policies": [
        (
            LEGACY,
            "*filter\n:FORWARD DROP\n-A FORWARD -p udp -m udp ! --dport 5001 -j ACCEPT\nCOMMIT\n",
        ),
        (
            NFT,
            "table inet fw { chain f { type filter hook forward priority 5; policy drop;"
            " udp dport != 5002 counter accept; }; }",
        ),
    ],
    "in two hooks": [
        (LEGACY, "*mangle\n-A POSTROUTING -p udp -m udp --dport 5001 -j DROP\nCOMMIT\n"),
        (
            NFT,
            "table inet fw { chain p { type filter hook prerouting priority -250; udp dport 5002 counter drop; };"
            " chain q { type filter hook postrouting priority 200; udp dport 5003 counter drop; }; }",
        ),
    ],
    "raw": [
        (LEGACY, "*raw\n-A PREROUTING -p udp -m udp --dport 5001 -j DROP\nCOMMIT\n"),
        (
            NFT,
            "table inet fw { chain p { type filter hook prerouting priority -299; udp dport 5002 counter drop; }; }",
        ),
    ],
    "by turns": [
        (
            LEGACY,
            "*mangle\n-A PREROUTING -p udp -m udp --dport 5000:5009 -m statistic --mode nth --every 3 --packet 0 -j DROP\nCOMMIT\n",
        ),
        (
            NFT,
            "table inet fw { chain f { type filter hook prerouting priority -140; udp dport 5000-5009 numgen inc mod 4 0 counter drop; }; }",
        ),
    ],
    "marks": [
        (
            LEGACY,
            "*mangle\n-A PREROUTING -p udp -m udp --dport 5001 -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
            "*filter\n-A FORWARD -m mark --mark 0x2 -j DROP\nCOMMIT\n",
        ),
        (
            NFT,
            "table inet fw { chain p { type filter hook prerouting priority -140; udp dport 5002 counter meta mark set 2; };"
            " chain f { type filter hook forward priority 5; meta mark 1 counter drop; }; }",
        ),
    ],
}
NAT = {
    "DNAT by legacy, nft filters": [
        (
            LEGACY,
            "*nat\n-A PREROUTING -p udp -m udp --dport 5004 -j DNAT --to-destination 10.0.2.2:6004\nCOMMIT\n",
        ),
        (NFT, FW % (10, 6004, 5003)),
    ],
    "DNAT by nft, legacy filters": [
        (LEGACY, DROPS % (6004, 5002)),
        (
            NFT,
            "table ip n { chain p { type nat hook prerouting priority dstnat; udp dport 5004 counter dnat to 10.0.2.2:6004;"
            " udp dport 5005 counter dnat to 10.0.2.2:6005; }; }",
        ),
    ],
    "both NAT": [
        (
            LEGACY,
            "*nat\n-A PREROUTING -p udp -m udp --dport 5004 -j DNAT --to-destination 10.0.2.2:6004\n"
            "-A POSTROUTING -p udp -m udp --dport 6004 -j MASQUERADE\nCOMMIT\n",
        ),
        (
            NFT,
            "table ip n { chain p { type nat hook prerouting priority -90; udp dport 5005 counter dnat to 10.0.2.2:6005; };"
            " chain q { type nat hook postrouting priority 110; udp dport 5001 counter masquerade; }; }",
        ),
    ],
}


def load(lab, rules, family):
    for backend, text in rules:
        if backend == LEGACY:
            lab.restore(None, family, text)
        else:
            lab.run(["nft", "-f", "-"], stdin=text)


def counted(lab, family):
    """(table, chain, rule's text) -> packets, as the kernel counts them; chains' policies left out."""
    command = "iptables" if family == "ipv4" else "ip6tables"
    saved = counters(lab.run([f"{command}-legacy-save", "-c"]).stdout)
    found = {(f"legacy {t}", c, s): n for (t, c, s), n in saved.items() if s != "policy"}
    table = chain = None
    for line in lab.run(["nft", "list", "ruleset"]).stdout.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif one := re.fullmatch(r"\s+(.*)counter packets (\d+) bytes \d+( .*)?", line):
            found[table, chain, f"{one[1]}counter{one[3] or ''}"] = int(one[2])
    return {place: count for place, count in found.items() if count and "nftrace" not in place[2]}


def told(recording):
    """The same, as the recording tells it."""
    return {
        (table.table, chain, one.rule.spec): one.count.packets
        for table in recording.rules()
        for chain, (_, rules) in table.chains.items()
        for one in rules
        if one.rule is not None and one.count.packets
    }


def alike(rules):
    """Without what the words for one thing differ in."""
    return {
        (table, chain, re.sub(r"0x0*([0-9a-f]+)", r"\1", spec)): count
        for (table, chain, spec), count in rules.items()
    }


def recorded(lab, path, rules, host="10.0.2.2", count=NUMBERS):
    """Send from a to b; who arrived, and what was counted."""
    router(lab)
    family = "ipv6" if ":" in host else "ipv4"
    load(lab, rules, family)
    ear = lab.popen([sys.executable, "-c", RECEIVE], "b", stdout=subprocess.PIPE, text=True)
    assert ear.stdout.readline() == "ready\n"
    child = start(lab, "udp", "--backend", "both", "--force", "-o", path)
    lab.run([sys.executable, "-c", SEND, host, str(count)], "a")
    arrived = {int(one) for one in ear.communicate(timeout=60)[0].split()} - {9999}
    kernel = counted(lab, family)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    return arrived, kernel


def check(path, arrived, kernel, count=NUMBERS):
    with iptrec.open(path) as recording:
        packets = [one for one in recording.packets() if one.header["sport"] != 29999]
        told_of = Counter(one.header["sport"] - 20000 for one in packets)
        assert told_of == Counter(range(count))
        odd = [
            (one.header["sport"], one.reason)
            for one in packets
            if not one.complete or one.ambiguous
        ]
        assert odd == []
        verdicts = {one.header["sport"] - 20000: one.verdict for one in packets}
        assert {number for number, one in verdicts.items() if one == "ACCEPT"} == arrived
        assert alike(told(recording)) == alike(kernel)
        summary = recording.summary()
        assert summary.packets == count + 1
        assert sum(one.count.packets for one in recording.paths()) == count + 1
        (rows,) = recording.query("SELECT count(*) FROM packets")
        assert rows == (count + 1,)
        for one in recording.explain():
            assert all(passed.fits is not True for step in one.steps for passed in step.passed)
        return packets


@pytest.mark.parametrize("rules", [*CASES.values(), *NAT.values()], ids=[*CASES, *NAT])
def test_forwarded(lab, tmp_path, rules):
    path = tmp_path / "t.db"
    check(path, *recorded(lab, path, rules))


@pytest.mark.parametrize("rules", CASES.values(), ids=CASES)
def test_ipv6(lab, tmp_path, rules):
    path = tmp_path / "t.db"
    check(path, *recorded(lab, path, rules, "fd00:2::2"))


def test_loopback(lab, tmp_path):
    """Sent and looped back: two traversals, each once; what either backend drops has one or none of the second."""
    load(
        lab,
        [
            (
                LEGACY,
                "*filter\n-A OUTPUT -p udp -m udp --dport 5001 -j DROP\n-A INPUT -p udp -m udp --dport 5002 -j DROP\nCOMMIT\n",
            ),
            (
                NFT,
                "table inet fw { chain o { type filter hook output priority -10; udp dport 5003 counter drop; };"
                " chain i { type filter hook input priority 10; udp dport 5004 counter drop; }; }",
            ),
        ],
        "ipv4",
    )
    path = tmp_path / "t.db"
    child = start(lab, "udp", "--backend", "both", "--force", "-o", path)
    lab.run([sys.executable, "-c", SEND, "127.0.0.1", str(NUMBERS)])
    kernel = counted(lab, "ipv4")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    with iptrec.open(path) as recording:
        packets = [one for one in recording.packets() if one.header["sport"] != 29999]
        assert alike(told(recording)) == alike(kernel)
    assert [(one.complete, one.ambiguous, one.reason) for one in packets] == [
        (True, False, None)
    ] * len(packets)
    ways = Counter((one.header["sport"] % 10, one.out, one.in_, one.verdict) for one in packets)
    each = NUMBERS // 10
    assert ways == Counter(
        {(port, "lo", None, "DROP" if port in (1, 3) else "ACCEPT"): each for port in range(10)}
        | {
            (port, None, "lo", "DROP" if port in (2, 4) else "ACCEPT"): each
            for port in range(10)
            if port not in (1, 3)
        }
    )
    looped = [one for one in packets if one.in_ == "lo"]
    assert {tuple(other.kind for other in one.related) for one in looped} == {("looped-back",)}


BESIDE = """\
table inet beside {
	chain p { type filter hook prerouting priority -140; meta mark and 1 == 1 counter; }
	chain f { type filter hook forward priority 10; udp sport 1-40000 numgen inc mod 5 0 drop; }
	chain q { type filter hook postrouting priority 150; ip dscp 4 counter accept; }
}
"""


def test_on_two_processors(lab, tmp_path):
    """Both directions at once, through rules of both: no event is of another packet, legacy's counters agree."""
    truth = run(lab, tmp_path / "t.db", 4000, beside=BESIDE)
    assert (truth.mixed, truth.lost, truth.incomplete, truth.ambiguous) == (0, 0, 0, 0)
    assert truth.differing == {}


PINGS = """\
import os, socket, struct, sys
cpus = sorted(os.sched_getaffinity(0))
def pinged(cpu):
    os.sched_setaffinity(0, [cpu])
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 7, 0, 64, 1, 0, *map(socket.inet_aton, ("10.0.1.2", "10.0.2.2")))
    packet += struct.pack("!BBHHH", 8, 0, 0xF7FF - 7 - 1, 7, 1)
    for _ in range(100):
        out.sendto(packet, ("10.0.2.2", 0))
children = []
for cpu in (cpus * 2)[:2]:
    if not (child := os.fork()):
        pinged(cpu)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def test_equal_packets_at_once(lab, tmp_path):
    """Each is told once, and each verdict as often as the kernel gave it; who was who is said not to be known."""
    router(lab)
    load(
        lab,
        [
            (
                LEGACY,
                "*mangle\n-A PREROUTING -p icmp -m statistic --mode nth --every 3 --packet 0 -j DROP\nCOMMIT\n",
            ),
            (
                NFT,
                "table inet fw { chain f { type filter hook forward priority 10; icmp type echo-request numgen inc mod 4 0 counter drop; }; }",
            ),
        ],
        "ipv4",
    )
    path = tmp_path / "t.db"
    child = start(lab, "icmp", "--backend", "both", "--force", "-o", path)
    lab.run([sys.executable, "-c", PINGS], "a")
    kernel = counted(lab, "ipv4")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    with iptrec.open(path) as recording:
        packets = list(recording.packets("icmp[0] == 8"))
        assert len(packets) == 200
        assert {one.reason for one in packets} <= {None, "equal packets were under way together"}
        assert alike(told(recording)) == alike(kernel)
        verdicts = Counter((one.verdict, one.decided_by.table) for one in packets)
    assert (
        verdicts["DROP", "legacy mangle"]
        == kernel[next(one for one in kernel if one[0] == "legacy mangle")]
    )
    assert verdicts["DROP", "inet fw"] == kernel[next(one for one in kernel if one[0] == "inet fw")]
