"""Which packets looped back: those that come in by lo, each of which left by it, and no others."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_traffic import EMPTY, Net

pytestmark = pytest.mark.live

# Answers with what it was sent. DF: the kernel gives all of them the IP id 0.
ECHO = """
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.setsockopt(socket.SOL_IP, 10, 2)  # IP_MTU_DISCOVER
here.bind(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    here.sendto(*here.recvfrom(100))
"""
ASK = """
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_IP, 10, 2)
out.settimeout(10)
for _ in range(9):
    out.sendto(b"x", ("10.0.2.2", {port}))
    assert out.recv(100) == b"x"
"""
REDIRECTS = {
    "legacy": EMPTY + "*nat\n-A OUTPUT -p udp --dport 7001 -j REDIRECT --to-ports 7000\nCOMMIT\n",
    "nft": """table ip n {
        chain out { type nat hook output priority -100; udp dport 7001 redirect to :7000; }
    }""",
}


@pytest.fixture
def net(lab, tmp_path, backend):
    one = Net(lab, tmp_path)
    one.hosts(2)
    if backend == "legacy":
        one.rules(REDIRECTS["legacy"])
    else:
        lab.run(["nft", "-f", "-"], stdin=REDIRECTS["nft"])
    return one


def record(net, backend, port, host):
    """Nine questions and answers; the packets by where they came in and left, and what they are related to."""
    code = "import socket\n" + ECHO
    with net.lab.popen([sys.executable, "-c", code], host, stdout=subprocess.PIPE) as echo:
        assert echo.stdout.readline() == b"ready\n"
        net.record("udp", ASK.format(port=port), options=("--backend", backend))
        echo.kill()
    return net.packets, net.related()


def test_an_answer_is_no_loop(net, backend):
    """A host answers with the same payload: eighteen packets that are nothing of each other's."""
    packets, related = record(net, backend, 7000, "h2")
    assert [(one.in_, one.out) for one in packets] == [(None, "v2"), ("v2", None)] * 9
    assert related == [[]] * 18


def test_what_is_redirected_loops(net, backend):
    """Questions to another host that OUTPUT turns round to this one, and their answers, all by lo."""
    packets, related = record(net, backend, 7001, None)
    assert len(packets) == 36
    came = [at for at, one in enumerate(packets) if one.in_ == "lo"]
    assert len(came) == 18
    # Nothing else is under way: what came in by lo is what left just before.
    assert related == [[("looped-back", at)] if at in came else [] for at in range(36)]
    assert net.certain()
