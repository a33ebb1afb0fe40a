"""What became of frames that no later chain of the bridge sees: the bridge drops some and tells nobody."""

from __future__ import annotations

import sys

import pytest
from command import IPTREC
from recorder import packets

pytestmark = pytest.mark.live

CHAIN = ' chain {0} {{ type filter hook {0} priority 0; ip protocol udp counter comment "{0}"; }}\n'
SENDS = """
import socket
for host, port in (('10.5.0.3', 1000), ('10.5.0.4', 1001)):
    for _ in range(5):
        socket.socket(2, 2).sendto(b'x', (host, port))
"""
NOTHING_TELLS = (
    "nothing tells what became of it after bridge br PREROUTING: the bridge may have dropped it, or"
    " passed it on where no chain sees it"
)


@pytest.fixture
def bridge(lab):
    """Three hosts; what the first sends to the last is dropped between isolated ports."""
    lab.ip(None, "link add br0 type bridge\nlink set br0 up")
    for number in (2, 3, 4):
        lab.host(f"h{number}")
        lab.link(f"h{number}", "eth0", f"10.5.0.{number}/24", peer=f"p{number}", bridge="br0")
    lab.settle()
    switch = "net/bridge/bridge-nf-call-iptables"
    if lab.run(["test", "-e", f"/proc/sys/{switch}"], check=False).returncode == 0:
        lab.sysctl(None, switch, 0)  # or a chain of ours behind IP's routing tells
    for port in ("10.5.0.3", "10.5.0.4"):
        lab.run(["ping", "-c1", "-W9", port], "h2")
    for port in ("p2", "p4"):
        lab.run(["bridge", "link", "set", "dev", port, "isolated", "on"])
    return lab


@pytest.mark.parametrize(
    "hooks", [("prerouting",), ("prerouting", "forward"), ("prerouting", "postrouting")]
)
def test_accepted_is_what_was_seen_behind_the_choice_of_a_port(bridge, tmp_path, hooks):
    """As for IP after routing."""
    text = f"table bridge br {{\n{''.join(map(CHAIN.format, hooks))}}}\n"
    bridge.run(["nft", "-f", "-"], stdin=text)
    path = tmp_path / "t.db"
    bridge.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", str(path), "udp and host 10.5.0.2", "--",
                "nsenter", "--net=/run/netns/h2", sys.executable, "-c", SENDS])  # fmt: skip
    listing = bridge.run(["nft", "list", "ruleset"]).stdout
    assert 'packets 10 bytes 290 comment "prerouting"' in listing
    assert hooks[1:] == () or f'packets 5 bytes 145 comment "{hooks[1]}"' in listing
    told = [(one.header["dport"], one.verdict, one.complete, one.reason) for one in packets(path)]
    unknown = ("UNKNOWN", False, NOTHING_TELLS)
    seen = unknown if len(hooks) == 1 else ("ACCEPT", True, None)
    assert told == [(1000, *seen)] * 5 + [(1001, *unknown)] * 5
