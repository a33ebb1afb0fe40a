"""Routers between hosts, as several tests have them."""

from __future__ import annotations


def between(lab, count):
    """The lab's own between hosts h1, h2, ...: 10.0.N.2 and fd00:N::2 at vN."""
    for net in range(1, count + 1):
        name = f"h{net}"
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"v{net}")
        lab.ip(None, f"address add 10.0.{net}.1/24 brd + dev v{net}")
        lab.ip(None, f"address add fd00:{net}::1/64 dev v{net} nodad")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        lab.sysctl(None, f"net/{setting}", 1)
    lab.settle()
    return lab
