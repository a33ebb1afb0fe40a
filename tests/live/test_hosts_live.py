"""Three hosts, a recorder on each, read as one: what each tells alone, and how far their clocks are apart."""

from __future__ import annotations

import json
import re
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from command import iptrec
from warm import IPTREC

from iptrec.recording.reader import Reader
from iptrec.recording.several import Several
from iptrec.recording.writer import Writer

ECHO = """
import socket
listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: packets have an id
listening.bind(("10.0.2.2", 7))
print("ready", flush=True)
while True:
    data, whom = listening.recvfrom(100)
    listening.sendto(data, whom)
"""
ASK = """
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.setsockopt(socket.IPPROTO_IP, 10, 0)
asking.settimeout(5)
for number in range(60):
    asking.sendto(b"%06d" % number, ("10.0.1.1", 70))
    asking.recv(100)
    asking.sendto(b"x%06d" % number, ("10.0.2.2", 9))
"""
LEGACY = """*nat
-A PREROUTING -p udp --dport 70 -j DNAT --to-destination 10.0.2.2:7
-A POSTROUTING -o v2 -j MASQUERADE
COMMIT
*filter
-A FORWARD -p udp --dport 9 -j DROP
COMMIT
"""
NFT = """table ip fw {
  chain pre { type nat hook prerouting priority -100; udp dport 70 dnat to 10.0.2.2:7; }
  chain post { type nat hook postrouting priority 100; oifname v2 masquerade; }
  chain forward { type filter hook forward priority 0; udp dport 9 drop; }
  chain out { type filter hook output priority 0; udp dport 70 counter; }
}
"""


def recorder(lab, path, host, backend):
    """A recorder on a host with a name of its own."""
    command = " ".join([*IPTREC, "record", "--backend", backend, "-o", str(path), "udp"])
    child = lab.popen(
        ["unshare", "--uts", "sh", "-c", f"hostname {path.stem} && exec {command}"],
        host, stderr=-1, text=True,
    )  # fmt: skip
    assert "recording to" in child.stderr.readline()
    return child


@pytest.fixture(params=["legacy", "nft"])
def three(lab, tmp_path, request):
    """Recordings of a client, a router that translates both addresses, and a server."""
    for name, number in (("h1", 1), ("h2", 2)):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{number}.2/24", peer=f"v{number}")
        lab.ip(None, f"address add 10.0.{number}.1/24 dev v{number}")
        lab.ip(name, f"route add default via 10.0.{number}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    if request.param == "legacy":
        lab.restore(None, "ipv4", LEGACY)
        for name in ("h1", "h2"):
            lab.restore(name, "ipv4", "*filter\n-A INPUT -p udp --sport 1 -j DROP\nCOMMIT\n")
    else:
        lab.run(["nft", "-f", "-"], stdin=NFT)
        for name in ("h1", "h2"):
            lab.run(["nft", "-f", "-"], name, stdin=NFT)
    paths = [tmp_path / f"{name}.db" for name in ("client", "router", "server")]
    hosts = ("h1", None, "h2")
    echo = lab.popen([sys.executable, "-c", ECHO], "h2", stdout=-1, text=True)
    assert echo.stdout.readline() == "ready\n"
    children = [
        recorder(lab, path, host, request.param) for path, host in zip(paths, hosts, strict=True)
    ]
    lab.run([sys.executable, "-c", ASK], "h1")
    for one in children:
        one.send_signal(2)
        one.communicate(timeout=60)
    return paths


def told(command, *words):
    return [json.loads(line) for line in iptrec(command, "--json", *words).stdout.splitlines()]


def numbered(value, more):
    text = re.sub(r"#(\d+)", lambda found: f"#{int(found[1]) + more}", json.dumps(value))
    made = json.loads(text)
    packet = made.get("packet") if isinstance(made.get("packet"), dict) else made
    packet["packet"] += more
    for one in packet["related"]:
        one["packet"] += more
    packet.pop("host", None)
    return made


def test_what_is_told_is_what_each_tells_alone(three, tmp_path):
    """Each packet with the same verdict, steps and reasons, of several files and of a merged one."""
    merged = tmp_path / "all.db"
    assert iptrec("merge", *three, "-o", merged).returncode == 0
    for command in ("show", "why"):
        wanted = []
        for path in three:
            wanted += [numbered(one, len(wanted)) for one in told(command, path)]
        assert [numbered(one, 0) for one in told(command, *three)] == wanted
        assert iptrec(command, *three).stdout == iptrec(command, merged).stdout
        assert len(wanted) >= 480
    verdicts = {(one["host"], one["verdict"]) for one in told("show", merged)}
    assert ("router", "DROP") in verdicts
    assert ("client", "DROP") not in verdicts


def shifted(path, made, by_ns):
    """A copy of a recording whose host's clock is ahead by so much."""
    with Reader(path) as source:
        facts = source.facts
        ends = facts.stopped_ns + by_ns, facts.stop_reason
        facts = replace(
            facts,
            started_ns=facts.started_ns + by_ns,
            stopped_ns=None,
            stop_reason=None,
            closed=False,
        )
        with Writer.create(made, facts) as writer:
            for one in source.namespaces:
                writer.add_namespace(one.name, one.inode)
            for one in source.streams:
                writer.add_stream(one.namespace, one.kind, one.detail)
            for one in source.snapshots():
                after = None if one.after_ns is None else one.after_ns + by_ns
                writer.add_snapshot(
                    one.namespace, one.kind, one.time_ns + by_ns, one.source, one.content, after
                )
            kinds = {one.id: one.kind for one in source.streams}
            for chunk in source.chunks():
                data, notes = chunk.data, chunk.notes
                if kinds[chunk.stream] == "nflog":
                    data = b"".join(_stamped(one, by_ns) for _, one in chunk.datagrams())
                for at, size in enumerate(chunk.lengths):
                    begin = int(chunk.lengths[:at].sum())
                    noted = None
                    if notes is not None:
                        noted = notes._replace(
                            sent_ns=notes.sent_ns[at : at + 1] + by_ns, cpu=notes.cpu[at : at + 1]
                        )
                    writer.append(
                        chunk.stream, int(chunk.received_ns[at]) + by_ns, np.array([size], np.uint32),
                        data[begin : begin + int(size)], noted,
                    )  # fmt: skip
            writer.close(*ends)
    return made


def _stamped(datagram, by_ns):
    """An event with its stamp moved (NFULA_TIMESTAMP)."""
    at, raw = 20, bytearray(datagram)
    while at + 4 <= len(raw):
        size, kind = struct.unpack_from("=HH", raw, at)
        if kind & 0x7FFF == 3:
            seconds, micro = struct.unpack_from("!QQ", raw, at + 4)
            seconds, rest = divmod(seconds * 10**9 + micro * 1000 + by_ns, 10**9)
            struct.pack_into("!QQ", raw, at + 4, seconds, rest // 1000)
        at += size + 3 & ~3
        if not size:
            break
    return bytes(raw)


def clocks(*paths):
    found = json.loads(iptrec("info", "--json", *paths).stdout)["clocks"]
    return {(one["of"], one["host"]): one for one in found}


def test_clocks(three, tmp_path):
    """The hosts have one clock; a copy whose times are moved is told to be so far ahead."""
    found = clocks(*three)
    assert found.keys() == {("client", "router"), ("client", "server"), ("router", "server")}
    for one in found.values():
        assert one["there"] + one["back"] >= 100
        assert one["offset_ns"] is not None
        assert abs(one["offset_ns"]) <= one["within_ns"] < 5_000_000
    merged = tmp_path / "all.db"
    iptrec("merge", *three, "-o", merged)
    assert clocks(merged) == found
    for by_ns in (12_304_000, -3_600_000_000_000):
        ahead = shifted(three[2], tmp_path / f"{by_ns}.db", by_ns)
        one = clocks(*three[:2], ahead)["client", "server"]
        assert abs(one["offset_ns"] - by_ns) <= one["within_ns"] < 5_000_000
    with Several([Reader(one) for one in three]) as several:
        assert [one.name for one in several.hosts] == ["client", "router", "server"]
