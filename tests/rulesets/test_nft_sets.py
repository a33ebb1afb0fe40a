"""The members of sets of nf_tables at any moment, by listings and by what the kernel told between them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nft_handmade import (
    DEL_ELEMENTS,
    DEL_SET,
    DEL_TABLE,
    NEW_ELEMENTS,
    NEW_GENERATION,
    NEW_RULE,
    NEW_TABLE,
    NftHandMade,
    element,
    message,
    new_set,
    rule,
    table,
    text,
    u32,
)

from iptrec.decode.rulesets.nft_sets import NftSet
from iptrec.matching import nft_lookup
from iptrec.rulesets import nft_sets
from iptrec.rulesets.changes import Changes
from iptrec.rulesets.nft import NFT, followed
from iptrec.rulesets.nft_sets import NftSets, When

ONE = {"f": [(5, "drop")]}
OURS = table(NEW_TABLE, 9, "iptrec-1"), rule(NEW_RULE, "o", 1, "mine", in_table="iptrec-1")
INTERVAL = 4  # NFT_SET_INTERVAL
MS = 10**6


def port(number):
    return struct.pack("!H", number)


def added(number, **more):
    return element(NEW_ELEMENTS, "s", port(number), **more)


def deleted(number, **more):
    return element(DEL_ELEMENTS, "s", port(number), **more)


def of(*members, name="s", kind="inet_service", **more):
    """A set as nft lists it."""
    return {"name": name, "type": kind, "elem": list(members), **more}


def recorded(first, last, *commits, name="fw"):
    """A set as it was listed at 100 ms and at 900, and what was told each 100 ms in between."""
    recording = NftHandMade().listed(
        ONE, 100, generation=7, sets=[first] if first else [], name=name
    )
    for number, messages in enumerate(commits, 1):
        time = 100 + 100 * number
        for before in (30, 25, 20, 10):
            recording.traced(time - before)
        recording.commit(7 + number, time, *messages)
    return recording.listed(ONE, 900, generation=7 + len(commits), sets=[last] if last else [])


def sets(recording):
    changes = Changes(recording, NFT.changes, NFT.stream, 1)
    told = followed(recording.snapshots(*NFT.snapshots), changes)
    return NftSets(recording.snapshots(*NFT.snapshots), told, changes, single=True)


def has(recording, own, generations, time=(0, 2000), *, name="s", number=int):
    """Whether a set had something between two generations; None where they disagree, or nobody knows."""
    when = When((time[0] * MS, time[1] * MS), generations)
    own = own if isinstance(own, tuple) else (own,)
    found = set()
    for one in sets(recording).at(when, "ipv4", "inet fw", name):
        if isinstance(one, NftSet):
            found.add(nft_lookup.contains(one, own, [number] * len(own), when.time_ns))
        else:
            found.add(one and one.has(own, when.time_ns))
    return found.pop() if len(found) == 1 else None


def over_time(recording, own, commits, **more):
    """The same after each commit."""
    return [has(recording, own, (7 + one, 7 + one), **more) for one in range(commits + 1)]


def test_each_state_is_known_between_two_listings():
    """What came and went in the same transaction was never there."""
    recording = recorded(
        of(1), of(2, 3),
        [added(2)],
        [deleted(1), added(3)],
        [added(9), deleted(9), deleted(2)],
        [added(2)],
    )  # fmt: skip
    assert over_time(recording, 1, 4) == [True, True, False, False, False]
    assert over_time(recording, 2, 4) == [False, True, True, False, True]
    assert over_time(recording, 3, 4) == [False, False, True, True, True]
    assert over_time(recording, 9, 4) == [False] * 5


def test_a_packet_that_may_have_met_several_states():
    """What all of them say of it is known, whatever else changed."""
    recording = recorded(of(1), of(2), [added(2)], [deleted(1)])
    assert has(recording, 1, (7, 8)) is True
    assert has(recording, 1, (8, 9)) is None
    assert has(recording, 5, (7, 9)) is False


def test_without_numbers_time_tells():
    """Of recordings without them, and of packets that numbers do not bound."""
    recording = recorded(of(), of(1), [added(1)], [deleted(1)], [added(1)])
    found = [has(recording, 1, (-1, 2**32), (at, at + 5)) for at in (110, 220, 320, 420, 295)]
    assert found == [False, True, False, True, None]


def test_intervals():
    """The kernel tells where they begin, and behind their ends; two that touch share a bound."""
    members = {"range": [10, 19]}, 65535
    recording = recorded(
        of(*members, flags=["interval"]), of({"range": [10, 12]}, {"range": [13, 15]}, flags=["interval"]),
        [deleted(10), deleted(20, ends=True)],
        [deleted(65535), added(0, ends=True), added(10), added(13, ends=True)],
        [added(13), added(16, ends=True)],
    )  # fmt: skip
    assert over_time(recording, 9, 3) == [False, False, False, False]
    assert over_time(recording, 12, 3) == [True, False, True, True]
    assert over_time(recording, 15, 3) == [True, False, False, True]
    assert over_time(recording, 16, 3) == [True, False, False, False]
    assert over_time(recording, 65535, 3) == [True, True, False, False]


def test_concatenations():
    """Each part at four bytes, and with its own range; of what is not known of a packet nothing is claimed."""

    def pair(kind, low, high):
        keys = (bytes([10, 0, 0, one[0], *port(one[1]), 0, 0]) for one in (low, high))
        return element(kind, "s", next(keys), upto=next(keys))

    both = {"kind": ["ipv4_addr", "inet_service"], "flags": ["interval"]}
    member = {"concat": [{"prefix": {"addr": "10.0.0.0", "len": 30}}, {"range": [5, 7]}]}
    recording = recorded(
        of(member, **both), of({"concat": ["10.0.0.9", 5]}, **both),
        [pair(NEW_ELEMENTS, (9, 5), (9, 5))],
        [pair(DEL_ELEMENTS, (0, 5), (3, 7))],
    )  # fmt: skip
    host = 10 << 24
    assert over_time(recording, (host + 2, 6), 2) == [True, True, False]
    assert over_time(recording, (host + 2, 8), 2) == [False, False, False]
    assert over_time(recording, (host + 9, 5), 2) == [False, True, True]
    assert over_time(recording, (host + 9, None), 2) == [False, None, None]


KINDS = [
    ("ipv6_addr", "fe80::1", bytes.fromhex("fe80") + bytes(13) + b"\1", 0xFE80 << 112 | 1),
    ("ether_addr", "00:11:22:33:44:55", bytes.fromhex("001122334455"), 0x001122334455),
    ("inet_proto", "tcp", b"\6", 6),
    ("mark", 7, b"\7\0\0\0", 7),
    ("ifname", "eth0", b"eth0" + bytes(12), "eth0"),
]


@pytest.mark.parametrize(("kind", "listed", "told", "own"), KINDS)
def test_types(kind, listed, told, own):
    """A key is the same one in the kernel's bytes and in nft's words."""
    gone = element(DEL_ELEMENTS, "s", told)
    recorded_ = recorded(of(listed, kind=kind), of(kind=kind), [gone])
    assert over_time(recorded_, own, 1, number=lambda _: own) == [True, False]


def test_a_set_that_is_made_anew():
    """With its table or alone; a packet may find it empty while the transaction comes into force."""
    gone = message(DEL_SET, (1, text("fw")), (2, text("s")))
    anew = new_set("s", 2), added(1)
    recording = recorded(
        of(1), of(1),
        [gone, table(DEL_TABLE, 1), table(NEW_TABLE, 2), *anew, added(2)],
        [gone, *anew],
        [new_set("s", 2)],  # it was there: its timeout has changed
    )  # fmt: skip
    assert over_time(recording, 1, 3) == [True, True, True, True]
    assert over_time(recording, 2, 3) == [False, True, False, False]
    assert has(recording, 1, (7, 8)) is None
    assert has(recording, 1, (8, 9)) is None
    assert has(recording, 1, (9, 10)) is True


def test_a_set_that_was_not_listed_before():
    """Its type is that of the listing after it."""
    recording = recorded(None, of(1), [new_set("s", 2), added(1), added(2)], [deleted(2)])
    assert [has(recording, one, (8, 8)) for one in (1, 2, 3)] == [True, True, False]


def test_elements_that_end():
    """By what the kernel told of the rest of their time; nobody knows it to the jiffy."""
    recording = recorded(
        of(timeout=1, flags=["timeout"]), of(flags=["timeout"], timeout=1), [added(1, expires_ms=200)], [],
    )  # fmt: skip
    found = [has(recording, 1, (8, 9), (at, at + 1)) for at in (210, 350, 400, 500)]
    assert found == [True, True, None, False]


def test_intervals_that_end():
    """Their ends go with them, and are not those of an interval that comes later."""
    timed = {"flags": ["interval", "timeout"]}
    nothing = added(0, ends=True)
    recording = recorded(
        of(**timed), of({"range": [13, 20]}, **timed),
        [nothing, added(10, expires_ms=80), added(15, ends=True)],
        [added(13), added(21, ends=True)],
    )  # fmt: skip
    found = [has(recording, 12, (8, 8), (at, at)) for at in (210, 270, 299)]
    assert found == [True, None, False]
    assert [has(recording, one, (9, 9), (350, 350)) for one in (12, 13, 17, 21)] == [
        False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "first", [added(10, expires_ms=50), added(15, ends=True)], ids=["begins", "ends"]
)
def test_half_an_interval(first):
    """Of which one bound was there before: nobody knows what becomes of it."""
    timed = {"flags": ["interval", "timeout"]}
    assert has(recorded(of(**timed), of(**timed), [first], []), 12, (8, 8)) is None


@pytest.mark.parametrize(("first_ms", "expected"), [(50, True), (100, None), (500, True)])
def test_an_element_that_is_added_when_it_ends(first_ms, expected):
    """It may have been there still, or come anew, and kernels differ in what becomes of it."""
    timed = {"timeout": 1, "flags": ["timeout"]}
    told = [added(1, expires_ms=first_ms)], [added(1, expires_ms=200)], []
    recording = recorded(of(**timed), of(**timed), *told)
    assert [has(recording, 1, (9, 10), (at, at + 1)) for at in (350, 600)] == [expected, False]


def test_an_element_that_was_told_of_and_is_listed():
    """A listing tells whole seconds; what was told before is better."""
    timed = {"flags": ["timeout"]}
    one = {"elem": {"val": 1, "timeout": 1, "expires": 0}}
    recording = recorded(of(**timed), of(one, **timed), [added(1, expires_ms=1000)])
    recording.traced(910).traced(920).traced(1000).commit(9, 1001, added(2, expires_ms=5000))
    other = {"elem": {"val": 2, "timeout": 5, "expires": 4}}
    recording.listed(ONE, 1500, generation=9, sets=[of(other, **timed)])
    assert [has(recording, 1, (9, 9), (at, at + 1)) for at in (1100, 1200, 1300)] == [
        True,
        None,
        False,
    ]
    assert has(recording, 2, (9, 9), (1400, 1400)) is True


DOUBTS = {
    "not what was told": (of(1), of(1, 2), [[added(3)], [deleted(3)]]),
    "a deletion that was not told": (of(1, 2), of(1), [[added(3)], [deleted(3)]]),
    "a rule changes it": (
        of(1), of(1),
        [[message(NEW_RULE, (1, text("fw")), (2, text("f")), (4, b"dynset\0\0\x06\0\1\0s\0\0\0")), added(2)],
         [deleted(2), rule(6, "f", 9)]],
    ),
    "of another size": (of(1), of(1), [[new_set("s", 4)], []]),
    "of intervals": (of(1), of(1), [[new_set("s", 2, INTERVAL)], []]),
    "for all that is not in it": (of(1), of(1), [[element(NEW_ELEMENTS, "s", b"")], []]),
    "a type that is not known": (of(1, kind="ct_state"), of(1, kind="ct_state"), [[added(2)], [deleted(2)]]),
    "rules add to it": (of(1, flags=["dynamic"]), of(1, flags=["dynamic"]), [[added(2)], [deleted(2)]]),
    "names that begin so": (of("e*", kind="ifname"), of("e*", kind="ifname"), [[added(2)], [deleted(2)]]),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTS)
def test_what_cannot_be_relied_on_is_not_known(case):
    """What was told does not come to what is listed, or does not tell all."""
    first, last, commits = DOUBTS[case]
    recording = recorded(first, last, *commits)
    assert has(recording, 1, (8, 8)) is None
    assert has(recording, 7, (8, 8)) is None


def test_a_set_that_nobody_changed():
    """Whatever its type is, and whatever happens to others."""
    same = of(3, kind="ct_state")
    other = element(NEW_ELEMENTS, "other", port(1)), element(DEL_ELEMENTS, "other", port(1))
    recording = recorded(same, same, other[:1], other[1:])
    assert over_time(recording, 3, 2) == [True, True, True]
    assert over_time(recording, 4, 2) == [False, False, False]
    assert (
        over_time(recorded(same, of(4, kind="ct_state"), *(other[:1], other[1:])), 3, 2)[1] is None
    )


def test_what_was_lost_is_not_known():
    """From the loss on; nor is anything known of a transaction that was not received."""
    commits = [added(2)], [deleted(2)]
    lost = recorded(of(1), of(1), *commits).lost(150)
    assert has(lost, 1, (8, 8), (250, 260)) is None
    missed = recorded(of(1), of(1), *commits)
    missed.chunks_ = [
        one for one in missed.chunks_ if one.stream == 1 or one.received_ns[0] != 200 * MS
    ]
    assert has(missed, 1, (8, 8), (250, 260)) is None


def test_more_than_can_be_kept(monkeypatch):
    """A recording may hold a million elements between two listings: it is not known then what they were."""
    monkeypatch.setattr(nft_sets, "_MOST_TOLD", 9)
    few = recorded(of(), of(), [added(1), added(2)], [deleted(1), deleted(2)])
    many = recorded(
        of(), of(), [added(1), added(2), added(3)], [deleted(1), deleted(2), deleted(3)]
    )
    assert [has(one, 1, (8, 8)) for one in (few, many)] == [True, None]


def test_few_are_kept(monkeypatch):
    """Those that were asked for last; what is asked for again is read again."""
    monkeypatch.setattr(nft_sets, "_CHANGES", 2)
    recording = recorded(of(), of(), [added(1)], [deleted(1)])
    found = sets(recording)
    for _ in range(2):
        for name in ("s", "other", "s"):
            (one,) = found.at(When((0, 10**9), (8, 8)), "ipv4", "inet fw", name)
            assert (one.has((1,), (0, 1)) if one else None) is (True if name == "s" else None)


@settings(max_examples=200)
@given(st.data())
def test_messages_of_strangers(data):
    """Whatever bytes a recording has there: an answer, or none."""
    messages = [added(1), added(9, expires_ms=5), new_set("s", 2), deleted(1, ends=True)]
    at = data.draw(st.integers(0, len(messages) - 1))
    damaged = bytearray(messages[at])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    messages[at] = bytes(damaged)
    recording = recorded(of(3), of(3), messages, [deleted(9)])
    assert has(recording, 3, (8, 8)) in (True, False, None)


BEFORE = {
    "others did": ([(6, OURS), (7, [added(1)])], [None, True]),
    "others did, to rules alone": ([(6, OURS), (7, [rule(NEW_RULE, "f", 6, "x")])], [True, True]),
    "nobody but we": ([(6, [added(1)]), (7, OURS)], [True, True]),
}


@pytest.mark.parametrize("end", ["listed", "unseen"])
@pytest.mark.parametrize("case", BEFORE)
def test_members_before_the_first_listing(case, end):
    """Known as far back as nobody changed a set, also where no event was received before the change."""
    told, expected = BEFORE[case]
    recording = NftHandMade()
    for generation, messages in told:
        recording.commit(generation, generation * 10, *messages)
    recording.traced(75, message(NEW_GENERATION, (1, u32(7)))).listed(
        ONE, 100, generation=7, sets=[of(1)]
    )
    recording = recording.unseen(900, 800) if end == "unseen" else recording.listed(
        ONE, 900, generation=7, sets=[of(1)]
    )  # fmt: skip
    found = [has(recording, 1, (6, 6), (40, 65)), has(recording, 1, (7, 7), (110, 120))]
    assert found == expected


def test_members_after_a_listing_that_no_other_one_follows():
    """Until somebody changes a set, or may have; a recorder tells late that it cannot list."""
    for end in (lambda one: one.unseen(900, 800), lambda one: one):
        recording = NftHandMade().listed(ONE, 100, generation=7, sets=[of(1)])
        recording.traced(180).commit(8, 200, rule(NEW_RULE, "f", 6, "x"))
        recording = end(recording.commit(9, 300, deleted(1)))
        found = [has(recording, 1, (at, at), (time, time + 5)) for at, time in ((7, 150), (8, 250))]
        assert found == [True, True]
        assert has(recording, 1, (9, 9), (400, 405)) is None
