"""Packets that found a queue of their socket full: told as possible where the kernel's counters rose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import frames
import pytest
import recorder
from test_nft import router

from iptrec.decode.counters import Counter, counters

pytestmark = pytest.mark.live

LISTEN = """
import socket
ears = []
for family, own in ((socket.AF_INET, "10.0.1.1"), (socket.AF_INET6, "fd00:1::1")):
    for port, backlog in ((5000, 0), (5001, 9)):
        ears.append(socket.socket(family, socket.SOCK_STREAM))
        ears[-1].bind((own, port))
        ears[-1].listen(backlog)
    ears.append(socket.socket(family, socket.SOCK_DGRAM))
    ears[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ears[-1].bind((own, 5002))
    ears.append(socket.socket(family, socket.SOCK_DGRAM))
    ears[-1].bind((own, 5003))
print("ready", flush=True)
input()
"""
# One that finds room, and three that do not.
KNOCK = """
import socket, sys
doors = []
for family, own in ((socket.AF_INET, "10.0.1.1"), (socket.AF_INET6, "fd00:1::1")):
    for port in (5000, 5001):
        doors.append(socket.create_connection((own, port)))
        print("in", *doors[-1].getsockname()[:2], flush=True)
    for _ in range(3):
        doors.append(socket.socket(family, socket.SOCK_STREAM))
        doors[-1].setblocking(False)
        doors[-1].connect_ex((own, 5000))
        print("out", *doors[-1].getsockname()[:2], flush=True)
print("done", flush=True)
input()
"""
FLOOD = """
import socket
for own in ("10.0.1.1", "fd00:1::1"):
    out = socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(8):
        for port in (5002, 5003):
            out.sendto(bytes(1200), (own, port))
"""
DEAF = """
import ctypes, socket, struct
nothing = struct.pack("HBBI", 6, 0, 0, 0)
code = ctypes.create_string_buffer(nothing)
ears = []
for family, own in ((socket.AF_INET, "10.0.1.1"), (socket.AF_INET6, "fd00:1::1")):
    for kind, port in ((socket.SOCK_DGRAM, 5004), (socket.SOCK_STREAM, 5005)):
        ears.append(socket.socket(family, kind))
        ears[-1].setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(code)))
        ears[-1].bind((own, port))
    ears[-1].listen(9)
print("ready", flush=True)
input()
"""
ASK = """
import socket
for family, own in ((socket.AF_INET, "10.0.1.1"), (socket.AF_INET6, "fd00:1::1")):
    out = socket.socket(family, socket.SOCK_DGRAM)
    for _ in range(2):
        out.sendto(b"?", (own, 5004))
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setblocking(False)
    door.connect_ex((own, 5005))
"""
NFT = """
table inet t {
  chain in { type filter hook input priority 0; accept; }
  chain out { type filter hook output priority 0; accept; }
}
"""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


@pytest.fixture
def network(lab, backend):
    """A router that listens: on port 5000 there is room for one, on 5002 for two datagrams."""
    router(lab)
    if backend == "nft":
        lab.run(["nft", "-f", "-"], stdin=NFT)
    else:
        for family in ("ipv4", "ipv6"):
            lab.restore(None, family, "*filter\n-A INPUT -j ACCEPT\n-A OUTPUT -j ACCEPT\nCOMMIT\n")
    server = lab.popen([sys.executable, "-c", LISTEN], **PIPES)
    assert server.stdout.readline() == "ready\n"
    return lab


def counted(lab, name):
    """What the kernel counts in the lab."""
    paths = ("snmp", "netstat", "snmp6")
    files = {one: Path(f"/proc/{lab.pid}/net/{one}").read_text() for one in paths}
    return counters(files)[Counter(name)]


def knocked(lab, path, backend, *words):
    """The SYNs of a recording by their source, and who found room."""
    before = counted(lab, "ListenOverflows")
    child = recorder.start(lab, *words, "--backend", backend, "-o", path, notes=True)
    client = lab.popen([sys.executable, "-c", KNOCK], "a", **PIPES)
    said = [line.split() for line in iter(client.stdout.readline, "done\n")]
    recorder.until(lambda: counted(lab, "ListenOverflows") >= before + 6)
    recorder.stop(child)
    client.kill()
    found = [one for one in recorder.packets(path) if one.header.get("flags") == "SYN"]
    inside = {(src, int(port)) for how, src, port in said if how == "in"}
    assert len(said) == 10
    assert len(inside) == 4
    return found, inside


def test_a_syn_that_nobody_answers(network, tmp_path, backend):
    """It may have found the listen queue full, as the counter says by how much it rose."""
    found, inside = knocked(network, tmp_path / "t.db", backend, "tcp")
    assert {one.family for one in found} == {"ipv4", "ipv6"}
    for one in found:
        who = one.header["src"], one.header["sport"]
        assert one.verdict == "ACCEPT"
        if who in inside:
            assert one.end is None
            continue
        assert (one.end.reason, one.end.sure, one.end.source) == (
            "LISTEN_OVERFLOW",
            False,
            "recorded",
        )
        said = "perhaps the listen queue of TCP port 5000 was full: ListenOverflows rose by"
        assert one.end.text.startswith(said)
    outside = sum((one.header["src"], one.header["sport"]) not in inside for one in found)
    assert outside >= 6
    (rose,) = {one.end.text.partition(" rose by ")[2].split()[0] for one in found if one.end}
    assert int(rose) == outside


def test_where_answers_do_not_fit_the_filter_nothing_is_told(network, tmp_path, backend):
    found, _ = knocked(
        network, tmp_path / "t.db", backend, "tcp dst port 5000 or tcp dst port 5001"
    )
    assert [one.end for one in found if one.end] == []


def test_datagrams_that_find_no_room(network, tmp_path, backend):
    """Those for the socket that dropped some, with how many; of IPv4 and of IPv6."""
    path = tmp_path / "t.db"
    child = recorder.start(network, "udp", "--backend", backend, "-o", path, notes=True)
    network.run([sys.executable, "-c", FLOOD], "a")
    recorder.stop(child)
    here = [one for one in recorder.packets(path) if one.header.get("dport") in (5002, 5003)]
    assert len(here) == 32
    for one in here:
        assert one.verdict == "ACCEPT"
        if one.header["dport"] == 5003:
            assert one.end is None
            continue
        six = one.family == "ipv6"
        by = counted(network, "Udp6RcvbufErrors" if six else "UdpRcvbufErrors")
        assert 0 < by < 8
        assert (one.end.reason, one.end.sure) == ("SOCKET_RCVBUFF", False)
        assert one.end.text == (
            "perhaps the receive buffer of UDP port 5002 was full: its socket dropped"
            f" {by} of 8, Udp{'6' if six else ''}RcvbufErrors rose by {by} meanwhile"
        )


def test_what_a_filter_of_a_socket_refuses(network, tmp_path, backend):
    """The counters that rose are those of others: neither a full queue nor a full buffer is blamed alone."""
    deaf = network.popen([sys.executable, "-c", DEAF], **PIPES)
    assert deaf.stdout.readline() == "ready\n"
    path = tmp_path / "t.db"
    child = recorder.start(network, "--backend", backend, "--drops", "no", "-o", path, notes=True)
    network.run([sys.executable, "-c", FLOOD], "a")
    client = network.popen([sys.executable, "-c", KNOCK], "a", **PIPES)
    assert "done\n" in iter(client.stdout.readline, "")
    network.run([sys.executable, "-c", ASK], "a")
    recorder.stop(child)
    client.kill()
    every = recorder.packets(path)
    for port, proto in ((5004, "udp"), (5005, "tcp")):
        here = [
            one for one in every if (one.header.get("dport"), one.header["proto"]) == (port, proto)
        ]
        assert {one.family for one in here} == {"ipv4", "ipv6"}
        if proto == "tcp":  # the queues that were full are still, and this one is not
            assert [one.end for one in here if one.end] == []
            continue
        for one in here:
            six = "6" if one.family == "ipv6" else ""
            assert (one.end.reason, one.end.sure) == ("SOCKET_FILTER", False)
            assert one.end.text.startswith(
                "perhaps the filter of UDP port 5004 refused it, or its receive buffer was full: its socket"
                f" dropped 2 of 2, Udp{six}RcvbufErrors rose by "
            )


@pytest.mark.parametrize("bad", [True, False])
def test_a_bad_checksum(network, tmp_path, backend, bad):
    """The bytes show it, and the kernel counted it; what no counter rose for is not told."""
    path = tmp_path / "t.db"
    child = recorder.start(network, "--backend", backend, "-o", path, notes=True)
    sent = []
    for src, dst, wrapped in (
        ("10.0.1.2", "10.0.1.1", frames.ipv4), ("fd00:1::2", "fd00:1::1", frames.ipv6),
    ):  # fmt: skip
        sent += [
            wrapped(*frames.summed(body, src, dst, bad=bad), src=src, dst=dst)
            for body in (frames.udp(21000, 5003), frames.tcp(21000, 5001, 2))
        ]
    ends = frames.mac(network, None, "to-a"), frames.mac(network, "a", "eth0")
    network.run(
        [sys.executable, "-c", frames.SEND, "/dev/stdin"],
        "a",
        stdin=json.dumps(frames.framed(sent, *ends)),
    )
    recorder.stop(child)
    every = [one for one in recorder.packets(path) if one.header.get("sport") == 21000]
    here = [one for one in every if one.header.get("flags", "SYN") == "SYN"]
    assert len(here) == 4
    for one in here:
        proto = one.header["proto"].upper()
        counter = (
            "Udp6InCsumErrors"
            if (one.family, proto) == ("ipv6", "UDP")
            else f"{proto.title()}InCsumErrors"
        )
        if not bad:
            assert one.end is None
            continue
        assert (one.verdict, one.end.reason, one.end.sure) == ("ACCEPT", f"{proto}_CSUM", False)
        assert one.end.text == (
            f"perhaps it was dropped for its checksum of {proto}: that is wrong,"
            f" {counter} rose by {counted(network, counter)} meanwhile"
        )
