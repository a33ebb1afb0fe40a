"""Dormant tables: on no packet's way, and no reason for nft's JSON to take the recording with it."""

from __future__ import annotations

import sys
import time

import pytest
import test_nft
from command import iptrec
from recorder import packets, stop, until
from test_nft import router, start

from iptrec.recording.reader import Reader

pytestmark = test_nft.pytestmark

DORMANT = "table inet dorm {\n\tflags dormant;\n%s\n}\n"
DROPS = "\tchain d { type filter hook forward priority 0; policy drop; counter;\n\t}"
FW = """\
table %s fw {
	chain c { type filter hook forward priority 1; policy accept; udp dport 1000 counter;
	}
}
"""
SLEEPY = """\
table inet sleepy {
	chain d { type filter hook forward priority 0; udp dport 999 counter drop;
	}
}
"""
SEND = """\
import socket, sys
for port in map(int, sys.argv[1:]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("", 20000 + port))
        out.sendto(b"x", ("10.0.2.2", port))
"""


def send(lab, *ports):
    lab.run([sys.executable, "-c", SEND, *map(str, ports)], "a")


def told(path):
    return [
        (
            packet.header["dport"], packet.verdict, packet.complete, packet.ambiguous,
            [(one.table, one.spec) for one in packet.steps if one.type == "rule"],
        )
        for packet in packets(path)
    ]  # fmt: skip


def states(path):
    with Reader(path) as reader:
        return len([one for one in reader.snapshots("nft") if one.after_ns is not None])


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
@pytest.mark.parametrize("chains", [DROPS, ""], ids=["chain", "empty"])
@pytest.mark.parametrize("family", ["inet", "ip"])
def test_on_no_way(lab, tmp_path, family, chains, order):
    """Packets go by its chains, and are complete; the rules have the hits that the kernel counted."""
    router(lab)
    parts = [DORMANT % chains, FW % family][::order]
    lab.run(["nft", "-f", "-"], stdin="".join(parts))
    child = start(lab, tmp_path / "t.db", "udp", "--backend", "nft")
    send(lab, 999, 1000, 1001)
    counted = lab.run(["nft", "list", "table", family, "fw"]).stdout
    stop(child)
    assert "counter packets 1 " in counted
    rule = [(f"{family} fw", "udp dport 1000 counter")]
    assert told(tmp_path / "t.db") == [
        (999, "ACCEPT", True, False, []),
        (1000, "ACCEPT", True, False, rule),
        (1001, "ACCEPT", True, False, []),
    ]


def test_a_listing_that_breaks_off(lab, tmp_path):
    """JSON of nft 1.0.6 does so at a dormant table that is the last: the user hears of it, all can be read."""
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=FW % "inet")
    child = start(lab, tmp_path / "t.db", "udp", "--backend", "nft")
    send(lab, 1000)
    time.sleep(0.5)  # nearer to the change it could be ambiguous
    lab.run(["nft", "-f", "-"], stdin=DORMANT % "")
    broken = not lab.run(["nft", "-j", "list", "ruleset"]).stdout.endswith("}\n")
    until(lambda: states(tmp_path / "t.db") == 1)
    send(lab, 1000)
    said = stop(child)
    assert ("nft's text alone" in said) == broken
    rule = [("inet fw", "udp dport 1000 counter")]
    assert told(tmp_path / "t.db") == [(1000, "ACCEPT", True, False, rule)] * 2
    for command in ("info", "show", "rules", "why", "paths"):
        done = iptrec(command, tmp_path / "t.db")
        assert (done.returncode, done.stderr) == (0, ""), command


def test_falls_asleep_and_wakes(lab, tmp_path):
    """While it sleeps its rules are on no way, before and afterwards they are: nothing is incomplete."""
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=SLEEPY + FW % "inet")
    child = start(lab, tmp_path / "t.db", "udp", "--backend", "nft")
    for number, flags in enumerate(("", "{ flags dormant; }", "")):
        if number:
            lab.run(["nft", "-f", "-"], stdin=f"add table inet sleepy {flags}\n")
            until(lambda at=number: states(tmp_path / "t.db") == at)
        send(lab, 998, 999)
        time.sleep(0.5)  # nearer to the change it could be ambiguous
    stop(child)
    drop = [("inet sleepy", "udp dport 999 counter drop")]
    assert told(tmp_path / "t.db") == [
        (998, "ACCEPT", True, False, []), (999, "DROP", True, False, drop),
        (998, "ACCEPT", True, False, []), (999, "ACCEPT", True, False, []),
        (998, "ACCEPT", True, False, []), (999, "DROP", True, False, drop),
    ]  # fmt: skip
