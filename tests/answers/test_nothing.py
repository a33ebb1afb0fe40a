"""Why there may be nothing in a recording: what no kernel here shows."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from handmade import HandMade

from iptrec.answers.nothing import nothing
from iptrec.answers.traced import traced
from iptrec.errors import RecordingError
from iptrec.recording.rows import Chunk, Snapshot, Stream

TEXT = b"""table inet fw { # handle 1
\tflowtable fast { # handle 2
\t\thook ingress priority filter
\t\tdevices = { eth0 }
\t}
}
"""
LISTING = json.dumps({"nftables": [{"table": {"family": "inet", "name": "fw", "handle": 1}}]})


def empty(**contents):
    """A recording without events, with snapshots of these kinds."""
    made = HandMade()
    made.facts = replace(made.facts, filter=None, interfaces=())
    for number, (kind, content) in enumerate(contents.items(), 1):
        made.snapshots_.append(Snapshot(number, 1, kind.replace("_", "-"), 1, kind, content))
    return made


@pytest.mark.parametrize(("kind", "there"), [(0x0A0F, False), (0x0A11, True)])
def test_numbers_of_rulesets_are_no_events(kind, there):
    """They come among the traces of nf_tables (NFT_MSG_NEWGEN, NFT_MSG_TRACE)."""
    made = empty()
    made.streams = [Stream(1, 1, "nftrace", {})]
    data = struct.pack("=IHHII", 48, 0x0A0F, 0, 0, 0) + bytes(32)
    data += struct.pack("=IHHII", 48, kind, 0, 0, 0) + bytes(32)
    lengths = np.array([48, 48], np.uint32)
    made.chunks_ = [Chunk(1, 1, np.array([1, 2], np.int64), lengths, data)]
    assert traced(made) == there


def test_flowtables():
    """What is offloaded to one passes no rules."""
    found = nothing(empty(nft_text=TEXT, nft=LISTING.encode()))
    assert found.causes[-1] == (
        "flowtable fast of inet fw: packets of connections that are offloaded to it pass no rules"
    )


@pytest.mark.parametrize(
    ("counted", "fact"),
    [
        ({}, "no packet was traced"),
        ({"trace_rules": b"{}"}, "no packet met the TRACE rules"),
        ({"trace_rules": b'{"a": 0}'}, "no packet met the TRACE rules"),
        ({"trace_rules": b'{"a": 1}'}, "1 packet met the TRACE rules, but no event came"),
        (
            {"trace_rules": b'{"a": 1000, "b": 1}'},
            "1,001 packets met the TRACE rules, but no event came",
        ),
        (
            {
                "trace_rules": b'{"nft ipv4 OUTPUT": 2, "nft ipv6 OUTPUT": 1, "nft inet EARLY_OUTPUT": 4}'
            },
            "4 packets met the TRACE rules, but no event came",
        ),
    ],
)
def test_what_the_rules_counted(counted, fact):
    """Nothing is said of packets where nobody looked at the counters."""
    assert nothing(empty(**counted)).fact == fact


@pytest.mark.parametrize("early", [False, True])
def test_chains_before_ours(early):
    """Of equal priorities ours is the first, as it is the newer one."""
    made = empty()
    tables = {("inet", "fw"): -400, ("inet", f"iptrec-{made.facts.uuid}"): -400 if early else -300}
    listing = [
        entry
        for (family, name), priority in tables.items()
        for entry in (
            {"table": {"family": family, "name": name, "handle": 1}},
            {"chain": {"family": family, "table": name, "name": "first", "handle": 1, "type": "filter",
                       "hook": "prerouting", "prio": priority, "policy": "accept"}},
        )
    ]  # fmt: skip
    text = "".join(
        f"table {family} {name} {{ # handle 1\n\tchain first {{ # handle 1\n"
        f"\t\ttype filter hook prerouting priority {priority}; policy accept;\n\t}}\n}}\n"
        for (family, name), priority in tables.items()
    )
    made = empty(nft_text=text.encode(), nft=json.dumps({"nftables": listing}).encode())
    told = "inet fw/first (priority -400) comes before our rules and may drop them"
    assert (told in nothing(made).causes) == (not early)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "x"}', b'{"a": null}', b"[" * 100_000])
def test_hostile_counters(content):
    """One error, whatever is in it."""
    with pytest.raises(RecordingError, match="counters are damaged"):
        nothing(empty(trace_rules=content))
