"""Events of legacy iptables that tell whose connection a packet is of: the kernel's own numbers of it.

NFULA_CT comes from conntrack's glue (CONFIG_NETFILTER_NETLINK_GLUE_CT), which not every kernel has.
"""

from __future__ import annotations

import sys

import pytest
import recorder
import sides

from iptrec.decode import conntrack, nflog
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

RULES = """\
*mangle
-A FORWARD -p udp
COMMIT
*nat
-A PREROUTING -p udp --dport 5000 -j DNAT --to-destination 10.0.2.2:6000
COMMIT
"""
PORTS = (4000, 4001)
SEND = f"""\
import socket
for port in {PORTS}:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("", port))
        for _ in range(2):
            out.sendto(b"x", ("10.0.1.1", 5000))
"""


def test_events_have_the_number_that_conntrack_tells(lab, tmp_path):
    """Of each connection the same in all its events; none in raw, which packets pass before they have one."""
    sides.join(lab, "h1", "h2", peer="v{net}")
    lab.settle()
    lab.restore(None, "ipv4", RULES)
    path = tmp_path / "t.db"
    child = recorder.start(lab, "--conntrack", "--backend", "legacy", "-o", path, "udp")
    lab.run([sys.executable, "-c", SEND], "h1")
    recorder.stop(child)
    with Reader(path) as reader:
        streams = {one.kind: one for one in reader.streams}
        if not streams["nflog"].detail["conntrack"]:
            pytest.skip("this kernel's nflog does not tell of conntrack")
        told = {
            one.orig.sport: one.id
            for chunk in reader.chunks(streams["conntrack"].id)
            for _, datagram in chunk.datagrams()
            for one in conntrack.connections(datagram)
        }
        found = {port: set() for port in PORTS}
        for chunk in reader.chunks(streams["nflog"].id):
            events = nflog.decode(chunk.data, chunk.lengths, chunk.received_ns)
            for at in range(len(events)):
                header = events.header(at)
                if header.get("sport") in found:
                    in_raw = events.sites[events.site[at]].startswith(b"TRACE: raw:")
                    found[header["sport"]].add((in_raw, int(events.conntrack[at])))
    assert len({told[port] for port in PORTS}) == 2
    assert found == {port: {(True, -1), (False, told[port])} for port in PORTS}
