"""`info`: completeness first, in a few short lines."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
from handmade import HandMade

from iptrec.answers.summary import Summary
from iptrec.recording.rows import Loss, Snapshot, Stream
from iptrec.views import info
from iptrec.views.timestamps import Clock

COUNTED = Loss(1, 10, 20, 5, "sequence")
LOCAL = Clock()
UNCOUNTED = Loss(1, 10, 20, None, "enobufs")


def recording(*losses, **facts):
    made = HandMade(losses=list(losses))
    made.facts = replace(made.facts, **facts)
    return made


FLAWS = {
    "none": (recording(), Summary(events=3), "yes"),
    "cut_off": (recording(closed=False), Summary(), "no: cut off"),
    "lost": (recording(COUNTED), Summary(lost=5), "no: 5 events lost"),
    "lost_uncounted": (recording(UNCOUNTED), Summary(), "no: events lost, not known how many"),
    "both": (recording(UNCOUNTED, COUNTED), Summary(lost=5), "no: 5 events lost"),
    "incomplete": (recording(), Summary(incomplete=1), "no: 1 trace incomplete"),
    "ambiguous": (recording(), Summary(ambiguous=1), "no: 1 ambiguous"),
    "orphans": (recording(), Summary(orphans=2), "no: 2 events name no rule"),
}


@pytest.mark.parametrize("case", FLAWS)
def test_completeness_is_first(case):
    """The first line says whether the recording can be trusted; the JSON says the same."""
    made, summary, expected = FLAWS[case]
    assert info.as_text(made, summary, LOCAL).splitlines()[0] == f"complete:    {expected}"
    assert json.loads(info.as_json(made, summary))["complete"] == (expected == "yes")


def test_what_was_lost_beside_the_events_is_no_event():
    """It is said what it is; the recording of the packets is complete."""
    made = recording(*(Loss(2, at * 10**9, at * 10**9, None, "enobufs") for at in (10, 70)))
    made.streams.append(Stream(2, 1, "sockets", {}))
    first, *rest = info.as_text(made, Summary(events=3), LOCAL).splitlines()
    assert first == "complete:    yes"
    (told,) = [one for one in rest if one.startswith("lost")]
    assert told == (
        "lost beside: the kernel had no room for all of the stream sockets (sockets of those that were closed);"
        " no event of a packet is missing: 2 times between 1970-01-01T01:00:10.000+01:00 and"
        " 1970-01-01T01:01:10.000+01:00"
    )
    found = json.loads(info.as_json(made, Summary(events=3)))
    assert (found["complete"], found["lost"], len(found["losses"])) == (True, 0, 2)


def test_rules_that_nobody_read_are_told():
    """Nothing is missing, and yet not all is known: it is no plain "yes"."""
    summary = Summary(events=3, packets=2, unread=1)
    first, second, *_ = info.as_text(recording(), summary, LOCAL).splitlines()
    assert first == "complete:    yes, but for rules that nobody could read"
    assert second.startswith(
        "unread:      1 packet met a rule that was gone before its text was read"
    )
    told = json.loads(info.as_json(recording(), summary))
    assert (told["complete"], told["unread"]) == (True, 1)
    flawed = info.as_text(recording(), replace(summary, orphans=1), LOCAL).splitlines()
    assert flawed[0] == "complete:    no: 1 event names no rule"
    assert flawed[1] == second


def test_a_list_that_is_not_there_says_why():
    """Refused or cut is not empty; as text beside its kind, as JSON where it is not whole."""
    made = recording()
    refused, done = (
        struct.pack("<IHHIIi", 20, kind, 0, 1, 0, code) for kind, code in ((2, -1), (3, 0))
    )
    for number, (kind, content) in enumerate(
        {"ipsets": refused, "fdb": done, "routes": b""}.items()
    ):
        made.snapshots_.append(Snapshot(number, 1, kind, 1, kind, content, media="netlink"))
    lines = info.as_text(made, Summary(), LOCAL).splitlines()
    assert "snapshots:   ipsets (EPERM), fdb, routes (cut)" in lines
    told = json.loads(info.as_json(made, Summary()))["snapshots"]
    assert [one.get("state") for one in told] == ["EPERM", None, "cut"]


def test_losses_are_listed_up_to_ten():
    """Each with its time and how it is known; the rest is counted."""
    lines = info.as_text(recording(*[COUNTED] * 13), Summary(lost=65), LOCAL).splitlines()
    shown = [line for line in lines if line.startswith("lost:")]
    assert len(shown) == 11
    assert shown[0].startswith("lost:        5 between 1970-01-01T01:00:00.000+01:00 and")
    assert shown[-1] == "lost:        and 3 more times; --json has all"
    assert not [line for line in info.as_text(recording(*[COUNTED] * 10), Summary(), LOCAL).splitlines()
                if "more" in line]  # fmt: skip


def test_text_fits_a_terminal():
    """As wide as that and a bounded number of lines, however long and hostile a command is."""
    made = recording(
        COUNTED,
        command=("iptrec", "x" * 500, *["word and-word"] * 500, "\x1b[2J\n"),
        kernel="\x1b]0;title\x07" * 50,
    )
    summary = Summary(lost=5, verdicts=dict.fromkeys(map(str, range(999)), 1))
    for width in (40, 80, 200):
        shown = info.as_text(made, summary, LOCAL, width=width)
        assert max(map(len, shown.splitlines())) <= width
        assert len(shown.splitlines()) < 50
        assert shown.replace("\n", "").isprintable()
    piped = info.as_text(made, summary, LOCAL).splitlines()
    assert len(piped) < 25
    assert any(
        line.startswith("recorded by:") and line.endswith(r"'\x1b[2J\x0a'") for line in piped
    )


SNAPLEN = {
    "legacy": (["nflog", "rtnetlink"], "256 bytes of each packet"),
    "nft": (["nftrace", "nftables"], "the headers of each packet, as nf_tables tells them"),
    "both": (["nflog", "nftrace"], "256 bytes of each packet, of nf_tables the headers alone"),
}


@pytest.mark.parametrize("case", SNAPLEN)
def test_how_much_of_each_packet_there_is(case):
    """nf_tables does not ask."""
    kinds, told = SNAPLEN[case]
    made = recording(snaplen=256)
    made.streams = [Stream(number, 1, kind, {}) for number, kind in enumerate(kinds)]
    assert f"snaplen:     {told}\n" in info.as_text(made, Summary(), LOCAL)


def test_command_can_be_typed_again():
    """Words with spaces are quoted."""
    shown = info.as_text(recording(command=("iptrec", "tcp port 1", "--", "ls")), Summary(), LOCAL)
    assert "recorded by: iptrec 0: iptrec 'tcp port 1' -- ls\n" in shown
