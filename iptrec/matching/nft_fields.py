"""What a condition of nft can look at, by the keys of its JSON: read of a packet, and of a rule's values.

What nft names is in its sources (src/meta.c, src/proto.c, src/ct.c, src/fib.c); what a packet has is in the
headers that a trace holds. A condition that looks into a header implies that the packet has it: nft compiles
that in, and does not print it.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_matches import TEMPLATE
from iptrec.matching import inner, moments, nft_ct, nft_fib, nft_options, nft_payload
from iptrec.matching.facts import protocol_number
from iptrec.matching.field import (
    DEVICE_GROUPS,
    DEVICES,
    AbsentError,
    Field,
    IfThere,
    as_name,
    as_number,
    by_names,
    hexadecimal,
    name_of,
    nothing,
    of_header,
    quoted,
    require_ethernet,
)
from iptrec.matching.link_layer import BROADCAST, HOST, MULTICAST, OTHER_HOST, packet_type
from iptrec.names import HOOKS, PROTOCOL_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Facts
    from iptrec.matching.nft_payload import Header

_IPV4, _IPV6 = 4, 6
_PREROUTING, _POSTROUTING = HOOKS.index("PREROUTING"), HOOKS.index("POSTROUTING")
_TRANSPORTED: Final = ("th", "ih")


@functools.cache
def field(key: str) -> Field | None:
    """What a key of nft's JSON stands for; None for what is not understood."""
    if key in _FIELDS:
        return _FIELDS[key]
    made = nft_options.field(key) or nft_fib.field(key)
    if made is not None or nft_payload.span(key) is None:
        return made
    if key.startswith("@"):
        return _bits_field(key)
    protocol, _, name = key.partition(" ")
    read = _of_header(nft_payload.HEADERS[protocol], key)
    names = _NAMES.get(key, _NAMES.get(f"* {name}", {}))
    if not names:
        return Field(read, as_number, read)
    shown = _hex_name if name == "dscp" else str
    return Field(read, by_names(names), name_of(read, names), shown)


def depends(key: str) -> tuple[str, ...]:
    """The keys of what else a field is read by."""
    if key.startswith("fib "):
        return ("ip saddr", "ip6 saddr") if "saddr" in key else ("ip daddr", "ip6 daddr")
    if key.startswith("ct "):
        return (TEMPLATE,)
    if key.startswith("@ih,"):
        return inner.DEPENDS
    return (f"{key.partition(' ')[0]} type",) if key in _OF_TYPES else ()


def _bits_field(key: str) -> Field:
    """Some bits wherever they are; nft prints those of which the highest is set as negative numbers."""
    read, span = _raw(key), nft_payload.span(key)
    size = 0 if span is None else span.size

    def number(value: Scalar) -> int:
        wide = isinstance(value, str) and value.startswith("0x")
        found = int(str(value), 16) if wide else as_number(value)
        return found + (1 << size) if found < 0 else found

    def text(value: Scalar) -> str:
        return f"{number(value):#x}" if isinstance(value, int) else value

    return Field(read, number, _hex_of(read), text)


def _version(facts: Facts) -> int | None:
    """Known also of a header whose addresses are cut off."""
    source = facts.header.get("src")
    if source is not None:
        return ipaddress.ip_address(source).version
    if facts.header.get("hop_limit") is not None:
        return _IPV6
    return None if facts.header.get("ttl") is None else _IPV4


def _of_version(version: int, facts: Facts) -> None:
    own = _version(facts)
    if own is not None and own != version:
        raise AbsentError(f"IPv{own}")


def _of_ethernet(facts: Facts) -> bool:
    """Whether that is known: where not all packets are frames nft compiles in that they came in by Ethernet."""
    if not facts.frames and not _may_have_another_device(facts):
        require_ethernet(facts)
    return facts.frames or not _may_have_another_device(facts)


def _device_type(facts: Facts) -> int | None:
    """nft_meta.c matches nothing where there is no device."""
    if _may_have_another_device(facts):
        return None
    if facts.in_type == 0:
        raise AbsentError("none")
    return facts.in_type


def _may_have_another_device(facts: Facts) -> bool:
    """Whether a packet may be the one of another interface than that by which it came in.

    `meta iiftype` was about the latter; newer kernels ask for the former (NFT_META_IFTYPE in nft_meta.c): where
    it goes out (ip_output), or a bridge hands it on.
    """
    return facts.hook == _POSTROUTING or (facts.frames and facts.hook != _PREROUTING)


def _of_ip(version: int, name: str) -> Callable[[Facts], int | None]:
    """A number of the IP header of one version."""

    def read(facts: Facts) -> int | None:
        _of_version(version, facts)
        return _integer(facts.header.get(name))

    return read


def _address(version: int, name: str) -> Field:
    def read(facts: Facts) -> int | None:
        text = facts.header.get(name)
        if text is None:
            _of_version(version, facts)
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

    return Field(read, number, of_header(name))


def _transported(facts: Facts, protocols: frozenset[str]) -> bool:
    """Whether the packet's header of one of these protocols is there and known."""
    protocol = facts.header.get("proto")
    # A trace of nf_tables does not hold extension headers: what follows them has no protocol.
    if facts.header.get("ext"):
        return bool(facts.bits.behind)
    if protocol is None:
        return False
    if protocols and protocol not in protocols:
        raise AbsentError(protocol)
    # Of a later fragment the kernel takes what stands there (nft_payload_fast_eval), which no trace tells.
    return not facts.header.get("frag")


def _of_transport(name: str, *protocols: str) -> Callable[[Facts], int | None]:
    raw = _raw(f"{protocols[0] if protocols else 'th'} {name}")

    def read(facts: Facts) -> int | None:
        if not _transported(facts, frozenset(protocols)):
            return None
        told = _integer(facts.header.get(name))
        return _if_there(facts, raw(facts), protocols) if told is None else told

    return read


def _if_there(facts: Facts, value: int | None, protocols: Iterable[str]) -> int | None:
    """What a header has, which may be of another protocol where that is not known."""
    if value is None or not protocols or not facts.header.get("ext"):
        return value
    return IfThere(value)


def _raw(key: str) -> Callable[[Facts], int | None]:
    """Some bits of a packet, wherever they are."""
    span = nft_payload.span(key)

    def read(facts: Facts) -> int | None:
        if span is None or (span.base in _TRANSPORTED and not _transported(facts, frozenset())):
            return None
        return inner.number(facts, span) if span.base == "ih" else facts.bits.number(span)

    return read


def _of_header(header: Header, key: str) -> Callable[[Facts], int | None]:
    """A field of a header."""
    raw = _raw(key)
    types = _OF_TYPES.get(key)

    def read(facts: Facts) -> int | None:
        if header.version is not None:
            _of_version(header.version, facts)
        if header.base == "ll" and not _of_ethernet(facts):
            return None
        if header.base == "th" and not _transported(facts, header.protocols):
            return None
        if types and (own := facts.header.get("type")) not in types:
            if own is None:
                return None
            raise AbsentError(facts.header.get("name"))
        return _if_there(facts, raw(facts), header.protocols)

    return read


def _tcp_flags(facts: Facts) -> int | None:
    flags = facts.header.get("flags")
    if not _transported(facts, frozenset({"tcp"})):
        return None
    if not isinstance(flags, str):
        return _if_there(facts, facts.bits.number(nft_payload.FLAG_BITS), ["tcp"])
    return sum(nft_payload.FLAGS[_ECN.get(one, one.lower())] for one in flags.split(",") if one)


def _flag(value: Scalar) -> int:
    return nft_payload.FLAGS[value] if isinstance(value, str) else value


def _protocol(facts: Facts) -> int | None:
    protocol = facts.header.get("proto")
    return None if protocol is None or facts.header.get("ext") else protocol_number(protocol)


def _ip_protocol(facts: Facts) -> int | None:
    _of_version(_IPV4, facts)
    return _protocol(facts)


def _ethertype(facts: Facts) -> int | None:
    version = _version(facts)
    return None if version is None else nft_payload.ETHERTYPES["ip" if version == _IPV4 else "ip6"]


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _hex_of(read: Callable[[Facts], int | None]) -> Callable[[Facts], object]:
    def own(facts: Facts) -> object:
        value = read(facts)
        return None if value is None else f"{value:#x}"

    return own


def _protocol_of(value: Scalar) -> int:
    number = value if isinstance(value, int) else protocol_number(value)
    if number is None:
        raise ValueError(value)
    return number


def _mac(text: Scalar) -> int:
    return int(str(text).replace(":", ""), 16)


def _ports(protocol: str) -> dict[str, Field]:
    return {
        f"{protocol} {name}": Field(_of_transport(name, protocol), as_number, of_header(name))
        for name in ("sport", "dport")
    }


def _any_port(name: str) -> Field:
    """What stands in the place of a port, whatever the protocol."""
    raw, known = _raw(f"th {name}"), _of_transport(name)

    def read(facts: Facts) -> int | None:
        found = known(facts)
        return raw(facts) if found is None else found

    return Field(read, as_number, read)


def _flag_text(value: Scalar) -> str:
    return f"{value:#x}" if isinstance(value, int) else value


def _link_address(key: str) -> Field:
    """An address of the frame that the packet came in."""
    raw = _raw(key)

    def read(facts: Facts) -> int | None:
        if not _of_ethernet(facts):
            return None
        found = raw(facts)
        if found is None and key == "ether saddr" and facts.in_ and facts.source_mac:
            return _mac(facts.source_mac)
        return found

    def own(facts: Facts) -> str | None:
        found = read(facts)
        return None if found is None else found.to_bytes(6, "big").hex(":")

    return Field(read, _mac, own)


def _next_header(key: str) -> Field:
    read = _of_header(nft_payload.HEADERS[key.partition(" ")[0]], key)
    return Field(read, _protocol_of, name_of(read, PROTOCOL_NUMBERS))


def _hex_name(value: Scalar) -> str:
    return f"0x{value:02x}" if isinstance(value, int) else value


def _interface(read: Callable[[Facts], str | None]) -> Field:
    """An interface's name: one that is not there has the name "" (nft_meta.c)."""
    return Field(
        lambda facts: read(facts) or "", as_name, lambda facts: read(facts) or "none", quoted
    )


def _group(side: int) -> Field:
    """The group of the interface that a packet came in by, or (1) goes out by; nothing matches without one."""

    def read(facts: Facts) -> int | None:
        if not (facts.in_, facts.out)[side]:
            raise AbsentError("none")
        return facts.groups()[side]

    return Field(read, by_names(DEVICE_GROUPS), read)


# src/meta.c; a rule for frames meets those for other hosts, too.
_PACKET_TYPES: Final = {
    "host": HOST, "unicast": HOST, "broadcast": BROADCAST, "multicast": MULTICAST, "other": OTHER_HOST,
}  # fmt: skip


def _packet_type(facts: Facts) -> int | frozenset[int] | None:
    own = packet_type(facts)
    return frozenset({HOST, OTHER_HOST}) if own == HOST and facts.frames else own


_ECN: Final = {"ECE": "ecn"}
_ECHOES, _ECHOES6 = frozenset({0, 8}), frozenset({128, 129})
# Fields that only some types of ICMP have.
_OF_TYPES: Final = {
    "icmp id": _ECHOES, "icmp sequence": _ECHOES, "icmp mtu": frozenset({3}), "icmp gateway": frozenset({5}),
    "icmpv6 id": _ECHOES6, "icmpv6 sequence": _ECHOES6, "icmpv6 mtu": frozenset({2}),
    "icmpv6 parameter-problem": frozenset({4}), "icmpv6 max-delay": frozenset({130}),
}  # fmt: skip
_NAMES: Final[dict[str, Mapping[str, int]]] = {
    "* dscp": nft_payload.DSCP,
    "* ecn": nft_payload.ECN,
    "ether type": nft_payload.ETHERTYPES,
    "igmp type": nft_payload.IGMP,
    "dccp type": nft_payload.DCCP,
}

_FIELDS: Final[dict[str, Field]] = {
    "meta iif": _interface(lambda facts: facts.in_),
    "meta iifname": _interface(lambda facts: facts.in_),
    "meta oif": _interface(lambda facts: facts.out),
    "meta oifname": _interface(lambda facts: facts.out),
    "meta iiftype": Field(_device_type, by_names(DEVICES), name_of(_device_type, DEVICES)),
    # Told by one who knows of no IPsec at all (secpath_exists, net/netfilter/nft_meta.c).
    "meta ipsec exists": Field(lambda facts: 0 if facts.plain() else None, as_number, nothing),
    "meta iifgroup": _group(0),
    "meta oifgroup": _group(1),
    "meta pkttype": Field(
        _packet_type, by_names(_PACKET_TYPES), name_of(_packet_type, _PACKET_TYPES)
    ),
    "meta mark": Field(
        lambda facts: facts.mark,
        as_number,
        lambda facts: None if facts.mark is None else f"{facts.mark:#x}",
        hexadecimal,
    ),
    "meta l4proto": Field(_protocol, _protocol_of, of_header("proto")),
    "meta nfproto": Field(
        _version, by_names({"ipv4": 4, "ipv6": 6}), lambda facts: f"ipv{_version(facts)}"
    ),
    "meta protocol": Field(
        _ethertype,
        by_names(nft_payload.ETHERTYPES),
        name_of(_ethertype, nft_payload.ETHERTYPES),
    ),
    "meta length": Field(
        lambda facts: _integer(facts.header.get("length")), as_number, of_header("length")
    ),
    "ip protocol": Field(_ip_protocol, _protocol_of, of_header("proto")),
    "ip saddr": _address(4, "src"),
    "ip daddr": _address(4, "dst"),
    "ip ttl": Field(_of_ip(4, "ttl"), as_number, of_header("ttl")),
    "ip length": Field(_of_ip(4, "length"), as_number, of_header("length")),
    "ip id": Field(_of_ip(4, "id"), as_number, of_header("id")),
    "ip6 saddr": _address(6, "src"),
    "ip6 daddr": _address(6, "dst"),
    "ip6 hoplimit": Field(_of_ip(6, "hop_limit"), as_number, of_header("hop_limit")),
    "tcp flags": Field(_tcp_flags, _flag, of_header("flags"), _flag_text),
    "icmp type": Field(
        _of_transport("type", "icmp"), by_names(nft_payload.ICMP), of_header("name")
    ),
    "icmp code": Field(
        _of_transport("code", "icmp"), by_names(nft_payload.ICMP_CODES), of_header("code")
    ),
    "icmpv6 type": Field(
        _of_transport("type", "icmpv6"), by_names(nft_payload.ICMPV6), of_header("name")
    ),
    "icmpv6 code": Field(
        _of_transport("code", "icmpv6"), by_names(nft_payload.ICMPV6_CODES), of_header("code")
    ),
    "ether saddr": _link_address("ether saddr"),
    "ether daddr": _link_address("ether daddr"),
    **{key: _next_header(key) for key in ("ip6 nexthdr", "ah nexthdr", "comp nexthdr")},
    **{
        name: one
        for protocol in ("tcp", "udp", "udplite", "sctp", "dccp")
        for name, one in _ports(protocol).items()
    },
    "th sport": _any_port("sport"),
    "th dport": _any_port("dport"),
    **nft_ct.FIELDS,
    **moments.FIELDS,
}
