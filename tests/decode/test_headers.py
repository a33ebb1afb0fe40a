"""Header fields by columns: what they say is what `decode.packet.header` says of each packet."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from iptrec.decode import packet
from iptrec.decode.headers import Headers
from iptrec.views.templates import listed

BYTE = st.integers(0, 255)
PROTOCOLS = st.sampled_from([0, 1, 4, 6, 17, 33, 43, 44, 47, 50, 51, 58, 60, 132, 136, 200])


@st.composite
def ipv4(draw):
    """An IPv4 header with nearly always sound words, and something behind it."""
    first = draw(st.sampled_from([0x45] * 6 + [0x46, 0x44, 0x65]))
    fragment = draw(st.sampled_from([0, 0x4000, 0x8000, 0x2000, 1, 0x0100]))
    rest = draw(st.binary(min_size=8, max_size=8))
    head = struct.pack("!BBHHHBB", first, draw(BYTE), 0x1234, 7, fragment, 64, draw(PROTOCOLS))
    return head + b"\0\0" + rest + draw(transport())


@st.composite
def ipv6(draw):
    """The same of IPv6."""
    first = draw(st.sampled_from([0x60] * 6 + [0x6F, 0x45]))
    head = bytes([first]) + draw(st.binary(min_size=5, max_size=5)) + bytes([draw(PROTOCOLS), 64])
    return head + draw(st.binary(min_size=32, max_size=32)) + draw(transport())


def transport():
    """Bytes that begin with a type of ICMP as often as with a port."""
    kinds = st.sampled_from([0, 3, 5, 8, 11, 13, 1, 2, 4, 127, 128, 129, 135, 136, 143])
    return st.tuples(kinds, st.binary(max_size=40)).map(lambda parts: bytes(parts[:1]) + parts[1])


def headers(packets, families):
    """Packets back to back, as a decoded chunk has them."""
    lengths = np.array([len(one) for one in packets], np.int64)
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    buffer = np.frombuffer(b"".join(packets) + bytes(256), np.uint8)
    return Headers(buffer, start, lengths, np.array([one == 10 for one in families]))


def told(columns, row):
    """The fields that the columns have of a packet."""
    fields = columns.layouts[columns.which[row]].fields
    return {name: listed(columns.values(name, np.array([row])))[0] for name in fields}


@given(st.lists(st.tuples(st.one_of(ipv4(), ipv6()), st.sampled_from([2, 10])), min_size=1))
@example([(struct.pack("!BBHHHBBHII", 0x45, 0, 20, 0, 0, 1, 47, 0, 1, 2), 2)])
def test_fields_are_those_of_the_packet(packets):
    """Wherever a packet has a layout, each field is what the reading of the whole packet gives."""
    families = [family for _, family in packets]
    columns = headers([data for data, _ in packets], families)
    kinds = {}
    for row, (data, family) in enumerate(packets):
        if columns.which[row] < 0:
            assert columns.kind[row] == -1
            continue
        whole = packet.header(data, family)
        fields = told(columns, row)
        assert fields == {name: whole[name] for name in fields}
        # What is no field is the same for all of the kind.
        rest = {name: value for name, value in whole.items() if name not in fields}
        assert kinds.setdefault(int(columns.kind[row]), (list(whole), rest)) == (list(whole), rest)


@given(ipv4(), st.lists(st.tuples(st.integers(0, 60), BYTE), max_size=8), st.sampled_from([2, 10]))
@example(bytes([0x45]) + bytes(40), [(8, 1), (40, 9)], 2)
@example(bytes([0x60]) + bytes(5) + bytes([17]) + bytes(41), [(8, 0x80), (16, 0x40), (31, 1)], 10)
def test_changes_are_those_of_the_packet(data, edits, family):
    """A change is seen where, and only where, the reading of both packets differs."""
    packets = [data]
    for at, value in edits:
        edited = bytearray(packets[-1])
        edited[at % len(edited)] = value
        packets.append(bytes(edited))
    columns = headers(packets, [family] * len(packets))
    changes = columns.changes()
    assert changes[0] == -1
    for row in range(1, len(packets)):
        if changes[row] < 0:
            assert columns.kind[row] < 0 or columns.kind[row] != columns.kind[row - 1]
            continue
        before, now = (packet.header(packets[one], family) for one in (row - 1, row))
        fields = list(columns.layouts[columns.which[row]].fields)
        assert [name for bit, name in enumerate(fields) if changes[row] >> bit & 1] == [
            name for name in fields if before[name] != now[name]
        ]
        assert list(before) == list(now)


def test_plain_packets_have_a_layout():
    """The test above compares something: TCP, UDP and echoes of both families are plain."""
    four = struct.pack("!BBHHHBBHII", 0x45, 0, 60, 7, 0x4000, 64, 6, 0, 1, 2) + bytes(40)
    six = struct.pack("!IHBB", 0x60000000, 20, 17, 64) + bytes(32) + bytes(20)
    echo = bytes([*six[:6], 58, *six[7:40], 128]) + bytes(20)
    assert headers([four, six, echo], [2, 10, 10]).which.tolist().count(-1) == 0


def test_absent_packets_have_none():
    """An event without a payload is no packet."""
    buffer = np.zeros(256, np.uint8)
    nowhere = Headers(buffer, np.array([-1]), np.array([0]), np.array([False]))
    assert nowhere.which.tolist() == [-1]
    nothing = np.zeros(0, np.int64)
    assert len(Headers(buffer, nothing, nothing, nothing.astype(bool)).changes()) == 0
