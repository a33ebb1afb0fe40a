"""Legacy rules that change faster than anybody can look: what was not seen is said, and nothing is made up."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import sys

import pytest
import recorder
from typer.testing import CliRunner

import iptrec
from iptrec.cli import app

pytestmark = pytest.mark.live
SENDER = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    number = 0
    while sys.stdin not in __import__("select").select([sys.stdin], [], [], 0.0005)[0]:
        out.sendto(b"%d" % number, ("127.0.0.1", 9))
        number += 1
"""
RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p udp -m comment --comment stable
-A INPUT -j ACCEPT
-A OUTPUT -p udp -m comment --comment stable
COMMIT
"""
COUNTER = re.compile(r"^\[(\d+):\d+\] -A (INPUT|OUTPUT) -p udp", re.MULTILINE)


def run(*args):
    result = CliRunner().invoke(app, list(map(str, args)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def recorded(lab, tmp_path):
    """A recording of many states that nobody saw, and the counters of the kernel."""
    path = tmp_path / "fast.db"
    lab.restore(None, "ipv4", RULES)
    child = recorder.start(lab, "udp", "--backend", "legacy", "-o", path, notes=True)
    sender = lab.popen([sys.executable, "-c", SENDER], None, stdin=-1)
    for number in range(60):
        if number == 30:  # here some pass for sure that nobody looks at
            child.send_signal(signal.SIGSTOP)
        if number == 40:
            child.send_signal(signal.SIGCONT)
        insert = ["iptables-legacy", "-I", "INPUT", "1", "-p", "tcp", "-m", "comment", "--comment"]
        lab.run([*insert, f"c{number}"])
        if number % 20 == 0:
            lab.run(["iptables-legacy", "-N", f"chain{number}"])
    sender.communicate(b"", timeout=60)
    child.send_signal(signal.SIGINT)
    _, noted = child.communicate(timeout=60)
    assert child.returncode == 0, noted
    return path, lab.run(["iptables-legacy-save", "-c", "-t", "filter"]).stdout


def test_hits_that_nobody_can_name_are_counted_apart(recorded):
    """What hit a rule and what may have hit it make the kernel's counter together."""
    path, saved = recorded
    chains = {
        (one["table"], one["chain"]): one
        for one in map(json.loads, run("rules", path, "--json").splitlines())
        if one["family"] == "ipv4"
    }
    for count, chain in COUNTER.findall(saved):
        told = chains["filter", chain]
        stable = next(one for one in told["rules"] if "stable" in one["spec"])
        others = sum(one["packets"] for one in told["rules"] if "-p tcp" in one["spec"])
        assert others == 0
        assert stable["packets"] <= int(count) <= stable["packets"] + told["unsure"]["packets"]
        assert told["end"]["packets"] in (0, stable["packets"])
    assert chains["filter", "INPUT"]["end"]["packets"] == 0
    assert chains["filter", "INPUT"]["unsure"]["packets"] > 0, "all states were seen"


def test_no_policy_changed(recorded):
    """A state that nobody saw is none without the rule."""
    path, _ = recorded
    with iptrec.open(path) as recording:
        changes = {one.altered_by for one in recording.packets() if one.altered_by is not None}
    assert not [one for one in changes if one.kind == "policy" or "stable" in (one.spec or "")]


def test_views_do_not_take_what_may_be_the_end_for_a_rule(recorded):
    """INPUT's last rule and OUTPUT's end have one name in the kernel's log."""
    path, _ = recorded
    with iptrec.open(path) as recording:
        steps = [
            step for one in recording.packets() for step in one.steps if step.chain == "OUTPUT"
        ]
    assert {(one.type, one.rule) for one in steps if one.table == "filter"} == {
        ("rule", 1), ("policy", None), ("unknown", 2),
    }  # fmt: skip
    assert "filter/OUTPUT #1 > filter/OUTPUT #2 or end" in run("paths", path)
    shown = run("show", path)
    assert "MATCH RULE (#2), OR THE END: (not in the recorded ruleset)" in shown
    assert "MATCH RULE (#1): (its text was not recorded)" in shown
    assert "rule 1 or" not in shown
    tables = path.with_suffix(".sqlite")
    run("export", "sqlite", path, "-o", tables)
    with sqlite3.connect(tables) as database:
        found = database.execute(
            'select distinct type, rule from steps where chain = "OUTPUT" and "table" = "filter"'
        ).fetchall()
    assert ("rule", 2) not in found


ALL = re.compile(r"\[(\d+):\d+\] -A INPUT -p udp -m comment --comment all")
BOTH = {"legacy": "iptables-legacy", "nft": "iptables-nft"}
THREE = """\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p udp -m udp --sport 1:2 -m comment --comment never -j REJECT
-A INPUT -p udp -m comment --comment all -j REJECT
-A INPUT -p udp -m udp --sport 3:4 -m comment --comment neither -j ACCEPT
COMMIT
"""


@pytest.mark.parametrize("backend", BOTH)
def test_neighbours_of_a_rule_that_comes_and_goes(lab, tmp_path, backend):
    """Their numbers change, and what does not change in the table says nothing about when."""
    path = tmp_path / "near.db"
    lab.restore(None, "ipv4", THREE, backend)
    child = recorder.start(lab, "udp", "--backend", backend, "-o", path, notes=True)
    sender = lab.popen([sys.executable, "-c", SENDER], None, stdin=-1)
    for _ in range(30):
        lab.run(
            [BOTH[backend], "-w", "-I", "INPUT", "1", "-p", "udp", "--sport", "5", "-j", "DROP"]
        )
        lab.run([BOTH[backend], "-w", "-D", "INPUT", "1"])
    sender.communicate(b"", timeout=60)
    child.send_signal(signal.SIGINT)
    _, noted = child.communicate(timeout=60)
    assert child.returncode == 0, noted
    (told,) = [
        one
        for one in map(json.loads, run("rules", path, "--json").splitlines())
        if one["chain"] == "INPUT" and one["table"] == "filter" and one["family"] == "ipv4"
    ]
    hits = {
        one["spec"].partition("--comment ")[2].partition(" ")[0]: one["packets"]
        for one in told["rules"]
    }
    sent = hits.get("all", 0) + told["unsure"]["packets"]
    assert {name for name, packets in hits.items() if packets} <= {"all"}, told
    with iptrec.open(path) as recording:
        packets = list(recording.packets(chain=("filter", "INPUT")))
    sure = [one for one in packets if one.complete and not one.ambiguous]
    assert {one.verdict for one in sure} <= {"REJECT"}
    assert sent == int(
        re.search(r"\[(\d+):\d+\] -A INPUT -p udp -m comment --comment all", saved(lab, backend))[1]
    )


def saved(lab, backend):
    return lab.run([f"{BOTH[backend]}-save", "-c", "-t", "filter"]).stdout


@pytest.mark.parametrize("backend", BOTH)
def test_what_rules_above_ours_take_is_not_complete(lab, tmp_path, backend):
    """Somebody puts a rule before our TRACE rule while we record: packets that it ends are never seen."""
    path = tmp_path / "above.db"
    lab.restore(None, "ipv4", THREE, backend)
    child = recorder.start(lab, "udp", "--backend", backend, "-o", path, notes=True)
    for chain in ("OUTPUT", "PREROUTING"):
        lab.run([BOTH[backend], "-w", "-t", "raw", "-I", chain, "1", "-p", "udp", "-j", "ACCEPT"])
    lab.run(
        [sys.executable, "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))"]
    )
    recorder.until(lambda: set(above(path)) == {"OUTPUT", "PREROUTING"})
    child.send_signal(signal.SIGINT)
    _, noted = child.communicate(timeout=60)
    assert child.returncode == 0, noted
    with iptrec.open(path) as recording:
        assert not recording.summary().complete
    assert "2 chains are traced only below rules of others" in run("info", path)


def above(path):
    with iptrec.open(path) as recording:
        return [one.chain for one in recording.summary().untraced if one.why == "above"]
