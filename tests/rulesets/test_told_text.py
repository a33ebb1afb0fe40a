"""The text of rules that the kernel told when recording began, as nft could not list them in time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from nft_handmade import DEL_RULE, NEW_RULE, NftHandMade, listing, rule
from test_missed_text import told as missed
from test_nft_changes import texts

from iptrec.recording.rows import Snapshot
from iptrec.rulesets import nft

RULES = {5: "some words", 6: "other words"}
TEXTS = "log x", "log y"
MESSAGES = [rule(NEW_RULE, "f", handle, what, hits=9) for handle, what in RULES.items()]


def begun(content):
    """A recording that begins with two rules of which the kernel told handles and contents."""
    printed, text = listing({"f": [(handle, "drop") for handle in RULES]})
    objects = json.loads(printed)
    for one in objects["nftables"]:
        one.get("rule", {}).pop("expr", None)
    recording = NftHandMade()
    parts = [
        ("nft-generation", b"7"),
        ("nft-rules", content),
        ("nft-text", text.partition(b"\n")[0] + b"\n}\n"),
        ("nft", json.dumps(objects).encode()),
    ]
    recording._snapshots(100, None, *parts)
    recording.snapshots_ = [replace(one, source="NFT_MSG_GETRULE") for one in recording.snapshots_]
    return recording


def with_texts(recording):
    """The recorder had them listed once more."""
    content = missed(*MESSAGES, words=TEXTS)
    recording.snapshots_.append(Snapshot(9, 1, "nft-missed", 130 * 10**6, "nft", content, 0))
    return recording


def told(*messages):
    return json.dumps({"messages": b"".join(messages).hex()}).encode()


def test_they_have_it_from_the_first():
    assert texts(with_texts(begun(told(*MESSAGES)))) == [[*TEXTS]]


@pytest.mark.parametrize("listed", [True, False])
def test_what_comes_and_goes_then_is_followed(listed):
    """Whether anybody lists the ruleset later on or not."""
    recording = with_texts(begun(told(*MESSAGES)))
    recording.commit(8, 110, rule(NEW_RULE, "f", 7, RULES[5], after=6))
    recording.commit(9, 120, rule(DEL_RULE, "f", 5, RULES[5]))
    if listed:
        recording.listed({"f": [(6, TEXTS[1]), (7, TEXTS[0])]}, 200, generation=9)
    else:
        recording.unseen(200)
    assert texts(recording)[:3] == [[*TEXTS], [*TEXTS, TEXTS[0]], [TEXTS[1], TEXTS[0]]]


@pytest.mark.parametrize(
    "content",
    [
        told(),
        told(rule(NEW_RULE, "f", 8, RULES[5]), rule(NEW_RULE, "f", 5, RULES[5], in_table="others")),
        told(rule(NEW_RULE, "f", 5, "what nobody listed")),
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"messages": 1}',
    ],
    ids=["nothing", "others", "unlisted", "", "list", "deep", "number"],
)
def test_nothing_is_made_up(content):
    assert texts(with_texts(begun(content))) == [["", ""]]


def test_nft_did_not_print_it():
    """Who asks for what nft printed gets nothing."""
    for kind in (nft.LISTING, nft.TEXT):
        assert nft.printed(begun(told(*MESSAGES)), kind, None, 1) is None
