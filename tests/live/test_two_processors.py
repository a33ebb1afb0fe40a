"""Equal packets that two processors forward at a time: each event is told of the packet that it was of."""

from __future__ import annotations

import os
import sys

import pytest
import recorder
from routers import between

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors"),
]
COUNT = 2000  # on each processor
# What tells them apart lies behind what is recorded of each; a rule marks them by it.
MARKS = "".join(
    f'-A PREROUTING -p udp -m u32 --u32 "68>>24={one}" -j MARK --set-mark {one}\n'
    for one in range(1, 17)
)
RULES = f"""*mangle
{MARKS}-A POSTROUTING -p udp
COMMIT
*filter
-A FORWARD -m statistic --mode nth --every 3 --packet 0 -j DROP
COMMIT
"""
SEND = f"""
import os, socket
out = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
out.bind(("", 4000))
for number, processor in enumerate(sorted(os.sched_getaffinity(0))[:2]):
    if os.fork() == 0:
        os.sched_setaffinity(0, {{processor}})
        for one in range({COUNT}):
            out.sendto(bytes(20) + bytes([1 + (7 * one + 3 * number) % 16]) + bytes(7), ("fd00:2::2", 53))
        os._exit(0)
for _ in range(2):
    os.wait()
"""


def test_equal_packets_of_two_processors(lab, tmp_path, backend):
    """IPv6 has no number that tells packets apart, and none has a stamp of its arrival in POSTROUTING."""
    between(lab, 2)
    lab.ip("h1", "route replace default via fd00:1::1")
    lab.restore(None, "ipv6", RULES, backend)
    path = tmp_path / "t.db"
    child = recorder.start(
        lab, "udp", "--snaplen", "64", "--backend", backend, "-o", path, notes=True
    )
    lab.run([sys.executable, "-c", SEND], "h1")
    recorder.stop(child)
    with Reader(path) as reader:
        tapped = any(one.notes is not None for one in reader.chunks())
        packets = [one for one in Packets(reader) if one.header["proto"] == "udp"]
    assert len(packets) == 2 * COUNT
    sure = [one for one in packets if not one.ambiguous]
    marked = [
        {step.mark for step in one.steps if step.chain in ("FORWARD", "POSTROUTING")}
        for one in sure
    ]
    assert {len(one) for one in marked} == {1}
    assert len(sure) == len(packets) or not tapped
