"""Messages of nf_tables' trace, made by hand: each field is read, or known not to be there."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from handmade import attribute, udp

from iptrec.decode import nftrace, packet

# include/uapi/linux/netfilter/nf_tables.h, enum nft_trace_attributes
TABLE, CHAIN, HANDLE, TYPE, VERDICT, ID, LINK, NETWORK, TRANSPORT, IIF = range(1, 11)
IIFTYPE, OIF, OIFTYPE, MARK, NFPROTO, POLICY = range(11, 17)
CT_ID, CT_DIRECTION, CT_STATUS, CT_STATE = range(18, 22)
CONTINUE = struct.pack("!i", -1)


def number(value):
    return struct.pack("!I", value)


def message(*more, trace=7, table=b"t", chain=b"c", family=1, protocol=2):
    """One NFT_MSG_TRACE message of a rule with handle 4; ``more``: (kind, value) of further attributes."""
    fields = [
        (NFPROTO, number(protocol)),
        (TYPE, number(3)),
        (ID, struct.pack("<I", trace)),
        (CHAIN, chain + b"\0"),
        (TABLE, table + b"\0"),
        (HANDLE, struct.pack("!Q", 4)),
        (VERDICT, attribute(1, CONTINUE)),
        *more,
    ]
    body = struct.pack("=BBH", family, 0, 0) + b"".join(attribute(*one) for one in fields)
    return struct.pack("=IHHII", 16 + len(body), nftrace.NFT_MSG_TRACE, 0, 0, 0) + body


def decoded(*messages):
    lengths = np.array([len(one) for one in messages], np.uint32)
    times = np.arange(len(messages), dtype=np.int64)
    events = nftrace.decode(b"".join(messages), lengths, times)
    assert not len(events.undecoded)
    return events


def dumped(packet=None, size=20):
    """The attributes of a packet."""
    whole = udp() if packet is None else packet
    return (NETWORK, whole[:size]), (TRANSPORT, whole[size : size + 20])


CONNTRACK = [  # attributes; id, direction, status and state
    ([], (-1, -1, -1, 0)),
    ([(CT_STATE, number(64))], (-1, -1, -1, 64)),
    ([(CT_STATE, number(8)), (CT_DIRECTION, b"\0"), (CT_ID, number(5))], (5, 0, 0, 8)),
    (
        [(CT_STATE, number(2)), (CT_DIRECTION, b"\1"), (CT_ID, number(2**32 - 1)), (CT_STATUS, number(0x18E))],
        (2**32 - 1, 1, 0x18E, 2),
    ),
    ([(CT_DIRECTION, b"\2"), (CT_ID, number(5))], (5, -1, 0, 0)),  # nobody knows such a direction
]  # fmt: skip


@pytest.mark.parametrize(("attributes", "expected"), CONNTRACK)
def test_conntrack(attributes, expected):
    """What the first message tells holds for the others of its base chain."""
    events = decoded(message(*dumped(), *attributes), message(), message(trace=8))
    columns = (events.conntrack, events.ct_direction, events.ct_status, events.ct_state)
    rows = list(zip(*(one.tolist() for one in columns), strict=True))
    assert rows == [expected, expected, (-1, -1, -1, 0)]


@pytest.mark.parametrize(
    ("kind", "value"), [(CT_ID, b"\0\0"), (CT_DIRECTION, b""), (CT_STATUS, b"\1"), (CT_STATE, b"")]
)
def test_conntrack_cut_off(kind, value):
    """An attribute that is too short costs its message."""
    data = message(*dumped(), (kind, value))
    events = nftrace.decode(data, np.array([len(data)], np.uint32), np.zeros(1, np.int64))
    assert (len(events), events.undecoded.tolist()) == (0, [0])


MACS = bytes.fromhex("82dfbcb00d5f020000000001")
ETHERNET, TUNNEL = b"\0\1", b"\2\x08"  # ARPHRD_ETHER, ARPHRD_TUNNEL
SIX = bytes.fromhex(
    "6000000000202c40fd000001000000000000000000000002fd000001000000000000000000000001"
)
PORTS = bytes.fromhex("0009003500180000000000000000000000000000")
ARP = bytes.fromhex("000108000604000106d540df28a90a00010282dfbcb00d5f0a000101")
UNKNOWN = {"src": None, "dst": None, "proto": None, "length": None}
ADDRESSES6 = {"src": "fd00:1::2", "dst": "fd00:1::1"}


def link(kind, tag=""):
    return LINK, MACS + bytes.fromhex(tag + kind)


def six(following):
    return SIX[:6] + bytes([following]) + SIX[7:]


DUMPS = {  # family of the table, what was dumped; family of the packet, some fields of its header
    "whole": (
        (10, 10), [(NETWORK, six(17)), (TRANSPORT, PORTS)], 10, ADDRESSES6 | {"proto": "udp", "dport": 53},
    ),
    "first fragment": (
        (10, 10), [(NETWORK, SIX), (TRANSPORT, PORTS)], 10,
        ADDRESSES6 | {"proto": None, "ext": ["fragment"], "truncated": True, "length": 72},
    ),
    "later fragment": (  # thoff is 0 (net/ipv6/exthdrs_core.c, ipv6_find_hdr)
        (10, 10), [(TRANSPORT, SIX[:20]), (IIF, number(3))], 10,
        UNKNOWN | {"length": 72, "hop_limit": 64, "ext": ["fragment"], "truncated": True},
    ),
    "later fragment of a device": (
        (5, 5), [link("86dd"), (TRANSPORT, SIX[:20])], 10, UNKNOWN | {"length": 72, "ext": ["fragment"]},
    ),
    "multicast listener report": (
        (10, 10), [(NETWORK, six(0)), (TRANSPORT, b"\x8f" + bytes(19))], 10,
        ADDRESSES6 | {"proto": None, "ext": ["hopopt"], "truncated": True},
    ),
    "long options": (
        (2, 2), [(NETWORK, b"\x4b\0\0\x35" + udp()[4:20] + bytes(20)), (TRANSPORT, PORTS)], 2,
        {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "udp", "length": 53, "truncated": True},
    ),
    "egress, ipv6": ((5, 5), [(NETWORK, six(17)), (TRANSPORT, PORTS)], 10, ADDRESSES6 | {"dport": 53}),
    "egress, ipv4": ((5, 5), [*dumped()], 2, {"src": "10.0.0.1", "dport": 53}),
    "egress, no payload": ((5, 5), [(NETWORK, udp()[:20])], 2, {"src": "10.0.0.1", "truncated": True}),
    "egress, like ipv4": ((5, 5), [(NETWORK, b"\x45" + bytes(39))], 0, UNKNOWN | {"ethertype": None}),
    "egress, arp": ((5, 5), [(NETWORK, ARP)], 0, UNKNOWN | {"ethertype": None}),
    "arp": ((5, 5), [link("0806"), (NETWORK, ARP)], 0, UNKNOWN | {"ethertype": "0x0806"}),
    "table arp": ((3, 3), [(NETWORK, ARP)], 0, UNKNOWN | {"ethertype": "0x0806"}),
    "bridge, tagged ipv6": (
        (7, 7), [link("86dd", "81000005"), (NETWORK, six(17)), (TRANSPORT, PORTS)], 10,
        ADDRESSES6 | {"dport": 53},
    ),
    "bridge, tagged twice": (
        (7, 7), [link("0800", "88a80005"), *dumped()], 2, {"src": "10.0.0.1", "dport": 53},
    ),
    "bridge, tagged arp": (
        (7, 7), [link("0806", "81000005"), (NETWORK, ARP)], 0, UNKNOWN | {"ethertype": "0x0806"},
    ),
    "labels": (
        (5, 5), [link("8847"), (NETWORK, b"\x45\0\1\x40" + udp())], 0, UNKNOWN | {"ethertype": "0x8847"},
    ),
    "spanning tree": (
        (7, 7), [link("0026"), (NETWORK, b"\x42\x42\3" + bytes(37))], 0, UNKNOWN | {"ethertype": None},
    ),
    "tunnel": (  # 14 bytes of its link header are not Ethernet's
        (5, 5), [(IIFTYPE, TUNNEL), link("0806"), *dumped()], 2, {"src": "10.0.0.1", "dport": 53},
    ),
    "not dumped": ((5, 5), [(IIF, number(3))], 2, UNKNOWN | {"truncated": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", DUMPS)
def test_dumps(name):
    """What the kernel dumped is told, and nothing else."""
    (family, protocol), attributes, expected, fields = DUMPS[name]
    events = decoded(message(*attributes, family=family, protocol=protocol), message())
    assert events.address_family(0) == expected
    assert events.ip.tolist()[0] == (expected != 0)
    header = packet.header(events.packet(0), expected, int(events.protocol[0]))
    assert {one: header.get(one) for one in fields} == fields
    assert "sport" not in header or header["sport"] == (9 if expected == 10 else 1000)


@pytest.mark.parametrize(
    ("more", "expected"),
    [([(IIFTYPE, ETHERNET)], 14), ([], 14), ([(IIFTYPE, TUNNEL)], 0), ([(OIFTYPE, TUNNEL)], 0)],
)
def test_link_headers(more, expected):
    """Those of Ethernet, by the type of the device, are given; others are not taken for such."""
    events = decoded(message(link("0800"), *dumped(), *more))
    assert events.link_length.tolist() == [expected]
    assert (events.link[0] >= 0) == bool(expected)


def changed(told, kind, value):
    """A message with another verdict, handle or type, all else equal."""
    size = len(attribute(kind, value))
    at = next(
        place
        for place in range(20, len(told), 4)
        if told[place : place + 4] == struct.pack("=HH", size, kind)
    )
    return told[:at] + attribute(kind, value) + told[at + size :]


def test_sites_that_differ_in_one_attribute_are_told_apart():
    """Names, handle, verdict, family and type: what tells a site is compared as a whole."""
    told = [
        message(), message(chain=b"d"), message(table=b"u"), message(family=2),
        changed(message(), HANDLE, struct.pack("!Q", 5)),
        changed(message(), VERDICT, attribute(1, struct.pack("!i", -2))),
        changed(message(), TYPE, number(2)),
    ]  # fmt: skip
    events = decoded(*told, *told)
    assert events.site[:7].tolist() == events.site[7:].tolist()
    handles = [events.sites[one].handle for one in events.site[:7]]
    assert handles == [4, 4, 4, 4, 5, 4, 4]
    assert [events.sites[one].verdict for one in events.site[:7]] == [-1, -1, -1, -1, -1, -2, -1]
    assert len({events.sites[one] for one in events.site}) == 6  # both types are of a rule


def test_names_that_are_too_long_to_compare_at_once():
    """Up to 255 bytes each: such events have sites as the others have."""
    chain, table = b"c" * 200, b"t" * 100
    told = [message(chain=chain, table=table), message(), message(chain=chain[:-1], table=table)]
    events = decoded(*told, *told)
    names = [(events.sites[one].chain, events.sites[one].table) for one in events.site]
    assert names == [("c" * 200, "t" * 100), ("c", "t"), ("c" * 199, "t" * 100)] * 2
    assert len(set(events.sites)) == len(events.sites)


def test_a_verdict_that_lies_costs_the_events_that_have_it():
    """Those of the same site alone; the others keep theirs."""
    lying = changed(message(), VERDICT, struct.pack("=HH", 99, 1) + CONTINUE)
    messages = [message(), lying, message(chain=b"d"), lying]
    lengths = np.array([len(one) for one in messages], np.uint32)
    events = nftrace.decode(b"".join(messages), lengths, np.arange(4))
    assert events.undecoded.tolist() == [1, 3]
    assert [events.sites[one].chain for one in events.site] == ["c", "d"]
