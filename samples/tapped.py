"""Rules of legacy iptables and of nf_tables over loopback, recorded with the tap: events in one order."""

from recording import record

from iptrec.demo.lab import Lab

LEGACY = """\
*filter
:INPUT ACCEPT
:OUTPUT ACCEPT
-A OUTPUT -p udp -m udp --dport 9 -j ACCEPT
-A INPUT -p udp -m udp --dport 9 -j DROP
COMMIT
"""
NFT = """\
table inet fw {
	chain out { type filter hook output priority filter + 10; udp dport 9 counter accept; }
	chain in { type filter hook input priority filter + 10; udp dport 7 reject; }
}
"""


def main() -> None:
    """Record it."""
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", LEGACY)
        lab.run(["nft", "-f", "-"], stdin=NFT)
        record(
            lab, "tapped", "udp or icmp", "udp 127.0.0.1 9; udp 127.0.0.1 7; ping -c1 -W1 127.0.0.1"
        )


if __name__ == "__main__":
    main()
