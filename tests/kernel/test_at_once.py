"""The ruleset as the kernel tells it at one moment, offline."""

from __future__ import annotations

import json

import pytest
from nft_handmade import NEW_RULE, chain, element, new_set, rule, table

from iptrec.kernel import netlink
from iptrec.kernel.nft import at_once, transactions
from iptrec.names import NFT_FAMILIES

FOUND = {
    transactions.GET_TABLE: [table(0x0A00, 3)],
    transactions.GET_CHAIN: [chain(0x0A03, "f", 1, policy=0), chain(0x0A03, "__chain0", 9)],
    transactions.GET_RULE: [
        rule(NEW_RULE, "f", 5, "one"),
        rule(NEW_RULE, "__chain0", 6, "two"),
        rule(NEW_RULE, "f", 7, "three", in_table="other"),
    ],
    transactions.GET_SET: [new_set("__set4", 2), new_set("named", 2)],
    transactions.GET_ELEMENTS: [element(0x0A0C, "__set4", b"\0\1")],
}


@pytest.fixture
def kernel(monkeypatch):
    """Rules of one family; ``kernel``: the numbers that it tells of its rulesets."""
    numbers = []

    def answers(kind, family, _values, _most=None):
        found = FOUND[kind] if family == NFT_FAMILIES["inet"] else []
        return [one for told in found for one in netlink.messages(told)]

    monkeypatch.setattr(transactions, "answers", answers)
    monkeypatch.setattr(transactions, "generation", lambda: numbers.pop(0))
    return numbers


def test_all_of_one_moment(kernel):
    """It is asked for again where it changed; what has no name goes with the rule that has it."""
    kernel += [7, 8, 8, 8]
    found = at_once.ruleset()
    parts = {one.kind: one.content for one in found.parts}
    assert parts["nft-generation"] == b"8"
    objects = json.loads(parts["nft"])["nftables"]
    assert [next(iter(one)) for one in objects] == ["table", "chain", "rule"]
    assert objects[0]["table"]["handle"] == 3
    assert objects[1]["chain"]["hook"] == "forward"
    assert objects[2]["rule"] == {"family": "inet", "table": "fw", "chain": "f", "handle": 5}
    kinds = [one.kind & 0xFF for one in found.messages]
    assert kinds == [9, 12, 6, 6, 6]
    told = bytes.fromhex(json.loads(parts["nft-rules"])["messages"])
    assert [one.kind & 0xFF for one in netlink.messages(told)] == kinds


def test_it_changes_faster_than_it_is_told(kernel):
    kernel += range(2 * transactions.TRIES)
    assert at_once.ruleset() is None


def test_many_rules(kernel, monkeypatch):
    """Nobody could tell the texts of all of them."""
    monkeypatch.setattr(at_once, "MOST_TOLD", 2)
    kernel += [7] * 2
    assert at_once.ruleset() is None
