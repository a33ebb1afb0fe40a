"""Messages of nf_tables' trace, made by hand: each field is read, or known not to be there."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from handmade import attribute, udp

from iptrec.decode import nftrace

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
