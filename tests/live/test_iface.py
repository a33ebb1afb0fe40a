"""--iface: packets in both directions, forwarded ones included, on both backends."""

from __future__ import annotations

import json

import pytest
import sides
from command import IPTREC, iptrec
from recorder import packets, start

from iptrec.answers.packets import Packets
from iptrec.answers.select import selection
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live
PING = ["ping", "-c1", "-W2"]


@pytest.fixture
def router(lab, backend):
    """Forwards between a, b and c, which are plugged in by toa, tob and toc, and has a filter."""
    lab.restore(None, "ipv4", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", backend)
    sides.join(lab, "a", "b", "c", peer="to{name}")
    lab.settle()
    return lab


def ping(router, host, target):
    """One request and its answer."""
    router.run([*PING, target], host)


def ways(path, **conditions):
    """By which interfaces packets came and went."""
    with Reader(path) as reader:
        chosen = selection(reader, None, conditions)
        return [(one.steps[0].in_, one.steps[-1].out) for one in Packets(reader, chosen)]


def record(router, path, *options):
    """From a to b, from a to c, from the router to b, and from the router to itself."""
    child = start(router, "icmp", "-o", path, *options, notes=True)
    ping(router, "a", "10.0.2.2")
    ping(router, "a", "10.0.3.2")
    ping(router, None, "10.0.2.2")
    ping(router, None, "127.0.0.1")
    child.send_signal(2)
    child.communicate(timeout=30)


def test_forwarded_packets_count(router, tmp_path, backend):
    """What goes out by tob is there as what comes in by it; show leaves out the rest, which is there."""
    path = tmp_path / "t.db"
    record(router, path, "--iface", "tob", "--backend", backend)
    expected = [("toa", "tob"), ("tob", "toa"), (None, "tob"), ("tob", None)]
    assert ways(path) == expected
    assert ways(path, iface="to+") == [*expected[:2], ("toa", "toc"), ("toc", "toa"), *expected[2:]]
    assert ways(path, iface="any") == ways(path, iface="to+")  # nothing of lo
    assert ways(path, packet=3) == [("toa", "toc")]
    shown = iptrec("show", path, "--json").stdout.splitlines()
    assert [json.loads(one)["packet"] for one in shown] == [1, 2, 5, 6]
    assert "interfaces:  tob (and all that came in elsewhere" in iptrec("info", path).stdout
    assert all(one.complete for one in packets(path))


def test_without_forwarded_packets(router, tmp_path, backend):
    """--no-forwarded traces what comes in by it, or is sent out by this host, and nothing else."""
    path = tmp_path / "t.db"
    record(router, path, "--iface", "tob", "--no-forwarded", "--backend", backend)
    assert ways(path, iface="any") == [("tob", "toa"), (None, "tob"), ("tob", None)]
    assert "interfaces:  tob\n" in iptrec("info", path).stdout


def test_where_nothing_is_forwarded(router, tmp_path, backend):
    """The same, without being asked for."""
    router.sysctl(None, "net/ipv4/ip_forward", 0)
    path = tmp_path / "t.db"
    child = start(router, "icmp", "-o", path, "--iface", "tob", "--backend", backend)
    ping(router, None, "10.0.2.2")
    ping(router, None, "10.0.1.2")
    child.send_signal(2)
    child.communicate(timeout=30)
    assert ways(path, iface="any") == [(None, "tob"), ("tob", None)]


@pytest.mark.parametrize("backend", ["nft"])
def test_by_a_table_of_our_own(router, tmp_path, backend):
    """Where iptables-nft is missing."""
    path = tmp_path / "t.db"
    hidden = 'mount --bind /dev/null $(readlink -f $(command -v iptables-nft-save)) && exec "$@"'
    child = start(
        router, "icmp", "-o", path, "--iface", "tob", "--backend", backend, notes=True,
        before=["unshare", "-m", "sh", "-c", hidden, "sh", *IPTREC],
    )  # fmt: skip
    ping(router, "a", "10.0.2.2")
    ping(router, "a", "10.0.3.2")
    child.send_signal(2)
    child.communicate(timeout=30)
    assert ways(path) == [("toa", "tob"), ("tob", "toa")]


def test_packets_are_those_of_the_interface(router, tmp_path, backend):
    """--packets does not count what passes elsewhere, though it is traced."""
    path = tmp_path / "t.db"
    child = start(
        router, "icmp", "-o", path, "--iface", "tob", "--packets", "2", "--backend", backend,
        notes=True,
    )  # fmt: skip
    for _ in range(3):
        ping(router, "a", "10.0.3.2")
    assert child.poll() is None
    ping(router, "a", "10.0.2.2")
    child.communicate(timeout=30)
    assert ways(path) == [("toa", "tob"), ("tob", "toa")]
    with Reader(path) as reader:
        assert reader.facts.stop_reason == "packets"
