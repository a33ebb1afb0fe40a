"""The ipsets are listed again while they are small."""

from __future__ import annotations

import struct

import pytest
from handmade import attribute

from iptrec.kernel import ipsets
from iptrec.recorder import sets
from iptrec.recorder.sets import Sets

SECOND = 1_000_000_000
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
        assert (kind, source) == ("ipsets", "ipset")
        self.kept.append((content, after_ns > 0))


@pytest.fixture
def looks(monkeypatch):
    """What is listed, look by look, after a first list: what of it was kept, and how often it was looked."""

    def at(first, *listings):
        rest = list(listings)
        monkeypatch.setattr(sets.ipsets, "dumps", lambda limit: {"ipsets": rest.pop(0)[:limit]})
        evidence = Evidence()
        looking = Sets(evidence, first)
        for second in range(len(listings)):
            looking.look((second + 1) * SECOND)
            looking.look((second + 1) * SECOND + SECOND // 2)
        return evidence.kept, len(listings) - len(rest)

    return at


ONE, TWO = listing(member(1)), listing(member(1), member(2))
LARGE = 1000 * ONE[: -len(DONE)] + DONE


def test_what_has_changed_is_kept(looks):
    """Each time it has, with the last look that saw something else; the first list is older than that tells."""
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
