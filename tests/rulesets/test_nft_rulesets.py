"""A recording whose listing of nf_tables is not quite understood: every answer is there all the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from iptrec.answers.packets import Packets
from iptrec.answers.rules import count_rules
from iptrec.answers.selection import Selection
from iptrec.answers.summary import summarize
from iptrec.answers.why import explain
from iptrec.recording.reader import Reader
from iptrec.views import folded, info, json_lines, rules, why
from iptrec.views.text import Layout

SAMPLE = Path(__file__).parents[2] / "samples" / "nftables.db"
ODDITIES = st.sampled_from(
    ["", "jump {", "\ud800", 0, -1, 2**64, 1.5, True, None, [], {}, {"a": 1, "b": 2}]
)


class Changed:
    """A recording of which one listing is another one."""

    def __init__(self, reader, listing):
        self._reader = reader
        self._listing = listing

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def snapshots(self, *kinds):
        for one in self._reader.snapshots(*kinds):
            yield replace(one, content=self._listing) if one.kind == "nft" else one


def nodes(value, path=()):
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        if isinstance(child, dict | list):
            yield from nodes(child, (*path, key))
        else:
            yield (*path, key)


with Reader(str(SAMPLE)) as _reader:
    LISTING = next(iter(_reader.snapshots("nft"))).content
OBJECTS = json.loads(LISTING)["nftables"]
PATHS = list(nodes(OBJECTS))


def answers(recording):
    """All that is told of a recording."""
    replay = Packets(recording)
    packets = "".join(text for batch in replay.batches() for text in json_lines.text(batch))
    told = [
        line
        for one in explain(recording, Packets(recording))
        for line in (*folded.as_text(one, Layout()), *why.as_text(one, Layout()))
    ]
    counted = [
        line
        for table in count_rules(recording, Selection())
        for line in (*rules.as_json(table), *rules.as_text([table]))
    ]
    "".join([packets, *told, *counted]).encode()
    return packets.count("\n")


@settings(max_examples=40)
@given(st.sampled_from(PATHS), ODDITIES)
@example((6, "chain", "hook"), "")
def test_every_answer(path, oddity):
    """Any node of the listing becomes something else: no answer fails, each packet is told."""
    objects = json.loads(LISTING)["nftables"]
    parent = objects
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = oddity
    with Reader(str(SAMPLE)) as reader:
        recording = Changed(reader, json.dumps({"nftables": objects}).encode())
        assert answers(recording) >= answers(reader)


def test_a_listing_that_breaks_off():
    """The text is there and whole: the same packets, rules and verdicts, and `info` says so."""
    with Reader(str(SAMPLE)) as reader:
        recording = Changed(reader, LISTING[:179] + b"\n")
        ways = [
            [
                (packet.verdict, packet.complete, packet.ambiguous, packet.decided_by),
                *((one.table, one.chain, one.rule, one.spec, one.type) for one in packet.steps),
            ]
            for packet in Packets(reader)
        ]
        told = [
            [
                (packet.verdict, packet.complete, packet.ambiguous, packet.decided_by),
                *((one.table, one.chain, one.rule, one.spec, one.type) for one in packet.steps),
            ]
            for packet in Packets(recording)
        ]
        assert told == ways
        assert answers(recording) == answers(reader)
        assert "nft's text alone" in info.as_text(recording, summarize(recording))
        assert "nft's text alone" not in info.as_text(reader, summarize(reader))
