"""Records of drops as columns, whatever bytes there are; and the names that belong to their numbers."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import drop, udp
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import drops


def decoded(*records):
    return drops.decode(b"".join(records), np.array([len(one) for one in records], np.uint32))


def test_a_record():
    """What the kernel wrote is in the columns, and the packet where they say."""
    packet = udp(b"hello")
    found = decoded(drop(5, 3, packet, place=7, netns=9, iif=4), drop(6, 2, packet, captured=20))
    assert found.time_ns.tolist() == [5, 6]
    assert found.reason.tolist() == [3, 2]
    assert found.place.tolist() == [7, 1]
    assert found.netns.tolist() == [9, 1]
    assert found.iif.tolist() == [4, 2]
    assert found.uid.tolist() == [-1, -1]
    ends = zip(found.start.tolist(), found.size.tolist(), strict=True)
    assert [bytes(found.data[at : at + size]) for at, size in ends] == [packet, packet[:20]]
    assert found.ipv6.tolist() == [False, False]


def test_who_recorded_before_tells_nothing_of_copies():
    """Then it is not known whether there was one."""
    found = decoded(*(drop(5, 3, udp(), flags=one) for one in (0, 2, 4)))
    assert found.cloned.tolist() == [False, True, False]
    assert found.alone.tolist() == [False, False, True]


def test_what_is_too_short_is_left_out():
    assert len(decoded(b"", bytes(63), bytes(64))) == 1


def test_no_packet_is_longer_than_its_record():
    record = bytearray(drop(5, 3, udp()))
    record[50:52] = b"\xff\xff"
    assert decoded(bytes(record)).size.tolist() == [len(udp())]


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes(records):
    """Nothing fails, and no packet lies outside."""
    found = decoded(*records)
    assert len(found) == sum(len(one) >= drops.HEAD for one in records)
    assert (found.start + found.size <= sum(map(len, records))).all()
    assert found.ipv6.shape == found.start.shape


REASONS = (
    b'{"skb_drop_reason": {"0": "SKB_NOT_DROPPED_YET", "3": "SKB_DROP_REASON_NO_SOCKET"},'
    b' "skb_drop_reason_subsys": {"0": "SKB_DROP_REASON_SUBSYS_CORE",'
    b' "2": "SKB_DROP_REASON_SUBSYS_OPENVSWITCH"}}'
)


@pytest.mark.parametrize(
    ("number", "name"),
    [(3, "NO_SOCKET"), (0, "SKB_NOT_DROPPED_YET"), (99, "99"),
     (0x20005, "SUBSYS_OPENVSWITCH/5"), (0x30005, "196613")],
)  # fmt: skip
def test_names_of_reasons(number, name):
    assert drops.reason_name(drops.reasons(REASONS), number) == name


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"skb_drop_reason": 5}', b'{"1": 2, "x": "y"}', b"\xff", b"[" * 100_000]
)  # fmt: skip
def test_what_anybody_wrote(content):
    """Names that cannot be read are none."""
    assert drops.reasons(content) == {}
    assert drops.places(content) == {}


def test_places():
    assert drops.places(b'{"1": "ip_error+0x94"}') == {1: "ip_error+0x94"}
