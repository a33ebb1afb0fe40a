"""The kernel's own reasons: who dies behind the rules is told so, with reason and place, and nobody else is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import IPTREC
from dying import CONTROLS, IDS, PORTS, WAYS, order
from recorder import packets

from iptrec.packets.drop_words import function

pytestmark = pytest.mark.live
DYING = Path(__file__).with_name("dying.py")
RULES = """*filter
:INPUT ACCEPT
:FORWARD ACCEPT
-A INPUT -p udp -m udp --dport 4 -j DROP
-A FORWARD -p udp -m udp --dport 4 -j DROP
COMMIT
"""


@pytest.fixture
def router(lab):
    """A router between two hosts, with its rules of both backends' tests."""
    for net in (1, 2):
        name = f"h{net}"
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"v{net}")
        lab.ip(None, f"address add 10.0.{net}.1/24 brd + dev v{net}")
        lab.ip(None, f"address add fd00:{net}::1/64 dev v{net}")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        lab.sysctl(None, f"net/{setting}", 1)
    lab.settle()
    return lab


def link_address(lab, host, name):
    found = lab.run(["ip", "-json", "link", "show", "dev", name], host).stdout
    return json.loads(found)[0]["address"]


def test_ways_to_die(router, tmp_path, backend):
    for family in ("ipv4", "ipv6"):
        router.restore(None, family, RULES, backend)
    path = tmp_path / "t.db"
    asked = json.dumps(order(link_address(router, "h1", "eth0"), link_address(router, None, "v1")))
    router.run(
        [
            *IPTREC,
            "record",
            "-q",
            "--drops",
            "yes",
            "--backend",
            backend,
            "-o",
            str(path),
            "--",
            sys.executable,
            str(DYING),
        ],
        stdin=asked,
    )
    found, others = {}, []
    for one in packets(path):
        if (name := whose(one)) is None:
            others += [one] * (
                one.header["proto"] == "udp"
            )  # hosts tell each other what they listen to
        else:
            found.setdefault(name, []).append(told(one))
    expected = {name: ("LOST", way.reason, way.function, True) for name, way in WAYS.items()}
    assert {name: ends[-1] for name, ends in found.items()} == expected
    # A socket's buffer takes the first of those that fill it.
    assert {name for name, ends in found.items() if ("ACCEPT", None) in ends} == {
        "full buffer",
        "full buffer6",
    }
    assert [one.header for one in others if one.end is not None] == []
    assert len(others) >= 2 * len(WAYS)


def whose(packet):
    """The way to die that a packet goes; None for those that are sent beside."""
    number = packet.header.get("id", 0) - IDS
    if packet.family == "ipv6":
        number = packet.header.get("sport", 0) - PORTS
    mine = packet.steps[0].in_ == "v1" and 0 <= number < CONTROLS - IDS and number % 100 < len(WAYS)
    return list(WAYS)[number % 100] if mine else None


def told(packet):
    """Verdict and end."""
    end = packet.end
    return packet.verdict, *((end.reason, function(end.where), end.sure) if end else [None])
