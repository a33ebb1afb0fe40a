"""Native rules of nf_tables, traffic through them, and what ``nft monitor trace`` tells of it.

Each rule has a comment and each packet a port of its own that NAT leaves alone: by these two tellings are
compared. A telling is, for each such port, all places that its packets met, in their order.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from iptrec.analyze.replay import Replay
from iptrec.recording.reader import Reader

IPTREC = (sys.executable, "-m", "iptrec")
RULES = (Path(__file__).parents[1] / "data/rulesets/native.nft").read_text()
FIRST, LAST = 20_000, 29_999  # ports of packets
# python -c SENDER FIRST COUNT ADDRESS,PORT...: each from a port of its own; 80 is TCP's
SENDER = """
import contextlib, socket, sys, time
first, count = map(int, sys.argv[1:3])
for number in range(first, first + count):
    address, port = sys.argv[3 + number % len(sys.argv[3:])].split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if port == "80" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as out, contextlib.suppress(OSError):
        out.bind(("", number))
        out.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            out.connect((address, int(port)))
        if port != "80":
            out.send(bytes(12))
    time.sleep(0.001)  # no faster than nft can print
"""
FORWARDED = [
    *(f"10.0.2.2,{port}" for port in range(5000, 5010)),
    *(f"fd00:2::2,{port}" for port in (5000, 5003, 5004, 80)),
    *("10.0.2.2,80", "10.0.2.2,9999", "10.0.2.66,5000"),
    *("10.0.1.1,5005", "10.0.1.1,5002", "10.0.1.1,80", "fd00:1::1,5005"),
]
LOCAL = [
    "127.0.0.1,5003",
    "127.0.0.1,80",
    "10.0.2.2,5007",
    "::1,5003",
    "10.0.1.2,5004",
    "10.0.2.2,80",
]
LINE = re.compile(r"trace id (\w+) (\w+) (\S+) (\S+) (packet|rule|policy)(.*)")


def route(lab):
    """A router between hosts a and b, of both families."""
    for name, net in (("a", 1), ("b", 2)):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"to-{name}")
        for own, router in (
            (f"10.0.{net}.1/24", f"10.0.{net}.1"),
            (f"fd00:{net}::1/64", f"fd00:{net}::1"),
        ):
            lab.ip(None, f"address add {own} dev to-{name}")
            lab.ip(name, f"route add default via {router}")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.settle()


def start(lab, path, expression):
    """A recorder at work."""
    child = lab.popen(
        [*IPTREC, "record", expression, "--backend", "nft", "--force", "-o", str(path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = child.stderr.readline()
    assert line.startswith("recording to"), line
    return child


def stop(child):
    """Let it end."""
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 0


def traffic(lab, count):
    """Mixed packets: forwarded, to this host, from it, looped back; of both families."""
    for host, first, targets in (("a", FIRST, FORWARDED), (None, FIRST + count // 2, LOCAL)):
        lab.run([sys.executable, "-c", SENDER, str(first), str(count // 2), *targets], host)


def told_by_nft(lines):
    """The telling of ``nft monitor trace``."""
    found, ports = {}, {}
    for line in lines:
        match = LINE.match(line)
        if match is None:
            continue
        number, family, table, chain, kind, rest = match.groups()
        if kind == "packet":
            ports[number] = next(
                filter(_chosen, map(int, re.findall(r"[sd]port (\d+)", rest))), None
            )
        elif (port := ports.get(number)) is not None and (what := _what(kind, rest)):
            found.setdefault(port, []).append((family, table, chain, what))
    return found


def _chosen(port):
    return FIRST <= port <= LAST


def _what(kind, rest):
    if kind == "policy":
        return rest.split()[0].upper()
    comment = re.search(r'comment "([^"]*)"', rest)
    return comment and not comment[1].startswith("iptrec:") and comment[1]


def told_by_us(path):
    """Our telling, and the packets."""
    found = {}
    with Reader(path) as reader:
        assert reader.losses == []
        packets = list(Replay(reader))
    for packet in packets:
        first = packet.steps[0].header
        port = next(filter(_chosen, (first["sport"], first["dport"])))
        for step in packet.steps:
            if step.type == "return":  # the kernel tells it, nft does not
                continue
            family, _, table = step.table.rpartition(" ")
            what = step.comment if step.type == "rule" else step.target
            found.setdefault(port, []).append((family or packet.family, table, step.chain, what))
    short = {"ipv4": "ip", "ipv6": "ip6"}
    return {
        port: [(short.get(family, family), *rest) for family, *rest in places]
        for port, places in found.items()
    }, packets


def counters(lab):
    """Comment -> packets, of all rules that count."""
    found = Counter()
    listing = json.loads(lab.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    for rule in (one["rule"] for one in listing if "rule" in one):
        for counter in (one["counter"] for one in rule["expr"] if "counter" in one):
            if not rule.get("comment", "iptrec:").startswith("iptrec:"):
                found[rule["comment"]] += counter["packets"]
    return found
