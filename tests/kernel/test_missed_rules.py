"""Rules that came and went between two listings, found in what the kernel tells."""

from __future__ import annotations

import pytest
from nft_handmade import DEL_RULE, NEW_GENERATION, NEW_RULE, message, rule, u32

from iptrec.kernel import netlink
from iptrec.kernel.nft import missed as missed_rules
from iptrec.kernel.nft import transactions
from iptrec.kernel.nft.missed import Missed


@pytest.fixture(autouse=True)
def no_sets(monkeypatch):
    monkeypatch.setattr(transactions, "dumped", lambda *_: [])


def tell(missed, *messages):
    """A transaction."""
    for one in (*messages, message(NEW_GENERATION, (1, u32(1)))):
        (told,) = netlink.messages(one)
        missed.take(told)


def came(handle, what):
    """``what``: at most four letters, as the value of an attribute."""
    return rule(NEW_RULE, "f", handle, f"\x08\0\x01\0{what:4}")


def went(handle, what=""):
    return rule(DEL_RULE, "f", handle, what, hits=4)


def test_what_was_listed_is_not_missed():
    missed = Missed()
    missed.begin()
    tell(missed, came(5, "one"), came(6, "two"))
    missed.listed()
    tell(missed, went(5))
    missed.listed()
    assert missed.gone() == []


def test_what_nobody_listed_is_told_once():
    """However often an equal rule comes, and whatever it has counted."""
    missed = Missed()
    for handle in (5, 7, 9):
        tell(missed, came(handle, "one"), came(handle + 1, "two"))
        tell(missed, went(handle))
    missed.listed()
    found = missed.gone()
    assert [(one.family, one.table, one.messages) for one in found] == [(1, "fw", came(5, "one"))]
    tell(missed, came(20, "one"))
    tell(missed, went(20))
    missed.listed()
    assert missed.gone() == []


@pytest.mark.parametrize("limit", ["MOST_EVER", "MOST_TOLD"])
def test_there_may_be_too_many(monkeypatch, limit):
    """In all, or at once: no more are told, and it is known that there were more."""
    monkeypatch.setattr(missed_rules, limit, 2)
    missed = Missed()
    for handle, what in ((5, "one"), (6, "two"), (7, "one")):
        tell(missed, came(handle, what))
        tell(missed, went(handle))
    missed.listed()
    assert not missed.full
    tell(missed, came(8, "six"))
    tell(missed, went(8))
    missed.listed()
    assert [one.messages for one in missed.gone()] == [came(5, "one"), came(6, "two")]
    assert missed.full


def test_a_ring_is_told_again():
    """What was told may be gone by then."""
    missed = Missed(again=True)
    for handle, what in ((5, "one"), (6, "two"), (7, "one")):
        tell(missed, came(handle, what))
        tell(missed, went(handle))
        assert [one.messages for one in missed.gone()] == [came(handle, what)]


def test_another_file_begins_with_nothing_told():
    missed = Missed()
    for _ in range(2):
        missed.begin()
        tell(missed, came(5, "one"))
        tell(missed, went(5))
        assert len(missed.gone()) == 1


def test_rules_of_anonymous_chains_are_left_out():
    """They are listed with the rule that jumps there, which cannot be made of that rule alone."""
    missed = Missed()
    tell(missed, rule(NEW_RULE, "f", 5, "\x0d\0\x01\0__chain3\0"))
    tell(missed, went(5))
    assert missed.gone() == []
