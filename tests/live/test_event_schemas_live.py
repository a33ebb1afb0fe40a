"""Events of OCSF and ECS of packets on the real kernel: counted, translated and directed as these were."""

from __future__ import annotations

import json
import sys
from collections import Counter

import duckdb
import pytest
from command import iptrec
from published import FITS
from recorder import start, stop
from sides import echo
from test_lake_live import BACKENDS, COUNT, ROUTER, SEND, hosts, record

from iptrec.views.published import PUBLISHED

pytestmark = pytest.mark.live
__all__ = ["hosts"]
SQL = {
    "ocsf": "SELECT device.hostname, status_code, firewall_rule.condition, count(*) FROM"
    " '{}/network_activity/**/*.parquet' GROUP BY ALL",
    "ecs": 'SELECT "host.name", "iptrec.verdict", "iptrec.decided.spec", count(*) FROM'
    " '{}/events/**/*.parquet' GROUP BY ALL",
}


def counted(path, host):
    """By verdict and rule, as `query` has it."""
    done = iptrec(
        "query", path,
        "SELECT verdict, (SELECT spec FROM steps JOIN rules ON rules.id = rule_id WHERE steps.packet ="
        " packets.packet AND steps.rule = decided_rule AND steps.table_name = decided_table AND steps.chain ="
        " decided_chain ORDER BY step DESC LIMIT 1), count(*) FROM packets GROUP BY 1, 2", "--json",
    )  # fmt: skip
    rows = (json.loads(line).values() for line in done.stdout.splitlines())
    return {(host, verdict, spec): count for verdict, spec, count in rows}


def events(path, name):
    done = iptrec("export", "ndjson", path, "-o", "-", "--schema", name, "-q")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("backends", BACKENDS)
def test_counts_are_those_of_query(hosts, tmp_path, backends):
    """On every host, by verdict and rule; the router's events have both sides of the translation."""
    paths = record(hosts, tmp_path, "numbered", BACKENDS[backends])
    wanted = {}
    for host, path in paths.items():
        wanted |= counted(path, host)
    assert sum(count for (host, verdict, _), count in wanted.items()
               if host == "router" and verdict == "DROP") > 3  # fmt: skip
    for name in PUBLISHED:
        lake = tmp_path / name
        done = iptrec("export", "parquet", f"{lake}/", *paths.values(), "-q", "--schema", name)
        assert (done.returncode, done.stderr) == (0, "")
        found = duckdb.sql(SQL[name].format(lake)).fetchall()
        assert {tuple(key): count for *key, count in found} == wanted
        for path in paths.values():
            for event in events(path, name):
                FITS[name](event)
    ocsf = [
        one for one in events(paths["router"], "ocsf") if one["dst_endpoint"].get("port") == 5000
    ]
    assert len(ocsf) == COUNT
    assert {
        (one["dst_endpoint"]["ip"], *one["dst_endpoint"]["proxy_endpoint"].values()) for one in ocsf
    } == {("10.0.1.1", "10.0.2.2", 6000)}
    ecs = [one for one in events(paths["router"], "ecs") if one["destination"].get("port") == 5000]
    assert [one["destination"]["nat"] for one in ecs] == [{"ip": "10.0.2.2", "port": 6000}] * COUNT
    assert Counter(one["event"]["type"][-1] for one in ecs) == Counter(
        "denied" if one["action_id"] == 2 else "allowed" for one in ocsf
    )


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_directions(hosts, tmp_path, backend):
    """What a host sends goes out, what is for it comes in, and of what it forwards neither is told."""
    paths = record(hosts, tmp_path, "numbered", dict.fromkeys(("a", "router", "b"), backend))
    for host, way in (("a", (2, "egress")), ("router", (0, None)), ("b", (1, "ingress"))):
        ocsf = {one["connection_info"]["direction_id"] for one in events(paths[host], "ocsf")
                if one["dst_endpoint"].get("port") in (5000, 6000)}  # fmt: skip
        ecs = {one["network"].get("direction") for one in events(paths[host], "ecs")
               if one["destination"].get("port") in (5000, 6000)}  # fmt: skip
        assert (ocsf, ecs) == ({way[0]}, {way[1]}), host


def test_connections(hosts, tmp_path, backend):
    """With --conntrack each packet is made by itself: its connection's id is there, in lines and in files."""
    hosts.restore(None, "ipv4", ROUTER, backend)
    path = tmp_path / "t.db"
    with echo(hosts, "b"):
        child = start(hosts, "udp", "-o", path, "--conntrack", "--backend", backend)
        hosts.run([sys.executable, "-c", SEND, "numbered", "10"], "a")
        stop(child)
    shown = [json.loads(one) for one in iptrec("show", path, "--json").stdout.splitlines()]
    wanted = [one["connection"] and str(one["connection"]["id"]) for one in shown]
    assert any(wanted)
    ocsf, ecs = events(path, "ocsf"), events(path, "ecs")
    for one, told, event, line in zip(wanted, shown, ocsf, ecs, strict=True):
        FITS["ocsf"](event)
        FITS["ecs"](line)
        assert told["packet"] == event["metadata"]["sequence"] == line["event"]["sequence"]
        if one is not None:
            assert (event["connection_info"]["uid"], line["iptrec"]["ct_id"]) == (one, one)
    done = iptrec("export", "parquet", f"{tmp_path}/lake/", path, "-q", "--schema", "ocsf")
    assert done.returncode == 0
    found = duckdb.sql(
        f"SELECT connection_info.uid FROM '{tmp_path}/lake/network_activity/**/*.parquet'"
        " ORDER BY metadata.sequence"
    ).fetchall()
    assert [one for (one,) in found] == [one["connection_info"].get("uid") for one in ocsf]
