"""What judges the hosts of tests/live/real_hosts can fail: each way of being wrong is found."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from real_hosts import counters, numbered, truth
from real_hosts.truth import Truth

KINDS = ("wrong", "vanished", "unknown", "untraced")
COUNTED = {"counter": {"packets": 9, "bytes": 0}}
PROBE = {"expr": [{"counter": {"packets": 4, "bytes": 0}}], "comment": counters._PROBE}


@pytest.mark.parametrize(
    ("said", "arrived", "kind"),
    [
        ([("ACCEPT", True)], True, None),
        ([("DROP", True)], False, None),
        ([("ACCEPT", True), ("REJECT", True)], False, None),
        ([("DROP", True)], True, "wrong"),
        ([("ACCEPT", True)], False, "vanished"),
        ([("ACCEPT", False)], True, "unknown"),
        ([("ACCEPT", True), ("UNKNOWN", False)], False, "unknown"),
        ([], True, "untraced"),
    ],
)
def test_what_was_told_and_what_arrived(said, arrived, kind):
    found = Truth(1, {}, {})
    told = found.seen
    arriving = {7} if arrived else set()
    truth._compare(found, told, {7: said} if said else {}, {7: "a packet"}, arriving)
    kinds = [one for one in KINDS if getattr(told if one == "unknown" else found, one)]
    assert kinds == [kind] * (kind is not None)


@pytest.mark.parametrize(
    ("rules", "hits"),
    [
        ([{"expr": [COUNTED, {"accept": None}]}], 9),
        ([{"expr": [{"accept": None}]}], None),
        ([{"expr": [COUNTED, {"vmap": {"data": {"set": [[1, {"drop": None}]]}}}]}, PROBE], 5),
        ([{"expr": [COUNTED, {"vmap": {"data": "@m"}}]}, PROBE], 5),
        ([{"expr": [COUNTED, {"vmap": {"data": "@back"}}]}, PROBE], None),
        ([{"expr": [COUNTED, {"vmap": {"data": "@m"}}]}], None),
    ],
)
def test_hits_of_a_rule(rules, hits):
    """What a map does not have went on to the rule behind, but for what came back from a chain."""
    maps = {"m": [[1, {"goto": {"target": "c"}}]], "back": [[1, {"jump": {"target": "c"}}]]}
    assert counters._hits(rules, maps) == hits


@pytest.mark.parametrize("addresses", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
@pytest.mark.parametrize("protocol", ["udp", "tcp", "icmp"])
def test_numbers_are_read_as_they_were_written(protocol, addresses):
    """Also where a number's bytes look like others; of a foreign packet there is none."""
    source, target = map(ipaddress.ip_address, addresses)
    wanted = [0, 1, 99_999, 0x5A5A5A]
    some = [numbered.packet(one, protocol, source, target, (1, 2), 2) for one in wanted]
    foreign = bytearray(some[0])
    foreign[24 if source.version == 4 else 44] ^= 1  # TCP's sequence number
    foreign[28 if source.version == 4 else 48] ^= 1  # the mark behind UDP and ICMP
    events = Events([*some, bytes(foreign)])
    assert numbered.numbers(events, slice(None)).tolist() == [*wanted, -1]


class Events:
    """The columns of recorded packets that are looked at."""

    def __init__(self, packets):
        self.buffer = np.frombuffer(b"".join(packets) + bytes(256), np.uint8)
        self.payload_length = np.array([len(one) for one in packets])
        self.payload = np.cumsum(self.payload_length) - self.payload_length
