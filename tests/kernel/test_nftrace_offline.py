"""Which numbers of rulesets belong among the events that were just received, and where."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from iptrec.kernel import netlink
from iptrec.kernel.batches import NO_RULESET, NOTE, Batch
from iptrec.kernel.nft import numbers, switches
from iptrec.names import ASKED

EVENT = "-"
BITS = {"a": 0, "b": 1, "c": 0, "?": NO_RULESET}
TRACE = 0x0A11


def message(what):
    """A number of a ruleset, or an event."""
    kind, content = (TRACE, bytes(40)) if what == EVENT else (numbers.NEWGEN, what)
    if what != EVENT:
        content = struct.pack("!I", int(what))
    return netlink.message(kind, 0, netlink.netfilter_body(0, [(1, content)]))


def batch(text):
    words = text.split()
    datagrams = [message(one.rstrip("".join(BITS))) for one in words]
    lengths = np.array([len(one) for one in datagrams], np.uint32)
    notes = None
    if words[0][-1] in BITS:
        told = [(number, 0, BITS[one[-1]]) for number, one in enumerate(words, 1000)]
        notes = np.array(told, NOTE)
    return Batch(0, lengths, b"".join(datagrams), 0, 0, notes=notes)


def read(found):
    """What is in a batch, as `batch` takes it."""
    words, start = [], 0
    for size in found.lengths.tolist():
        datagram = found.data[start : start + size]
        kind = next(netlink.messages(datagram)).kind
        words.append(EVENT if kind == TRACE else str(numbers.number(datagram)))
        start += size
    assert start == len(found.data)
    assert found.beside == len(words) - words.count(EVENT)
    return " ".join(words)


@pytest.fixture
def told(monkeypatch):
    """What becomes of batches, each with what the kernel answers after it, and where the ruleset changed."""

    def among(batches, *, counted):
        answers = [7, *(answer for _, answer, *_ in batches)]
        monkeypatch.setattr(
            numbers.Numbers,
            "_ask",
            lambda _: b"" if (number := answers.pop(0)) is None else message(number),
        )
        source = numbers.Numbers()
        places = {}
        if counted:
            source.switches = Noted(places)
        found = []
        for text, _, *changed in batches:
            places |= dict(changed)
            found.append(read(source.among(batch(text))))
        source.close()
        return found

    return among


class Noted:
    def __init__(self, places):
        self.after = places.get


# Batches, what the kernel answers after each, and what is written.
UNCOUNTED = {
    "nothing changes": [("-", 7, "7 -"), ("-", 7, "-"), ("-", 7, "-")],
    "a number comes with events": [
        ("-", 7, "7 -"), ("- 8 -", 8, "7 - 8 -"), ("-", 8, "-"), ("- 9 - 10", 10, "8 - 9 - 10"),
    ],
    # Some of the events may have met the ruleset 8, whose number comes a moment later.
    "it was not told yet": [
        ("-", 7, "7 -"), ("-", 7, "-"), ("- -", 8, "7 - -"), ("- 8", 8, "- 8"), ("9", 9, "8 9"),
    ],
    "the next one is in force already": [
        ("-", 7, "7 -"), ("8 -", 9, "7 8 8 -"), ("- 9", 9, "- 9"), ("10", 10, "9 10"),
    ],
    "the first events": [("- 8", 8, "7 - 8"), ("-", 8, "-")],
    "no answer": [
        ("-", None, "7 -"), ("8", None, "8"), ("- 9", 9, "8 - 9"), ("10", 10, "9 10"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", UNCOUNTED)
def test_the_number_before_events(case, told):
    """The last one that the kernel confirmed, before the first events of which that is not certain."""
    batches = [(text, answer) for text, answer, _ in UNCOUNTED[case]]
    assert told(batches, counted=False) == [written for *_, written in UNCOUNTED[case]]


# The same, and behind the answer: after how many numbers the ruleset changed, between which messages.
COUNTED = {
    "where it changed": [("- -", 7, "7 - -"), ("- - - - 8 -", 8, "- 7 - - 8 - 8 -", (0, (3, 5)))],
    "at the number": [("- -", 7, "7 - -"), ("- - 8", 8, "- 7 - 8", (0, (3, 6)))],
    "before all": [("- -", 7, "7 - -"), ("- - 8", 8, "7 8 - - 8", (0, (1, 2)))],
    "its number is late": [
        ("-", 7, "7 -"), ("- - - -", 8, "- 7 - - 8 -", (0, (2, 4))), ("- -", 8, "- -"),
        ("- 8 -", 8, "- 8 -"), ("- - 9", 9, "- 8 - 9", (1, (11, 13))),
    ],
    "in force, and nothing met it yet": [
        ("-", 7, "7 -"), ("- -", 8, "- -"), ("- - 8", 8, "- 7 - 8", (0, (4, 7))),
    ],
    "in force at the very end": [
        ("-", 7, "7 -"), ("- -", 8, "- 7 -", (0, (2, 4))), ("- - -", 8, "- 8 - -"), ("8", 8, "8"),
    ],
    "two numbers": [
        ("-", 7, "7 -"), ("- 8 - - - - 9", 9, "7 - 8 - - 8 - 9 - 9", (0, (0, 3)), (1, (5, 6))),
    ],
    "the next one while the last is late": [
        ("-", 7, "7 -"), ("- - - -", 8, "- 7 - - 8 -", (0, (2, 4))), ("- -", 9, "8 - -"),
        ("8 - 9 -", 9, "8 9 - 9 -", (1, (5, 7))), ("-", 9, "-"),
    ],
    "several are late": [("-", 7, "7 -"), ("- - -", 9, "- 7 - -", (0, (2, 3))), ("8 - 9", 9, "8 - 8 9")],
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTED)
def test_numbers_where_the_ruleset_changed(case, told):
    """The old one before the first that may have met the new one, which stands before the first that did."""
    batches = [(text, answer, *changed) for text, answer, _, *changed in COUNTED[case]]
    assert told(batches, counted=True) == [written for _, _, written, *_ in COUNTED[case]]


def test_what_is_put_ahead_is_not_told_unasked(monkeypatch):
    """The kernel tells its number when the commit is done, not where its ruleset came into force."""
    monkeypatch.setattr(numbers.Numbers, "_ask", lambda _: message(7))
    source = numbers.Numbers()
    source.switches = Noted({0: (1, 2)})
    found = source.among(batch("- - - 8"))
    source.close()
    assert read(found) == "7 - 7 - 8 - 8"
    told = [one for one in netlink.messages(found.data) if one.kind == numbers.NEWGEN]
    assert [one.sequence == ASKED for one in told] == [True, True, True, False]


# Events and numbers with the bit of the ruleset that a tap saw in force, "?" where it was full.
TAPPED = {
    "where it changed": [("-? 7a -a", 7, "7 - 7 -"), ("-a -a -b -b 8b -b", 8, "- - 7 8 - - 8 -")],
    "at the number": [("7a -a", 7, "7 7 -"), ("-a -a 8b -b", 8, "- - 7 8 -")],
    "before all": [("7a -a", 7, "7 7 -"), ("-b -b 8b", 8, "7 8 - - 8")],
    "two processors": [("7a", 7, "7 7"), ("-a -b -a -b 8b", 8, "- 7 - - 8 - 8")],
    "beside the ring": [("7a", 7, "7 7"), ("-a -? -b 8b", 8, "- 7 - 8 - 8")],
    "all beside the ring": [("7a", 7, "7 7"), ("-? -? 8b", 8, "7 - - 8")],
    "its number is late": [
        ("7a", 7, "7 7"), ("-a -b", 8, "- 7 8 -"), ("-b 8b -b", 8, "- 8 -"), ("-c -c 9c", 9, "8 9 - - 9"),
    ],
    "in force, and nothing met it yet": [("7a", 7, "7 7"), ("-a", 8, "-"), ("-a -b 8b", 8, "- 7 8 - 8")],
    "two numbers": [("7a", 7, "7 7"), ("-b 8b -b -c 9c", 9, "7 8 - 8 - 8 9 - 9")],
    "of its number nothing is noted": [("7?", 7, "7 7"), ("-a -b 8b", 8, "7 - - 8")],
}  # fmt: skip


@pytest.mark.parametrize("case", TAPPED)
def test_numbers_where_a_tap_saw_the_ruleset_change(case, told):
    """As above, and exactly: each event says which ruleset was in force when it was told."""
    batches = [(text, answer) for text, answer, _ in TAPPED[case]]
    assert told(batches, counted=False) == [written for *_, written in TAPPED[case]]


def test_what_is_put_among_events_has_their_times():
    """Of the one that it is put before: readers ask for the times of numbers."""
    some = batch("-a -b")
    times = some.notes["time"].tolist()
    found = numbers._with(some, [(1, message("7")), (2, message("8"))])
    assert found.notes["time"].tolist() == [times[0], times[1], times[1], times[1]]


def noted(*places):
    """What the program writes of changes: after how many numbers, at which message."""
    notes = [0] * (4 + 64)
    notes[3] = len(places)
    for number, (told, at) in enumerate(places):
        notes[4 + number % 64] = (told << 44 | at) % 2**64
    return memoryview(struct.pack(f"={len(notes)}Q", *notes)).cast("Q")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], None),
        ([(1, 5)], (0, 2**44 + 2)),  # the first message is noted whatever it met
        ([(1, 5), (1, 9)], (0, 11)),
        ([(0, 5), (1, 9)], (7, 11)),
        ([(0, 5), (2, 9)], None),
        ([(0, 0), (1, 9), (1, 12), (1, 10)], (7, 14)),  # two processors told at once
        ([(1, at) for at in range(70)], (0, 71)),
        ([(one, 3 * one) for one in range(70)], (0, 2**44 + 2)),
        ([*((0, at) for at in range(70)), (1, 99)], (97, 101)),
        ([(0, at) for at in range(70)], None),
    ],
)
def test_between_which_messages_it_changed(places, expected, monkeypatch):
    """Another processor may have told a message in between; where some are not kept, it is not known."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for begun in (0, 2**20 - 1):  # numbers that begin again
        notes = noted(*((begun + told, at) for told, at in places))
        assert switches.Switches(notes).after(begun + 1) == expected
