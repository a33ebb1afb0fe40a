"""A recording that is followed while the rules change: each packet is told by the rule that it met."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from command import IPTREC
from recorder import start, stop

pytestmark = pytest.mark.live

TIMES = 12
SEND = """\
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.bind(("127.0.0.1", 20000 + int(sys.argv[1])))
    out.sendto(b"x", ("127.0.0.1", 9))
"""
_MARK = re.compile(r"--set-xmark (0x[0-9a-f]+)|mark set (0x[0-9a-f]+)")


def restored(lab, command):
    def load(number):
        text = f"*filter\n-A OUTPUT -p udp --dport 9 -j MARK --set-mark {number}\nCOMMIT\n"
        lab.run([command], stdin=text)

    return load


def legacy(lab):
    return "legacy", restored(lab, "iptables-legacy-restore")


def iptables_nft(lab):
    return "nft", restored(lab, "iptables-nft-restore")


def reloaded(lab):
    """The new table gives its rule the handle of the old one."""

    def load(number):
        chain = f"type filter hook output priority 0; udp dport 9 meta mark set {number};"
        lab.run(
            ["nft", f"table ip t; delete table ip t; table ip t {{ chain c {{ {chain} }}; }}"]
            if number
            else ["nft", f"table ip t {{ chain c {{ {chain} }}; }}"]
        )

    return "nft", load


def both(lab):
    lab.run(
        [
            "nft",
            "table ip t { chain c { type filter hook output priority 1; udp dport 9 counter; }; }",
        ]
    )
    return "both", restored(lab, "iptables-legacy-restore")


@pytest.mark.parametrize("rules", [legacy, iptables_nft, reloaded, both])
def test_packets_are_told_by_the_rules_of_then(lab, tmp_path, rules):
    """Also those that come right after a change, which is recorded a moment later."""
    backend, load = rules(lab)
    load(0)
    path = tmp_path / "t.db"
    child = start(lab, "--backend", backend, "-o", path, "udp and dst port 9")
    command = [*IPTREC, "show", "--follow", "--json", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        for number in range(1, TIMES + 1):
            load(number)
            lab.run([sys.executable, "-c", SEND, str(number)])
        stop(child)
        told, _ = follower.communicate(timeout=60)
    found = {}
    for packet in map(json.loads, told.splitlines()):
        marks = [_MARK.search(step["spec"] or "") for step in packet["steps"]]
        (mark,) = [int(one[1] or one[2], 16) for one in marks if one] or [None]
        if not packet["ambiguous"] and packet["out"]:
            found[packet["header"]["sport"] - 20000] = mark
    assert all(mark in (number, None) for number, mark in found.items()), found
    assert sum(mark is not None for mark in found.values()) > TIMES // 2
