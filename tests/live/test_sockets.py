"""What a recording holds came from the kernel: no other process can send to the recorder's sockets."""

from __future__ import annotations

import json
import sys

import pytest
from command import iptrec
from recorder import start

pytestmark = pytest.mark.live

# Root of a container in the recorded namespace: an event of TRACE with a sequence number far ahead.
FORGE = """\
import socket, struct
def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
body = bytes([2, 0, 0, 0]) + attribute(10, b"TRACE: filter:INPUT:policy:1 \\0")
body += attribute(12, struct.pack("!I", 1000000)) + attribute(9, bytes(28))
message = struct.pack("=IHHII", 16 + len(body), 0x0400, 0, 0, 0) + body
sent = refused = 0
for line in open("/proc/net/netlink").read().splitlines()[1:]:
    _, protocol, port, *_ = line.split()
    if int(port) and int(protocol) in (0, 12):
        sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, int(protocol))
        try:
            sender.sendto(message, (int(port), 0))
            sent += 1
        except ConnectionRefusedError:
            refused += 1
print(sent, refused)
"""


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_nobody_else_sends_to_the_recorder(lab, tmp_path, backend):
    """Otherwise a namespace's own root could put events, and losses without end, into the evidence."""
    path = tmp_path / "t.db"
    child = start(lab, "udp", "--conntrack", "--backend", backend, "-o", path)
    sent, refused = map(int, lab.run([sys.executable, "-c", FORGE]).stdout.split())
    child.terminate()
    child.communicate(timeout=30)
    assert (sent, refused > 2) == (0, True)
    told = json.loads(iptrec("info", "--json", str(path)).stdout)
    assert (told["events"], told["lost"]) == (0, 0)
