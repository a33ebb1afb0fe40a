"""A packet whose length a rule changes stays one."""

from __future__ import annotations

import re

import pytest
from test_traffic import Net

pytestmark = pytest.mark.live

RULES = (
    "*mangle\n-A FORWARD -p tcp --syn -j TCPMSS --set-mss 1000\nCOMMIT\n"
    "*filter\n-A FORWARD -p tcp --dport 81 -j DROP\nCOMMIT\n"
)
# A SYN without options, as scanners and SYN floods send it.
SYN = """
import struct
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
def syn(family, own, to, port):
    head = struct.pack("!HHIIBBHHH", 4000, port, 7, 0, 0x50, 2, 1000, 0, 0)
    pseudo = socket.inet_pton(family, own) + socket.inet_pton(family, to) + struct.pack("!HH", 6, 20)
    head = head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as out:
        out.sendto(head, (to, 0))
for port in (80, 81, 80):
    syn(socket.AF_INET, "10.0.1.2", "10.0.2.2", port)
    syn(socket.AF_INET6, "fd00:1::2", "fd00:2::2", port)
"""
ADDRESSES = {"ipv4": "10.0.2.2", "ipv6": "fd00:2::2"}
HOST = "*filter\n-A INPUT -p tcp\n-A OUTPUT -p tcp -j DROP\nCOMMIT\n"


@pytest.fixture
def net(lab, tmp_path):
    one = Net(lab, tmp_path)
    one.hosts(1, 2)
    return one


def received(net, tool):
    """Packets and bytes that the host took in, by its own count."""
    text = net.lab.run([tool, "-c", "-t", "filter"], "h2").stdout
    return tuple(map(int, re.search(r"\[(\d+):(\d+)\] -A INPUT -p tcp", text).groups()))


def test_an_option_that_tcpmss_adds(net, backend):
    """Six packets, four bytes longer behind the rule: those that we call accepted have arrived, so long."""
    for family in ("ipv4", "ipv6"):
        net.lab.restore(None, family, RULES, backend)
        net.lab.restore("h2", family, HOST)
        net.lab.run(["ping", "-c1", ADDRESSES[family]], "h1")  # neighbours are known from now on
    net.record("tcp", SYN, host="h1", options=("--backend", backend))
    assert [one.verdict for one in net.packets] == ["ACCEPT"] * 2 + ["DROP"] * 2 + ["ACCEPT"] * 2
    assert net.certain()
    for packet in net.packets:
        lengths = [step.header["length"] for step in packet.steps]
        assert lengths[-1] - lengths[0] == 4
        at = [step.target for step in packet.steps].index("TCPMSS")
        changes = [step.changed["length"] for step in packet.steps[at:] if "length" in step.changed]
        assert changes == [(lengths[0], lengths[-1])]
    for family, tool in (("ipv4", "iptables-legacy-save"), ("ipv6", "ip6tables-legacy-save")):
        passed = [
            packet.steps[-1].header["length"]
            for packet in net.packets
            if (packet.family, packet.verdict) == (family, "ACCEPT")
        ]
        assert received(net, tool) == (len(passed), sum(passed))
