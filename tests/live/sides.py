"""Hosts on both sides of a lab, which routes between them."""

from __future__ import annotations


def join(lab, *names, peer):
    """Hosts 10.0.1.2, 10.0.2.2, ...; ``peer``: the lab's ends of their links, with {name} and {net}."""
    for net, name in enumerate(names, 1):
        end = peer.format(name=name, net=net)
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{net}.2/24", peer=end)
        lab.ip(None, f"address add 10.0.{net}.1/24 dev {end}")
        lab.ip(name, f"route add default via 10.0.{net}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
