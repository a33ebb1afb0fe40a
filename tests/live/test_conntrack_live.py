"""Connections that are recorded beside the packets."""

from __future__ import annotations

import json
import shlex
import sys

import pytest
import sides
from command import IPTREC, iptrec

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

NAT = """\
*nat
-A PREROUTING -p udp --dport 5000 -j DNAT --to-destination 10.0.2.2:6000
-A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.0.2.2:8080
-A POSTROUTING -o v2 -j MASQUERADE
COMMIT
"""
TALK = """\
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
out = socket.socket(family, socket.SOCK_DGRAM)
out.bind(("", 4000))
for _ in range(2):
    out.sendto(b"x", (sys.argv[1], 5000))
out = socket.socket(family)
out.settimeout(1)
try: out.connect((sys.argv[1], 80))
except OSError: pass
"""


@pytest.fixture
def routed(lab):
    """Hosts h1 and h2 on both sides of the lab, which translates."""
    sides.join(lab, "h1", "h2", peer="v{net}")
    lab.settle()
    lab.restore(None, "ipv4", NAT)
    return lab


def connections(path):
    """(protocol, in, the connection as JSON has it) of each packet."""
    from iptrec.views import packet_json as view

    with Reader(path) as reader:
        return [
            (one.header["proto"], one.in_, json.loads(view.line(one))["connection"])
            for one in Packets(reader)
        ]


def test_connections_show_their_translation(routed, tmp_path):
    """DNAT and MASQUERADE, UDP, TCP and ICMP, both directions and errors about them."""
    path = tmp_path / "t.db"
    routed.run([*IPTREC, "record", "-q", "--conntrack", "-o", str(path), "ip", "--", "nsenter",
                "--net=/run/netns/h1", sys.executable, "-c", TALK, "10.0.1.1"])  # fmt: skip
    found = connections(path)
    assert {proto for proto, _, _ in found} == {"udp", "icmp", "tcp"}
    assert {side for _, side, _ in found} == {"v1", "v2"}
    assert all(connection for *_, connection in found), found
    for proto, _, connection in found:
        assert connection["orig"]["src"] == "10.0.1.2"
        assert connection["orig"]["dst"] == "10.0.1.1"
        to = "10.0.2.2:8080" if proto == "tcp" else "10.0.2.2:6000"
        assert connection["nat"]["dnat"] == to
        assert connection["nat"]["snat"].startswith("10.0.2.1:")
        assert connection["orig"]["sport"] == 4000 or proto == "tcp"
    shown = iptrec("show", str(path)).stdout
    assert "[DNAT 10.0.2.2:6000] [SNAT 10.0.2.1:4000]" in shown


def test_connections_that_were_there_before(routed, tmp_path):
    """The dump in the beginning knows them; without --conntrack nothing is said."""
    talk = ["nsenter", "--net=/run/netns/h1", "ping", "-c1", "-e", "77", "10.0.2.2"]
    routed.run(talk)
    for options, expected in (["--conntrack"], "10.0.2.1:77"), ([], None):
        path = tmp_path / f"{len(options)}.db"
        routed.run([*IPTREC, "record", "-q", *options, "-o", str(path), "icmp", "--", *talk])
        found = [one and one["nat"]["snat"] for *_, one in connections(path)]
        assert found == [expected] * 2


def test_ipv6(lab, tmp_path):
    """An IPv6 connection, without NAT."""
    lab.restore(None, "ipv6", "*filter\n-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")
    path = tmp_path / "t.db"
    lab.run(
        [
            *IPTREC,
            "record",
            "-q",
            "--conntrack",
            "-o",
            str(path),
            "icmp6",
            "--",
            "ping",
            "-c1",
            "::1",
        ]
    )
    found = connections(path)
    assert len(found) == 4
    assert all(one["orig"]["src"] == "::1" and one["nat"] is None for *_, one in found)


SNAT = "-t nat -A POSTROUTING -p udp --dport 9 -j SNAT --to-source 10.0.2.9:5000"
CLASH = {  # three connections that are to have the same address and port
    "legacy": f"iptables-legacy {SNAT}",
    "nft": f"iptables-nft {SNAT}",
    "native": "nft 'add table ip n; add chain ip n post { type nat hook postrouting priority 100; };"
    " add rule ip n post udp dport 9 snat to 10.0.2.9:5000'",
}
ARRIVE = """\
import socket
inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inner.bind(("", 9))
inner.settimeout(1)
print("ready", flush=True)
input()
try:
    while True: print(inner.recv(9).decode())
except TimeoutError: pass
"""
SEND = """\
import socket
for port in range(3):
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.bind(("", 4000 + port))
    out.sendto(b"%d" % port, ("10.0.2.2", 9))
"""


@pytest.mark.parametrize("rules", CLASH)
def test_a_connection_that_is_refused_is_no_sure_accept(routed, tmp_path, rules):
    """All rules let it pass and connection tracking drops it: the others arrive, and no packet is sure."""
    path = tmp_path / "t.db"
    routed.restore(None, "ipv4", "*nat\nCOMMIT\n")
    routed.run(shlex.split(CLASH[rules]))
    listener = routed.popen([sys.executable, "-c", ARRIVE], "h2", stdin=-1, stdout=-1, text=True)
    assert listener.stdout.readline() == "ready\n"
    backend = "legacy" if rules == "legacy" else "nft"
    routed.run([*IPTREC, "record", "-q", "--drops=no", "--backend", backend, "-o", str(path),
                "udp dst port 9", "--", "nsenter", "--net=/run/netns/h1",
                sys.executable, "-c", SEND])  # fmt: skip
    arrived = listener.communicate("\n")[0].split()
    with Reader(path) as reader:
        found = list(Packets(reader))
    assert len(found) == 3
    assert arrived == ["0"]
    for one in found:
        assert (one.verdict, one.complete, one.ambiguous) == ("ACCEPT", True, True)
        assert "refused 2 new connections" in one.reason
