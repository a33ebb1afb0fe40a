"""Statements of nft of every kind that nft and the kernel take: read, counted and shown as the kernel met them.

Rules that nft cannot print as JSON, rules in tables that are called as iptables' own, and both mixed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter

import pytest
import test_nft
from command import iptrec
from recorder import packets, stop, until
from test_nft import MIXED, router, start

pytestmark = test_nft.pytestmark

# Each packet meets thirty rules, and nft monitor loses what comes faster.
TRAFFIC = MIXED.replace("21000", "20200").replace("% 20 == 0", "% 2 == 0")

ODD = """\
table inet fw {
	set s4 { type ipv4_addr; flags timeout,dynamic; size 1000; timeout 1m; }
	set conc { type ipv4_addr . inet_service; flags timeout; elements = { 10.0.2.2 . 53 timeout 1h } }
	set ival { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
	set cival { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 1-55 } }
	map vm { type inet_service : verdict; elements = { 53 : jump sub, 54 : drop } }
	map im { type inet_service : mark; flags interval; elements = { 1-53 : 1, 54-59 : 2 } }
	map named { type inet_service : counter; elements = { 53 : "c1" } }
	counter c1 { }
	quota q1 { over 25 mbytes }
	limit l1 { rate 10/second }
	ct helper h1 { type "ftp" protocol tcp; l3proto inet; }
	ct expectation e1 { protocol tcp; dport 9876; timeout 2m; size 12; l3proto ip; }
	synproxy sp { mss 1460 wscale 7 timestamp sack-perm }
	chain sub { }
	chain pre { type filter hook prerouting priority -150; }
	chain forwarded { type filter hook forward priority 0; }
	chain nat { type nat hook prerouting priority -100; }
	chain post { type nat hook postrouting priority 100; }
	chain last/way { type filter hook forward priority 200; }
}
table netdev dev {
	chain in { type filter hook ingress device to-a priority 0; }
}
table ip filter {
	set good { type ipv4_addr; elements = { 10.0.1.2 } }
	map ports { type inet_service : verdict; elements = { 57 : accept } }
	chain own { }
	chain FORWARD { type filter hook forward priority 0; }
}
table ip raw { chain PREROUTING { type filter hook prerouting priority -300; } ; }
table ip nat { chain PREROUTING { type nat hook prerouting priority -100; } ; }
table ip6 filter { chain FORWARD { type filter hook forward priority 0; } ; }
"""
RULES = """\
inet fw forwarded udp dport { 55, 56 } counter jump { udp dport 56 counter drop; counter return; }
inet fw forwarded udp dport 57 counter goto { counter; meta l4proto udp counter accept; }
inet fw forwarded ip6 nexthdr udp counter jump { counter; }
inet fw forwarded udp dport vmap @vm
inet fw forwarded udp dport vmap { 58 : accept, 59 : jump sub, 60 : goto sub }
inet fw sub counter
inet fw sub udp sport & 1 == 1 counter return
inet fw forwarded ip saddr . udp dport @conc counter
inet fw forwarded ip saddr @ival counter
inet fw forwarded ip daddr . udp dport @cival counter
inet fw forwarded ip saddr . udp dport { 10.0.1.2 . 53 } counter
inet fw forwarded ip saddr . udp dport vmap { 10.0.1.2 . 9 : accept }
inet fw forwarded add @s4 { ip saddr } counter
inet fw forwarded update @s4 { ip saddr timeout 1m } counter
inet fw forwarded update @s4 { ip saddr limit rate 10/second } counter
inet fw forwarded delete @s4 { ip saddr } counter
inet fw forwarded tcp dport 21 ct helper set "h1" counter
inet fw forwarded udp dport 9999 ct expectation set "e1" counter
inet fw forwarded ct helper "ftp" counter accept
inet fw forwarded limit rate 10/second counter
inet fw forwarded limit rate over 10 mbytes/second burst 9 mbytes counter drop
inet fw forwarded limit name "l1" counter
inet fw forwarded limit name tcp dport map { 80 : "l1" } counter
inet fw forwarded quota over 10 mbytes counter drop
inet fw forwarded quota name "q1" counter drop
inet fw forwarded counter name "c1"
inet fw forwarded counter name udp dport map @named
inet fw forwarded meter m1 { ip saddr limit rate 1/second } counter
inet fw pre tcp dport 99 tproxy ip to 127.0.0.1:50080 counter accept
inet fw pre socket transparent 1 counter
inet fw pre meta mark set socket mark counter
inet fw forwarded synproxy name "sp"
inet fw forwarded meta mark set numgen inc mod 3 counter
inet fw forwarded meta mark set jhash ip saddr . udp dport mod 2 seed 0xdeadbeef counter
inet fw forwarded numgen inc mod 2 vmap { 0 : jump sub, 1 : goto { counter; } }
inet fw forwarded numgen random mod 2 vmap { 0 : jump sub, 1 : continue }
inet fw nat meta nfproto ipv4 udp dport 58 counter dnat to numgen inc mod 1 map { 0 : 10.0.2.2 }
inet fw nat udp dport 59 counter redirect to :1001
inet fw post udp dport 60 counter masquerade random,persistent
inet fw forwarded exthdr frag exists counter
inet fw forwarded frag more-fragments 1 counter
inet fw forwarded ip option lsrr exists counter drop
inet fw forwarded tcp option maxseg size 1-500 counter drop
inet fw forwarded tcp option sack exists counter
inet fw forwarded reset tcp option timestamp counter
inet fw forwarded sctp chunk init exists counter
inet fw forwarded dccp type request counter
inet fw pre osf name "Linux" counter
inet fw pre fib saddr . iif oif missing counter drop
inet fw pre fib daddr type local counter
inet fw pre fib daddr . iif type vmap { local : jump sub, blackhole : drop }
inet fw forwarded meta hour "10:00"-"12:00" counter
inet fw forwarded meta pkttype { broadcast, multicast } counter drop
inet fw forwarded meta random < 1000000000 counter
inet fw forwarded meta priority set 1:2 counter
inet fw forwarded meta mark set meta mark and 0xff or 1 counter
inet fw forwarded ct mark set meta mark counter
inet fw forwarded ct state vmap { invalid : continue }
inet fw forwarded ct state { established, new } counter
inet fw forwarded ct original ip saddr 10.0.1.2 counter
inet fw forwarded ct count over 100000 counter reject with icmpx type admin-prohibited
inet fw forwarded @th,0,16 20000 counter
inet fw forwarded @nh,8,8 0x10 counter
inet fw forwarded ip dscp set af11 counter
inet fw forwarded ip ttl set 30 counter
inet fw forwarded icmp type { echo-request, echo-reply } icmp code 0 counter
inet fw forwarded tcp flags & (fin|syn) == syn counter
inet fw forwarded tcp sport != { 1, 2, 3-5 } tcp dport >= 80 counter
inet fw forwarded iifname { "to-a", "eth*" } counter
inet fw forwarded log prefix "tcp dport 22 drop " group 2 counter
inet fw forwarded ct mark set udp dport map @im counter
inet fw forwarded tcp dport 79 counter reject with tcp reset
inet fw forwarded counter comment "odd \\x1b { } jump { # handle 7"
inet fw last/way reject with icmpv6 no-route comment "IPv4 goes by"
inet fw last/way counter accept
inet fw last/way counter comment "never"
netdev dev in udp dport 61 counter drop
netdev dev in ip saddr 10.0.1.2 counter
ip raw PREROUTING counter comment "native"
ip raw PREROUTING ip daddr { 10.0.2.2, 10.0.2.9 } counter
ip raw PREROUTING udp length 9 counter notrack
ip nat PREROUTING udp dport 9 counter dnat to 10.0.0.9
ip filter FORWARD ip saddr @good counter
ip filter FORWARD ip saddr != @good counter drop
ip filter FORWARD udp dport { 53, 54 } counter
ip filter FORWARD udp dport vmap @ports
ip filter FORWARD udp dport 58 counter jump own
ip filter FORWARD ip saddr . udp dport { 10.0.1.2 . 59 } counter jump own
ip filter FORWARD limit rate 1000/second burst 5 packets counter
ip filter FORWARD udp length 9 counter
ip filter FORWARD ip saddr 10.0.1.0-10.0.1.9 counter
ip filter FORWARD icmp type != echo-request counter drop
ip filter FORWARD tcp dport 80 tcp dport 90 counter
ip filter FORWARD udp dport 1000 jump { counter; }
ip filter own ip saddr 10.0.1.2 counter
ip filter own udp sport >= 20500 counter return
ip filter own counter accept comment "the rest"
ip mangle FORWARD udp dport { 53, 54 } counter
ip mangle FORWARD ip saddr 10.0.1.2 counter accept
ip6 filter FORWARD ip6 saddr { fd00:1::2 } counter
ip6 filter FORWARD udp dport != { 54 } counter drop
"""
IPTABLES = """\
*mangle
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -m conntrack --ctstate NEW -m comment --comment "by iptables"
-A FORWARD -s 10.0.1.2/32 -p udp -m udp --dport 53
-A FORWARD -p udp -m multiport --dports 53,57 -j TOS --set-tos 0x10/0xff
COMMIT
"""
# What must be there for the test to mean anything; of the rest each kernel has what it has.
CERTAIN = ("jump {", "goto {", "vmap @vm", "@conc", "udp length 9", "odd ", "@good", "with icmpv6")
# Through JSON a comment may be anything: it reads like another rule.
FORGED = {"family": "inet", "table": "fw", "chain": "sub", "expr": [{"counter": None}],
          "comment": 'two "\n\t\taccept # handle 9\n\t\tdrop # handle 30\nlines'}  # fmt: skip
QUERY = "SELECT count(*) FROM steps JOIN rules ON steps.rule_id = rules.id"
COMMANDS = (
    "show {}", "show {} --json", "show {} --orphans", "why {}", "why {} --json",
    "rules {}", "rules {} --json", "rules {} --unused", "paths {}", "paths {} --json", "diff {}",
    "diff --traces {} {}", "info {}", "info {} --json", "check {} {expected}", "export ndjson {} -o -",
    "export pcapng {} -o -", "export pcapng {} --events -o -", "export sqlite {} -o -",
)  # fmt: skip
EXPECTED = '[[expect]]\nname = "some"\nfilter = "udp"\nmin = 1\n'


def load(lab):
    """The tables, and of the rules what nft and the kernel take; those that they took."""
    lab.run(["nft", "-f", "-"], stdin=ODD.replace("; } ; }", ";\n} \n}"))
    lab.restore(None, "ipv4", IPTABLES, "nft")
    rules = [one.replace("\\x1b", "\x1b") for one in RULES.splitlines()]
    taken = [
        one
        for one in rules
        if not lab.run(["nft", "-f", "-"], stdin=f"add rule {one}\n", check=False).returncode
    ]
    forged = {"nftables": [{"add": {"rule": FORGED}}]}
    lab.run(["nft", "-j", "-f", "-"], stdin=json.dumps(forged))
    assert all(any(word in one for one in taken) for word in CERTAIN), taken
    assert len(taken) > 50
    return taken


def counted(lab):
    """What each rule counted: family, table, chain -> (handle, packets) in order; None: it has no counter."""
    found = {}
    for one in json.loads(lab.run(["nft", "-a", "-j", "list", "ruleset"]).stdout)["nftables"]:
        if rule := one.get("rule"):
            expr = [each for each in rule["expr"] if isinstance(each, dict)]
            counters = [each["counter"] for each in expr if isinstance(each.get("counter"), dict)]
            packets = counters[-1].get("packets") if len(counters) == 1 else None
            key = rule["family"], rule["table"], rule["chain"]
            found.setdefault(key, []).append((rule["handle"], packets))
    return found


def mangled(path):
    """The rules of a table that iptables and nft have made, as they are told."""
    lines = iptrec("rules", "--json", "--chain", "mangle/FORWARD", path).stdout
    return [rule["spec"] for rule in json.loads(lines.splitlines()[0])["rules"]]


def hits(path):
    """What `rules` tells of each rule, both families of packets together."""
    found = Counter()
    lines = iptrec("rules", "--json", path).stdout
    for chain in map(json.loads, lines.splitlines()):
        family, _, table = chain["table"].rpartition(" ")
        family = family or ("ip" if chain["family"] == "ipv4" else "ip6")
        for rule in chain["rules"]:
            assert rule["packets"] == 0 or rule["unreachable_after"] is None, rule
            found[family, table, chain["chain"], rule["rule"]] += rule["packets"]
    return found


@pytest.fixture
def recorded(lab, tmp_path):
    """The odd rules, 200 packets through them, and what nft's monitor and the counters tell."""
    if os.geteuid():
        pytest.skip("nft monitor loses events with the receive buffer that this user is granted")
    router(lab)
    taken = load(lab)
    child = start(lab, tmp_path / "t.db", "--backend", "nft")
    before = counted(lab)
    with (tmp_path / "monitor").open("w") as out:
        monitor = lab.popen(["nft", "-a", "-n", "monitor", "trace"], stdout=out)
        until(lambda: test_nft.listeners(lab) >= 2)
        lab.run([sys.executable, "-c", TRAFFIC], "a")
        until(lambda: (tmp_path / "monitor").read_text().count("sport 20196") > 2)
        after = counted(lab)
        stop(child)
        monitor.send_signal(signal.SIGINT)
        monitor.wait(timeout=60)
    return tmp_path, taken, before, after


def test_every_statement(recorded):
    """Each rule was hit as often as it counted; each packet went as nft monitors it; every command answers."""
    directory, _, before, after = recorded
    path = directory / "t.db"
    found = hits(path)
    for key, rules in after.items():
        if key[1] == "raw" or key[1].startswith("iptrec-"):  # ours are in it
            continue
        for number, ((handle, now), (_, earlier)) in enumerate(
            zip(rules, before[key], strict=True), 1
        ):
            if now is not None:
                assert found[*key, number] == now - earlier, (key, number, handle)
    assert sum(found.values()) > 2_000
    assert mangled(path) == [
        *(line.partition("FORWARD ")[2] for line in IPTABLES.splitlines() if "-A " in line),
        "udp dport { 53, 54 } counter",
        "-s 10.0.1.2/32 -j ACCEPT",
    ]
    text = (directory / "monitor").read_text().replace("\ntrace id", "\0trace id")
    monitored = test_nft.monitored("\n".join(" ".join(one.split()) for one in text.split("\0")))
    handles = {key: [str(handle) for handle, _ in rules] for key, rules in after.items()}
    met = {}
    for packet in packets(path):
        number = packet.header.get("sport", packet.header.get("icmp_id"))
        if number is not None and 20000 <= number < 20200 and packet.in_ == "to-a":
            assert (packet.complete, packet.ambiguous) == (True, False), number
            # A SYN and, where SYNPROXY answered it, the RST
            met.setdefault(number, []).extend(
                one for one in told(packet, handles) if one[1] != "raw"
            )
    assert len(met) == 200
    for number, way in met.items():
        expected = [
            one[:4] for one in monitored[number] if one[1] != "raw" and "iptrec-" not in one[1]
        ]
        assert way == test_nft.with_handles(expected, way), number
    expected = directory / "expected.toml"
    expected.write_text(EXPECTED)
    commands = [one.format(path, path, expected=expected).split() for one in COMMANDS]
    for command in [*commands, ["query", str(path), QUERY]]:
        done = iptrec(*command)
        assert done.returncode in (0, 1), (command, done.stderr)
        assert "Traceback" not in done.stderr, command
        assert done.stdout or command[0] in ("diff", "show"), command


def told(packet, handles):
    """The steps of a packet but the ends of chains, in nft's words."""
    found = []
    for step in packet.steps:
        family, _, table = step.table.rpartition(" ")
        family = family or ("ip" if packet.family == "ipv4" else "ip6")
        handle = None
        if step.type == "rule" and step.rule is not None:
            handle = handles[family, table, step.chain][step.rule - 1]
        if step.type != "return":
            found.append((family, table, step.chain, handle))
    return found
