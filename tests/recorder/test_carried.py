"""What the next file of --rotate begins with, whatever changed shortly before."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from iptrec.recorder import carried
from iptrec.recorder.carried import CarriedRuleset, CarriedTables, Kept

SECOND = 1_000_000_000


class Evidence:
    """A file, and what comes into it."""

    def __init__(self):
        self.snapshots, self.changes = [], []
        self.streams = SimpleNamespace(ids={"nftables": 7})
        self.writer = SimpleNamespace(together=nullcontext, append=self._append)

    def snapshot(self, kind, source, content, *, time_ns, after_ns):
        assert source == "a command"
        self.snapshots.append((kind, time_ns // SECOND, after_ns and after_ns // SECOND))
        assert content.size == 1

    def _append(self, stream, received_ns, lengths, data):
        assert (stream, lengths.tolist()) == (7, [len(data)])
        self.changes.append((received_ns, data))


def kept(kind, second, after=None):
    found = Kept.of(kind, "a command", b"x", second * SECOND)
    return found._replace(after_ns=None if after is None else after * SECOND)


def stored(one, *arguments):
    """What the next file begins with."""
    evidence = Evidence()
    one.store(evidence, *arguments)
    return evidence


def test_tables_from_the_state_on_that_held():
    """Of each its own; one that came since the last event is no state for all that wait."""
    one = CarriedTables()
    one.begin(kept("all", 1))
    for second in (2, 3, 5, 6):
        one.add("filter", kept("filter", second, second - 1), since_ns=4 * SECOND)
    one.add("nat", kept("nat", 4, 3), since_ns=4 * SECOND)
    assert stored(one).snapshots == [
        ("all", 1, None), ("filter", 3, 2), ("nat", 4, 3), ("filter", 5, 4), ("filter", 6, 5),
    ]  # fmt: skip


def test_a_state_of_just_then_does_not_hide_the_one_before():
    """Packets may be under way in the old rules."""
    one = CarriedTables()
    one.add("filter", kept("before", 1), since_ns=SECOND)
    one.add("filter", kept("after", 2), since_ns=2 * SECOND + 1)
    assert [kind for kind, *_ in stored(one).snapshots] == ["before", "after"]


def told(one, *generations):
    for number in generations:
        one.changed(10 * number, b"rule %d" % number, None)
        one.changed(10 * number + 1, b"number", number)


def test_a_listing_and_what_was_told_since():
    """Also of a commit that is not over; not what is in the listing, though it was read later."""
    one = CarriedRuleset()
    assert not one.whole
    told(one, 5, 6)
    one.list([kept("nft", 6)], 6)
    told(one, 6, 7)
    one.add([kept("nft-unknown", 7)])
    one.tell(kept("nft-missed", 8))
    one.changed(80, b"begun", None)
    assert one.whole
    found = stored(one, "nftables")
    assert [kind for kind, *_ in found.snapshots] == ["nft", "nft-unknown", "nft-missed"]
    assert found.changes == [(70, b"rule 7"), (71, b"number"), (80, b"begun")]
    one.list([kept("nft", 9)], 9)
    found = stored(one, "nftables")
    assert ([kind for kind, *_ in found.snapshots], found.changes) == (["nft"], [(80, b"begun")])


def test_texts_stay_as_long_as_their_file_is_the_listing_s():
    """They are told once a file: a rule that comes again after the listing may be one of them."""
    one = CarriedRuleset()
    one.list([kept("nft", 1)], 1)
    one.tell(kept("first", 2))
    one.list([kept("nft", 3)], 3)
    assert [kind for kind, *_ in stored(one, "nftables").snapshots] == ["first", "nft"]
    one.tell(kept("second", 4))
    one.list([kept("nft", 5)], 5)
    assert [kind for kind, *_ in stored(one, "nftables").snapshots] == ["second", "nft"]


@pytest.mark.parametrize("how", ["lost", "much"])
def test_what_is_not_whole_is_listed_again(how, monkeypatch):
    one = CarriedRuleset()
    one.list([kept("nft", 1)], 1)
    if how == "lost":
        one.forget()
    else:
        monkeypatch.setattr(carried, "_MOST_BYTES", 100)
        told(one, *range(2, 20))
    assert not one.whole
    one.list([kept("nft", 20)], 20)
    assert one.whole
