"""Recordings of both backends as they are, and with events missing: what is told as whole is the truth."""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import UUID, HandMade, attribute, netlink, udp

from iptrec.answers.packets import Packets
from iptrec.answers.rules import count_rules
from iptrec.answers.selection import Selection
from iptrec.packets import window
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Chunk, Stream
from iptrec.rulesets.legacy import LEGACY
from iptrec.rulesets.nft import NFT

BOTH = Path(__file__).parents[2] / "samples" / "both.db"
ALL = {LEGACY.stream, NFT.stream}


class Lossy(Reader):
    """A recording without some datagrams: ``lost`` is the share, or None for a stream as a whole."""

    def __init__(self, path, kinds, lost, seed):
        super().__init__(path)
        self._kinds, self._lost = kinds, lost
        self._chance = np.random.default_rng(seed)

    @property
    def streams(self):
        # Slots of calls that nobody fills: how full they were tells nothing any more.
        return [
            replace(one, detail=one.detail | {"slots": 0}) if one.kind in self._kinds else one
            for one in super().streams
            if self._lost is not None or one.kind not in self._kinds
        ]

    def chunks(self, stream=None, after=0):
        lossy = {one.id for one in self.streams if one.kind in self._kinds}
        for one in super().chunks(stream, after):
            kept = np.ones(len(one.lengths), np.bool_)
            if one.stream in lossy:
                kept = self._chance.random(len(kept)) >= self._lost
            ends = np.cumsum(one.lengths, dtype=np.int64)
            spans = zip((ends - one.lengths)[kept].tolist(), ends[kept].tolist(), strict=True)
            data = b"".join(one.data[start:end] for start, end in spans)
            if kept.any():
                yield Chunk(one.id, one.stream, one.received_ns[kept], one.lengths[kept], data)


def key(packet):
    head = packet.header
    return tuple(head.get(name) for name in ("src", "dst", "proto", "id", "sport", "seq", "csum"))


def told(reader):
    return [
        (key(one), one.verdict, one.decided_by, one.complete and not one.ambiguous)
        for one in Packets(reader)
    ]


def test_the_sample():
    """Each packet once, with steps of both but where the first dropped it, in the order of hooks."""
    with Reader(BOTH) as reader:
        packets = list(Packets(reader))
    assert set(Counter(map(key, packets)).values()) == {1}
    assert {(one.complete, one.ambiguous) for one in packets} == {(True, False)}
    assert {frozenset(step.backend for step in one.steps) for one in packets} == {
        frozenset({"legacy", "nft"})
    }
    ends = {
        one.header["dport"]: (one.verdict, one.decided_by.table)
        for one in packets
        if "dport" in one.header
    }
    assert ends == {
        51: ("DROP", "inet fw"), 52: ("DROP", "legacy mangle"), 53: ("ACCEPT", "legacy filter"),
        54: ("DROP", "legacy filter"), 55: ("DROP", "inet fw"), 56: ("DROP", "inet fw"),
        58: ("ACCEPT", "inet fw"), 59: ("REJECT", "inet fw"), 60: ("ACCEPT", "legacy filter"),
    }  # fmt: skip
    (translated,) = (one for one in packets if one.header.get("dport") == 56)
    assert [step.table for step in translated.steps[-4:]] == [
        "legacy nat", "legacy mangle", "legacy filter", "inet fw",
    ]  # fmt: skip
    assert translated.steps[-1].header["dport"] == 57


@pytest.mark.parametrize("events", [7, 50, 1000])
def test_windows_make_no_difference(events, monkeypatch):
    with Reader(BOTH) as reader:
        every = list(Packets(reader))
        monkeypatch.setattr(window, "WINDOW_EVENTS", events)
        assert list(Packets(reader)) == every
        assert (
            list(Packets(reader).follow([reader.facts.started_ns, reader.facts.stopped_ns]))
            == every
        )


@pytest.mark.parametrize("lost", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    "kinds", [{LEGACY.stream}, {NFT.stream}, ALL], ids=["legacy", "nft", "both"]
)
@pytest.mark.parametrize("seed", range(3))
def test_lost_events(kinds, lost, seed):
    """A packet of which events are missing is not called whole, unless it ended as it is told."""
    with Reader(BOTH) as reader:
        truth = told(reader)
    with Lossy(BOTH, kinds, lost, seed) as reader:
        found = told(reader)
    assert {one for one in found if one[-1]} <= set(truth)
    assert not all(one[-1] for one in found)


@pytest.mark.parametrize("kind", sorted(ALL))
def test_nothing_of_one_backend(kind):
    """All of its events were lost: what the other tells is not called whole."""
    with Lossy(BOTH, {kind}, 1.0, 0) as reader:
        packets = list(Packets(reader))
    assert packets
    assert not any(one.complete for one in packets)
    reasons = {one.reason.split(":")[0] for one in packets}
    teller = {LEGACY.stream: "legacy iptables", NFT.stream: "nf_tables"}[kind]
    assert f"of its way through the rules of {teller} nothing was recorded" in reasons


@pytest.mark.parametrize("kind", sorted(ALL))
def test_one_stream_alone(kind):
    """Each backend's own telling is read as before."""
    with Lossy(BOTH, ALL - {kind}, None, 0) as reader:
        packets = list(Packets(reader))
    assert packets
    assert {step.backend for one in packets for step in one.steps} == {None}


OURS = f'-A PREROUTING -m comment --comment "iptrec:{UUID}" -j TRACE'
BEFORE = f"""\
*raw
:PREROUTING ACCEPT [0:0]
{OURS}
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -p udp -m udp --dport 1 -j DROP
-A FORWARD -p udp -m udp --dport 2 -j DROP
-A FORWARD -p udp -j ACCEPT
COMMIT
"""
AFTER = BEFORE.replace(
    ":FORWARD ACCEPT [0:0]\n", ":FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -m udp --dport 3 -j DROP\n"
)
SECOND = 10**9


def chain(priority, does="drop"):
    """The listing of one chain of the hook forward, with one rule."""
    place = {"family": "inet", "table": "fw"}
    hook = {"type": "filter", "hook": "forward", "prio": priority, "policy": "accept"}
    rule = {"counter": {"packets": 0, "bytes": 0}}
    objects = [
        {"table": {"family": "inet", "name": "fw", "handle": 1}},
        {"chain": place | hook | {"name": "c", "handle": 2}},
        {"rule": place | {"chain": "c", "handle": 4, "expr": [rule, {does: None}]}},
    ]
    text = (
        f"table inet fw {{ # handle 1\n\tchain c {{ # handle 2\n"
        f"\t\ttype filter hook forward priority {priority}; policy accept;\n"
        f"\t\tcounter {does} # handle 4\n\t}}\n}}"
    )
    return json.dumps({"nftables": objects}).encode(), text.encode()


def judged(packet, verdict):
    """What nf_tables tells of a packet that the rule drops (verdict 0) or accepts (1)."""
    fields = [
        (16 - 1, struct.pack("!I", 2)), (4, struct.pack("!I", 3)), (6, struct.pack("<I", 7)), (2, b"c\0"),
        (1, b"fw\0"), (3, struct.pack("!Q", 4)), (5, attribute(1, struct.pack("!i", verdict))),
        (8, packet[:20]), (9, packet[20:40]),
    ]  # fmt: skip
    body = struct.pack("=BBH", 1, 0, 0) + b"".join(attribute(*one) for one in fields)
    return netlink(0x0A11, body)


class Both(HandMade):
    """A packet that legacy iptables tells of at these places, and nf_tables drops or not at all."""

    def __init__(self, places, *, priority, told):
        super().__init__(streams=[Stream(1, 1, "nflog", {}), Stream(2, 1, "nftrace", {})])
        self.ruleset(BEFORE).ruleset(AFTER, time_ns=3 * SECOND, after_ns=1)
        listing, text = chain(priority)
        for kind, content in (("nft-text", text), ("nft", listing)):
            self.snapshot(kind, content)
        packet = udp(dport=9)
        self.events([(place, packet, {"indev": 2}) for place in places], start_ns=SECOND)
        if told:
            self.received(2, [SECOND + 1], [judged(packet, 0)])


RAW = "raw:PREROUTING:policy:2"
CHANGED = "the rules changed just then"


@pytest.mark.parametrize(
    ("places", "priority", "told", "verdict", "decider", "steps", "reason"),
    [
        # Rule 3 accepted before the change, and drops after it: the packet went on.
        ([RAW, "filter:FORWARD:rule:3"], 10, True, "DROP", "inet fw", "legacy legacy nft", None),
        ([RAW, "filter:FORWARD:rule:3"], 10, False, "DROP", "legacy filter", "legacy legacy", None),
        # Rule 1 drops whichever it was, and rule 4 accepts.
        ([RAW, "filter:FORWARD:rule:1"], 10, False, "DROP", "legacy filter", "legacy legacy", CHANGED),
        ([RAW, "filter:FORWARD:rule:4"], 10, True, "DROP", "inet fw", "legacy legacy nft", None),
        ([RAW, "filter:FORWARD:rule:4"], 10, False, "UNKNOWN", None, "legacy legacy", "not seen after"),
        # Of equal priorities what ends the packet was last; what was before needs no event of it.
        ([RAW, "filter:FORWARD:rule:4"], 0, True, "DROP", "inet fw", "legacy legacy nft", None),
        ([RAW], 0, True, "DROP", "inet fw", "legacy nft", None),
        ([RAW, "filter:FORWARD:rule:4"], 0, False, "ACCEPT", "legacy filter", "legacy legacy", "of its way"),
        # Before the table whose events are missing.
        ([RAW], -10, True, "DROP", "inet fw", "legacy nft", None),
        ([RAW], 10, True, "DROP", "inet fw", "legacy nft", "events are missing in the middle"),
    ],
)  # fmt: skip
def test_one_packet_by_hand(places, priority, told, verdict, decider, steps, reason):
    """What became of it, by the events of both."""
    (packet,) = Packets(Both(places, priority=priority, told=told))
    assert (packet.verdict, packet.decided_by and packet.decided_by.table) == (verdict, decider)
    assert " ".join(step.backend for step in packet.steps) == steps
    assert (packet.reason or "").startswith(reason or "")
    assert (packet.reason is None) == (reason is None)
    assert (packet.complete, packet.ambiguous) == (reason in (None, CHANGED), reason == CHANGED)


@pytest.mark.parametrize(
    ("rule", "told", "unsure", "hits"),
    [
        (1, False, 1, {}),  # one of two rules that drop
        (
            3,
            True,
            0,
            {"-p udp -j ACCEPT": 1},
        ),  # nf_tables tells that it went on: the old rules held
        (3, False, 0, {"-p udp -m udp --dport 2 -j DROP": 1}),
    ],
)
def test_rules_that_may_have_been_others_are_counted_apart(rule, told, unsure, hits):
    """As in a recording of one backend; what the other one tells may leave no doubt."""
    places = [RAW, f"filter:FORWARD:rule:{rule}"]
    counted = count_rules(Both(places, priority=10, told=told), Selection())
    table = next(one for one in counted if one.table == "legacy filter")
    assert sum(one.packets for one in table.unsure.values()) == unsure
    found = {one.rule.spec: one.count.packets for one in table.chains["FORWARD"][1]}
    assert {spec: count for spec, count in found.items() if count} == hits


class Moved(HandMade):
    """A packet that a chain of nf_tables accepted and legacy iptables dropped, while the chain was moved."""

    def __init__(self, *priorities):
        super().__init__(streams=[Stream(1, 1, "nflog", {}), Stream(2, 1, "nftrace", {})])
        self.ruleset(BEFORE)
        for time, priority in zip((0, 3 * SECOND), priorities, strict=True):
            listing, text = chain(priority, "accept")
            for kind, content in (("nft-text", text), ("nft", listing)):
                self.snapshot(kind, content, time, 1 if time else None)
        packet = udp(dport=1)
        places = [RAW, "filter:FORWARD:rule:1"]
        self.events([(place, packet, {"indev": 2}) for place in places], start_ns=SECOND)
        self.received(2, [SECOND + 1], [judged(packet, 1)])


@pytest.mark.parametrize("priorities", [(-10, -20), (-10, 10), (10, -10)])
def test_rulesets_that_read_the_same_may_have_other_priorities(priorities):
    """What was dropped came to no later chain: then the chain was passed where it stood before the drop."""
    (packet,) = Packets(Moved(*priorities))
    assert (packet.verdict, packet.decided_by.table) == ("DROP", "legacy filter")
    assert [step.backend for step in packet.steps] == ["legacy", "nft", "legacy"]
    assert (packet.complete, packet.ambiguous) == (True, False)
