"""`iptrec why` of native rules of nf_tables: what it says of a rule is what that rule's counter says."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace

import pytest

from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.answers.why import explain, facts_of
from iptrec.decode.rulesets import nft_json
from iptrec.matching import judge
from iptrec.matching.nft import _words
from iptrec.matching.nft_fields import FIELDS, NAMES
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

IPTREC = (sys.executable, "-m", "iptrec")
MATCHES = """\
meta l4proto tcp
meta l4proto != icmp
meta l4proto { udp, 58 }
meta l4proto != { udp, tcp }
meta nfproto ipv4
meta nfproto != ipv4
ip protocol udp
ip protocol { tcp, udp }
ip saddr 10.0.1.2
ip saddr != 10.0.1.2
ip saddr 10.0.1.0/24
ip saddr != 10.0.0.0/8
ip saddr { 10.0.1.2, 192.168.0.0/16 }
ip saddr != { 10.0.1.2, 192.168.0.0/16 }
ip saddr 10.0.1.1-10.0.1.9
ip saddr != 10.0.1.3-10.0.1.9
ip saddr & 255.0.255.0 == 10.0.1.0
ip saddr & 0.0.0.255 != 0.0.0.2
ip saddr < 10.0.1.3
ip daddr 10.0.1.1
ip6 saddr fd00:1::2
ip6 saddr != fd00:1::2
ip6 daddr fd00:1::/64
ip6 daddr { fe80::/10, fd00:1::1-fd00:1::5 }
iifname "v1"
iifname "v*"
iifname != "v*"
iifname { "v1", "eth0" }
iifname { "eth*", "w*" }
iif "v1"
iif != "lo"
oifname "v1"
oifname != "v1"
udp dport 5000
udp dport != 5000
udp dport 4000-5000
udp dport != 4000-5000
udp dport { 53, 5000, 6000-6010 }
udp dport != { 53, 6000-6010 }
udp dport < 5000
udp dport <= 5000
udp dport > 4999
udp sport >= 1024
udp sport 1-1023
tcp dport 80
tcp dport != 80
tcp dport { 80, 443 }
meta l4proto { tcp, udp } th dport 80
meta l4proto { tcp, udp } th dport { 5000, 53 }
tcp flags syn
tcp flags syn / fin,syn,rst,ack
tcp flags & (syn | ack) == (syn | ack)
tcp flags & (fin | rst) != 0
tcp flags { syn, ack }
tcp flags != syn
icmp type echo-request
icmp type != echo-request
icmp type { echo-reply, echo-request }
icmp code 0
icmpv6 type echo-request
icmpv6 type { nd-neighbor-solicit, echo-reply }
meta mark 0
meta mark 6
meta mark != 6
meta mark 1-5
meta mark { 6, 7 }
meta mark & 0x4 == 0x4
meta mark & 0x4 != 0x4
meta mark & 0x3 == 0x1-0x2
meta mark > 5
ct state new
ct state != new
ct state established,related
ct state { new, invalid }
ip ttl 64
ip ttl < 64
ip6 hoplimit > 1
ip length 29-60
ip length != 29-60
meta length > 28
ip saddr 10.0.1.2 udp dport 5000 iifname "v1"
ip saddr 10.0.1.3 udp dport 5000 iifname "v1"
ip saddr . udp dport { 10.0.1.2 . 5000 }
ip saddr @good
ip saddr @bad
limit rate 1/hour
numgen inc mod 2 0
fib daddr type local
ip dscp cs1
udp length 9
@th,16,16 5000""".splitlines()
UNKNOWABLE = ("@", " . ", "limit", "numgen", "fib", "dscp", "udp length")
PACKETS = {
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.1.1', 5000))",
    "long_udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 72, ('10.0.1.1', 53))",
    "udp6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('fd00:1::1', 5000))",
    "tcp": "s = socket.socket(); s.settimeout(0.2); s.connect_ex(('10.0.1.1', 80))",
    "icmp": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP);"
        "s.sendto(bytes.fromhex('0800f7ff00000000'), ('10.0.1.1', 0))"
    ),
    "icmp6": (
        "s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6);"
        "s.sendto(bytes.fromhex('8000000000000000'), ('fd00:1::1', 0))"
    ),
}
RULES = """\
table inet fw {{
	set good {{ type ipv4_addr; elements = {{ 10.0.1.2 }}; }}
	set bad {{ type ipv4_addr; elements = {{ 10.0.1.3 }}; }}
	chain marking {{
		type filter hook prerouting priority mangle; policy accept
		meta l4proto tcp meta mark set 6
	}}
	chain judged {{
		type filter hook input priority filter; policy accept
		{}
		meta mark set 9 counter
		meta mark 6 counter comment "the mark was another one before"
		meta mark 9 counter
	}}
}}
"""
CHAIN = ("inet fw", "judged")


@pytest.fixture
def host(lab, tmp_path):
    """A host behind the lab's interface v1."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.ip("h", "address add fd00:1::2/64 dev eth0 nodad")
    lab.settle()
    path = tmp_path / "rules.nft"
    path.write_text(RULES.format("\n\t\t".join(f"{match} counter" for match in MATCHES)))
    lab.run(["nft", "-f", str(path)])
    return lab


def counters(listing):
    """The packets that each rule of the chain counted, in order."""
    rules = [one["rule"] for one in json.loads(listing)["nftables"] if "rule" in one]
    return [
        next(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
        for rule in rules
        if rule["chain"] == CHAIN[1]
    ]


@pytest.mark.parametrize("packet", PACKETS)
def test_judgements_are_the_kernels(host, tmp_path, packet):
    """Rule by rule: yes or no as the counter says, or it depends on what only the kernel knew."""
    path = tmp_path / "t.db"
    listing = ["nft", "-a", "-j", "list", "ruleset"]
    before = counters(host.run(listing).stdout)
    script = f"import socket\n{PACKETS[packet]}"
    enter = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", script]
    if packet.endswith("6"):  # neighbours are found before
        host.run(["ping", "-6", "-c1", "-W1", "fd00:1::2"], check=False)
        before = counters(host.run(listing).stdout)
    family = "ipv6" if packet.endswith("6") else "ipv4"
    options = ["--iface", "v1", "--family", family, "--backend", "nft"]
    host.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *enter])
    saved = host.run(listing).stdout
    matched = [after - once for once, after in zip(before, counters(saved), strict=True)]
    text = host.run(["nft", "-a", "list", "ruleset"]).stdout
    rules = nft_json.parse(saved.encode(), text.encode()).chains["inet", "fw"]["judged"].rules
    selection = Selection(chains=frozenset({CHAIN}))
    with Reader(path) as reader:
        window, position, traversal = next(
            (batch.window, at, packet)
            for batch in Packets(reader, selection).batches()
            for at in batch.positions.tolist()
            if (packet := batch.traversal(at)).in_ == "v1"
        )
        explained = next(
            one
            for one in explain(reader, Packets(reader, selection))
            if one.packet.number == traversal.number
        )
    row = window.assembly.events(position)[-1]
    (step, *_) = [one for one in traversal.steps if (one.table, one.chain) == CHAIN]
    facts = replace(facts_of(traversal, step, None, {}), ct_state=int(window.events.ct_state[row]))
    said = Counter()
    for rule, match, count in zip(rules[:-3], MATCHES, matched[:-3], strict=True):
        judgement = judge(rule, facts)
        said[judgement.fits] += 1
        told = [_words(one) for one in rule.matches if one and one.left in {**FIELDS, **NAMES}]
        assert all(one in rule.spec for one in told), (rule.spec, told)
        if judgement.fits is None:
            assert any(word in match for word in UNKNOWABLE), (rule.spec, judgement)
        else:
            assert judgement.fits == bool(count), (rule.spec, judgement, count)
    assert said[True] >= 15
    assert said[False] >= 15
    # And what it says of rules that were passed over is never yes.
    passed = [one for step in explained.steps for one in step.passed if one.rule.handle]
    told = {one.rule.handle: one.judgement for one in passed}
    missed = {rule.handle for rule, count in zip(rules, matched, strict=True) if not count}
    assert missed <= told.keys()
    assert all(told[handle].fits is not True for handle in missed)
    assert told[rules[-2].handle].because == "meta mark 0x00000006 (it is 0x9)"
