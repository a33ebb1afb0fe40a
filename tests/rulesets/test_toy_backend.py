"""A further source of events is one module on the read side, and its line in the registry: a toy proves it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from handmade import HandMade, udp

from iptrec.cli import app
from iptrec.decode import generations
from iptrec.decode.events import TraceEvents
from iptrec.decode.rulesets.types import Chain, Rule
from iptrec.names import HOOKS
from iptrec.recording.kinds import SNAPSHOTS, STREAMS, SnapshotKind, StreamKind
from iptrec.recording.writer import Writer
from iptrec.rulesets.backends import BACKENDS
from iptrec.rulesets.grammar import Grammar
from iptrec.rulesets.places import Locations, Pass, Place
from iptrec.rulesets.targets import end_effect, rule_effect
from iptrec.rulesets.timeline import EVER, Timelines

FORWARD = HOOKS.index("FORWARD")
GATE = Pass(FORWARD, "toy")


class Toy:
    """A firewall of one chain. Each datagram is the number of a rule, one byte, and the packet that matched it.

    A snapshot "toy-rules" has a line for each rule: its target. Behind the last one comes the policy.
    """

    name = "toy"
    stream = "toy"
    snapshots = ("toy-rules",)
    changes = None
    mark_after = False
    under_way_ns = 0

    def decode(self, data, lengths, received_ns):
        size = lengths.astype(np.int64)
        start = np.cumsum(size) - size
        rules, site = np.unique(data[start], return_inverse=True)
        count = len(size)
        none, nothing = np.full(count, -1, np.int64), np.zeros(count, np.uint32)
        return TraceEvents(
            buffer=data, datagram=np.arange(count), head=np.arange(count), message=start,
            received_ns=received_ns, sent_ns=received_ns, estimated=none < 0,
            stamp_ns=np.zeros(count, np.int64), seq=none,
            family=np.full(count, 2, np.uint8), hook=np.full(count, 255, np.uint8),
            protocol=np.full(count, 0x0800, np.uint16),
            site=site.astype(np.int32), sites=rules.tolist(), mark=nothing, indev=nothing,
            intype=nothing.astype(np.uint16), outdev=nothing,
            physindev=nothing, physoutdev=nothing, payload=start + 1,
            payload_length=(size - 1).astype(np.int32), link=none, link_length=np.zeros(count, np.int32),
            uid=none, gid=none, ct_state=np.zeros(count, np.uint8),
            ct_direction=none.astype(np.int8), ct_status=none, conntrack=none, trace=none,
            generations=generations.NONE, undecoded=np.zeros(0, np.int64),
        )  # fmt: skip

    def history(self, snapshots, changes=None, *, single):  # noqa: ARG002 - it tells none
        found = Timelines(single=single)
        for one in snapshots:
            rules = tuple(
                Rule(f"-j {target}", target, None, False, None, conditional=True)
                for target in one.content.decode().split()
            )
            found.add("ipv4", "toy", {"GATE": Chain("GATE", "ACCEPT", rules)}, EVER, EVER)
        return found

    def locations(self, events, history):  # noqa: ARG002
        passed = np.zeros(len(events), np.int64)
        return Locations(events, ["toy"] * len(events.sites), passed, [GATE])

    def place(self, site, table, passed, grammar):
        chain = grammar.chain(table, "GATE")
        end = site > len(chain.rules)
        rule = None if end else chain.rules[site - 1]
        effect = end_effect(chain) if end else rule_effect(rule, ())
        number = None if end else site
        return Place(
            passed.hook, table, "GATE", site, number, end, True, False, rule, *effect, starts=True
        )

    def grammar(self, family, ruleset, late, our_comment, *, single):  # noqa: ARG002
        return Grammar(ruleset, our_comment, ({GATE: 0},), frozenset())


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """Two packets: one is logged and dropped, one passes."""
    monkeypatch.setitem(STREAMS, "toy", StreamKind("toy", "events of a toy", events=True))
    monkeypatch.setitem(SNAPSHOTS, "toy-rules", SnapshotKind("toy-rules", "targets"))
    monkeypatch.setitem(BACKENDS, "toy", Toy())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "toy.db"
    first, second = udp(b"1", ident=1), udp(b"2", ident=2, dport=54)
    events = [b"\1" + first, b"\2" + first, b"\3" + second]
    with Writer.create(path, HandMade().facts) as writer:
        namespace = writer.add_namespace(None, 1)
        stream = writer.add_stream(namespace, "toy", {})
        writer.add_snapshot(namespace, "toy-rules", 1, "toy", b"LOG\nDROP\n")
        lengths = np.array([len(one) for one in events], np.uint32)
        writer.append(stream, 10**18, lengths, b"".join(events))
        writer.close(10**18 + 1, "test")
    return str(path)


def told(capfd, *words):
    app([*words], standalone_mode=False)
    return capfd.readouterr().out


def test_show_tells_its_packets(recording, capfd):
    packets = [json.loads(line) for line in told(capfd, "show", "--json", recording).splitlines()]
    assert [one["verdict"] for one in packets] == ["DROP", "ACCEPT"]
    assert packets[0]["decided_by"] == {"table": "toy", "chain": "GATE", "rule": 2}
    assert [[step["target"] for step in one["steps"]] for one in packets] == [
        ["LOG", "DROP"],
        ["ACCEPT"],
    ]
    assert all(one["complete"] and not one["ambiguous"] for one in packets)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["show"], "MATCH RULE (#2): -j DROP"),
        (["show", "--", "udp port 54"], "DEFAULT POLICY"),
        (["why", "--verdict", "ACCEPT"], "#1-#2 did not match"),
        (["why", "--verdict", "ACCEPT", "--all"], "#1    -j LOG"),
        (["paths"], "toy/GATE"),
        (["rules"], "-j DROP"),
        (["info"], "1 DROP"),
    ],
)
def test_so_do_the_other_commands(recording, capfd, words, expected):
    command, *options = words
    assert expected in told(capfd, command, recording, *options)


def test_events_that_wireshark_cannot_read_are_left_out(recording, capfd, tmp_path):
    """A stream of a kind that is not known there is said to be missing, and no KeyError."""
    out = str(tmp_path / "out.pcapng")
    assert app(["export", "pcapng", "--events", recording, "-o", out], standalone_mode=False) == 0
    assert "iptrec export: left out, not known here: toy\n" in capfd.readouterr().err
    app(
        ["export", "pcapng", "--events", recording, "-o", out, "--force", "-q"],
        standalone_mode=False,
    )
    assert capfd.readouterr().err == ""
