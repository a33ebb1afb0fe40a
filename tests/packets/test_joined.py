"""Recordings of both backends as they are, and with events missing: what is told as whole is the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iptrec.answers.packets import Packets
from iptrec.packets import window
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Chunk
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
