"""Loopback: each packet passes twice; odd chain names and comments, goto, marks, unconditional drops."""

from recording import record

from iptrec.demo.lab import Lab

RULES = """\
*mangle
:PREROUTING ACCEPT
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
-A OUTPUT -p icmp -m comment --comment "say \\"hello\\" -j DROP" -j MARK --set-xmark 0x2a/0xffffffff
COMMIT
*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
:a:b:rule:1 -
:gone -
:BYE -
-A INPUT -p icmp -j a:b:rule:1
-A INPUT -p udp -m udp --dport 9 -j BYE
-A INPUT -p udp -m udp --dport 7 -g gone
-A INPUT -p udp -j DROP
-A a:b:rule:1 -p icmp -g gone
-A a:b:rule:1 -j DROP
-A gone -m comment --comment "goto has no way back"
-A BYE -j DROP
COMMIT
"""


def main() -> None:
    """Record it."""
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES)
        record(
            lab,
            "loopback",
            "icmp or icmp6 or udp",
            "ping -c1 -W1 127.0.0.1; ping -c1 -W1 ::1; udp 127.0.0.1 9; udp 127.0.0.1 7; udp 127.0.0.1 5",
        )


if __name__ == "__main__":
    main()
