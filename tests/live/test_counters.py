"""The kernel's counters of discarded packets: told where they rose, of a recording and of a ring's events."""

from __future__ import annotations

import json
import sys
import time

import pytest
import recorder
from command import iptrec
from recorder import packets, stop
from test_arrival import SEND
from test_nft import router

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

# From host a: where to, from whom, and what the router counts of each
SENT = {
    ("10.9.9.9", None): "InNoRoutes",
    ("10.0.1.1", "10.0.2.99"): "IPReversePathFilter",
    ("10.0.1.1", None): "UdpNoPorts",
    ("fd99::1", None): "Ip6InNoRoutes",
    ("fd00:1::1", None): "Udp6NoPorts",
}


@pytest.fixture
def network(lab):
    """A router with strict reverse path filtering; of IPv4's packets its INPUT tells."""
    router(lab)
    lab.sysctl(None, "net/ipv4/conf/all/rp_filter", 1)
    return lab


def send(lab, ways, times=1):
    lines = [f"{20000 + at} {to} 64 {src}\n" for at, (to, src) in enumerate([*ways] * times)]
    lab.run([sys.executable, "-c", SEND], "a", stdin="".join(lines))


def rises(path):
    """What info tells: counter -> by how much."""
    told = json.loads(iptrec("info", "--json", path).stdout)["discards"]
    return {one["counter"]: one["rose"] for one in told if one["of"] in (None, "conntrack")}


def test_what_was_discarded_is_counted(network, tmp_path, backend):
    """Each counter rises by what was sent; in text as well, and in the sentence of a packet without end."""
    path = tmp_path / "t.db"
    child = recorder.start(network, "udp", "--backend", backend, "-o", path, notes=True)
    send(network, SENT, times=3)
    stop(child)
    told = rises(path)
    assert {name: told.get(name) for name in SENT.values()} == dict.fromkeys(SENT.values(), 3)
    text = iptrec("info", path).stdout
    assert "IPReversePathFilter +3" in text
    assert "Udp6NoPorts +3" in text
    assert "IPReversePathFilter rose by 3" in text.partition("not seen:")[2]
    for one in packets(path):
        if one.header.get("dport") == 5000 and one.verdict == "UNKNOWN" and one.end is None:
            word = "IPReversePathFilter" if one.family == "ipv4" else "Ip6InNoRoutes"
            assert f"{word} rose by 3" in one.reason


def test_where_nothing_was_discarded_nothing_is_told(network, tmp_path, backend):
    path = tmp_path / "t.db"
    child = recorder.start(network, "udp", "--backend", backend, "-o", path, notes=True)
    send(network, [("10.0.2.2", None)])
    stop(child)
    assert "UdpNoPorts" not in rises(path)  # at the other host
    assert "InNoRoutes" not in rises(path)
    assert not any("rose by" in (one.reason or "") for one in packets(path))


def test_a_ring_tells_of_the_time_that_it_has_kept(network, tmp_path, backend):
    """What was discarded before its first event counts no more."""
    path = tmp_path / "t.db"
    child = recorder.start(
        network, "udp", "--backend", backend, "--ring", "2s", "-o", path, notes=True
    )
    send(network, [("10.9.9.9", None)], times=50)

    began = time.time_ns()

    def gone():
        send(network, [("10.0.1.1", None)])
        with Reader(path) as reader:
            events = [one.id for one in reader.streams if one.kind in ("nflog", "nftrace")]
            first = next((one for stream in events for one in reader.chunks(stream)), None)
        return first is not None and first.received_ns[0] > began + 2_000_000_000

    recorder.until(gone, "the old events stay")
    stop(child)
    told = rises(path)
    assert "InNoRoutes" not in told
    assert told["UdpNoPorts"] >= 1


def test_each_file_of_a_rotation_has_its_own(network, tmp_path, backend):
    path = tmp_path / "t.db"
    child = recorder.start(
        network, "udp", "--backend", backend, "--rotate", "2s", "-o", path, notes=True
    )
    send(network, [("10.9.9.9", None)], times=7)

    def files():
        return sorted(tmp_path.glob("t*.db"))

    recorder.until(lambda: len(files()) > 1, "no second file")
    send(network, [("10.9.9.9", None)], times=4)
    stop(child)
    told = [rises(one).get("InNoRoutes", 0) for one in files()]
    assert (told[0], sum(told)) == (7, 11)
