"""nf_tables: iptables-nft gives the answers of legacy iptables, native rulesets those of nft monitor trace."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

import changing
import ground_truth
import pytest
import recorder
import sides
from command import IPTREC, iptrec
from recorder import packets, stop, until

from iptrec.answers.packets import Packets
from iptrec.demo.lab import Lab
from iptrec.demo.scenario import FILTER, TRAFFIC, docker_hairpin
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

SAMPLES = Path(__file__).parents[2] / "samples"
QUERIES = """\
import socket
for port in range(41000, 41024):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("", port))
    client.sendto(b"?", ("10.96.0.10", 53))
"""
NATIVE = """\
table inet fw {
	set good { type ipv4_addr; elements = { 10.0.1.2 }; }
	set seen { type inet_service; flags dynamic; size 4096; }
	map ports { type inet_service : verdict; elements = { 53 : jump dns, 54 : drop, 55 : goto rest }; }
	map marks { type inet_service : mark; elements = { 53 : 1, 57 : 7 }; }
	map nats { type inet_service : ipv4_addr; elements = { 56 : 10.0.2.2 }; }
	chain first { type filter hook prerouting priority raw + 5; policy accept; udp dport 58 notrack; }
	chain marking { type filter hook prerouting priority mangle; meta mark set udp dport map @marks; }
	chain translate { type nat hook prerouting priority dstnat; dnat ip to udp dport map @nats; }
	chain forwarded {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, invalid : drop }
		ip saddr @good counter
		udp dport vmap @ports
		meta l4proto { tcp, udp } goto rest
		icmp type echo-request accept
	}
	chain dns { add @seen { udp sport }; counter return; }
	chain rest {
		meta nfproto ipv6 accept
		udp sport 20000-20499 accept
		tcp flags syn jump syns
	}
	chain syns { tcp dport 80 accept; tcp dport 81 reject with tcp reset; }
	chain late { type filter hook forward priority filter + 10; policy accept; meta mark 7 drop; }
	chain leaving { type filter hook postrouting priority srcnat + 1; policy accept; counter; }
}
table ip plain {
	chain before { type filter hook forward priority filter - 10; policy accept; udp dport 59 drop; }
}
"""
# Each packet has a number of its own as source port or ICMP id.
MIXED = """\
import socket, struct, time
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for number in range(20000, 21000):
    kind = number % 8
    if number % 20 == 0:
        time.sleep(0.002)  # nft monitor loses what comes faster
    if kind == 6:
        head = struct.pack("!HHIIBBHHH", number, 79 + number // 8 % 4, number, 0, 0x50, 2, 1000, 0, 0)
        pseudo = socket.inet_aton("10.0.1.2") + socket.inet_aton("10.0.2.2") + struct.pack("!HH", 6, 20)
        head = head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]
        raw.sendto(head, ("10.0.2.2", 0))
    elif kind == 7:
        head = struct.pack("!BBHHH", 8, 0, 0, number, 1)
        ping.sendto(head[:2] + struct.pack("!H", checksum(head)) + head[4:], ("10.0.2.2", 0))
    else:
        family, to = (socket.AF_INET6, "fd00:2::2") if kind == 5 else (socket.AF_INET, "10.0.2.2")
        with socket.socket(family, socket.SOCK_DGRAM) as out:
            out.bind(("", number))
            out.sendto(b"x", (to, 53 + number // 8 % 8))
"""
_NUMBER = re.compile(r"(?:udp sport|tcp sport|icmp id|icmpv6 id) (\d+)")
_TOLD = re.compile(
    r"trace id (\S+) (\S+) (\S+) (\S+) (?:rule .* # handle (\d+) )?"
    r"(?:policy (\w+)|.*\(verdict (\w+)|verdict (return))"
)
_SOME_RULE = "returns"  # Linux 6.1 tells of it as of a chain's end: nft prints no handle


def start(lab, path, *options):
    """A recorder that records."""
    return recorder.start(lab, "--force", "-o", path, *options, notes=True)


def way(packet):
    """A packet's way as it is shown."""
    return (
        packet.verdict,
        packet.complete,
        packet.ambiguous,
        *(
            (one.table, one.chain, one.type, one.rule, one.spec, one.target, one.target_args)
            for one in packet.steps
        ),
    )


def hairpin(lab, path, backend):
    docker_hairpin(lab, backend)
    lab.run([*IPTREC, "record", FILTER, "-o", str(path), "--", *TRAFFIC])


def kubernetes(lab, path, backend):
    lab.ip(None, "link add cni0 type bridge\naddress add 10.244.0.1/24 dev cni0\nlink set cni0 up")
    for number in (2, 3, 9):
        pod = f"pod{number}"
        lab.host(pod)
        lab.link(pod, "eth0", f"10.244.0.{number}/24", peer=f"veth{number}", bridge="cni0")
        lab.ip(pod, "route add default via 10.244.0.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.restore(None, "ipv4", (SAMPLES / "kubeadm-flannel.rules").read_text(), backend)
    lab.settle()
    child = start(lab, path, "udp port 53 and src 10.244.0.9", "--family", "ipv4")
    lab.run([sys.executable, "-c", QUERIES], "pod9")
    stop(child)


@pytest.mark.usefixtures("labs")
@pytest.mark.parametrize("case", [hairpin, kubernetes])
def test_the_same_as_legacy(tmp_path, case):
    """The same ruleset by iptables-nft: the same steps, rule numbers and verdicts."""
    ways = {}
    for backend in ("legacy", "nft"):
        path = tmp_path / f"{backend}.db"
        with Lab() as lab:
            lab.ip(None, "link set lo up")
            case(lab, path, backend)
        found = packets(path)
        assert len(found) == (1 if case is hairpin else 24)
        ways[backend] = set(map(way, found))  # one of two pods is chosen at random
        with Reader(path) as reader:
            kinds = {one.kind for one in reader.streams}
            assert kinds & {"nflog", "nftrace"} == {"nflog" if backend == "legacy" else "nftrace"}
    assert ways["legacy"] == ways["nft"]


def test_hits_are_the_kernels_counters(lab, tmp_path):
    """50,000 packets from two sides: each rule and policy was hit as often as it counted."""
    truth = ground_truth.run(lab, tmp_path / "t.db", 50_000, "nft")
    if truth.lost:
        pytest.skip("events were lost: the kernel grants this user a small receive buffer only")
    assert truth.differing == {}
    assert (truth.mixed, truth.incomplete, truth.ambiguous) == (0, 0, 0)
    # What finds no room in a processor's backlog meets no rule.
    assert truth.packets >= 45_000 or changing.SLOW


def router(lab):
    """Two hosts, a and b, and the lab as the router between them."""
    sides.join(lab, "a", "b", peer="to-{name}", ipv6=True)
    # Their answers are none of those packets.
    lab.restore("b", "ipv4", "*filter\n:OUTPUT DROP\nCOMMIT\n")
    lab.restore("b", "ipv6", "*filter\n-A OUTPUT -p icmpv6 --icmpv6-type 1 -j DROP\nCOMMIT\n")
    lab.settle()


def monitored(text):
    """What nft monitor trace told: packet's number -> (family, table, chain, handle, verdict) in order."""
    found, of_id = defaultdict(list), {}
    for line in text.splitlines():
        if " packet: " in line:
            if number := _NUMBER.search(line):
                of_id[line.split()[2]] = int(number[1])
            else:
                of_id.pop(line.split()[2], None)
        elif (told := _TOLD.match(line)) and told[1] in of_id:
            rule = _SOME_RULE if told[8] else told[5]
            verdict = told[6] or told[7] or told[8]
            found[of_id[told[1]]].append((*told.groups()[1:4], rule, verdict))
    return found


@pytest.mark.alone
def test_native_rules_as_nft_monitors_them(lab, tmp_path):
    """1,000 mixed packets: the same rules in the same order as nft monitor trace tells."""
    if os.geteuid():
        pytest.skip(
            "nft monitor loses events: the kernel grants this user a small receive buffer only"
        )
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=NATIVE)
    child = start(
        lab, tmp_path / "t.db", "(udp or tcp or icmp) and src host (10.0.1.2 or fd00:1::2)"
    )
    with (tmp_path / "monitor").open("w") as out:
        monitor = lab.popen(["nft", "-a", "-n", "monitor", "trace"], stdout=out)
        until(lambda: listeners(lab) >= 2)
        lab.run([sys.executable, "-c", MIXED], "a")
        until(lambda: (tmp_path / "monitor").read_text().count("sport 20996") > 2)
        handles = listed_handles(lab)
        stop(child)
        monitor.send_signal(signal.SIGINT)
        monitor.wait(timeout=60)
    expected = monitored((tmp_path / "monitor").read_text())
    found = {}
    for packet in packets(tmp_path / "t.db"):
        number = packet.header.get("sport", packet.header.get("icmp_id"))
        if 20000 <= number < 21000:
            assert (packet.complete, packet.ambiguous) == (True, False), number
            found[number] = [
                told(packet, one, handles) for one in packet.steps if one.type != "return"
            ]
            accepted = expected[number][-1][-1] == "accept"
            assert (packet.verdict == "ACCEPT") == accepted, (number, packet.verdict)
    assert found == {number: shown(one, found.get(number, [])) for number, one in expected.items()}
    assert len(found) == 1000


def shown(told, steps):
    """Without verdicts and our own rules, which nobody shows."""
    return with_handles([one[:4] for one in told if one[1] != "raw" or one[3] is None], steps)


def with_handles(named, steps):
    """What nft monitored without a handle has the step's."""
    for at, step in enumerate(steps[: len(named)]):
        if named[at] == (*step[:3], _SOME_RULE):
            named[at] = step
    return named


def told(packet, step, handles):
    """A step in nft's words."""
    family, _, table = step.table.rpartition(" ")
    if not family:
        family = "ip" if packet.family == "ipv4" else "ip6"
    handle = None
    if step.type == "rule":
        handle = handles[family, table, step.chain][step.rule - 1]
    return family, table, step.chain, handle


def listed_handles(lab):
    """(family, table, chain) -> the handles of its rules, in order."""
    found = defaultdict(list)
    for one in json.loads(lab.run(["nft", "-a", "-j", "list", "ruleset"]).stdout)["nftables"]:
        if rule := one.get("rule"):
            found[rule["family"], rule["table"], rule["chain"]].append(str(rule["handle"]))
    return found


def listeners(lab):
    """How many sockets listen to traces."""
    lines = lab.run(["cat", "/proc/net/netlink"]).stdout.splitlines()[1:]
    return sum(line.split()[1] == "12" and int(line.split()[3], 16) >> 8 & 1 for line in lines)


EXISTING = {
    "nothing": "",
    "native": NATIVE,
    "half-a-raw-table": "table ip raw {\n chain OUTPUT { type filter hook output priority raw; }\n}",
    "raw-with-rules": "*raw\n-A PREROUTING -s 192.0.2.7/32 -j NOTRACK\n-A OUTPUT -j ACCEPT\nCOMMIT\n",
}


def ruleset(lab):
    return lab.run(["nft", "list", "ruleset"]).stdout


def load(lab, text):
    command = ["iptables-nft-restore"] if text.startswith("*") else ["nft", "-f", "-"]
    lab.run(command, stdin=text)


@pytest.mark.parametrize("case", EXISTING)
@pytest.mark.parametrize("flush", [False, True], ids=["", "flush"])
def test_leaves_no_trace(lab, tmp_path, case, flush):
    """What only our rules brought into being is gone again, what was there is as it was."""
    load(lab, EXISTING[case])
    before = ruleset(lab)
    child = start(lab, tmp_path / "t.db", "--backend", "nft", *(["--flush"] if flush else []))
    assert "nftrace" in ruleset(lab)
    stop(child)
    assert ruleset(lab) == before


def test_somebody_uses_our_chain(lab, tmp_path):
    """A rule that somebody adds to a chain that we made keeps it there."""
    child = start(lab, tmp_path / "t.db", "--backend", "nft", "--family", "ipv4")
    lab.run(["iptables-nft", "-t", "raw", "-A", "OUTPUT", "-d", "192.0.2.9", "-j", "DROP"])
    stop(child)
    assert lab.run(["iptables-nft", "-t", "raw", "-S"]).stdout.splitlines() == [
        "-P PREROUTING ACCEPT", "-P OUTPUT ACCEPT", "-A OUTPUT -d 192.0.2.9/32 -j DROP",
    ]  # fmt: skip
    assert "chain PREROUTING" not in ruleset(lab)


def test_our_rules_are_put_back(lab, tmp_path):
    """Somebody flushes the ruleset: a hole that is told, then traces again, and nothing is left."""
    child = start(lab, tmp_path / "t.db", "icmp", "--backend", "nft")
    lab.run(["nft", "flush", "ruleset"])
    assert "put back" in child.stderr.readline()
    lab.run(["ping", "-c1", "127.0.0.1"])
    stop(child)
    assert ruleset(lab) == ""
    with Reader(tmp_path / "t.db") as reader:
        assert "rules-gone" in [loss.how for loss in reader.losses]
        assert len(list(Packets(reader))) == 4


def test_each_packet_meets_the_rules_of_its_time(lab, tmp_path):
    """A rule is put before another one between two packets: the same rule, another number, another text."""
    inward = "chain inward { type filter hook input priority 0;\n icmp type echo-reply accept\n}"
    load(lab, f"table inet fw {{\n{inward}\n}}")
    child = start(lab, tmp_path / "t.db", "icmp[0] = 0", "--backend", "nft")
    lab.run(["ping", "-c1", "127.0.0.1"])
    time.sleep(0.5)  # nearer to the change it would be ambiguous which rules the packet met
    lab.run(["nft", "insert", "rule", "inet", "fw", "inward", "icmp type echo-reply counter"])

    def states():
        with Reader(tmp_path / "t.db") as reader:
            return len([one for one in reader.snapshots("nft") if one.after_ns is not None])

    until(lambda: states() == 1)
    lab.run(["ping", "-c1", "127.0.0.1"])
    stop(child)
    met = [
        [(step.rule, step.spec) for step in packet.steps if step.chain == "inward" and step.rule]
        for packet in packets(tmp_path / "t.db")
        if packet.in_ == "lo"
    ]
    accept = "icmp type echo-reply accept"
    assert [one[-1] for one in met] == [(1, accept), (2, accept)]
    assert [len(one) for one in met] == [1, 2]


def found_in(directory, table):
    """The backends of which `show` finds steps there."""
    shown = iptrec("show", directory / "t.db", "--json", "--chain", f"{table}/INPUT").stdout
    steps = [step for line in shown.splitlines() for step in json.loads(line)["steps"]]
    return sorted({step["backend"] for step in steps})


def test_both_backends(lab, tmp_path):
    """Rules in both: both are recorded, which is said, and each table says whose it is."""
    rules = "*filter\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n"
    lab.restore(None, "ipv4", rules)
    lab.restore(None, "ipv4", rules, "nft")
    done = lab.run(
        [*IPTREC, "record", "icmp", "-o", str(tmp_path / "t.db"), "--", "ping", "-c1", "127.0.0.1"]
    )
    assert "both are recorded" in done.stderr
    tables = {step.table for packet in packets(tmp_path / "t.db") for step in packet.steps}
    assert {"legacy filter", "nft filter"} <= tables
    for names, backends in (
        (["legacy filter"], ["legacy"]), (["nft filter", "nft ip filter"], ["nft"]),
        (["filter"], ["legacy", "nft"]),
    ):  # fmt: skip
        for name in names:
            assert found_in(tmp_path, name) == backends, name
            told = iptrec("rules", tmp_path / "t.db", "--hit", "--table", name).stdout
            assert told.count("-p icmp -j ACCEPT") == len(backends), name
    assert lab.run(["nft", "list", "tables"]).stdout == "table ip filter\n"
    assert "TRACE" not in lab.run(["iptables-legacy-save"]).stdout
