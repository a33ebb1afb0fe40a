"""Traffic whose truth the kernel itself tells: a router between two hosts that send at each other.

Each datagram carries a number of its own, both directions run on a processor of their own, and every
rule and policy counts what it saw. Used by the test, and by the benchmark that does it five times.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import sides
from command import IPTREC

from iptrec.packets.window import windows
from iptrec.recording.reader import Reader

RULES = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 5003 -j NOTRACK
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:classify - [0:0]
-A PREROUTING -p udp -m statistic --mode nth --every 3 --packet 0 -j MARK --set-xmark 0x1/0x1
-A PREROUTING -j classify
-A FORWARD -m mark --mark 0x1/0x1 -j TOS --set-tos 0x10/0xff
-A POSTROUTING -o to-b -j TTL --ttl-set 33
-A classify -p udp -m udp --dport 5001 -j MARK --set-xmark 0x2/0x2
-A classify -p udp -m statistic --mode random --probability 0.5 -j RETURN
-A classify -p udp -m udp --sport 1:9999 -j MARK --set-xmark 0x4/0x4
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 5002 -j DNAT --to-destination 10.0.2.2:6002
-A POSTROUTING -o to-b -p udp -m udp --dport 5001 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:from-a - [0:0]
:from-b - [0:0]
:limited - [0:0]
-A INPUT -p udp -m udp --dport 5004 -j DROP
-A FORWARD -i to-a -j from-a
-A FORWARD -i to-b -g from-b
-A FORWARD -j ACCEPT
-A from-a -p udp -m udp --dport 5000 -j ACCEPT
-A from-a -p udp -m mark --mark 0x4/0x4 -j limited
-A from-a -p udp -m udp --dport 5001 -j RETURN
-A from-a -p udp -m udp --dport 6002 -j RETURN
-A from-b -p udp -m udp --dport 5000 -j ACCEPT
-A from-b -p udp -m statistic --mode nth --every 7 --packet 0 -j DROP
-A from-b -m mark --mark 0x1/0x1 -j ACCEPT
-A limited -m limit --limit 100/second --limit-burst 50 -j RETURN
-A limited -j DROP
COMMIT
"""
SENDER = """
import os, socket, sys
host, first, count, cpu = sys.argv[1], *map(int, sys.argv[2:])
os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[cpu % len(os.sched_getaffinity(0))]])
outs = []
for port in range(5000, 5004):
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    out.connect((host, port))
    outs.append(out)
local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
local.connect((sys.argv[1].rpartition(".")[0][:-1] + str(3 - int(host[5])) + ".1", 5004))
outs.append(local)
for number in range(first, first + count):
    try:
        outs[number % 5].send(number.to_bytes(8, "little") + bytes(24))
    except OSError:
        pass  # an answer that nobody listens there
"""
ID = 28  # behind the headers of IP and UDP


@dataclass
class Truth:
    """What was found: each a number of packets or of places where traces and kernel differ."""

    packets: int
    incomplete: int
    ambiguous: int
    lost: int
    mixed: int  # traversals with the events of more than one datagram
    differing: dict[tuple[str, str, str], tuple[int, int]]  # (kernel, traces) where they differ


def join(lab):
    """A router between a and b, where nothing is sent but what a sender sends."""
    sides.join(lab, "a", "b", peer="to-{name}")
    for name in ("a", "b"):  # nobody listens: the answers would be counted, but are not traced
        lab.restore(name, "ipv4", "*filter\n-A OUTPUT -p icmp -j DROP\nCOMMIT\n")
    for conf in ("all", "to-a", "to-b"):  # what is translated goes back where it came from
        lab.sysctl(None, f"net/ipv4/conf/{conf}/send_redirects", 0)
    lab.settle()


def run(lab, path, count, backend="legacy", beside=None):
    """Send ``count`` datagrams, half from each side; judge the recording.

    ``beside``: rules of nf_tables, so that both backends are recorded.
    """
    join(lab)
    lab.restore(None, "ipv4", RULES, backend)
    if beside is not None:
        lab.run(["nft", "-f", "-"], stdin=beside)
    words = ["--backend", "both" if beside else backend, "--family", "ipv4"]
    recorder = lab.popen(
        [*IPTREC, "record", "--drops=no", "udp", *words, "--force", "-o", str(path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert recorder.stderr.readline().startswith("recording to")
    senders = [
        lab.popen([sys.executable, "-c", SENDER, host, str(first), str(count // 2), str(cpu)], name)
        for name, host, first, cpu in (("a", "10.0.2.2", 0, 0), ("b", "10.0.1.2", count, 1))
    ]
    assert [sender.wait(timeout=120) for sender in senders] == [0, 0]
    counted = counters(lab.run([f"iptables-{backend}-save", "-c"]).stdout)
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=60)
    if beside is not None:
        counted = Counter(
            {(f"{backend} {table}", *rest): n for (table, *rest), n in counted.items()}
        )
    return judge(path, counted)


def counters(saved):
    """(table, chain, rule's text or "policy") -> packets; equal rules of a chain together. Ours left out."""
    found, table = Counter(), ""
    for line in saved.splitlines():
        if line[:1] == "*":
            table = line[1:]
        elif policy := re.fullmatch(r":(\S+) (?:ACCEPT|DROP) \[(\d+):\d+\]", line):
            found[table, policy[1], "policy"] += int(policy[2])
        elif (rule := re.fullmatch(r"\[(\d+):\d+\] -A (\S+) (.*)", line)) and "iptrec:" not in line:
            found[table, rule[2], rule[3]] += int(rule[1])
    return found


def judge(path, counted, unjudged=("inet beside", "nft raw")):
    """Compare the traces with what the kernel counted; ``unjudged``: tables of which nobody asks."""
    hits = Counter()
    truth = Truth(0, 0, 0, 0, 0, {})
    with Reader(path) as reader:
        truth.lost = sum(loss.events or 1 for loss in reader.losses if loss.of_events)
        for window in windows(reader):
            assembly = window.assembly
            outcome = assembly.outcome[: window.decided]
            for number, times in zip(*np.unique(outcome, return_counts=True), strict=True):
                one = assembly.outcomes[number]
                truth.packets += int(times)
                truth.incomplete += 0 if one.complete else int(times)
                truth.ambiguous += 0 if one.doubt is None else int(times)
                for place in (window.resolver.places[each] for each in one.path):
                    if (
                        not place.ours
                        and (place.rule or place.builtin)
                        and place.table not in unjudged
                    ):
                        spec = place.rule.spec if place.rule else "policy"
                        hits[place.table, place.chain, spec] += int(times)
            rows = window.rows()
            ids = np.lib.stride_tricks.sliding_window_view(window.events.buffer, 8)[
                window.events.payload[rows] + ID
            ].view("<u8")[:, 0]
            first = assembly.first[: window.decided]
            if len(first):
                different = np.maximum.reduceat(ids, first) != np.minimum.reduceat(ids, first)
                truth.mixed += int(different.sum())
    truth.differing = {
        place: (counted[place], hits[place])
        for place in counted | hits
        if counted[place] != hits[place]
    }
    return truth
