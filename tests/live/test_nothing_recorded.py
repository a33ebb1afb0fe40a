"""A recording without a packet says why that may be; one that is under way says so."""

from __future__ import annotations

import json
import signal

import pytest
from command import IPTREC, iptrec
from recorder import start

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live


def record(lab, path, *options):
    """Lines that `record` says in the end."""
    done = lab.run([*IPTREC, "record", "-o", str(path), *options])
    return done.stderr[done.stderr.index("recorded ") :].splitlines()


def test_no_packet_fits(lab, tmp_path, backend):
    """The finding, with its likely causes, where one looks: record's end, and info."""
    lab.host("fw")
    path = tmp_path / "t.db"
    options = ("--netns", "fw", "--backend", backend, "--iface", "lo", "tcp port 4444")
    said = record(lab, path, *options, "--", "ping", "-c1", "127.0.0.1")
    assert said[0].startswith("recorded 0 events (none lost)")
    assert said[1:] == [
        "no packet met the TRACE rules; likely causes:",
        '  the filter "tcp port 4444": did any packet fit? Record without it, or try it with tcpdump',
        "  --iface lo: did they come in or go out by another one? --iface any",
        "  the command ran outside of namespace fw: --inside runs it there",
        "  namespace fw: packets pass their rules in the one where they are (lsns -t net)",
    ]
    told = " ".join(iptrec("info", path).stdout.split())
    assert "nothing: no packet met the TRACE rules likely: the filter" in told
    assert "no packet was recorded; see iptrec info" in iptrec("show", path).stderr


def test_trace_says_so_too(lab, backend):
    """There is no file to look at afterwards."""
    done = lab.run([*IPTREC, "trace", "--backend", backend, "udp port 9", "--", "true"])
    assert done.stdout == ""
    assert "no packet met the TRACE rules; likely causes:\n  the filter" in done.stderr
    assert "see iptrec info" not in done.stderr


def test_what_our_rules_matched_is_there(lab, tmp_path, backend):
    """As the kernel counts: two echo requests and two answers, each out and in."""
    path = tmp_path / "t.db"
    command = ("--", "ping", "-c2", "-i0.2", "127.0.0.1")
    lab.run([*IPTREC, "record", "-o", str(path), "--backend", backend, "icmp", *command])
    with Reader(path) as reader:
        (counted,) = reader.snapshots("trace-rules")
    found = json.loads(counted.content)
    # What comes in again by lo has its trace bit still, and meets our rules a second time.
    assert {name: count for name, count in found.items() if count} == {
        f"{backend} ipv4 OUTPUT": 4, f"{backend} ipv4 PREROUTING": 4
    }  # fmt: skip


def test_matched_and_lost(lab, tmp_path):
    """The rules saw packets, no event came: that is another finding."""
    path = tmp_path / "t.db"
    child = start(lab, "icmp", "-o", path, "--backend", "legacy", "--family", "ipv4")
    child.send_signal(signal.SIGSTOP)
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="NONE")
    lab.run(["ping", "-c1", "127.0.0.1"])
    child.send_signal(signal.SIGCONT)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert "4 packets met the TRACE rules, but no event came; likely causes:\n" in said
    assert "switched net.netfilter.nf_log" in said


def test_bridges_that_pass_no_rules(lab, tmp_path, backend):
    """Their ports' packets are not the IP stack's, unless br_netfilter hands them over."""
    lab.ip(None, "link add br0 type bridge\nlink set br0 up")
    setting = "net/bridge/bridge-nf-call-iptables"
    there = lab.run(["cat", f"/proc/sys/{setting}"], check=False).returncode == 0
    if there:
        lab.sysctl(None, setting, 0)
    options = ("--backend", backend, "--family", "ipv4", "tcp port 4444")  # the bridge says IGMP
    said = record(lab, tmp_path / "t.db", *options, "--", "true")
    why = "net.bridge.bridge-nf-call-iptables is 0" if there else "br_netfilter is not loaded"
    assert f"  packets between ports of br0 pass no rules of ipv4: {why}" in said


def test_what_comes_before_tracing(lab, tmp_path, backend):
    """Base chains before raw, by what nft lists."""
    chain = "type filter hook prerouting priority -400; policy drop;"
    lab.run(["nft", "-f", "-"], stdin=f"table inet early {{\n chain first {{\n {chain}\n }}\n}}\n")
    said = record(lab, tmp_path / "t.db", "--backend", backend, "--", "true")
    found = "  inet early/first comes before our rules and may drop them" in said
    assert found == (backend == "legacy")  # a chain of our own comes first


def test_what_early_chains_drop_is_counted(lab, tmp_path):
    """Our rules before them count as those in raw do; a packet that meets both is one."""
    chain = "type filter hook prerouting priority -400; icmp type echo-request drop;"
    lab.run(["nft", "-f", "-"], stdin=f"table inet early {{\n chain first {{\n {chain}\n }}\n}}\n")
    path = tmp_path / "t.db"
    command = ("--", "ping", "-c2", "-i0.2", "-W1", "127.0.0.1")
    lab.run([*IPTREC, "record", "-o", path, "--backend", "nft", "icmp", *command], check=False)
    with Reader(path) as reader:
        (counted,) = reader.snapshots("trace-rules")
    found = {name: count for name, count in json.loads(counted.content).items() if count}
    assert found == {
        "nft ipv4 OUTPUT": 2, "nft inet EARLY_OUTPUT": 2, "nft inet EARLY_PREROUTING": 2
    }  # fmt: skip


def test_one_that_is_under_way(lab, tmp_path, backend):
    """`info` says so while it records, and after it was killed no more."""
    path = tmp_path / "t.db"
    child = start(lab, "icmp", "-o", path, "--backend", backend)
    lab.run(["ping", "-c1", "127.0.0.1"])
    told = iptrec("info", path).stdout
    assert "complete:    no: still recording" in told
    assert "stopped:     still recording" in told
    iptrec("show", path)
    assert "still recording" in iptrec("info", path).stdout  # a reader takes no lock away
    child.kill()
    child.wait()
    told = iptrec("info", path).stdout
    assert "complete:    no: cut off" in told
    assert "still recording" not in told


@pytest.mark.parametrize("size", [64, *range(160, 196, 8)])
def test_a_disk_that_is_full(lab, backend, size):
    """Whenever it fills: it is told, nothing stays changed, and no file says that no packet was traced."""
    lab.run(["mkdir", "/run/small"])
    lab.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", "/run/small"])
    before = lab.run(["nft", "list", "ruleset"]).stdout
    command = ["record", "-q", "--backend", backend, "-o", "/run/small/t.db", "icmp", "--"]
    done = lab.run([*IPTREC, *command, "ping", "-qc1", "127.0.0.1"], check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert " is full; " in line or "No space left on device; " in line
    assert lab.run(["nft", "list", "ruleset"]).stdout == before
    assert "TRACE" not in lab.run(["iptables-legacy-save", "-t", "raw"]).stdout
    if left := lab.run(["ls", "/run/small"]).stdout.split():
        assert "; what was committed before is kept in it and, if there is one, in " in line
        assert lab.run([*IPTREC, "show", "--brief", "/run/small/t.db"]).stdout.count("icmp") > 0, (
            left
        )
    else:
        assert "no file is left" in line or "cannot create" in line
