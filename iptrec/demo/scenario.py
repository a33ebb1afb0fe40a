"""What the demonstration shows: a container that never gets an answer from a published port."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iptrec.demo.lab import Lab

# As Docker writes it for two networks where the second one publishes port 1242 of a container.
RULES = """\
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.23.0.0/16 ! -o hairpin-8-1 -j MASQUERADE
-A POSTROUTING -s 172.22.0.0/16 ! -o hairpin-8-2 -j MASQUERADE
-A DOCKER -p tcp -m tcp --dport 1242 -j DNAT --to-destination 172.23.0.2:1242
-A DOCKER -i hairpin-8-1 -j RETURN
-A DOCKER -i hairpin-8-2 -j RETURN
COMMIT
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:DOCKER -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-ISOLATION-STAGE-2 -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o hairpin-8-1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o hairpin-8-1 -j DOCKER
-A FORWARD -i hairpin-8-1 ! -o hairpin-8-1 -j ACCEPT
-A FORWARD -i hairpin-8-1 -o hairpin-8-1 -j ACCEPT
-A FORWARD -o hairpin-8-2 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o hairpin-8-2 -j DOCKER
-A FORWARD -i hairpin-8-2 ! -o hairpin-8-2 -j ACCEPT
-A FORWARD -i hairpin-8-2 -o hairpin-8-2 -j ACCEPT
-A DOCKER -d 172.23.0.2/32 ! -i hairpin-8-1 -o hairpin-8-1 -p tcp -m tcp --dport 1242 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i hairpin-8-1 ! -o hairpin-8-1 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i hairpin-8-2 ! -o hairpin-8-2 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o hairpin-8-1 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o hairpin-8-2 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""

FILTER = "tcp port 1242"

# Gives up before TCP asks a second time.
CLIENT = """\
import socket
client = socket.socket()
client.settimeout(0.5)
client.bind(("172.22.0.2", 41242))
try:
    client.connect(("172.17.0.3", 1242))
except TimeoutError:
    pass
"""

# The recording is made in the lab, where the client's namespace has a name.
TRAFFIC = ("nsenter", "--net=/run/netns/container-a", sys.executable, "-I", "-c", CLIENT)

STORY = """\
A Docker host, 172.17.0.3, in namespaces of its own. Container A (172.22.0.2) and container B
(172.23.0.2) are in different networks; B's port 1242 is published on the host. A connects to
172.17.0.3:1242 and never gets an answer. Which rule ate the packet?
"""


def docker_hairpin(lab: Lab, backend: str = "legacy") -> None:
    """A container connects to another network's published port, through the host's address.

    The lab's own host is the Docker host, with the bridges hairpin-8-1 and hairpin-8-2.
    """
    lab.ip(
        None,
        """
        link add hairpin-8-1 type bridge
        link add hairpin-8-2 type bridge
        address add 172.23.0.1/16 dev hairpin-8-1
        address add 172.22.0.1/16 dev hairpin-8-2
        link set hairpin-8-1 up
        link set hairpin-8-2 up
        """,
    )
    lab.host("container-a")
    lab.host("container-b")
    lab.link("container-a", "eth0", "172.22.0.2/16", peer="veth-a", bridge="hairpin-8-2")
    lab.link("container-b", "eth0", "172.23.0.2/16", peer="veth-b", bridge="hairpin-8-1")
    lab.ip("container-a", "route add default via 172.22.0.1")
    lab.ip("container-b", "route add default via 172.23.0.1")

    lab.host("outside")
    lab.link("outside", "eth0", "172.17.0.1/16", peer="eth0")
    lab.ip(None, "address add 172.17.0.3/16 dev eth0")

    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.restore(None, "ipv4", RULES, backend)
    lab.settle()
