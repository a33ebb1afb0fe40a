"""Which lists of ipsets may be those of a moment."""

from __future__ import annotations

import struct

import pytest
from handmade import HandMade, attribute

from iptrec.context.ipsets import IpSets
from iptrec.recording.rows import Snapshot


def listing(*names):
    """Sets without members, as the kernel lists them."""
    body = [bytes(4) + attribute(2, name.encode() + b"\0") for name in names]
    messages = [struct.pack("=IHHII", 16 + len(one), 0x0607, 2, 1, 0) + one for one in body]
    return b"".join(messages) + struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)


def recorded(*lists):
    """Lists with the time before which they came, and after which, if that was seen."""
    recording = HandMade()
    for name, time_ns, after_ns in lists:
        one = Snapshot(1, 1, "ipsets", time_ns, "ipset", listing(name), after_ns, "netlink")
        recording.snapshots_.append(one)
    return IpSets(recording, 1)


BY_LOOKING = [("a", 100, None), ("b", 300, 200), ("c", 500, 450), ("c", 900, None)]
AT_BOTH_ENDS = [("a", 100, None), ("b", 900, None)]


@pytest.mark.parametrize(
    ("lists", "time_ns", "names"),
    [
        (BY_LOOKING, (0, 0), "a"),
        (BY_LOOKING, (110, 200), "a"),
        (BY_LOOKING, (110, 201), "ab"),
        (BY_LOOKING, (250, 260), "ab"),
        (BY_LOOKING, (300, 300), "ab"),
        (BY_LOOKING, (301, 440), "b"),
        (BY_LOOKING, (460, 470), "bc"),
        (BY_LOOKING, (100, 470), "abc"),
        (BY_LOOKING, (501, 502), "cc"),
        (BY_LOOKING, (950, 960), "c"),
        (AT_BOTH_ENDS, (50, 60), "a"),
        (AT_BOTH_ENDS, (101, 102), "ab"),
        (AT_BOTH_ENDS, (901, 902), "b"),
        ([], (1, 2), ""),
    ],
)
def test_lists_of_a_moment(lists, time_ns, names):
    """All that was there between the last look that saw something else, and the first that did."""
    found = recorded(*lists).at(time_ns)
    assert ["".join(sets) for sets in found] == list(names)
