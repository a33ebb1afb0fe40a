"""Who listens to netlink beside a recorder gets whole messages: no filter of ours may shorten them.

The kernel broadcasts one buffer. What a socket's filter cuts off is gone for those behind it as well
(do_one_broadcast, net/netlink/af_netlink.c, shares it while it is nobody else's).
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import recorder

LISTEN = """\
import json, socket, sys
listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
listening.bind((0, 0))
for group in (1, 5, 7, 8, 9, 11, 19, 24, 25):
    listening.setsockopt(270, 1, group)
print("ready", flush=True)
sys.stdin.readline()
listening.setblocking(False)
lengths = []
while True:
    try:
        data = listening.recv(1 << 16)
    except BlockingIOError:
        break
    lengths.append([len(data), int.from_bytes(data[:4], sys.byteorder)])
print(json.dumps(lengths))
"""
CHANGES = (
    "link set lo mtu 30000", "address add 10.7.7.7/32 dev lo", "route add 10.8.0.0/16 dev lo",
    "rule add fwmark 9 lookup 7", "route add fd08::/64 dev lo", "route del 10.8.0.0/16",
)  # fmt: skip


def listener(lab):
    child = lab.popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("drops", ["yes", "no"])
def test_messages_are_whole(lab, tmp_path, backend, drops):
    """Links, addresses, routes and rules. Who came first is told last."""
    lab.ip(None, "link set lo up")
    listening = listener(lab)
    child = recorder.start(
        lab, "udp", "--drops", drops, "--backend", backend, "-o", tmp_path / "t.db", notes=True
    )
    for change in CHANGES:
        lab.ip(None, change)
    told = json.loads(listening.communicate("\n", timeout=30)[0])
    assert len(told) >= len(CHANGES)
    assert [size for size, said in told if size < said] == []
    recorder.stop(child)
