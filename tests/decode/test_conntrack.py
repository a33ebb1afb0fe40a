"""Connections out of ctnetlink's messages."""

from __future__ import annotations

import struct

import pytest
from handmade import attribute
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.conntrack import Connection, Flow, connections


def tuples(source, destination, protocol, *ports):
    """A tuple of CTA_TUPLE_ORIG or _REPLY."""
    first = 1 if len(source) == 4 else 3
    ip = attribute(first, source) + attribute(first + 1, destination)
    proto = attribute(1, bytes([protocol])) + b"".join(
        attribute(kind, struct.pack("!H", value)) for kind, value in ports
    )
    return attribute(0x8001, ip) + attribute(0x8002, proto)


def message(kind, *attributes):
    body = struct.pack("!BBH", 2, 0, 0) + b"".join(attributes)
    return struct.pack("<IHHII", 16 + len(body), 1 << 8 | kind, 0, 0, 0) + body


A, B = b"\n\0\0\1", b"\n\0\0\2"
UDP = message(
    0,
    attribute(0x8001, tuples(A, B, 17, (2, 1000), (3, 53))),
    attribute(0x8002, tuples(B, A, 17, (2, 5353), (3, 1000))),
    attribute(3, struct.pack("!I", 8)), attribute(8, struct.pack("!I", 7)),
    attribute(12, struct.pack("!I", 0xFFFFFFFF)), attribute(18, struct.pack("!H", 3)),
)  # fmt: skip
KNOWN = Connection(
    0xFFFFFFFF, Flow(17, "10.0.0.1", "10.0.0.2", 1000, 53), Flow(17, "10.0.0.2", "10.0.0.1", 5353, 1000),
    8, 7, 3, gone=False, zones=(3, 3),
)  # fmt: skip
PING = message(
    2,
    attribute(0x8001, tuples(bytes(15) + b"\1", bytes(15) + b"\2", 58, (7, 9))),
    attribute(0x8002, tuples(bytes(15) + b"\2", bytes(15) + b"\1", 58, (7, 9))),
)
ZONED = message(
    0,
    attribute(0x8001, tuples(A, B, 17, (2, 1000), (3, 53)) + attribute(3, struct.pack("!H", 5))),
    attribute(0x8002, tuples(B, A, 17, (2, 53), (3, 1000))),
    attribute(0x8005, attribute(1, b"ftp\0rest")),
    attribute(0x8000 | 14, tuples(B, A, 6, (2, 9), (3, 21))),
)
EXPECTED = Connection(
    0, Flow(17, "10.0.0.1", "10.0.0.2", 1000, 53), Flow(17, "10.0.0.2", "10.0.0.1", 53, 1000), 0, 0, 5,
    gone=False, zones=(5, 0), helper="ftp", master=Flow(6, "10.0.0.2", "10.0.0.1", 9, 21),
)  # fmt: skip
CASES = {
    "zone_of_one_direction_helper_master": (ZONED, [EXPECTED]),
    "udp": (UDP, [KNOWN]),
    "icmpv6_gone": (
        PING, [Connection(0, Flow(58, "::1", "::2", 9, 9), Flow(58, "::2", "::1", 9, 9), 0, 0, 0, gone=True)],
    ),
    "two_in_one": (UDP + UDP, [KNOWN, KNOWN]),
    "other_kind": (message(1, attribute(0x8001, tuples(A, B, 17))), []),
    "one_tuple": (message(0, attribute(0x8001, tuples(A, B, 17))), []),
    "short_address": (message(0, *[attribute(kind, tuples(A[:3], B, 17)) for kind in (1, 2)]), []),
    "cut": (UDP[:-1], []),
    "empty": (b"", []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_connections(case):
    """Tuples, id, status, mark, zones, helper and master; what does not fit is left out."""
    datagram, expected = CASES[case]
    assert list(connections(datagram)) == expected


@given(data=st.binary(max_size=300), cut=st.integers(0, 200))
def test_any_bytes_are_read(data, cut):
    """Nothing raises, nothing loops."""
    list(connections(data))
    list(connections(UDP[:cut] + data))
