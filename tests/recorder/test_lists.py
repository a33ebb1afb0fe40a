"""Ipsets and routes are listed again while they are few."""

from __future__ import annotations

import struct

import pytest
from handmade import attribute

from iptrec.kernel import ipsets
from iptrec.recorder import lists
from iptrec.recorder.lists import Lists

SECOND = 1_000_000_000
BEGUN = 5
DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
REFUSED = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -1)


def member(address, timeout=300, packets=0):
    """A member of a set with a timeout and counters."""
    said = attribute(1, attribute(1, bytes([10, 0, 0, address])))
    return attribute(
        7,
        said + attribute(6, struct.pack(">I", timeout)) + attribute(25, struct.pack(">Q", packets)),
    )


def listing(*members, references=1):
    """A set, as the kernel lists it."""
    head = (
        attribute(2, b"x\0")
        + attribute(3, b"hash:ip\0")
        + attribute(7, attribute(25, bytes([0, 0, 0, references])))
    )
    body = bytes(4) + head + attribute(8, b"".join(members))
    return struct.pack("=IHHII", 16 + len(body), 0x0607, 2, 1, 0) + body + DONE


class Evidence:
    """Keeps what is kept."""

    def __init__(self):
        self.kept = []

    def snapshot(self, kind, source, content, *, after_ns):
        assert source == ("ipset" if kind == "ipsets" else "rtnetlink")
        self.kept.append((kind, content, after_ns > BEGUN))


class Ways:
    """Tells whether routes may have changed, look by look."""

    def __init__(self, changes=()):
        self._changes = list(changes)

    def changed(self):
        return bool(self._changes) and self._changes.pop(0)


def looked(first, ways, times):
    """What is kept of so many looks, a second apart and one in between."""
    evidence = Evidence()
    looking = Lists(evidence, ways)
    looking.begin(first, BEGUN)
    for second in range(1, times + 1):
        looking.look(second * SECOND)
        looking.look(second * SECOND + SECOND // 2)
    return evidence.kept


@pytest.fixture
def looks(monkeypatch):
    """What of lists of ipsets was kept, look by look after a first list, and how often somebody looked."""

    def at(first, *listings):
        rest = list(listings)
        monkeypatch.setattr(lists.ipsets, "dumps", lambda limit: {"ipsets": rest.pop(0)[:limit]})
        kept = looked({"ipsets": first}, Ways(), len(listings))
        return [one[1:] for one in kept], len(listings) - len(rest)

    return at


ONE, TWO = listing(member(1)), listing(member(1), member(2))
LARGE = 1000 * ONE[: -len(DONE)] + DONE


def test_what_has_changed_is_kept(looks):
    """Each time it has, with when it was last seen to be something else."""
    assert looks(ONE, TWO, TWO, ONE) == ([(TWO, False), (ONE, True)], 3)


@pytest.mark.parametrize(
    "same",
    [
        listing(member(1, timeout=299)),
        listing(member(1, packets=7)),
        listing(member(1), references=2),
    ],
)
def test_what_runs_by_itself_is_no_change(looks, same):
    """The time that members have left, what they have counted, and who refers to a set."""
    assert looks(ONE, same, ONE, TWO) == ([(TWO, True)], 3)


@pytest.mark.parametrize("first", [b"", REFUSED, ONE[:-20], LARGE])
def test_nobody_looks(looks, first):
    """Where nothing was told, where there are no sets, where the list is cut or large."""
    assert looks(first, ONE) == ([], 0)


def test_nobody_looks_any_more(looks):
    """Once the list is large."""
    assert looks(ONE, LARGE, ONE) == ([], 1)


def test_no_sets_yet(looks):
    """They may be made later."""
    assert looks(DONE, DONE, ONE) == ([(ONE, True)], 2)
    assert ipsets.members(DONE) == []


def routes(*numbers):
    """A list of routes, or of rules."""
    return b"".join(struct.pack("=IHHIII", 20, 24, 2, 1, 0, one) for one in numbers) + DONE


def test_routes_that_have_changed(monkeypatch):
    """They are listed where something was told, and kept with the rules, though all reads as before again."""
    answers = [routes(1), routes(1, 2), routes(1)]
    monkeypatch.setattr(
        lists.links,
        "dumps",
        lambda _, limit: {"routes": answers.pop(0)[:limit], "ip-rules": DONE},
    )
    first = {"routes": routes(1), "ip-rules": DONE}
    kept = looked(first, Ways([False, True, False, True, True]), 6)
    assert kept == [
        ("routes", routes(1), True), ("ip-rules", DONE, True),
        ("routes", routes(1, 2), True), ("ip-rules", DONE, True),
        ("routes", routes(1), True), ("ip-rules", DONE, True),
    ]  # fmt: skip
    assert answers == []


def test_routes_that_are_many(monkeypatch):
    """That they have changed is kept as a list that is cut, and then nobody looks any more."""
    many = routes(*range(10_000))
    monkeypatch.setattr(
        lists.links, "dumps", lambda _, limit: {"routes": many[:limit], "ip-rules": DONE}
    )
    kept = looked({"routes": many, "ip-rules": DONE}, Ways([False, True, True]), 4)
    assert [(kind, len(content)) for kind, content, _ in kept] == [
        ("routes", 64 << 10),
        ("ip-rules", 20),
    ]


def test_nobody_listed_routes():
    """Then changes of them say nothing."""
    assert looked({}, Ways([True, True]), 2) == []
