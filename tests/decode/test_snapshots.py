"""Snapshots as values: lists of the kernel's own messages, JSON of format 1, and what is wrong with them."""

from __future__ import annotations

import errno
import ipaddress
import json
import struct

import pytest
from handmade import attribute
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import snapshots
from iptrec.decode.ipsets import IpSet
from iptrec.errors import RecordingError
from iptrec.recording.kinds import SNAPSHOTS

LISTS = [one.name for one in SNAPSHOTS.values() if one.media == "netlink"]


def message(kind, body, flags=2):
    """A message of an answer; it is padded."""
    return struct.pack("<IHHII", 16 + len(body), kind, flags, 1, 0) + body + bytes(-len(body) % 4)


def ended(code=0, kind=3, flags=2):
    return message(kind, struct.pack("<i", code), flags)


LINK = message(
    16,
    struct.pack("<BxHiII", 0, 1, 7, 0x1043, 0) + attribute(3, b"eth0\0") + attribute(4, struct.pack("<I", 1500))
    + attribute(0x8012, attribute(1, b"veth\0")) + attribute(5, struct.pack("<i", 9))
    + attribute(37, struct.pack("<i", 0)) + attribute(1, bytes(range(6))),
)  # fmt: skip
HERE, THERE = bytes([10, 8, 0, 1]), bytes([10, 8, 0, 2])
ADDRESS = message(
    20, struct.pack("<BBBBI", 2, 24, 0, 0, 7) + attribute(1, HERE) + attribute(2, HERE)
)
TUNNEL = message(
    20, struct.pack("<BBBBI", 2, 32, 0, 0, 7) + attribute(1, THERE) + attribute(2, HERE)
)
ADDRESS_6 = message(20, struct.pack("<BBBBI", 10, 64, 0, 0, 7) + attribute(1, bytes(15) + b"\1"))
ROUTE = message(
    24,
    struct.pack("<BBBBBBBBI", 2, 16, 0, 0, 252, 4, 0, 1, 0) + attribute(1, bytes([10, 9, 0, 0]))
    + attribute(15, struct.pack("<I", 1000))
    + attribute(9, struct.pack("<HBBi", 16, 0, 1, 7) + attribute(5, HERE) + struct.pack("<HBBi", 8, 0, 0, 8)),
)  # fmt: skip


def ip(octets):
    return attribute(0x8001, attribute(0x4001, bytes(octets)))


def member(*parts):
    return attribute(0x8007, b"".join(parts))


def ipset(name, *members, more=b""):
    """A message of a list; ``more``: type, family and options, which the first one of a set has."""
    body = attribute(1, b"\6") + attribute(2, name.encode() + b"\0") + more
    return message(0x0607, bytes(4) + body + attribute(0x8008, b"".join(members)))


HASH_NET = attribute(3, b"hash:net\0") + attribute(5, b"\2") + attribute(4, b"\7")
SET = ipset("a", member(ip([10, 0, 0, 0]), attribute(3, b"\x08")), more=HASH_NET) + ipset(
    "a", member(ip([10, 1, 0, 0]), attribute(3, b"\x10"), attribute(8, struct.pack(">I", 4)))
)


def shown(kind, content):
    return json.loads(snapshots.shown(kind, content, "netlink"))


def test_links():
    (row,) = shown("links", LINK + ended())
    assert row["linkinfo"] == {"kind": "veth"}
    assert (row["index"], row["name"], row["link"], row["link_netnsid"]) == (7, "eth0", 9, 0)
    assert (row["flags"], row["mtu"], row["address"]) == (0x1043, 1500, "00:01:02:03:04:05")
    assert snapshots.links(LINK + ended(), "netlink") == [(7, "eth0")]


def test_the_hosts_own_address_of_a_point_to_point_link():
    """IFA_ADDRESS is the other end's where IFA_LOCAL says something else."""
    found = snapshots.addresses(ADDRESS + TUNNEL + ADDRESS_6 + ended(), "netlink")
    own = ipaddress.ip_address("10.8.0.1")
    assert found == [(7, own), (7, own), (7, ipaddress.ip_address("::1"))]
    assert [row.get("peer") for row in shown("addresses", ADDRESS + TUNNEL)] == [None, "10.8.0.2"]


def test_routes_have_all_that_makes_them():
    (row,) = shown("routes", ROUTE + ended())
    assert (row["dst"], row["dst_len"], row["table"], row["type"]) == ("10.9.0.0", 16, 1000, 1)
    assert row["multipath"] == [
        {"oif": 7, "flags": 0, "weight": 2, "gateway": "10.8.0.1"}, {"oif": 8, "flags": 0, "weight": 1},
    ]  # fmt: skip


def test_a_set_that_comes_in_several_messages():
    (found,) = snapshots.ipsets(SET + ended(), "netlink").values()
    assert (found.name, found.type, found.family, found.revision) == ("a", "hash:net", 2, 7)
    assert [one.get("flags") for one in found.members] == [None, ["nomatch"]]
    assert found.lengths == [16, 8]


STATES = {
    "whole": (LINK + ended(), "whole"),
    "empty": (ended(), "whole"),
    "cut": (LINK, "cut"),
    "nothing_at_all": (b"", "cut"),
    "refused": (ended(-errno.EPERM, kind=2), "EPERM"),
    "unknown_to_the_kernel": (ended(-errno.EPROTONOSUPPORT, kind=2), "EPROTONOSUPPORT"),
    "failed_in_the_middle": (LINK + ended(-errno.ENOMEM), "ENOMEM"),
    "no_errno": (ended(-99999, kind=2), "errno 99999"),
    "smallest_number": (ended(-(2**31), kind=2), "errno 2147483648"),
    "changed": (message(16, b"", flags=0x12) + ended(), "changed"),
    "end_without_code": (message(3, b""), "whole"),
    "lying_size": (LINK[:-4] + ended(), "cut"),
}


@pytest.mark.parametrize("case", STATES)
def test_state(case):
    """Nothing there, not allowed to look, and cut off are three things."""
    content, expected = STATES[case]
    assert snapshots.state(content, "netlink") == expected
    assert snapshots.state(content, "json") == "whole"


def test_of_sets_that_were_cut_the_last_one_is_not_known():
    """Its members may be missing; and a set that is not listed is not known to be missing."""
    other = ipset("b", member(ip([10, 0, 0, 0]), attribute(3, b"\x08")), more=HASH_NET)
    assert set(snapshots.ipsets(SET + other, "netlink")) == {"a"}
    assert set(snapshots.ipsets(SET + other + ended(), "netlink")) == {"a", "b"}
    assert snapshots.ipsets(ended(-errno.EPERM, kind=2), "netlink") == {}


def test_format_1():
    """The same values out of the JSON that recordings of format 1 have."""
    links = b'[{"index": 3, "name": "eth3", "kind": null}]'
    addresses = (
        b'[{"index": 3, "family": "ipv4", "address": "10.0.0.1"}, {"index": 1, "address": null}]'
    )
    sets = json.dumps({
        "a": {"type": "hash:net", "members": ["10.0.0.0/8", "10.1.2.3"]}, "b": {"type": "x", "members": None},
    }).encode()  # fmt: skip
    assert snapshots.links(links, "json") == [(3, "eth3")]
    assert snapshots.addresses(addresses, "json") == [(3, ipaddress.ip_address("10.0.0.1"))]
    found = snapshots.ipsets(sets, "json")
    assert [key[4] for key in found["a"].index] == [8, 32]
    assert found["b"].index is None


DAMAGED = [b"", b"{", b"1", b"[1]", b'[{"index": "x", "name": ""}]',
            b'{"a": 1}', b'{"a": {"members": ["x"]}}',
           b'{"a": {"members": 1}}', b"[" * 100_000, b"\xff"]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("read", [snapshots.links, snapshots.addresses, snapshots.ipsets])
def test_damaged_json_is_one_line(read, content):
    with pytest.raises(
        RecordingError, match=r"^the recording's list of \w+ is damaged: "
    ) as caught:
        read(content, "json")
    assert "\n" not in str(caught.value)


@given(
    data=st.binary(max_size=300), cut=st.integers(0, 300), kind=st.sampled_from(LISTS),
    before=st.sampled_from([LINK, ADDRESS + TUNNEL, ROUTE, SET, ROUTE.replace(b"\x10", b"\x08")]),
)  # fmt: skip
def test_any_bytes_are_read(data, cut, kind, before):
    """Nothing raises but RecordingError, nothing loops, everything can be JSON."""
    content = before[:cut] + data
    snapshots.state(content, "netlink")
    snapshots.links(content, "netlink")
    snapshots.addresses(content, "netlink")
    for one in snapshots.ipsets(content, "netlink").values():
        assert one.index is None or isinstance(one.lengths, list)
    json.loads(snapshots.shown(kind, content, "netlink"))


@pytest.mark.parametrize(
    ("family", "networks", "lengths"),
    [
        (2, ["10.0.0.0/8", "10.1.0.0/16"], [16, 8]),
        (10, ["fd00::/8"], [8]),
        (10, ["10.0.0.0/8"], []),
    ],
)
def test_lengths_of_networks(family, networks, lengths):
    """Long ones first; what a hostile file has of another family is left out."""
    assert IpSet("s", "hash:net", family, networks=networks).lengths == lengths
