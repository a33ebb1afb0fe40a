"""Rules of legacy iptables and of nf_tables on one host: each packet passes both.

A router between two hosts. Either backend drops before the other and after it; legacy iptables translates what
nf_tables drops by its new port; one packet is for the router itself, one is its own, one IPv6.
"""

from recording import record

from iptrec.demo.lab import Lab

LEGACY = """\
*mangle
:PREROUTING ACCEPT
-A PREROUTING -p udp -m udp --dport 52 -j DROP
-A PREROUTING -p udp -m udp --dport 53 -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT
-A PREROUTING -p udp -m udp --dport 56 -j DNAT --to-destination 10.0.2.2:57
COMMIT
*filter
:FORWARD DROP
-A FORWARD -p udp -m udp --dport 54 -j DROP
-A FORWARD -p udp -j ACCEPT
COMMIT
"""
NFT = """\
table inet fw {
	chain before { type filter hook prerouting priority -140; udp dport 51 drop; }
	chain forwarded {
		type filter hook forward priority filter + 10; policy drop;
		meta mark 1 accept
		udp dport 57 drop comment "this one"
		udp dport 58 accept
	}
	chain local { type filter hook input priority filter + 10; udp dport 59 reject; }
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
        lab.restore(None, "ipv4", LEGACY)
        lab.run(["nft", "-f", "-"], stdin=NFT)
        to = (
            *(f"10.0.2.2 {port}" for port in (51, 52, 53, 54, 55, 58)),
            "10.0.1.1 56",
            "10.0.1.1 59",
        )
        traffic = "; ".join(
            [*(f"@a udp {one}" for one in (*to, "fd00:2::2 58")), "udp 10.0.2.2 60"]
        )
        record(lab, "both", "udp or icmp or icmp6", traffic)


if __name__ == "__main__":
    main()
