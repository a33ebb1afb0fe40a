"""Native rules of nf_tables: inet tables, sets, maps, verdict maps, chains at three priorities, NAT.

A host sends to another one through this router, and this router to itself.
"""

from recording import HERE, record

from iptrec.kernel.lab import Lab

RULES = HERE.parent / "tests/data/rulesets/native.nft"
TRAFFIC = (
    *(f"@a udp 10.0.2.2 {port}" for port in (5001, 5003, 5004, 5005, 5008)),
    *("@a udp fd00:2::2 5003", "@a udp 10.0.2.66 5000", "udp 127.0.0.1 5003", "udp ::1 5005"),
)


def main() -> None:
    """Record it."""
    with Lab() as lab:
        for name, net in (("a", 1), ("b", 2)):
            lab.host(name)
            lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"to-{name}")
            for own in (f"10.0.{net}.1/24", f"fd00:{net}::1/64"):
                lab.ip(None, f"address add {own} dev to-{name}")
                lab.ip(name, f"route add default via {own.partition('/')[0]}")
        lab.sysctl(None, "net/ipv4/ip_forward", 1)
        lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
        lab.settle()
        lab.run(["nft", "-f", "-"], stdin=RULES.read_text())
        record(lab, "nft_native", "udp", "; ".join(TRAFFIC))


if __name__ == "__main__":
    main()
