"""Where the fields of headers are that nft has names for (src/proto.c), and what its names of values are.

Spans are in bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.matching.bits import Span

if TYPE_CHECKING:
    from collections.abc import Mapping


class Header(NamedTuple):
    """``protocols``: a packet has it if it is of one of these; of the network layer: a version of IP."""

    base: str
    protocols: frozenset[str]
    fields: Mapping[str, tuple[int, int]]
    version: int | None = None


_PORTS: Final = {"sport": (0, 16), "dport": (16, 16)}
HEADERS: Final = {
    "ether": Header("ll", frozenset(), {"daddr": (0, 48), "saddr": (48, 48), "type": (96, 16)}),
    "ip": Header(
        "nh", frozenset(),
        {
            "version": (0, 4), "hdrlength": (4, 4), "dscp": (8, 6), "ecn": (14, 2), "length": (16, 16),
            "id": (32, 16), "frag-off": (48, 16), "ttl": (64, 8), "protocol": (72, 8), "checksum": (80, 16),
            "saddr": (96, 32), "daddr": (128, 32),
        },
        4,
    ),
    "ip6": Header(
        "nh", frozenset(),
        {
            "version": (0, 4), "dscp": (4, 6), "ecn": (10, 2), "flowlabel": (12, 20), "length": (32, 16),
            "nexthdr": (48, 8), "hoplimit": (56, 8), "saddr": (64, 128), "daddr": (192, 128),
        },
        6,
    ),
    "tcp": Header(
        "th", frozenset({"tcp"}),
        _PORTS | {
            "sequence": (32, 32), "ackseq": (64, 32), "doff": (96, 4), "reserved": (100, 4), "flags": (104, 8),
            "window": (112, 16), "checksum": (128, 16), "urgptr": (144, 16),
        },
    ),
    "udp": Header("th", frozenset({"udp"}), _PORTS | {"length": (32, 16), "checksum": (48, 16)}),
    "udplite": Header("th", frozenset({"udplite"}), _PORTS | {"csumcov": (32, 16), "checksum": (48, 16)}),
    "sctp": Header("th", frozenset({"sctp"}), _PORTS | {"vtag": (32, 32), "checksum": (64, 32)}),
    "dccp": Header("th", frozenset({"dccp"}), _PORTS | {"type": (67, 4)}),
    "th": Header("th", frozenset(), _PORTS),
    "icmp": Header(
        "th", frozenset({"icmp"}),
        {
            "type": (0, 8), "code": (8, 8), "checksum": (16, 16), "id": (32, 16), "sequence": (48, 16),
            "gateway": (32, 32), "mtu": (48, 16),
        },
    ),
    "icmpv6": Header(
        "th", frozenset({"icmpv6", "ipv6-icmp"}),
        {
            "type": (0, 8), "code": (8, 8), "checksum": (16, 16), "parameter-problem": (32, 32),
            "mtu": (32, 32), "id": (32, 16), "sequence": (48, 16), "max-delay": (32, 16),
        },
    ),
    "igmp": Header("th", frozenset({"igmp"}), {
        "type": (0, 8), "mrt": (8, 8), "checksum": (16, 16), "group": (32, 32),
    }),
    "ah": Header("th", frozenset({"ah"}), {
        "nexthdr": (0, 8), "hdrlength": (8, 8), "reserved": (16, 16), "spi": (32, 32), "sequence": (64, 32),
    }),
    "esp": Header("th", frozenset({"esp"}), {"spi": (0, 32), "sequence": (32, 32)}),
    "comp": Header("th", frozenset({"ipcomp"}), {"nexthdr": (0, 8), "flags": (8, 8), "cpi": (16, 16)}),
}  # fmt: skip

ICMP: Final = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
    "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16,
    "address-mask-request": 17, "address-mask-reply": 18,
}  # fmt: skip
# Whatever the type: nft prints so (src/datatype.c)
ICMP_CODES: Final = {
    "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3,
    "frag-needed": 4, "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
}  # fmt: skip
ICMPV6_CODES: Final = {
    "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5,
    "reject-route": 6,
}  # fmt: skip
ICMPV6: Final = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
    "echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
    "mld-listener-done": 132, "nd-router-solicit": 133, "nd-router-advert": 134, "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138, "ind-neighbor-solicit": 141,
    "ind-neighbor-advert": 142, "mld2-listener-report": 143,
}  # fmt: skip
IGMP: Final = {
    "membership-query": 0x11, "membership-report-v1": 0x12, "membership-report-v2": 0x16,
    "leave-group": 0x17, "membership-report-v3": 0x22,
}  # fmt: skip
DCCP: Final = {
    "request": 0, "response": 1, "data": 2, "ack": 3, "dataack": 4, "closereq": 5, "close": 6, "reset": 7,
    "sync": 8, "syncack": 9,
}  # fmt: skip
DSCP: Final = {
    **{f"cs{number}": number * 8 for number in range(8)}, "df": 0, "be": 0, "lephb": 1, "ef": 46, "va": 44,
    **{f"af{of}{drop}": of * 8 + drop * 2 for of in range(1, 5) for drop in range(1, 4)},
}  # fmt: skip
ECN: Final = {"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3}
ETHERTYPES: Final = {
    "ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "vlan": 0x8100, "8021q": 0x8100, "8021ad": 0x88A8,
}  # fmt: skip
# include/uapi/linux/tcp.h as nft names them
FLAGS: Final = {
    "fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128,
}  # fmt: skip


FLAG_BITS: Final = Span("th", 104, 8)


def span(key: str) -> Span | None:
    """The bits of a key of nft: "tcp dport", "@th,16,16"; None for what is not a field of a header."""
    if key.startswith("@"):
        base, start, size = key[1:].split(",")
        return Span(base, int(start), int(size))
    protocol, _, name = key.partition(" ")
    header = HEADERS.get(protocol)
    if header is None or name not in header.fields:
        return None
    return Span(header.base, *header.fields[name])
