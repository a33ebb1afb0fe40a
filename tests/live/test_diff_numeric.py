"""`iptrec diff` of what nft prints of one ruleset in names and in numbers, as text and as JSON."""

from __future__ import annotations

import pytest
from command import iptrec

pytestmark = pytest.mark.live

RULES = """\
table inet fw {
	set services { type inet_service; elements = { 22, 53, 80, 443 }; }
	set pairs { type inet_proto . inet_service; elements = { tcp . 22, udp . 53 }; }
	set states { type ct_state; elements = { new, established }; }
	set messages { type icmp_type; elements = { echo-request, destination-unreachable }; }
	set types { type ether_type; elements = { ip, arp, ip6 }; }
	set marks { type mark; elements = { 0x10, 0x20 }; }
	map ports { type inet_service : verdict; elements = { 22 : accept, 80 : drop }; }
	map servers { type inet_service : ipv4_addr . inet_service; elements = { 80 : 10.0.0.1 . 8080 }; }
	chain input {
		type filter hook input priority filter; policy accept;
		ct state established,related counter accept comment "it is { here"
		ct state vmap { invalid : drop, established : accept }
		ct status dnat accept
		ct direction original accept
		tcp dport { ssh, http, https } accept
		tcp dport vmap @ports
		udp sport domain udp dport 1024-65535 accept
		meta l4proto { tcp, udp } th dport 53 accept
		meta l4proto . th dport @pairs accept
		ip protocol icmp icmp type { echo-request, echo-reply } accept
		icmpv6 type { nd-neighbor-solicit, nd-router-advert, mld-listener-query } accept
		icmp type destination-unreachable icmp code port-unreachable accept
		ip dscp { cs1, af21, ef } accept
		ip6 nexthdr ipv6-icmp accept
		tcp flags & (fin|syn|rst|ack) == syn accept
		tcp flags syn / syn,ack accept
		meta mark & 0xff == 0x1 accept
		meta mark set tcp dport map { 22 : 0x10, 80 : 0x20 }
		meta pkttype { broadcast, multicast } drop
		meta iiftype ether accept
		meta day "Saturday" accept
		fib daddr type local accept
		fib saddr . iif oif missing drop
		ether type ip accept
		meta protocol ip6 accept
		meta nfproto ipv4 accept
		dccp type request accept
		ip ecn ce accept
		exthdr hbh exists accept
		tcp option sack exists accept
		reject with tcp reset
	}
	chain forward {
		type filter hook forward priority -5; policy drop;
		reject with icmpx admin-prohibited
	}
}
table bridge b { chain f { type filter hook forward priority filter; ether type vlan vlan type ip accept; }; }
"""
NUMBERS = (["-n"], ["-S"], ["-n", "-S"], ["-y"], ["-p"], ["-T"], ["-s"])


@pytest.mark.parametrize("form", [[], ["-j"]], ids=["text", "JSON"])
def test_names_and_numbers_say_the_same(lab, tmp_path, form):
    """Whichever of nft's options was used for either; a change of a value is one."""
    lab.run(["nft", "-f", "-"], stdin=RULES)
    names = tmp_path / "names"
    names.write_text(lab.run(["nft", *form, "list", "ruleset"]).stdout)
    for options in NUMBERS:
        numbers = tmp_path / "numbers"
        numbers.write_text(lab.run(["nft", *options, *form, "list", "ruleset"]).stdout)
        for operands in ((names, numbers), (numbers, names)):
            assert iptrec("diff", *operands).stdout == "no difference\n", options
    lab.run(
        ["nft", "-f", "-"], stdin="flush ruleset\n" + RULES.replace("type local", "type unicast")
    )
    numbers.write_text(lab.run(["nft", "-n", *form, "list", "ruleset"]).stdout)
    assert "1 rule" in iptrec("diff", names, numbers).stdout.splitlines()[-1]
