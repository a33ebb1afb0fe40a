"""Hosts on both sides of a lab, which routes between them."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from recorder import until

_ECHO = """\
import socket
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("", 6000))
print("bound", flush=True)
while True:
    data, sender = here.recvfrom(99)
    here.sendto(data, sender)
"""


def join(lab, *names, peer, ipv6=False):
    """Hosts 10.0.1.2, 10.0.2.2, ...; ``peer``: the lab's ends of their links, with {name} and {net}.

    ``ipv6``: they are fd00:1::2, fd00:2::2, ... as well.
    """
    for net, name in enumerate(names, 1):
        end = peer.format(name=name, net=net)
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{net}.2/24", peer=end)
        _route(lab, name, end, f"10.0.{net}.1", 24)
        if ipv6:
            lab.ip(name, f"address add fd00:{net}::2/64 dev eth0")
            _route(lab, name, end, f"fd00:{net}::1", 64)
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    if ipv6:
        lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)


@contextlib.contextmanager
def echo(lab, host):
    """A host that sends back whatever comes to UDP port 6000."""
    child = lab.popen([sys.executable, "-uc", _ECHO], host, stdout=subprocess.PIPE, text=True)
    assert until(child.stdout.readline) == "bound\n"
    yield
    child.kill()
    child.communicate()


def _route(lab, name, end, gateway, bits):
    lab.ip(None, f"address add {gateway}/{bits} dev {end}")
    lab.ip(name, f"route add default via {gateway}")
