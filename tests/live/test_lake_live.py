"""One packet on three hosts, translated on the way, found again in a lake; and counts of both backends."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys

import pytest
from command import iptrec
from recorder import start, stop
from sides import echo, join

pytestmark = pytest.mark.live
COUNT = 30
ROUTER = """*nat
-A PREROUTING -p udp --dport 5000 -j DNAT --to-destination 10.0.2.2:6000
-A POSTROUTING -p udp -j MASQUERADE --random
COMMIT
*filter
-A FORWARD -p udp --dport 6000 -m statistic --mode nth --every 5 --packet 3 -j DROP
-A FORWARD -p udp -j ACCEPT
COMMIT
"""
END = "*filter\n-A INPUT -p udp -j ACCEPT\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n"
SEND = """\
import os, socket, struct, sys, time
how, count = sys.argv[1], int(sys.argv[2])
if how == "numbered":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect(("10.0.1.1", 5000))
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    out.connect(("10.0.1.1", 0))
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 7, 0, 64, 17, 0, bytes(4), bytes([10, 0, 1, 1]))
    packet += struct.pack("!HHHH", 4000, 5000, 12, 0) + b"same"
for _ in range(count):
    out.send(os.urandom(30) if how == "numbered" else packet)
    time.sleep(0.01)
"""


@pytest.fixture
def hosts(lab):
    """A client a, a server b, the lab itself between them."""
    join(lab, "a", "b", peer="v{net}")
    lab.settle()
    return lab


def record(lab, tmp_path, how, backends):
    """A recording of each host, with its name, while the client sends."""
    paths = {}
    with echo(lab, "b"), contextlib.ExitStack() as stack:
        children = []
        for host, backend in backends.items():
            where = None if host == "router" else host
            lab.restore(where, "ipv4", ROUTER if where is None else END, backend)
            paths[host] = tmp_path / f"{host}.db"
            children.append(start(lab, "udp", "-o", paths[host], "--backend", backend, host=where))
            stack.callback(children[-1].kill)
        lab.run([sys.executable, "-c", SEND, how, str(COUNT)], "a")
        for child in children:
            stop(child)
    for host, path in paths.items():
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE recording SET host = ?", (host,))
        connection.close()
    return paths


def requests(path):
    """The packets to the server, in the order in which they were sent: number, verdict."""
    done = iptrec("show", path, "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        (one["packet"], one["verdict"])
        for one in found
        if one["header"].get("dport") in (5000, 6000)
    ]


def asked(lake, question, *words):
    done = iptrec("lake", question, lake, *words, "--json")
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def gathered(tmp_path, paths):
    lake = tmp_path / "lake"
    assert iptrec("export", "parquet", f"{lake}/", *paths.values(), "-q").returncode == 0
    rows = asked(lake, "incomplete")
    assert rows == []
    import duckdb

    with duckdb.connect() as duck:
        ids = duck.sql(
            f"SELECT host, recording FROM read_parquet('{lake}/recordings/**/*.parquet',"
            " hive_partitioning = true)"
        ).fetchall()
    return lake, dict(ids)


BACKENDS = {
    "legacy": dict.fromkeys(("a", "router", "b"), "legacy"),
    "nft": dict.fromkeys(("a", "router", "b"), "nft"),
    "mixed": {"a": "legacy", "router": "nft", "b": "legacy"},
}


@pytest.mark.parametrize("backends", BACKENDS)
def test_a_packet_on_three_hosts(hosts, tmp_path, backends):
    """Each is found on all hosts that it reached, no other is taken for it; the router's drops are counted."""
    paths = record(hosts, tmp_path, "numbered", BACKENDS[backends])
    lake, ids = gathered(tmp_path, paths)
    sent, passed, came = (requests(paths[host]) for host in ("a", "router", "b"))
    assert (len(sent), len(passed)) == (COUNT, COUNT)
    dropped = sum(verdict == "DROP" for _, verdict in passed)
    assert dropped > 3
    assert len(came) == COUNT - dropped
    arrived = iter(came)
    for (number, _), (between, verdict) in zip(sent, passed, strict=True):
        expected = {("a", number), ("router", between)}
        if verdict != "DROP":
            expected.add(("b", next(arrived)[0]))
        found = asked(lake, "packet", f"recording={ids['a']}", f"packet={number}")
        assert {(one["host"], one["packet"]) for one in found} == expected
        assert {one["sure"] for one in found} == {1}
    drops = [one for one in asked(lake, "drops") if one["host"] == "router"]
    assert sum(one["packets"] for one in drops) == dropped
    ((counted,),) = [
        json.loads(line).values()
        for line in iptrec(
            "query", paths["router"], "SELECT count(*) FROM drops", "--json"
        ).stdout.splitlines()
    ]
    assert counted == dropped


def test_packets_that_look_alike(hosts, tmp_path):
    """With one id and one payload nothing tells them apart: all are shown, and none is sure."""
    paths = record(hosts, tmp_path, "alike", BACKENDS["mixed"])
    lake, ids = gathered(tmp_path, paths)
    number, _ = requests(paths["a"])[0]
    found = asked(lake, "packet", f"recording={ids['a']}", f"packet={number}")
    assert len(found) > COUNT
    assert {one["sure"] for one in found} == {0}
