"""Rules of nf_tables that write into packets what tells them apart: each is one packet, before and after."""

from __future__ import annotations

import sys

import pytest
import recorder
from routers import between

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live
COUNT = 20
RULES = """
table inet t {
    chain pre { type filter hook prerouting priority -149; WRITE; }
    chain on { type filter hook forward priority 0; AGAIN; }
    chain post { type filter hook postrouting priority 0; udp dport 1000-2000 counter; }
}
"""
SEND = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.bind(("", 4000))
    for number in range({COUNT}):
        out.sendto(b"x" * number, ("10.0.2.2", 1000))
"""
WRITES = {
    "the id": ("ip id set 7 counter", "counter"),
    "the id twice": ("ip id set 7", "ip id set 8 counter"),
    "raw bytes": ("@nh,32,16 set 9 counter", "counter"),
    "the payload": ("@th,64,8 set 0x79 udp checksum set 0", "counter"),
    "nothing that tells them apart": ("ip ttl set 9 counter", "ip dscp set af11"),
}


@pytest.mark.parametrize("case", WRITES)
def test_a_packet_that_is_written_into(lab, tmp_path, case):
    between(lab, 2)
    lab.ip("h1", "route replace default via 10.0.1.1")
    lab.ip("h2", "route replace default via 10.0.2.1")
    write, again = WRITES[case]
    lab.run(["nft", "-f", "-"], stdin=RULES.replace("WRITE", write).replace("AGAIN", again))
    path = tmp_path / "t.db"
    child = recorder.start(lab, "udp", "--backend", "nft", "-o", path, notes=True)
    lab.run([sys.executable, "-c", SEND], "h1")
    recorder.stop(child)
    with Reader(path) as reader:
        packets = [one for one in Packets(reader) if one.header["dport"] == 1000]
    told = [(one.verdict, one.complete, one.ambiguous) for one in packets]
    assert told == [("ACCEPT", True, False)] * COUNT
    ways = {tuple(dict.fromkeys(step.chain for step in one.steps)) for one in packets}
    assert ways in ({("PREROUTING", "pre", "on", "post")}, {("pre", "on", "post")})
