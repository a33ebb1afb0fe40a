"""A recorder may work for weeks: what it takes does not grow with what it has recorded."""

from __future__ import annotations

import re
import sys

import pytest
from recorder import start, taken

pytestmark = [pytest.mark.live, pytest.mark.cold]  # what is measured is its own alone

RULES = "*filter\n-A INPUT -p udp -j DROP\nCOMMIT\n"
SEND = """\
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    out.sendto(number.to_bytes(8) * 8, ("127.0.0.1", 9))
    if number % 50 == 0:
        time.sleep(0.004)
"""


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_memory_does_not_grow_with_events(lab, tmp_path, backend):
    """After the first hundred thousand: an object kept of each event would be 10 MB."""
    lab.restore(None, "ipv4", RULES, backend)
    child = start(lab, "udp", "--ring", "1M", "--backend", backend, "-o", tmp_path / "t.db")
    lab.run([sys.executable, "-c", SEND, "15000"])
    before, descriptors = taken(child.pid)
    lab.run([sys.executable, "-c", SEND, "50000"])
    after, still = taken(child.pid)
    child.terminate()
    _, said = child.communicate(timeout=30)
    assert int(re.search(r"recorded ([\d,]+) events", said)[1].replace(",", "")) > 300_000
    assert after - before < 5000
    assert still == descriptors
