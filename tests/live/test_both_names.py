"""A recording of both backends calls each table by one name, whoever tells it and wherever it is asked for."""

from __future__ import annotations

import contextlib
import io
import json
import re

import pytest
from command import IPTREC

import iptrec
from iptrec.cli import app

pytestmark = pytest.mark.live

IPTABLES = (
    "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n"
    "*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p icmp -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"
)
NATIVE = """\
table inet fw { chain in { type filter hook input priority 10; icmp type echo-request drop; }; }
table ip side { chain out { type filter hook output priority 10; icmp type echo-request accept; }; }
"""
LEGACY, NFT = (
    {f"{backend} {table}" for table in ("raw", "mangle", "filter")} for backend in ("legacy", "nft")
)
STEPS = LEGACY | NFT | {"inet fw", "ip side"}


@pytest.fixture
def both(lab, tmp_path):
    """The path of one."""
    for backend in ("legacy", "nft"):
        lab.restore(None, "ipv4", IPTABLES, backend)
    lab.run(["nft", "-f", "-"], stdin=NATIVE)
    path = str(tmp_path / "t.db")
    words = [
        "record",
        "icmp",
        "--backend",
        "both",
        "-o",
        path,
        "--",
        "ping",
        "-c1",
        "-W1",
        "127.0.0.1",
    ]
    lab.run([*IPTREC, *words], check=False)
    return path


def printed(*arguments):
    """What the command line prints, in this process."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        app([*map(str, arguments)], standalone_mode=False)
    return out.getvalue()


def objects(*arguments):
    return [json.loads(line) for line in printed(*arguments).splitlines()]


def asked(path, sql):
    with iptrec.open(path) as recording:
        return {table for (table,) in recording.query(sql)} - {None}


def api(path, tables):
    with iptrec.open(path) as recording:
        return set(tables(recording))


TOLD = {
    "show": lambda path: set(
        re.findall(r"^\t(\S.*) \S+ NFMARK", printed("show", path, "--classic"), re.MULTILINE)
    ),
    "show --json": lambda path: {
        step["table"] for one in objects("show", path, "--json") for step in one["steps"]
    },
    "paths --json": lambda path: {
        step["table"] for one in objects("paths", path, "--json") for step in one["steps"]
    },
    "steps": lambda path: asked(path, "SELECT table_name FROM steps"),
    "packets": lambda path: api(
        path, lambda one: (s.table for p in one.packets() for s in p.steps)
    ),
    "explain": lambda path: api(
        path, lambda one: (s.step.table for p in one.explain() for s in p.steps)
    ),
}
KNOWN = {
    "rules": lambda path: set(
        re.findall(r"^\*(inet .*|.*(?= \(ipv4\)$))", printed("rules", path), re.MULTILINE)
    ),
    "rules --json": lambda path: {
        one["table"]
        for one in objects("rules", path, "--json")
        if one["family"] in ("ipv4", "inet")
    },
    "rules table": lambda path: (
        asked(path, "SELECT table_name FROM rules WHERE family = 'ipv4'")
        | {one for one in STEPS if one.endswith(" raw")}
    ),  # our own rules are not told there
    "rules()": lambda path: api(
        path, lambda one: (t.table for t in one.rules() if t.family in ("ipv4", "inet"))
    ),
    "rulesets()": lambda path: {
        one
        for one in api(path, lambda one: one.rulesets()["ipv4"].tables)
        if not one.startswith("ip iptrec-")
    },  # our own are there, too
}


def test_one_name(both):
    """What passed a packet, and what rules there are."""
    assert {name: look(both) for name, look in TOLD.items()} == dict.fromkeys(TOLD, STEPS)
    assert {name: look(both) for name, look in KNOWN.items()} == dict.fromkeys(KNOWN, STEPS)
    decided = asked(both, "SELECT decided_table FROM packets")
    assert set() < decided < STEPS


def test_a_name_is_that_table(both):
    """What it is called it can be asked for by, and nothing else comes."""
    with iptrec.open(both) as recording:
        every = [(step.table, step.chain) for one in recording.packets() for step in one.steps]
        counted = {
            (one.table, one.family): one.chains.keys() for one in recording.rules() if one.chains
        }
        for table, chain in dict.fromkeys(every):
            chosen = list(recording.packets(chain=(table, chain)))
            passed = [(step.table, step.chain) for one in chosen for step in one.steps]
            assert passed.count((table, chain)) == every.count((table, chain))
            assert all((table, chain) in {(s.table, s.chain) for s in one.steps} for one in chosen)
            shown = objects("show", both, "--json", "--chain", f"{table}/{chain}")
            assert [one["packet"] for one in shown] == [one.number for one in chosen]
            told = objects("rules", both, "--json", "--table", table)
            assert {(one["table"], one["family"]) for one in told} == {
                one for one in counted if one[0] == table
            }


def test_a_plain_name_is_both(both):
    """As on hosts that have one of them."""
    with iptrec.open(both) as recording:
        of = {
            name: {one.number for one in recording.packets(chain=(name, "INPUT"))}
            for name in ("filter", "legacy filter", "nft filter")
        }
    assert of["filter"] == of["legacy filter"] | of["nft filter"]
    assert of["legacy filter"]
    assert of["nft filter"]


def test_compared_with_a_recording_of_one(lab, both, tmp_path):
    """Legacy iptables' tables are the same ones there; the packets that hit a rule are found in either."""
    lab.run(["nft", "flush", "ruleset"])
    lab.run(["iptables-legacy", "-D", "INPUT", "1"])
    lab.run(["iptables-legacy", "-A", "OUTPUT", "-p", "icmp", "-j", "ACCEPT"])
    alone = str(tmp_path / "alone.db")
    words = ["record", "icmp", "--backend", "legacy", "-o", alone, "--", "ping", "-c1", "127.0.0.1"]
    lab.run([*IPTREC, *words])
    for sides, chain in (((alone, both), "INPUT"), ((both, alone), "OUTPUT")):
        (answer,) = objects("diff", *sides, "--json")
        changes = [one for one in answer["changes"] if one["table"] == "legacy filter"]
        assert {one["kind"] for one in changes} == {"inserted", "deleted"}
        (inserted,) = [one for one in changes if one["kind"] == "inserted"]
        assert inserted["chain"] == chain
        assert inserted["packets"]
