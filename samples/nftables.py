"""A native nft ruleset: sets, maps, verdict maps, chains at several priorities of one hook, both families.

A router between two hosts; a packet that is accepted in one chain and dropped in a later one, one that is
translated by a map, one that no rule accepts, and a reset by reject.
"""

from recording import record

from iptrec.demo.lab import Lab

RULES = """\
table inet fw {
	set good { type ipv4_addr; flags interval; elements = { 10.0.1.0/24 }; }
	map services { type inet_service : verdict; elements = { 53 : jump dns, 54 : drop }; }
	map marks { type inet_service : mark; elements = { 53 : 1, 57 : 7 }; }
	map servers { type inet_service : ipv4_addr; elements = { 56 : 10.0.2.2 }; }
	chain before { type filter hook prerouting priority mangle; meta mark set udp dport map @marks; }
	chain translate { type nat hook prerouting priority dstnat; dnat ip to udp dport map @servers; }
	chain forwarded {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, invalid : drop }
		ip saddr @good udp dport vmap @services
		udp dport 58 reject comment "not this one"
		meta l4proto { tcp, udp } goto rest
	}
	chain dns { counter return; }
	chain rest { accept; }
	chain later { type filter hook forward priority filter + 10; meta mark 7 log prefix "late: " drop; }
}
"""


def main() -> None:
    """Record it."""
    with Lab() as lab:
        for name, net in (("a", 1), ("b", 2)):
            lab.host(name)
            lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"to-{name}")
            lab.ip(None, f"address add 10.0.{net}.1/24 dev to-{name}")
            lab.ip(None, f"address add fd00:{net}::1/64 dev to-{name}")
            lab.ip(name, f"route add default via 10.0.{net}.1")
            lab.ip(name, f"route add default via fd00:{net}::1")
        lab.sysctl(None, "net/ipv4/ip_forward", 1)
        lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
        lab.settle()
        lab.run(["nft", "-f", "-"], stdin=RULES)
        to = (
            "10.0.2.2 53",
            "10.0.2.2 54",
            "10.0.1.1 56",
            "10.0.2.2 57",
            "10.0.2.2 58",
            "fd00:2::2 53",
        )
        traffic = "; ".join(f"@a udp {one}" for one in to)
        record(lab, "nftables", "udp or icmp or tcp", traffic)


if __name__ == "__main__":
    main()
