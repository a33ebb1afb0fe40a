"""A router with ipsets of several types, one end of a point-to-point link; format 2 of the file."""

from recording import record

from iptrec.demo.lab import Lab

SETS = """\
create blocked hash:net
add blocked 10.0.0.0/8
add blocked 10.0.1.0/24 nomatch
create services hash:ip,port
add services 10.8.0.1,udp:53
add services 10.0.2.2,tcp:80
create gates hash:net,iface
add gates 10.0.0.0/8,far
create known list:set
add known services
add known gates
"""
RULES = """\
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
-A INPUT -m set --match-set blocked src -j DROP
-A INPUT -p udp -m set ! --match-set services dst,dst -j DROP
-A INPUT -m addrtype --dst-type LOCAL -m set --match-set gates src,src -j DROP
-A FORWARD -m set --match-set known dst,dst -j ACCEPT
COMMIT
"""


def main() -> None:
    """Record it."""
    with Lab() as lab:
        for name, network in (("near", 1), ("far", 2)):
            lab.host(name)
            lab.link(name, "eth0", f"10.0.{network}.2/24", peer=f"to-{name}")
            lab.ip(None, f"address add 10.0.{network}.1/24 dev to-{name}")
            lab.ip(name, f"route add default via 10.0.{network}.1")
        lab.ip(None, "address add 10.8.0.1 peer 10.8.0.2/32 dev to-near")
        lab.settle()
        lab.sysctl(None, "net/ipv4/ip_forward", 1)
        lab.run(["ipset", "restore"], stdin=SETS)
        lab.restore(None, "ipv4", RULES)
        record(
            lab,
            "ipsets",
            "icmp or udp",
            "@far ping -c1 -W1 10.8.0.1; @near udp 10.8.0.1 53; @near udp 10.8.0.1 54; @near udp 10.0.2.2 9",
        )


if __name__ == "__main__":
    main()
