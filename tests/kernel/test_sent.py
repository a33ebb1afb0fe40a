"""When the kernel sent what a socket with few messages takes in, on the real kernel."""

from __future__ import annotations

import json
import os
import sys

import pytest
from rights import since

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes programs of root alone"),
    since(5, 12, "the tap"),
    pytest.mark.skipif("IPTREC_NO_TAP" in os.environ, reason="IPTREC_NO_TAP: without the tap"),
]

PRELUDE = """
import json, os, subprocess, sys, time
from iptrec.kernel import links
from iptrec.kernel.bpf import sent

def ip(*words):
    subprocess.run(["ip", *words], check=True)

def received(source):
    found = []
    while (datagram := source.receive()) is not None:
        found.append((datagram, source.sent_ns() if source.sent_ns else None))
    return found
"""


@pytest.fixture
def inside(lab):
    """Runs a script in a lab; gives what it printed as JSON."""
    return lambda script: json.loads(lab.run([sys.executable, "-c", PRELUDE + script]).stdout)


def test_times_are_those_of_the_change(inside):
    """However late it is received, and in the order of the changes."""
    assert inside("""
with links.LinkSocket() as source:
    spans = []
    for name in ("one", "two", "three"):
        begun = time.time_ns()
        ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        spans.append((begun, time.time_ns()))
    time.sleep(0.2)
    found = received(source)
    slack = 50_000  # of two clocks
    whose = [[at for at, (begun, ended) in enumerate(spans) if begun - slack < when < ended + slack]
             for _, when in found]
    names = [[name in datagram for name in (b"one", b"two", b"three")].index(True)
             for datagram, _ in found]
    print(json.dumps([len(found) >= 6, whose == [[one] for one in names],
                      sorted(when for _, when in found) == [when for _, when in found]]))
""") == [True, True, True]


def test_what_is_wanted(inside):
    """Changes of links, and of the routes of local addresses; of no other route, with and without a program."""
    tell = """
with links.LinkSocket() as source:
    ip("link", "set", "lo", "mtu", "3000")
    ip("link", "set", "lo", "up")
    ip("route", "add", "10.9.0.0/16", "dev", "lo")
    ip("route", "add", "local", "10.8.0.1", "dev", "lo")
    ip("route", "del", "10.9.0.0/16", "dev", "lo")
    ip("route", "del", "local", "10.8.0.1", "dev", "lo")
    kinds = [int.from_bytes(one[4:6], sys.byteorder) for one, _ in received(source)]
    print(json.dumps([source.sent_ns is not None, kinds]))
"""
    down = 'ip("link", "set", "lo", "down")\n'
    noted, kinds = inside(down + tell)
    assert noted
    assert {16, 24, 25} <= set(kinds)
    assert kinds[-2:] == [24, 25]  # of the local one
    down += 'ip("link", "set", "lo", "mtu", "2000")\nos.environ["IPTREC_NO_TAP"] = "1"\n'
    assert inside(down + tell) == [False, kinds]


def test_more_than_there_are_notes_of(inside):
    """The first ones are not known, and none gets the time of another one."""
    assert inside("""
sent._NOTES = 8
sent._SIZE = 72
with links.LinkSocket() as source:
    begun = time.time_ns()
    for number in range(12):
        ip("link", "set", "lo", "mtu", str(2000 + number))
    times = [when for _, when in received(source)]
    print(json.dumps([times[:-8].count(0) == len(times) - 8 > 0,
                      all(when > begun - 1_000_000 for when in times[-8:])]))
""") == [True, True]


def test_what_was_lost_was_counted(inside):
    """Behind a loss nobody knows which time is whose."""
    assert inside("""
import socket
with links.LinkSocket() as source:
    source._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(20):
        ip("link", "set", "lo", "mtu", str(2000 + number))
    lost = False
    while True:
        try:
            if source.receive() is None:
                break
        except OSError:
            lost = True
    ip("link", "set", "lo", "mtu", "3000")
    print(json.dumps([lost, [when for _, when in received(source)]]))
""") == [True, [0]]
