"""The text of rules that no listing has, by what the recorder had listed once more."""

from __future__ import annotations

import json

import pytest
from nft_handmade import DEL_RULE, NEW_RULE, NftHandMade, listing, rule
from test_nft_changes import ONE, texts

from iptrec.recording.rows import Snapshot


def soon_gone():
    """A rule that was there between two listings."""
    recording = NftHandMade().listed(ONE, 100, generation=7)
    recording.commit(8, 110, rule(NEW_RULE, "f", 6, "some words"))
    recording.commit(9, 120, rule(DEL_RULE, "f", 6, "some words", hits=3))
    return recording


def told(*rules, words=("log x",)):
    """What the recorder keeps: messages of rules, and how they were listed."""
    chain = {"iptrec-missed": [(2 + number, one) for number, one in enumerate(words)]}
    printed, text = listing(chain)
    found = {"messages": b"".join(rules).hex(), "nft": printed.decode(), "nft-text": text.decode()}
    return json.dumps(found).encode()


def with_missed(content):
    recording = soon_gone()
    recording.snapshots_.append(Snapshot(9, 1, "nft-missed", 130 * 10**6, "nft", content, 0))
    return recording.listed(ONE, 200, generation=9)


def test_a_rule_that_soon_went_has_its_text():
    """That of the rule which is made of the same."""
    others = rule(NEW_RULE, "f", 8, "others"), rule(NEW_RULE, "f", 6, "some words", hits=5)
    recording = with_missed(told(*others, words=("log y", "log x")))
    assert texts(recording) == [["drop"], ["drop", "log x"], ["drop"]]


@pytest.mark.parametrize(
    "content",
    [
        told(rule(NEW_RULE, "f", 6, "other words")),
        told(rule(NEW_RULE, "f", 6, "some words"), words=("log x", "one more")),
        told(rule(NEW_RULE, "f", 6, "some words", in_table="others")),
        told(),
        b"",
        b"[]",
        b"{}",
        b'{"messages": "zz", "nft": "", "nft-text": ""}',
        b'{"messages": 1, "nft": 2, "nft-text": {}}',
        b"[" * 100_000,
    ],
    ids=["others", "more", "of another table", "none", "", "list", "empty", "no hex", "numbers", "deep"],
)  # fmt: skip
def test_nothing_is_made_up(content):
    """What is not of this rule, or cannot be read, tells nothing."""
    assert texts(with_missed(content)) == [["drop"], ["drop", ""], ["drop"]]
