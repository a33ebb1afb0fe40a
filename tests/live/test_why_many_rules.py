"""`iptrec why` of a packet that met thousands of rules: a screenful, and the same with both backends."""

from __future__ import annotations

import sys

import pytest
from command import IPTREC, iptrec
from kube_proxy import SERVICES, address, rules

pytestmark = pytest.mark.live

MET = 2260
SEND = f"""\
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("{address(96, MET)}", 53))
"""


@pytest.fixture
def node(lab, backend):
    """A node with a pod a, and the pods of the services behind b."""
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    for number, name in enumerate("ab", 1):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{number}.2/24", peer=f"to-{name}")
        lab.ip(None, f"address add 10.0.{number}.1/24 dev to-{name}")
    lab.ip("a", "route add default via 10.0.1.1")
    lab.ip(None, "route add 10.244.0.0/16 via 10.0.2.2")
    lab.settle()
    lab.restore(None, "ipv4", rules(), backend)
    return lab


def test_18000_rules(node, tmp_path, backend):
    """A packet that no rule accepts: which service it was for, and why each rule of FORWARD did not match."""
    path = str(tmp_path / "t.db")
    send = ["nsenter", "--net=/run/netns/a", sys.executable, "-c", SEND]
    options = ["-q", "--iface", "to-a", "--family", "ipv4", "--backend", backend]
    node.run([*IPTREC, "record", "-o", path, *options, "udp", "--", *send])
    done = iptrec("why", path, "--verdict", "DROP")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 25
    assert f"    #1-#{MET} no, -d (it is {address(96, MET)})" in lines
    assert any(line.startswith(f"    #{MET + 1} ") and f"ns/svc{MET}" in line for line in lines)
    assert any(f"-j DNAT --to-destination {address(244, MET)}:53" in line for line in lines)
    half = f"{SERVICES // 2:,} of"
    sources = f"{half} #1-#{SERVICES - 1} no, -s (it is 10.0.1.2)"
    targets = f"{half} #2-#{SERVICES} no, -d (it is {address(244, MET)})"
    assert lines[-2:] == [f"    #1-#{SERVICES} {sources}; {targets}", "--> policy => DROP"]
