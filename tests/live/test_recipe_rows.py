"""The tables "What else it may be" of docs/recipes: what a row says is what iptrec says of such a packet."""

from __future__ import annotations

import sys
from typing import NamedTuple

import documents
import pytest
import recipes
from recorder import start, stop
from rights import IS_ROOT

import iptrec

pytestmark = [pytest.mark.live, pytest.mark.skipif(not IS_ROOT, reason="as root types them")]

REAL = documents.ROOT / "tests" / "data" / "rulesets" / "docker-libvirt-ufw.rules"
# Docker 28, wg-quick, Tailscale and kube-proxy write these.
MORE = """\
*raw
-A PREROUTING -d 172.17.0.9/32 ! -i docker0 -j DROP
-A PREROUTING -d 10.8.0.2/32 ! -i wg0 -m addrtype ! --src-type LOCAL -j DROP
COMMIT
*filter
:ts-input - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
-I INPUT -j ts-input
-I INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP
-A KUBE-EXTERNAL-SERVICES -p udp -m comment --comment "shop/checkout has no local endpoints" \
-m addrtype --dst-type LOCAL -m udp --dport 9005 -j DROP
COMMIT
"""
SEND = """\
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.bind((sys.argv[1], 0))
    out.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    out.sendto(bytes(int(sys.argv[4])), (sys.argv[2], int(sys.argv[3])))
"""


class Row(NamedTuple):
    """A row, and a packet for it: "VERDICT by CHAIN" and text of the rule are in the row's first cell."""

    page: str
    what: str
    spec: str
    host: str
    source: str
    target: str
    port: int


IPTABLES = [
    Row("published-port", "DROP by raw/PREROUTING", "! -i docker0 -j DROP",
        "client", "192.0.2.99", "172.17.0.9", 9000),
    Row("published-port", "DROP by filter/DOCKER", "! -i docker0 -o docker0 -j DROP",
        "client", "192.0.2.99", "172.17.0.2", 9001),
    Row("published-port", "DROP by filter/FORWARD policy", "",
        "client", "192.0.2.99", "10.96.0.5", 9002),
    Row("vpn", "DROP by ts-input", "-s 100.64.0.0/10 ! -i tailscale0",
        "client", "100.64.0.9", "192.0.2.10", 9003),
    Row("vpn", "DROP by raw/PREROUTING", "-m addrtype ! --src-type LOCAL",
        "client", "192.0.2.99", "10.8.0.2", 9004),
    Row("pod-to-service", "DROP by KUBE-EXTERNAL-SERVICES", "has no local endpoints",
        "client", "192.0.2.99", "192.0.2.10", 9005),
    Row("vm-on-a-bridge", "REJECT by LIBVIRT_FWI", "-o virbr0 -j REJECT",
        "client", "192.0.2.99", "192.168.122.10", 9006),
    Row("vm-on-a-bridge", "REJECT by LIBVIRT_FWO", "-i virbr0 -j REJECT",
        "vm", "192.168.99.9", "192.0.2.77", 9007),
]  # fmt: skip
NFT = [
    Row("pod-to-service", "REJECT by cluster-ips-check", "ip daddr @cluster-ips reject",
        "client", "192.0.2.99", "10.96.0.20", 9008),
    Row("admin-prohibited", "REJECT by filter_FWD_public", "reject with icmpx admin-prohibited",
        "client", "192.0.2.99", "172.17.0.2", 9009),
]  # fmt: skip


ENDS = {  # reason -> page, the beginning of its row, and a packet: target, port, bytes
    "NO_SOCKET": ("published-port", "DISCARDED, no socket", "192.0.2.10", 9010, 1),
    "PKT_TOO_BIG": ("vpn", "DISCARDED, PKT_TOO_BIG", "172.17.0.2", 9011, 1400),
    "IP_INNOROUTES": ("vpn", "DISCARDED, no route to the destination", "10.8.0.3", 9012, 1),
}


@pytest.fixture
def network(lab):
    """A client outside, a container, a machine on virbr0; whatever is not here is behind the client."""
    recipes.neighbour(lab, "client", "eth0", "192.0.2.10/24", "192.0.2.99/24")
    recipes.bridged(lab, "docker0", "172.17.0.1/16", web="172.17.0.2/16")
    recipes.bridged(lab, "virbr0", "192.168.122.1/24", first=1, vm="192.168.122.10/24")
    lab.ip("client", "address add 100.64.0.9/32 dev lo\naddress add 192.0.2.77/32 dev lo")
    lab.ip("vm", "address add 192.168.99.9/32 dev lo")
    lab.ip(None, "route add 100.64.0.9 via 192.0.2.99\nroute add 10.96.0.0/16 via 192.0.2.99")
    recipes.forward(lab)
    return lab


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_rows_of_iptables(network, tmp_path, backend):
    """Of a real host's rules, with those of others added."""
    network.restore(None, "ipv4", REAL.read_text(), backend)
    network.run([f"iptables-{backend}-restore", "--noflush"], stdin=MORE)
    assert wrong(network, tmp_path, backend, IPTABLES) == []


def test_rows_of_nftables(network, tmp_path):
    """kube-proxy and firewalld on one host."""
    for path in (recipes.hosts.RULES / "kube-proxy.nft", recipes.RULES / "firewalld.nft"):
        network.run(["nft", "-f", "-"], stdin=path.read_text())
    assert wrong(network, tmp_path, "nft", NFT) == []


def test_rows_of_packets_that_no_rule_dropped(network, tmp_path):
    """The kernel's own word is in the row."""
    network.ip(None, "link set docker0 mtu 1280")
    child = start(network, "udp", "--drops", "auto", "--backend", "legacy", "-o", tmp_path / "t.db")
    for _, _, target, port, size in ENDS.values():
        words = ("192.0.2.99", target, str(port), str(size))
        network.run([sys.executable, "-c", SEND, *words], "client")
    stop(child)
    with iptrec.open(tmp_path / "t.db") as recording:
        seen = {packet.header["dport"]: packet for packet in recording.packets()}
    for reason, (page, row, _, port, _) in ENDS.items():
        assert any(row in cell for cell in cells(page)), row
        assert (seen[port].verdict, seen[port].end.reason) == ("DISCARDED", reason)
        assert row.partition(", ")[2] in f"{seen[port].end.text} {reason}"


def wrong(lab, directory, backend, rows):
    """The rows that say something else than was recorded of their packets."""
    lab.settle()
    child = start(lab, "udp", "--backend", backend, "-o", directory / "t.db")
    for row in rows:
        lab.run([sys.executable, "-c", SEND, row.source, row.target, str(row.port), "1"], row.host)
    stop(child)
    with iptrec.open(directory / "t.db") as recording:
        seen = {packet.header["dport"]: packet for packet in recording.packets()}
    return [(row, told(seen.get(row.port))) for row in rows if not agree(row, seen.get(row.port))]


def told(packet):
    """What decided, as a row has it."""
    if packet is None or packet.decided_by is None:
        return packet
    at = packet.decided_by
    return f"{packet.verdict} by {at.table}/{at.chain} {packet.steps[-1].spec or 'policy'}"


def cells(page):
    """What the first column of the page's table says."""
    lines = (documents.ROOT / "docs" / "recipes" / f"{page}.md").read_text().splitlines()
    return [line.split("|")[1] for line in lines if line.startswith("| ")]


def agree(row, packet):
    """Whether the page has that row, and the packet is of it."""
    if not any(row.what in cell and row.spec in cell for cell in cells(row.page)):
        return False
    verdict, _, chain = row.what.removesuffix(" policy").partition(" by ")
    words = told(packet)
    return isinstance(words, str) and all(
        one in words for one in (f"{verdict} by ", f"{chain} ", row.spec or " policy")
    )
