"""A program behind NFQUEUE gives another payload back: it is the packet that it was given."""

from __future__ import annotations

import re

import pytest
from test_traffic import LISTENER, Net, send, way

pytestmark = pytest.mark.live

RULES = (
    "*mangle\n-A FORWARD -p udp -j NFQUEUE --queue-num 3\nCOMMIT\n"
    "*filter\n-A FORWARD -p udp --dport 5001 -j DROP\nCOMMIT\n"
)
HOST = "*filter\n-A INPUT -p udp\n-A OUTPUT -p udp -j DROP\nCOMMIT\n"
COUNT = 3
# Gives each datagram back with a payload that is so many bytes longer, but drops those to port 5002.
CHANGE = """
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
def changed(packet):
    body = packet[28:] + b"longer" * 3
    head = packet[:2] + struct.pack("!H", 28 + len(body)) + packet[4:10] + bytes(2) + packet[12:20]
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + packet[20:24] + struct.pack("!HH", 8 + len(body), 0) + body
def attributes(message):
    at = 20
    while at < len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        yield kind & 0x7FFF, message[at + 4 : at + size]
        at += size + 3 & ~3
def change(count):
    waiting = []
    for _ in range(count):
        message = queue.recv(65536)
        while struct.unpack_from("=H", message, 4)[0] != 3 << 8:
            message = queue.recv(65536)
        waiting.append(dict(attributes(message)))
        if len(waiting) == 3:  # all under way together
            for one in waiting:
                port = struct.unpack_from("!H", one[10], 22)[0]
                verdict = struct.pack("!I", port != 5002) + one[1][:4]
                ask(1, 3, (2, verdict), (10, changed(one[10])))
            waiting.clear()
"""
EXPECTED = {5000: ("ACCEPT", True), 5001: ("DROP", True), 5002: ("QUEUE", False)}


@pytest.fixture
def net(lab, tmp_path, backend):
    one = Net(lab, tmp_path)
    one.hosts(1, 2)
    lab.restore(None, "ipv4", RULES, backend)
    lab.restore("h2", "ipv4", HOST)
    return one


def test_what_comes_back_is_what_was_handed_over(net, backend):
    """Nine packets, whole, eighteen bytes longer; as many have arrived, so long, as we call accepted."""
    net.lab.run(["ping", "-c1", "10.0.2.2"])  # neighbours are known from now on
    sends = "import socket\n" + "".join(send("10.0.2.2", port, count=COUNT) for port in EXPECTED)
    script = LISTENER.replace('"!IB", 0, 1', '"!IB", 0xFFFF, 2') + CHANGE + (
        "import subprocess, sys\n"
        f"sender = subprocess.Popen(['nsenter', '--net=/run/netns/h1', sys.executable, '-c', {sends!r}])\n"
        f"change({COUNT * len(EXPECTED)})\nsender.wait()\n"
    )  # fmt: skip
    net.record("udp", script, options=("--backend", backend))
    assert len(net.packets) == COUNT * len(EXPECTED), [way(one) for one in net.packets]
    for packet in net.packets:
        assert (packet.verdict, packet.complete) == EXPECTED[packet.header["dport"]]
        assert not packet.ambiguous
        lengths = [step.header["length"] for step in packet.steps]
        assert lengths[-1] - lengths[0] == (18 if packet.complete else 0)
    text = net.lab.run(["iptables-legacy-save", "-c", "-t", "filter"], "h2").stdout
    arrived = re.search(r"\[(\d+):(\d+)\] -A INPUT -p udp", text).groups()
    accepted = [one.steps[-1].header["length"] for one in net.packets if one.verdict == "ACCEPT"]
    assert tuple(map(int, arrived)) == (len(accepted), sum(accepted))


def test_what_comes_back_goes_on_to_the_other_backend(lab, tmp_path):
    """Given back as it was: a later chain of nf_tables tells of the same packet."""
    net = Net(lab, tmp_path)
    net.hosts(1, 2)
    net.rules(RULES)
    lab.restore("h2", "ipv4", HOST)
    lab.run(
        ["nft", "table inet fw { chain f { type filter hook forward priority 10; counter; }; }"]
    )
    lab.run(["ping", "-c1", "10.0.2.2"])
    sends = "import socket\n" + "".join(send("10.0.2.2", port, count=COUNT) for port in EXPECTED)
    unchanged = CHANGE.replace('b"longer" * 3', "b''")
    script = LISTENER.replace('"!IB", 0, 1', '"!IB", 0xFFFF, 2') + unchanged + (
        "import subprocess, sys\n"
        f"sender = subprocess.Popen(['nsenter', '--net=/run/netns/h1', sys.executable, '-c', {sends!r}])\n"
        f"change({COUNT * len(EXPECTED)})\nsender.wait()\n"
    )  # fmt: skip
    net.record("udp", script, options=("--backend", "both"))
    assert len(net.packets) == COUNT * len(EXPECTED)
    for packet in net.packets:
        assert (packet.verdict, packet.complete) == EXPECTED[packet.header["dport"]]
        went_on = any(step.table == "inet fw" for step in packet.steps)
        assert went_on == (packet.verdict == "ACCEPT")
