"""IPv6: neighbour discovery, echo through a router, unreachable, time exceeded, an ip6tables REJECT."""

from recording import record

from iptrec.demo.lab import Lab

RULES = """\
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -m comment --comment "ping may pass" -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p udp -m udp --dport 7 -j ACCEPT
-A FORWARD -p udp -m udp --dport 9 -j REJECT --reject-with icmp6-adm-prohibited
COMMIT
"""


def main() -> None:
    """Record it."""
    with Lab() as lab:
        for name, net in (("left", "2001:db8:1:"), ("right", "2001:db8:2:")):
            lab.host(name)
            lab.link(name, "eth0", peer=f"to-{name}")
            lab.ip(name, f"address add {net}:2/64 dev eth0 nodad")
            lab.ip(None, f"address add {net}:1/64 dev to-{name} nodad")
            lab.ip(name, f"route add default via {net}:1")
        lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
        lab.restore(None, "ipv6", RULES)
        lab.settle()
        record(
            lab,
            "ipv6",
            "icmp6 or (ip6 and udp)",
            "@left ping -c1 -W1 2001:db8:2::2; @left ping -c1 -W1 -t1 2001:db8:2::2;"
            "@left udp 2001:db8:2::2 7; @left udp 2001:db8:2::2 9; true",
        )


if __name__ == "__main__":
    main()
