"""Copies that the kernel makes in the midst of a packet's way, by rule counters and by what arrives where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from command import IPTREC
from frames import framed, ipv4, mac

pytestmark = pytest.mark.live

PORTS = {"h2": "p2", "h3": "p3", "h4": "p4", "h5": "p5"}
COUNT = "-p udp"
RULES = f"""*mangle
-A PREROUTING {COUNT}
-A FORWARD {COUNT} -m physdev --physdev-out p4 -j DROP
-A FORWARD {COUNT}
-A INPUT {COUNT}
-A POSTROUTING {COUNT}
COMMIT
"""
# A packet a source port, by one processor: what is sent later passes later.
SEND = """
import os, socket, sys
os.sched_setaffinity(0, {0})
source, target, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    out.bind(("", 20000 + number))
    out.sendto(b"x", (target, 5000))
"""
# Ends with its standard input, and says how many frames with datagrams to port 5000 have come in.
COUNT_ARRIVALS = """
import socket, sys
eyes = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
eyes.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
eyes.bind((sys.argv[1], 0))
print("ready", flush=True)
sys.stdin.read()
eyes.setblocking(False)
found = 0
try:
    while True:
        frame, (_, _, kind, _, _) = eyes.recvfrom(2000)
        found += kind != socket.PACKET_OUTGOING and frame[23:24] == b"\\x11" and frame[36:38] == b"\\x13\\x88"
except BlockingIOError:
    print(found)
"""
# Forwards one multicast from the interface of the first of some addresses to those of the others.
ROUTE = """
import socket, struct, sys
source, local, *here = sys.argv[1:]
router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
router.setsockopt(socket.IPPROTO_IP, 200, 1)  # MRT_INIT
for number, address in enumerate(here):  # MRT_ADD_VIF
    vif = struct.pack("=HBBI4s4s", number, 0, 1, 0, socket.inet_aton(address), bytes(4))
    router.setsockopt(socket.IPPROTO_IP, 202, vif)
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
group = socket.inet_aton("239.9.9.9")
if local == "True":
    listener.setsockopt(socket.IPPROTO_IP, 35, group + socket.inet_aton(here[0]))  # IP_ADD_MEMBERSHIP
ttls = bytes([0] + [1] * (len(here) - 1)).ljust(32, b"\\0")
entry = struct.pack("=4s4sH32s18x", socket.inet_aton(source), group, 0, ttls)
router.setsockopt(socket.IPPROTO_IP, 204, entry)  # MRT_ADD_MFC
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def bridge(lab):
    """Four hosts on a bridge, which br_netfilter hands to iptables."""
    lab.ip(
        None,
        "link add br0 type bridge mcast_snooping 0\nlink set br0 up\naddress add 10.6.0.1/24 dev br0",
    )
    for host, port in PORTS.items():
        lab.host(host)
        lab.link(host, "eth0", f"10.6.0.{host[1:]}/24", peer=port, bridge="br0")
    lab.settle()
    if lab.run(
        ["test", "-e", "/proc/sys/net/bridge/bridge-nf-call-iptables"], check=False
    ).returncode:
        pytest.skip("br_netfilter is not loaded")
    lab.sysctl(None, "net/bridge/bridge-nf-call-iptables", 1)
    stranger = "neigh add 10.6.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent"
    lab.ip("h2", stranger)
    return lab


class Arrivals:
    """What comes in on the hosts' interfaces."""

    def __init__(self, lab, hosts):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._eyes = {
            host: lab.popen([sys.executable, "-c", COUNT_ARRIVALS, "eth0"], host, **pipes)
            for host in hosts
        }
        for one in self._eyes.values():
            assert one.stdout.readline() == "ready\n"

    def count(self):
        return {host: int(one.communicate()[0]) for host, one in self._eyes.items()}


def record(lab, trace, backend, *command, expression="udp port 5000", drops="no"):
    lab.run(
        [
            *IPTREC,
            "record",
            "-q",
            "--force",
            "--drops",
            drops,
            "--backend",
            backend,
            "-o",
            trace,
            expression,
            "--",
            *command,
        ]
    )
    return [
        json.loads(line) for line in lab.run([*IPTREC, "show", "--json", trace]).stdout.splitlines()
    ]


def sends(host, source, target, count):
    return [
        *(["nsenter", f"--net=/run/netns/{host}"] if host else []),
        *(sys.executable, "-c", SEND, source, target, str(count)),
    ]


def copies(packets):
    """Of each source port the verdicts: of the packet, and of its copies, which name it. All are certain."""
    first, rest = {}, defaultdict(list)
    for one in packets:
        assert (one["complete"], one["ambiguous"]) == (True, False), one
        port = one["header"]["sport"]
        if port not in first:
            assert one["related"] == []
            first[port] = one
            continue
        assert one["related"] == [{"kind": "copy", "packet": first[port]["packet"]}]
        rest[port].append(one)
    return {
        port: [one["verdict"], *(each["verdict"] for each in rest[port])]
        for port, one in first.items()
    }


def counted(lab, trace, backend):
    """How often each rule of mangle was met: what was recorded, and what the kernel counted."""
    lines = lab.run([*IPTREC, "rules", "--json", "--table", "mangle", trace]).stdout.splitlines()
    found = {
        (chain["chain"], rule["rule"]): rule["packets"]
        for chain in map(json.loads, lines)
        for rule in chain["rules"]
    }
    saved = lab.run([f"iptables-{backend}-save", "-c", "-t", "mangle"]).stdout
    kernel, numbers = {}, Counter()
    for hits, chain in re.findall(r"^\[(\d+):\d+\] -A (\w+)", saved, re.MULTILINE):
        numbers[chain] += 1
        kernel[chain, numbers[chain]] = int(hits)
    return found, kernel


def counted_by_nft(lab, trace, table="bridge br"):
    """The same of a table of nf_tables; rules in order."""
    lines = lab.run([*IPTREC, "rules", "--json", "--table", table, trace]).stdout.splitlines()
    found = {
        chain["chain"]: [rule["packets"] for rule in chain["rules"] if rule["rule"]]
        for chain in map(json.loads, lines)
    }
    listing = lab.run(["nft", "list", "table", *table.split()]).stdout
    kernel = {
        chain: [int(hits) for hits in re.findall(r"counter packets (\d+)", body)]
        for chain, body in re.findall(r"chain (\w+) \{(.*?)\n\t\}", listing, re.DOTALL)
    }
    return found, {chain: hits for chain, hits in kernel.items() if chain in found}


FLOODS = {
    "multicast": ("224.0.0.1", True),
    "broadcast": ("10.6.0.255", True),
    "to nobody that it knows": ("10.6.0.77", False),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flooded_frame(bridge, tmp_path, backend, name):
    """Out of three ports, one of which a rule refuses, and to the bridge's host: each with its own verdict."""
    target, for_us = FLOODS[name]
    bridge.restore(None, "ipv4", RULES, backend)
    arrivals = Arrivals(bridge, ["h3", "h4", "h5"])
    trace = str(tmp_path / "t.db")
    found = copies(record(bridge, trace, backend, *sends("h2", "10.6.0.2", target, 40)))
    assert arrivals.count() == {"h3": 40, "h4": 0, "h5": 40}
    assert found.keys() == set(range(20000, 20040))
    assert {tuple(sorted(one)) for one in found.values()} == {
        ("ACCEPT",) * (2 + for_us) + ("DROP",)
    }
    recorded, kernel = counted(bridge, trace, backend)
    assert recorded == kernel
    hits = [kernel[one] for one in (("FORWARD", 1), ("FORWARD", 2), ("INPUT", 1))]
    assert hits == [40, 80, 40 * for_us]


@pytest.mark.parametrize("target", ["224.0.0.1", "239.7.7.9", "10.6.0.255"])
def test_a_flood_that_no_chain_tells_of_is_not_dropped(bridge, tmp_path, backend, target):
    """The host's own copy finds nobody; the others arrive, and no rule sees them go."""
    arrivals = Arrivals(bridge, ["h3", "h4", "h5"])
    flood = sends("h2", "10.6.0.2", target, 40)
    found = record(bridge, str(tmp_path / "t.db"), backend, *flood, drops="yes")
    assert arrivals.count() == {"h3": 40, "h4": 40, "h5": 40}
    assert {one["header"]["sport"] for one in found} == {*range(20000, 20040)}
    first = [one for one in found if not one["related"]]
    assert len(first) == 40
    assert "DISCARDED" not in {one["verdict"] for one in first if not one["ambiguous"]}


def test_the_hosts_copy_is_the_one_that_nobody_waits_for(bridge, tmp_path, backend):
    """Nobody listens there: no other copy is blamed, nor in doubt."""
    bridge.restore(None, "ipv4", RULES, backend)
    trace = str(tmp_path / "t.db")
    flood = sends("h2", "10.6.0.2", "224.0.0.1", 40)
    found = copies(record(bridge, trace, backend, *flood, drops="yes"))
    assert {tuple(sorted(one)) for one in found.values()} == {
        ("ACCEPT", "ACCEPT", "DISCARDED", "DROP")
    }


TWICE = """
import os, socket, sys
os.sched_setaffinity(0, {0})
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
frame = bytes.fromhex(sys.argv[1])
for _ in range(2):
    out.send(frame)
"""


@pytest.mark.parametrize("flooded", [True, False], ids=["flooded", "to one"])
def test_the_same_bytes_sent_twice(bridge, tmp_path, backend, flooded):
    """The second frame is no copy of the first: it has copies of its own, or none."""
    bridge.restore(None, "ipv4", RULES, backend)
    source, target = (mac(bridge, host, "eth0") for host in ("h2", "h3"))
    packet = ipv4(17, bytes.fromhex("4e201388000c0000") + b"same", src="10.6.0.2", dst="10.6.0.255")
    (frame,) = framed([packet], "ff" * 6 if flooded else target, source)
    if not flooded:  # the bridge knows who is where
        bridge.run(["ping", "-c1", "-W9", "10.6.0.2"], "h3")
    trace = str(tmp_path / "t.db")
    enter = ["nsenter", "--net=/run/netns/h2"]
    found = record(bridge, trace, backend, *enter, sys.executable, "-c", TWICE, frame)
    related = [[other["packet"] for other in one["related"]] for one in found]
    assert related == ([[], [1], [1], [1], [], [5], [5], [5]] if flooded else [[], []])
    assert all(one["complete"] and not one["ambiguous"] for one in found)
    recorded, kernel = counted(bridge, trace, backend)
    assert recorded == kernel


def test_both_backends_tell_of_the_same_copies(bridge, tmp_path):
    """Each copy is one packet, with the steps of both."""
    bridge.restore(None, "ipv4", RULES, "legacy")
    bridge.run(
        ["nft", "-f", "-"],
        stdin="""table ip t {
        chain on { type filter hook forward priority 10; ip protocol udp counter; }
        chain here { type filter hook input priority 10; ip protocol udp counter; }
    }""",
    )
    trace = str(tmp_path / "t.db")
    packets = record(bridge, trace, "both", *sends("h2", "10.6.0.2", "224.0.0.1", 20))
    assert {tuple(sorted(one)) for one in copies(packets).values()} == {("ACCEPT",) * 3 + ("DROP",)}
    ways = Counter(
        " ".join(dict.fromkeys(f"{one['backend']}:{one['chain']}" for one in each["steps"]))
        for each in packets
    )
    on = "legacy:FORWARD nft:on legacy:POSTROUTING"
    ends = (f"nft:PREROUTING legacy:PREROUTING {on}", on, "legacy:FORWARD", "legacy:INPUT nft:here")
    assert ways == dict.fromkeys(ends, 20)


def test_both_backends_drop_copies(bridge, tmp_path):
    """Each takes another copy for the first, for the other's rules have dropped some before."""
    first = RULES.replace("p4", "p5")  # a bridge begins with the port that came last
    bridge.restore(None, "ipv4", first, "legacy")
    bridge.run(
        ["nft", "-f", "-"],
        stdin="""table ip t {
        chain before { type filter hook forward priority -160;
            ip protocol udp numgen inc mod 2 0 counter drop; ip protocol udp counter; }
        chain behind { type filter hook forward priority 10;
            ip protocol udp numgen inc mod 3 0 counter drop; ip protocol udp counter; }
        chain here { type filter hook input priority 10; ip protocol udp counter; }
    }""",
    )
    trace = str(tmp_path / "t.db")
    packets = record(bridge, trace, "both", *sends("h2", "10.6.0.2", "224.0.0.1", 60))
    assert {len(one) for one in copies(packets).values()} == {4}
    recorded, kernel = counted(bridge, trace, "legacy")
    assert recorded == kernel
    recorded, kernel = counted_by_nft(bridge, trace, "ip t")
    assert recorded == kernel


@pytest.mark.parametrize("listens", [True, False], ids=["and here", "only on"])
def test_a_multicast_that_ip_forwards(lab, tmp_path, backend, listens):
    """Out of two interfaces, and to a listener here."""
    nets = (2, 3, 4)
    for net in nets:
        lab.host(f"h{net}")
        lab.link(f"h{net}", "eth0", f"10.0.{net}.2/24", peer=f"v{net}")
        lab.ip(None, f"address add 10.0.{net}.1/24 dev v{net}")
        lab.ip(f"h{net}", f"route add default via 10.0.{net}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.settle()
    lab.restore(None, "ipv4", RULES.replace("physdev --physdev-out p4", "ttl --ttl-lt 3"), backend)
    here = [f"10.0.{net}.1" for net in nets]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    arrivals = Arrivals(lab, ["h3", "h4"])
    with lab.popen(
        [sys.executable, "-c", ROUTE, "10.0.2.2", str(listens), *here], **pipes
    ) as router:
        if router.stdout.readline() != "ready\n":
            pytest.skip("this kernel forwards no multicasts")
        trace = str(tmp_path / "t.db")
        packets = record(lab, trace, backend, *sends("h2", "10.0.2.2", "239.9.9.9", 40))
        router.communicate()
    assert arrivals.count() == {"h3": 40, "h4": 40}
    assert set(map(tuple, copies(packets).values())) == {("ACCEPT",) * (2 + listens)}
    recorded, kernel = counted(lab, trace, backend)
    assert recorded == kernel
    assert kernel["FORWARD", 2] == 80


REFUSE = 'ip protocol udp oifname "p4" counter drop; ip protocol udp counter;'
BRIDGE_RULES = f"""table bridge br {{
    chain c_pre {{ type filter hook prerouting priority -200; ip protocol udp counter; }}
    chain c_in {{ type filter hook input priority 0; ip protocol udp counter; }}
    chain c_forward {{ type filter hook forward priority 0; {REFUSE} }}
    chain c_out {{ type filter hook output priority 0; {REFUSE} }}
    chain c_post {{ type filter hook postrouting priority 0; ip protocol udp counter; }}
}}
"""


@pytest.mark.parametrize("filtered", [0, 1], ids=["alone", "with br_netfilter"])
@pytest.mark.parametrize("sender", ["h2", None], ids=["forwards", "sends"])
def test_chains_of_a_bridge(bridge, tmp_path, sender, filtered):
    """What it forwards, and what its host sends: a copy a port, and what comes to the host."""
    bridge.sysctl(None, "net/bridge/bridge-nf-call-iptables", filtered)
    bridge.run(["nft", "-f", "-"], stdin=BRIDGE_RULES)
    trace = str(tmp_path / "t.db")
    source = "10.6.0.2" if sender else "10.6.0.1"
    packets = record(bridge, trace, "nft", *sends(sender, source, "10.6.0.255", 20))
    looped = [one for one in packets if one["in"] == "br0"]
    assert len(looped) == (0 if sender else 20)  # what a host sends to all it gets as well
    assert all(one["related"][0]["kind"] == "looped-back" for one in looped)
    found = copies([one for one in packets if one not in looped])
    assert {tuple(sorted(one)) for one in found.values()} == {("ACCEPT",) * 3 + ("DROP",)}
    left = Counter(one["steps"][-1]["out"] for one in packets if one not in looped)
    # To one's own host, or back to who sent it.
    assert left == {"p3": 20, "p4": 20, "p5": 20, (None if sender else "p2"): 20}
    recorded, kernel = counted_by_nft(bridge, trace)
    assert recorded == kernel


KEPT = """*mangle
-A POSTROUTING -p udp -m statistic --mode nth --every 2 --packet 0 -j DROP
COMMIT
"""
# Prints how many of 20 datagrams the kernel refused to send, and how many came back.
SEND_AND_LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
heard = socket.socket(family, socket.SOCK_DGRAM)
heard.bind(("", 5000))
heard.setblocking(False)
refused = back = 0
for _ in range(20):
    out = socket.socket(family, socket.SOCK_DGRAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"v2")
    try:
        out.sendto(b"x", (sys.argv[1], 5000))
        back += bool(heard.recv(9))
    except PermissionError:
        refused += 1
    except BlockingIOError:
        pass
print(refused, back, file=open(sys.argv[2], "w"))
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_what_a_host_sends_and_what_it_keeps(lab, tmp_path, backend, family):
    """Of what comes to POSTROUTING every second one is dropped: the copy, or what is then not sent."""
    lab.host("h2")
    lab.link("h2", "eth0", "10.0.2.2/24", peer="v2")
    lab.ip(None, "address add 10.0.2.1/24 dev v2")
    lab.settle()
    lab.restore(None, family, KEPT, backend)
    target = "224.0.0.1" if family == "ipv4" else "ff02::1"
    told = tmp_path / "told"
    command = [sys.executable, "-c", SEND_AND_LISTEN, target, str(told)]
    packets = record(lab, str(tmp_path / "t.db"), backend, *command)
    sent = {one["packet"]: one["verdict"] for one in packets if not one["related"]}
    kept = [
        (other["kind"], sent.get(other["packet"]), one["verdict"])
        for one in packets
        for other in one["related"]
    ]
    assert all(one["complete"] and not one["ambiguous"] for one in packets)
    # IP version 4 hands the copy on first; version 6 makes one of what has passed.
    refused = 0 if family == "ipv4" else 1
    assert told.read_text().split() == [str(refused), "0"]
    verdicts = Counter(sent.values())
    assert (verdicts["DROP"], verdicts["ACCEPT"]) == (refused, 20 - refused)
    assert kept == [("copy", "ACCEPT", "DROP")] * (20 - refused)


def test_what_begins_by_itself_is_no_copy(lab, tmp_path, backend):
    """A device of macvlan gets a broadcast as well: each comes in by itself, and is told from its beginning."""
    lab.host("h2")
    lab.link("h2", "eth0", "10.0.2.2/24", peer="v2")
    lab.ip(
        None,
        "address add 10.0.2.1/24 dev v2\nlink add m2 link v2 type macvlan mode bridge\nlink set m2 up",
    )
    lab.ip(None, "address add 10.0.2.11/24 dev m2")
    lab.settle()
    lab.restore(None, "ipv4", RULES, backend)
    packets = record(
        lab, str(tmp_path / "t.db"), backend, *sends("h2", "10.0.2.2", "224.0.0.1", 10)
    )
    assert Counter(one["in"] for one in packets) == {"v2": 10, "m2": 10}
    assert all(one["complete"] and not one["related"] for one in packets)
