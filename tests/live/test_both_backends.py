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
from command import IPTREC
from ground_truth import counters, run
from recorder import packets as every
from recorder import start, until
from test_nft import router
from typer.testing import CliRunner

import iptrec
from iptrec.answers.packets import Packets
from iptrec.answers.select import selection
from iptrec.cli import app
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

NUMBERS = 40
LAST = 5999  # a port that nobody drops
SEND = """\
import socket, sys
host, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for number in [*range(first, first + count), *([9999] if sys.argv[4:] else [])]:
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


def tables(**rules):
    """Legacy iptables: of each table the rules."""
    text = "".join(f"*{table}\n{words}\nCOMMIT\n" for table, words in rules.items())
    return "legacy", text.replace("; ", "\n").replace("udp:", "-p udp -m udp --dport ")


def fw(*chains, kind="filter", family="inet"):
    """A table of nf_tables: of each base chain its hook, priority and rules."""
    made = (
        f"chain c{number} {{ type {kind} hook {hook} priority {priority}; {rules}; }};"
        for number, (hook, priority, rules) in enumerate(chains)
    )
    return "nft", f"table {family} fw {{ {' '.join(made)} }}".replace("udp:", "udp dport ")


DROPS = tables(
    filter="-A FORWARD udp:5001 -j DROP; -A FORWARD udp:5002 -j DROP; -A FORWARD -p udp -j ACCEPT"
)


def drops(priority):
    return fw(("forward", priority, "udp:5002 counter drop; udp:5003 counter drop"))


TO = "dnat to 10.0.2.2"
CASES = {
    "legacy first": [DROPS, drops(10)],
    "nft first": [DROPS, drops(-10)],
    "equal priorities, nft newer": [DROPS, drops(0)],
    "equal priorities, legacy newer": [drops(0), DROPS],
    "policies": [
        tables(filter=":FORWARD DROP; -A FORWARD -p udp -m udp ! --dport 5001 -j ACCEPT"),
        fw(("forward", 5, "policy drop; udp dport != 5002 counter accept")),
    ],
    "in several hooks": [
        tables(mangle="-A POSTROUTING udp:5001 -j DROP"),
        fw(("prerouting", -250, "udp:5002 counter drop"), ("postrouting", 200, "udp:5003 counter drop")),
    ],
    "raw": [
        tables(raw="-A PREROUTING udp:5001 -j DROP"),
        fw(("prerouting", -299, "udp:5002 counter drop")),
    ],
    "by turns": [
        tables(mangle="-A PREROUTING udp:5000:5009 -m statistic --mode nth --every 3 --packet 0 -j DROP"),
        fw(("prerouting", -140, "udp:5000-5009 numgen inc mod 4 0 counter drop")),
    ],
    "marks": [
        tables(
            mangle="-A PREROUTING udp:5001 -j MARK --set-xmark 0x1/0xffffffff",
            filter="-A FORWARD -m mark --mark 0x2 -j DROP",
        ),
        fw(
            ("prerouting", -140, "udp:5002 counter meta mark set 2"),
            ("forward", 5, "meta mark 1 counter drop"),
        ),
    ],
}  # fmt: skip
NAT = {
    "legacy translates, nft filters": [
        tables(nat="-A PREROUTING udp:5004 -j DNAT --to-destination 10.0.2.2:6004"),
        fw(("forward", 10, "udp:6004 counter drop; udp:5003 counter drop")),
    ],
    "nft translates, legacy filters": [
        tables(filter="-A FORWARD udp:6004 -j DROP"),
        fw(
            ("prerouting", "dstnat", f"udp:5004 counter {TO}:6004; udp:5005 counter {TO}:6005"),
            kind="nat", family="ip",
        ),
    ],
    "both translate": [
        tables(
            nat="-A PREROUTING udp:5004 -j DNAT --to-destination 10.0.2.2:6004;"
            " -A POSTROUTING udp:6004 -j MASQUERADE"
        ),
        fw(
            ("prerouting", -90, f"udp:5005 counter {TO}:6005"),
            ("postrouting", 110, "udp:5001 counter masquerade"),
            kind="nat", family="ip",
        ),
    ],
}  # fmt: skip


def load(lab, rules, family):
    for backend, text in rules:
        if backend == "legacy":
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


def send(lab, to, first, count, *last, host="a"):
    lab.run([sys.executable, "-c", SEND, to, str(first), str(count), *last], host)


def recorded(lab, path, rules, host="10.0.2.2", count=NUMBERS, before=IPTREC):
    """Send from a to b; who arrived, and what was counted."""
    router(lab)
    family = "ipv6" if ":" in host else "ipv4"
    load(lab, rules, family)
    ear = lab.popen([sys.executable, "-c", RECEIVE], "b", stdout=subprocess.PIPE, text=True)
    assert ear.stdout.readline() == "ready\n"
    child = start(lab, "udp", "--backend", "both", "--force", "-o", path, before=before)
    send(lab, host, 0, count, "last")
    arrived = {int(one) for one in ear.communicate(timeout=60)[0].split()} - {9999}
    kernel = counted(lab, family)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    return arrived, kernel


def check(path, arrived, kernel, count=NUMBERS):
    """The recording says of each packet, and of each rule, what the kernel did; in every view."""
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


@pytest.mark.parametrize("rules", [*CASES.values(), *NAT.values()], ids=[*CASES, *NAT])
def test_forwarded(lab, tmp_path, rules):
    path = tmp_path / "t.db"
    check(path, *recorded(lab, path, rules))


MARKS = [
    tables(
        mangle="-A PREROUTING udp:5001 -j MARK --set-xmark 0x1/0xffffffff",
        filter="-A FORWARD -m mark --mark 0x7; -A FORWARD udp:5002 -j DROP",
    ),
    fw(
        (
            "forward",
            0,
            "udp:5001 counter meta mark set 7; udp:5003 counter drop; udp:5004 counter",
        )
    ),
]


FORWARDING = ["legacy filter", "inet fw"]


@pytest.mark.parametrize("newer", ["nft", "legacy"])
def test_equal_priorities_by_times(lab, tmp_path, newer):
    """The newer one is passed first: by the times of their events the order of all packets is known."""
    path = tmp_path / "t.db"
    recorded(lab, path, MARKS if newer == "nft" else MARKS[::-1])
    if "as the kernel sent them" not in iptrec_said("info", path):
        pytest.skip("no tap here: nobody notes when events are sent")
    with iptrec.open(path) as recording:
        told = [one for one in recording.packets() if one.header["sport"] % 10 in (1, 4)]
        summary = recording.summary()
    assert len(told) > 5
    for one in told:
        assert (one.complete, one.ambiguous, one.unordered) == (True, False, ())
        order = [name for name in dict.fromkeys(s.table for s in one.steps) if name in FORWARDING]
        assert order == (FORWARDING[::-1] if newer == "nft" else FORWARDING)
    assert summary.unordered == {}
    assert "of one priority" not in iptrec_said("show", path)


@pytest.mark.parametrize("newer", ["nft", "legacy"])
def test_equal_priorities_by_marks(lab, tmp_path, newer):
    """Without these times: where marks show which one was first it is told so, else that nobody knows."""
    path = tmp_path / "t.db"
    rules = MARKS if newer == "nft" else MARKS[::-1]
    _, kernel = recorded(lab, path, rules, before=["env", "IPTREC_NO_TAP=1", *IPTREC])
    met_mark = [one for one in kernel if "mark --mark" in one[2] or "-m mark" in one[2]]
    assert bool(met_mark) == (newer == "nft")
    pair = ("FORWARD", ("legacy filter/FORWARD", "inet fw/c0"))
    with iptrec.open(path) as recording:
        told = {one.header["sport"] % 10: one for one in recording.packets()}
        summary = recording.summary()
    assert {number: [tuple(each) for each in one.unordered] for number, one in told.items()} == {
        number: [pair] if number == 4 else [] for number in range(10)
    }
    assert (told[1].complete, told[1].ambiguous) == (True, False)
    order = [
        name for name in dict.fromkeys(one.table for one in told[1].steps) if name in FORWARDING
    ]
    assert order == (FORWARDING[::-1] if newer == "nft" else FORWARDING)
    assert [(*one, count) for one, count in summary.unordered.items()] == [(*pair, 4)]
    assert "order not known at FORWARD, of one priority: legacy filter/FORWARD and inet fw/c0" in (
        iptrec_said("show", path)
    )
    assert "not known at FORWARD, of one priority" in iptrec_said("info", path)


def iptrec_said(*words):
    result = CliRunner().invoke(app, [str(one) for one in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("rules", CASES.values(), ids=CASES)
def test_ipv6(lab, tmp_path, rules):
    path = tmp_path / "t.db"
    check(path, *recorded(lab, path, rules, "fd00:2::2"))


def test_loopback(lab, tmp_path):
    """Sent and looped back: two traversals; of what either backend drops before it leaves there is one."""
    rules = [
        tables(filter="-A OUTPUT udp:5001 -j DROP; -A INPUT udp:5002 -j DROP"),
        fw(("output", -10, "udp:5003 counter drop"), ("input", 10, "udp:5004 counter drop")),
    ]
    load(lab, rules, "ipv4")
    path = tmp_path / "t.db"
    child = start(lab, "udp", "--backend", "both", "--force", "-o", path)
    send(lab, "127.0.0.1", 0, NUMBERS, host=None)
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


def test_rules_that_change(lab, tmp_path):
    """Each backend's rules change for itself: what held is known, and what altered a packet's fate."""
    router(lab)
    load(lab, [DROPS, drops(10)], "ipv4")
    path = tmp_path / "t.db"
    child = start(lab, "udp", "--backend", "both", "--force", "-o", path)
    send(lab, "10.0.2.2", 0, NUMBERS)
    until(lambda: len(every(path)) == NUMBERS)
    lab.run(["iptables-legacy", "-I", "FORWARD", "-p", "udp", "--dport", "5004", "-j", "DROP"])
    until(lambda: changed(path, "iptables-save") == 1)
    send(lab, "10.0.2.2", NUMBERS, NUMBERS)
    until(lambda: len(every(path)) == 2 * NUMBERS)
    lab.run(["nft", "add rule inet fw c0 udp dport 5005 counter drop"])
    until(lambda: changed(path, "nft") == 1)
    send(lab, "10.0.2.2", 2 * NUMBERS, NUMBERS)
    kernel = counted(lab, "ipv4")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    with iptrec.open(path) as recording:
        packets = list(recording.packets())
        certain = not any(one.ambiguous for one in packets)
        assert not certain or alike(told(recording)) == alike(kernel)
    assert len(packets) == 3 * NUMBERS
    assert {one.complete for one in packets} == {True}
    # When the change was seen late nobody knows by which rule a packet was dropped, but that it was.
    assert {one.verdict for one in packets if one.ambiguous} <= {"DROP"}
    phases = [Counter(one.verdict for one in packets[at * NUMBERS :][:NUMBERS]) for at in range(3)]
    assert [one["DROP"] for one in phases] == [12, 16, 20]
    altered = Counter(
        (one.altered_by.table, one.header["dport"], (one.header["sport"] - 20000) // NUMBERS)
        for one in packets
        if one.altered_by is not None and not one.ambiguous
    )
    each = NUMBERS // 10
    assert altered == {
        ("legacy filter", 5004, 1): each,
        ("legacy filter", 5004, 2): each,
        ("inet fw", 5005, 2): each,
    }


def changed(path, kind):
    """How often rules were seen to have changed."""
    with Reader(path) as reader:
        return len([one for one in reader.snapshots(kind) if one.after_ns is not None])


BESIDE = """\
table inet beside {
	chain p { type filter hook prerouting priority -140; meta mark and 1 == 1 counter; }
	chain f { type filter hook forward priority 10; udp sport 1-40000 numgen inc mod 5 0 drop; }
	chain q { type filter hook postrouting priority 150; ip dscp 4 counter accept; }
}
"""


def test_on_two_processors(lab, tmp_path):
    """Both directions at once: no packet has another one's events, and legacy's counters agree."""
    truth = run(lab, tmp_path / "t.db", 4000, beside=BESIDE)
    assert (truth.mixed, truth.lost, truth.incomplete, truth.ambiguous) == (0, 0, 0, 0)
    assert truth.differing == {}


PINGS = """\
import os, socket, struct, sys
cpus = sorted(os.sched_getaffinity(0))
def pinged(cpu):
    os.sched_setaffinity(0, [cpu])
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 28, 7, 0, 64, 1, 0)
    packet += socket.inet_aton("10.0.1.2") + socket.inet_aton("10.0.2.2")
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
    """Each is told once, each verdict as often as the kernel gave it; which was which may be in doubt."""
    router(lab)
    rules = [
        tables(mangle="-A PREROUTING -p icmp -m statistic --mode nth --every 3 --packet 0 -j DROP"),
        fw(("forward", 10, "icmp type echo-request numgen inc mod 4 0 counter drop")),
    ]
    load(lab, rules, "ipv4")
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
    for (table, *_), count in kernel.items():
        assert verdicts["DROP", table] == count


ODD = """\
import socket, struct
def ip(protocol, body, *, options=b"", place=0, ident=[100]):
    ident[0] += 1
    size = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(body), ident[0], place, 33, protocol, 0)
    return head + socket.inet_aton("10.0.1.2") + socket.inet_aton("10.0.2.2") + options + body
def ip6(first, body, label=[0]):
    label[0] += 1
    ends = [socket.inet_pton(socket.AF_INET6, f"fd00:{net}::2") for net in (1, 2)]
    return struct.pack("!IHBB", 0x60000000 | label[0], len(body), first, 33) + b"".join(ends) + body
udp = struct.pack("!HHHH", 1000, 2000, 8 + 40, 0) + bytes(range(40))
tcp = struct.pack("!HHIIBBHHH", 1000, 2000, 1, 2, 7 << 4, 2, 0, 0, 0) + bytes((2, 4, 5, 180, 1, 1, 1, 0))
quote = ip(17, udp)
four = [
    ip(17, udp), ip(17, udp[:10]), ip(6, tcp), ip(132, bytes(range(40))), ip(47, bytes(40)),
    ip(50, bytes(range(24))),
    ip(1, struct.pack("!BBHHH", 8, 0, 0, 5, 6) + bytes(40)), ip(1, struct.pack("!BBHI", 3, 3, 0, 0) + quote),
    ip(17, udp, options=b"\\x01" * 4), ip(17, udp, options=b"\\x01" * 20), ip(17, udp, options=b"\\x01" * 40),
    ip(17, udp, place=0x2000), ip(17, udp, place=5), ip(200, b""),
]
hop, route = b"\\x11\\0\\1\\4\\0\\0\\0\\0", b"\\x3c\\0\\1\\4\\0\\0\\0\\0"
def piece(place):
    return struct.pack("!BBHI", 17, 0, place, 7)
six = [
    ip6(17, udp), ip6(6, tcp), ip6(58, struct.pack("!BBHHH", 128, 0, 0, 5, 6)), ip6(60, hop + udp),
    ip6(0, route + hop + udp),
    ip6(44, piece(1) + udp), ip6(44, piece(48 << 3) + udp), ip6(59, b""), ip6(47, bytes(40)),
]
for family, packets, to in ((socket.AF_INET, four, "10.0.2.2"), (socket.AF_INET6, six, "fd00:2::2")):
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        if family == socket.AF_INET6:
            out.setsockopt(socket.IPPROTO_IPV6, 36, 1)
        for packet in packets:
            out.sendto(packet, (to, 0))
print(len(four), len(six))
"""


def test_packets_of_every_sort(lab, tmp_path):
    """What nf_tables dumps of a packet is enough to know it by: options, extension headers, fragments."""
    router(lab)
    for family in ("ipv4", "ipv6"):
        load(lab, [tables(filter="-A FORWARD -j ACCEPT")], family)
    load(lab, [fw(("forward", 10, "counter accept"))], "ipv4")
    path = tmp_path / "t.db"
    child = start(lab, "--backend", "both", "--force", "-o", path)
    four, six = map(int, lab.run([sys.executable, "-c", ODD], "a").stdout.split())
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    with iptrec.open(path) as recording:
        found = [
            one
            for one in recording.packets()
            if 33 in (one.header.get("ttl"), one.header.get("hop_limit"))
        ]
    with Reader(path) as reader:
        chosen = Packets(reader, selection(reader, "udp port 2000", {}))
        assert len([*chosen]) == 7  # libpcap looks behind no extension header
        assert chosen.unjudged == 0
    told_by = [(one.header, sorted({step.backend for step in one.steps})) for one in found]
    assert [one for one in told_by if one[1] != ["legacy", "nft"]] == []
    assert Counter(one.family for one in found) == {"ipv4": four, "ipv6": six}
    assert {(one.verdict, one.reason) for one in found} == {("ACCEPT", None)}
