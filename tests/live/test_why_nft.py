"""`iptrec why` of native rules of nf_tables: what it says of a rule is what that rule's counter says."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace

import pytest
from frames import mac
from judged import last_facts
from rights import LINUX

from iptrec.decode.rulesets import nft_json
from iptrec.decode.rulesets.nft_matches import Match
from iptrec.matching import judge
from iptrec.matching.nft_words import words

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
ip saddr . udp dport != { 10.0.1.2 . 5000 }
ip saddr . udp dport { 10.0.1.0/24 . 5000-5010, 10.0.2.0/24 . 53 }
ip saddr . ip daddr . meta l4proto . th dport { 10.0.1.2 . 10.0.1.1 . udp . 53 }
iifname . ip saddr { "v1" . 10.0.1.2 }
ip saddr @good
ip saddr @bad
ip saddr != @good
ip saddr != @bad
ip saddr @timed
ip saddr != @timed
ip saddr @nets
ip saddr . th dport @pairs
iifname @links
meta mark @marks
meta mark & 0xf == @marks
ip dscp @classes
ip dscp . ip ecn { ef . not-ect }
ip dscp . ip ecn { cs0 . not-ect, cs1 . ce }
ip dscp . ip ecn != { ef . not-ect }
ip dscp . ip saddr { ef . 10.0.1.2, cs0 . 10.0.1.9 }
ip dscp . ip saddr @classed
ip saddr . ip dscp vmap { 10.0.1.2 . ef : continue, 10.0.1.2 . cs1 : continue }
ip dscp . ip saddr vmap @turns
ip dscp vmap { ef : continue, af11 : continue }
ip ecn . ip dscp @unmarked
ip version . ip saddr { 4 . 10.0.1.2 }
ip version . ip saddr @versions
ip hdrlength . ip saddr { 5 . 10.0.1.2 }
ip hdrlength . udp dport { 6 . 5000 }
ip6 dscp . ip6 saddr { ef . fd00:1::2 }
ip6 dscp . ip6 saddr { cs0 . fd00:1::2 }
ip6 dscp . ip6 saddr @classed6
ip6 dscp { cs0, ef }
ip6 dscp @classes6
ip6 dscp . ip6 ecn { ef . not-ect }
ip6 ecn . ip6 saddr { not-ect . fd00:1::2 }
ip6 version . ip6 saddr { 6 . fd00:1::2 }
ip6 flowlabel . ip6 saddr { 5 . fd00:1::2 }
ip6 flowlabel . ip6 saddr { 0 . fd00:1::2 }
tcp doff . tcp dport { 10 . 80 }
tcp doff . tcp dport { 5 . 80 }
tcp doff . tcp dport @offsets
tcp doff { 5, 10 }
tcp reserved . tcp dport { 0 . 80 }
dccp type . ip saddr { request . 10.0.1.2 }
ip dscp & 0x3 . ip saddr { 1 . 10.0.1.2, 2 . 10.0.1.2 }
ip dscp >> 2 . ip saddr { 11 . 10.0.1.2 }
ip dscp & 0x3c == 0x2c
meta mark set ip dscp map { cs1 : 6, af11 : 7 }
meta mark set ip dscp . ip saddr map { cs1 . 10.0.1.2 : 6, ef . 10.0.1.9 : 7 }
ip6 flowlabel @flows
ip6 dscp & 0x3 == 2
ip6 dscp & 0x3 == 0
vlan id . ip saddr { 5 . 10.0.1.2 }
vlan pcp . ip saddr { 0 . 10.0.1.2 }
meta l4proto . th dport @services
ip saddr vmap @verdicts
ip saddr vmap { 10.0.1.2 : continue, 10.0.1.9 : drop }
udp dport vmap { 1-52 : continue, 60-70 : drop }
ct state vmap { established : continue, new : continue }
iifname . th dport vmap { "v1" . 53 : continue }
limit rate 1/hour
numgen inc mod 2 0
symhash mod 2 0
ip saddr @grown
fib daddr type local
fib daddr type { local, broadcast }
fib daddr type unicast
fib saddr type unicast
fib saddr type local
fib daddr . iif type local
fib saddr . iif oif missing
fib saddr . iif oif exists
fib saddr oifname "v1"
ip dscp cs1
ip dscp != cs1
ip dscp { cs0, af11 }
ip6 dscp cs0
ip ecn not-ect
ip ecn ce
ip version 4
ip hdrlength 5
ip hdrlength > 5
ip checksum 5
ip frag-off & 0x1fff != 0
ip id 7
ip6 flowlabel 5
ip6 nexthdr udp
ip6 nexthdr { tcp, ipv6-icmp }
ip6 length 9
ip6 version 6
udp length 9
udp length > 9
udp checksum != 0
tcp sequence 1
tcp doff > 5
tcp window > 100
tcp urgptr 0
icmp id 0
icmp sequence 0
icmp sequence 7
icmp mtu 0
icmpv6 id 0
icmpv6 mtu 7
ether saddr 02:00:00:00:00:09
ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00
ether type ip
meta pkttype host
meta pkttype != host
meta pkttype { broadcast, multicast }
ether type { ip6, arp }
meta protocol ip
meta protocol { ip6, arp }
@th,16,16 5000
@th,0,8 & 0xf0 == 0x0
@nh,0,4 4
@nh,64,8 < 65
@ll,96,16 0x0800
udp sport & 1 == 1
udp dport & 0xfff0 == 0x1380-0x1390
meta mark | 0x1 == 0x7
tcp flags & (syn|ack) != syn
tcp flags ! syn,ack
tcp flags { syn, syn | ack }
tcp flags == 0x2
exthdr frag exists
exthdr hbh missing
frag more-fragments 1
rt type 0
ip option rr exists
ip option lsrr missing
tcp option maxseg exists
tcp option maxseg size set 1400
sctp chunk data exists
sctp chunk data missing
sctp chunk data missing tcp dport 80
sctp chunk data tsn 7
sctp sport 5
dccp dport 5
ah spi 5
esp spi 5
ct l3proto ipv4
ct protocol tcp
ct direction original
ct direction reply
ct status dnat
ct status { assured, confirmed }
ct mark 5
ct original ip saddr 10.0.1.2
ct state & (new | established) == new
ct state ! invalid,new""".splitlines()
UNKNOWABLE = (
    "limit", "numgen", "symhash", "@grown", "tcp option", "sctp chunk data missing",
    "ct direction", "ct status", "ct mark", "ct original",
    "version . ", "ip6 dscp . ", "ip6 dscp @", "ip6 dscp &", "tcp doff . tcp dport {", "vlan",
    *(["ct "] if LINUX < (6, 16) else []),  # since then its trace tells of conntrack
)  # fmt: skip
PACKETS = {
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.1.1', 5000))",
    "long_udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 72, ('10.0.1.1', 53))",
    "ef": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xb8); s.sendto(b'x', ('10.0.1.1', 5000))"
    ),
    "ef6": (
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xb8); s.sendto(b'x', ('fd00:1::1', 5000))"
    ),
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
	set timed {{ type ipv4_addr; flags timeout; elements = {{ 10.0.1.2 timeout 1h, 10.0.1.9 }}; }}
	set nets {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0-10.0.1.1, 10.0.1.2/31, 10.9.0.0/16 }}; }}
	set pairs {{ type ipv4_addr . inet_service; flags interval; elements = {{ 10.0.1.0/24 . 50-60 }}; }}
	set links {{ type ifname; flags interval; elements = {{ "w*", "v1" }}; }}
	set marks {{ type mark; elements = {{ 6, 7 }}; }}
	set classes {{ typeof ip dscp; elements = {{ cs1, cs0 }}; }}
	set classes6 {{ typeof ip6 dscp; elements = {{ ef, cs1 }}; }}
	set classed {{ typeof ip dscp . ip saddr; elements = {{ ef . 10.0.1.2, cs0 . 10.0.1.9 }}; }}
	set classed6 {{ typeof ip6 dscp . ip6 saddr; elements = {{ ef . fd00:1::2 }}; }}
	set unmarked {{ typeof ip ecn . ip dscp; elements = {{ not-ect . ef }}; }}
	set versions {{ typeof ip version . ip saddr; elements = {{ 4 . 10.0.1.2 }}; }}
	set offsets {{ typeof tcp doff . tcp dport; elements = {{ 10 . 80 }}; }}
	map turns {{ typeof ip dscp . ip saddr : verdict; elements = {{ ef . 10.0.1.2 : continue }}; }}
	set flows {{ typeof ip6 flowlabel; elements = {{ 5, 0x1234 }}; }}
	set services {{ type inet_proto . inet_service; elements = {{ tcp . 80, udp . 53 }}; }}
	set grown {{ type ipv4_addr; flags dynamic; }}
	map verdicts {{ type ipv4_addr : verdict; elements = {{ 10.0.1.2 : continue, 10.0.1.5 : drop }}; }}
	chain quiet {{
		type filter hook input priority filter - 1; policy accept
		icmpv6 type != echo-request drop comment "what hosts tell each other is judged by nobody"
	}}
	chain marking {{
		type filter hook prerouting priority mangle; policy accept
		meta l4proto tcp meta mark set 6
	}}
	chain judged {{
		type filter hook input priority filter; policy accept
		{}
		add @grown {{ ip saddr }} counter
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
    neighbours = (None, "v1", "fd00:1::2", "h", "eth0"), ("h", "eth0", "fd00:1::1", None, "v1")
    for where, by, address, *of in neighbours:
        lab.ip(where, f"neighbour replace {address} lladdr {mac(lab, *of)} dev {by} nud permanent")
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
    family = "ipv6" if packet.endswith("6") else "ipv4"
    options = ["--iface", "v1", "--family", family, "--backend", "nft"]
    host.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *enter])
    saved = host.run(listing).stdout
    matched = [after - once for once, after in zip(before, counters(saved), strict=True)]
    text = host.run(["nft", "-a", "list", "ruleset"]).stdout
    rules = nft_json.parse(saved.encode(), text.encode()).chains["inet", "fw"]["judged"].rules
    ((facts, explained), *_) = last_facts(path, CHAIN, "v1")
    said = Counter()
    false = []
    judged = len(MATCHES)
    for rule, match, count in zip(rules[:judged], MATCHES, matched[:judged], strict=True):
        judgement = judge(rule, before_marking(facts, packet))
        said[judgement.fits] += 1
        told = [words(one) for one in rule.matches if isinstance(one, Match)]
        spec = rule.spec.replace("== ", "")  # nft prints it or not
        assert all(one.replace("== ", "") in spec for one in told), (rule.spec, told)
        if judgement.fits is None:
            # nft 1.0.6 prints a shift that nobody wrote, later ones one that somebody did.
            shifted = re.search(r" >> \d+ .*\. |\. \S+ \S+ >> \d+ ", rule.spec)
            either_way = shifted and bool(count) != (" != " in match)
            assert either_way or any(word in match for word in UNKNOWABLE), (rule.spec, judgement)
            assert judgement.because != rule.spec, (
                judgement
            )  # but the condition, without the counter
        elif judgement.fits != bool(count):
            false.append((rule.spec, judgement, count))
    assert false == []
    assert said[True] >= 30
    assert said[False] >= 60
    # And what it says of rules that were passed over is never yes.
    passed = [one for step in explained.steps for one in step.passed if one.rule.handle]
    told = {one.rule.handle: one.judgement for one in passed}
    missed = {rule.handle for rule, count in zip(rules, matched, strict=True) if not count}
    assert missed <= told.keys()
    assert all(told[handle].fits is not True for handle in missed)
    assert told[rules[-2].handle].because == "meta mark 0x00000006 (it is 0x9)"


def before_marking(facts, packet):
    """As they were before the chain's last rules, which set the mark."""
    return replace(facts, mark=6 if packet == "tcp" else 0)
