"""What a condition of nft can look at, by the keys of its JSON: read of a packet, and of a rule's values.

What nft names is in its sources (src/meta.c, src/proto.c, src/ct.c); what a packet has is in the headers that
a trace holds.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.matching.facts import protocol_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Facts


class AbsentError(Exception):
    """The packet does not have the header that a condition looks into. ``args``: what it has instead."""


class Field(NamedTuple):
    """Something that a condition can look at, as a number.

    ``read``: of a packet; None where it is not known. ``number``: a value of a rule. ``text``: a value as nft
    prints it. ``own``: the packet's as a reader knows it.
    """

    read: Callable[[Facts], int | None]
    number: Callable[[Scalar], int]
    own: Callable[[Facts], object]
    text: Callable[[Scalar], str] = str


def _version(facts: Facts) -> int | None:
    source = facts.header.get("src")
    return None if source is None else ipaddress.ip_address(source).version


def _of_ip(version: int, name: str) -> Callable[[Facts], int | None]:
    """A number of the IP header of one version."""

    def read(facts: Facts) -> int | None:
        own = _version(facts)
        if own is not None and own != version:
            raise AbsentError(f"IPv{own}")
        return _integer(facts.header.get(name))

    return read


def _address(version: int, name: str) -> Field:
    def read(facts: Facts) -> int | None:
        text = facts.header.get(name)
        if text is None:
            return None
        own = ipaddress.ip_address(text)
        if own.version != version:
            raise AbsentError(text)
        return int(own)

    def number(value: Scalar) -> int:
        found = ipaddress.ip_address(value)
        if isinstance(value, int) or found.version != version:
            raise ValueError(value)
        return int(found)

    return Field(read, number, lambda facts: facts.header.get(name))


def _transported(facts: Facts, protocols: frozenset[str]) -> bool:
    """Whether the packet's header of one of these protocols is there and known."""
    protocol = facts.header.get("proto")
    # A trace of nf_tables does not hold extension headers: what follows them cannot be told.
    if protocol is None or facts.header.get("ext"):
        return False
    if protocols and protocol not in protocols:
        raise AbsentError(protocol)
    if facts.header.get("frag"):
        raise AbsentError("a later fragment")
    return True


def _of_transport(name: str, *protocols: str) -> Callable[[Facts], int | None]:
    def read(facts: Facts) -> int | None:
        there = _transported(facts, frozenset(protocols))
        return _integer(facts.header.get(name)) if there else None

    return read


def _tcp_flags(facts: Facts) -> int | None:
    flags = facts.header.get("flags")
    if not _transported(facts, frozenset({"tcp"})) or not isinstance(flags, str):
        return None
    return sum(_FLAGS[_ECN.get(one, one.lower())] for one in flags.split(",") if one)


def _protocol(facts: Facts) -> int | None:
    protocol = facts.header.get("proto")
    return None if protocol is None or facts.header.get("ext") else protocol_number(protocol)


def _ip_protocol(facts: Facts) -> int | None:
    if _version(facts) == _IPV6:
        raise AbsentError(facts.header.get("proto"))
    return _protocol(facts)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: Scalar) -> int:
    if isinstance(value, str):
        raise TypeError(value)
    return value


def _named(names: dict[str, int]) -> Callable[[Scalar], int]:
    def number(value: Scalar) -> int:
        return names[value] if isinstance(value, str) and value in names else _number(value)

    return number


def _protocol_of(value: Scalar) -> int:
    number = value if isinstance(value, int) else protocol_number(value)
    if number is None:
        raise ValueError(value)
    return number


def _mac(text: Scalar) -> int:
    return int(str(text).replace(":", ""), 16)


def _plain(name: str) -> Callable[[Facts], object]:
    return lambda facts: facts.header.get(name)


def _ports(protocol: str) -> dict[str, Field]:
    protocols = () if protocol == "th" else (protocol,)
    return {
        f"{protocol} {name}": Field(_of_transport(name, *protocols), _number, _plain(name))
        for name in ("sport", "dport")
    }


def _states(facts: Facts) -> str:
    return ",".join(name for name, bit in _CT_STATES.items() if facts.ct_state & bit)


def _hex(value: Scalar) -> str:
    return f"0x{value:08x}" if isinstance(value, int) else value


_IPV6: Final = 6
# include/uapi/linux/tcp.h as nft names them
_FLAGS: Final = {
    "fin": 1,
    "syn": 2,
    "rst": 4,
    "psh": 8,
    "ack": 16,
    "urg": 32,
    "ecn": 64,
    "cwr": 128,
}
_ECN: Final = {"ECE": "ecn"}
# NF_CT_STATE_BIT of include/uapi/linux/netfilter/nf_conntrack_common.h
_CT_STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_ICMP: Final = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
    "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16,
    "address-mask-request": 17, "address-mask-reply": 18,
}  # fmt: skip
# Whatever the type: nft prints so (src/datatype.c)
_ICMP_CODES: Final = {
    "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3,
    "frag-needed": 4, "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
}  # fmt: skip
_ICMPV6_CODES: Final = {
    "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5,
    "reject-route": 6,
}  # fmt: skip
_ICMPV6: Final = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
    "echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
    "mld-listener-done": 132, "nd-router-solicit": 133, "nd-router-advert": 134, "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138, "ind-neighbor-solicit": 141,
    "ind-neighbor-advert": 142, "mld2-listener-report": 143,
}  # fmt: skip

NAMES: Final[dict[str, Callable[[Facts], str | None]]] = {
    "meta iif": lambda facts: facts.in_,
    "meta iifname": lambda facts: facts.in_,
    "meta oif": lambda facts: facts.out,
    "meta oifname": lambda facts: facts.out,
}
FIELDS: Final[dict[str, Field]] = {
    "meta mark": Field(
        lambda facts: facts.mark,
        _number,
        lambda facts: None if facts.mark is None else f"{facts.mark:#x}",
        _hex,
    ),
    "meta l4proto": Field(_protocol, _protocol_of, _plain("proto")),
    "meta nfproto": Field(
        _version, _named({"ipv4": 4, "ipv6": 6}), lambda facts: f"ipv{_version(facts)}"
    ),
    "meta length": Field(
        lambda facts: _integer(facts.header.get("length")), _number, _plain("length")
    ),
    "ct state": Field(lambda facts: facts.ct_state or None, _named(_CT_STATES), _states),
    "ip protocol": Field(_ip_protocol, _protocol_of, _plain("proto")),
    "ip saddr": _address(4, "src"),
    "ip daddr": _address(4, "dst"),
    "ip ttl": Field(_of_ip(4, "ttl"), _number, _plain("ttl")),
    "ip length": Field(_of_ip(4, "length"), _number, _plain("length")),
    "ip id": Field(_of_ip(4, "id"), _number, _plain("id")),
    "ip6 saddr": _address(6, "src"),
    "ip6 daddr": _address(6, "dst"),
    "ip6 hoplimit": Field(_of_ip(6, "hop_limit"), _number, _plain("hop_limit")),
    "tcp flags": Field(_tcp_flags, _named(_FLAGS), _plain("flags")),
    "icmp type": Field(_of_transport("type", "icmp"), _named(_ICMP), _plain("name")),
    "icmp code": Field(_of_transport("code", "icmp"), _named(_ICMP_CODES), _plain("code")),
    "icmpv6 type": Field(_of_transport("type", "icmpv6"), _named(_ICMPV6), _plain("name")),
    "icmpv6 code": Field(_of_transport("code", "icmpv6"), _named(_ICMPV6_CODES), _plain("code")),
    "ether saddr": Field(
        lambda facts: None if facts.source_mac is None else _mac(facts.source_mac),
        _mac,
        lambda facts: facts.source_mac,
    ),
    **{
        name: field
        for protocol in ("tcp", "udp", "udplite", "sctp", "dccp", "th")
        for name, field in _ports(protocol).items()
    },
}
