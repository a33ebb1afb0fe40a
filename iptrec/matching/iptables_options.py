"""What a condition of iptables can look at, by match module and option.

What the packet, its interfaces and the addresses of the host say is judged as the kernel does
(net/netfilter/xt_*.c, ip_tables.c). Values are read as iptables-save prints them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, NamedTuple

from iptrec.matching import iptables_bytes as raw
from iptrec.matching import iptables_host as host
from iptrec.matching.facts import Facts, protocol_number
from iptrec.matching.field import AbsentError, dumped_of_tcp, of_header, require_ethernet
from iptrec.matching.iptables_bpf import accepts
from iptrec.matching.iptables_time import why_unknown, within
from iptrec.matching.nft_ct import FIELDS
from iptrec.matching.rewrites import is_written

Test = Callable[[str, Facts], "bool | None"]
ALL: Final = "*"
_NAMED_TYPES: Final = {  # as iptables-save may print them; numbers else
    "any": 255, "echo-reply": 0, "destination-unreachable": 3, "echo-request": 8, "time-exceeded": 11,
}  # fmt: skip


# As iptables prints them where /etc/protocols has other names or more than the header of a packet.
_PROTOCOLS: Final = {
    "ggp": 3, "st": 5, "egp": 8, "igp": 9, "pup": 12, "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29,
    "xtp": 36, "ddp": 37, "idpr-cmtp": 38, "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "skip": 57,
    "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "ax.25": 93, "ipip": 94, "etherip": 97, "encap": 98, "isis": 124,
    "fc": 133, "mobility-header": 135, "mpls-in-ip": 137, "manet": 138, "hip": 139, "shim6": 140, "wesp": 141,
    "rohc": 142,
}  # fmt: skip


class Option(NamedTuple):
    """An option of a match.

    ``test``: whether a packet has what the value of the option asks for; None where it is not known.
    ``own``: what the packet has instead, as a reader knows it; None where there is nothing to say. ``hint``:
    what is known although it is not enough; ``likely``: what ``test`` says if nothing changed meanwhile.
    """

    test: Test
    own: Callable[[Facts], object]
    hint: Callable[[str, Facts], str | None] = lambda _value, _facts: None
    likely: Test = lambda _value, _facts: None
    never: Callable[[str, Facts, bool], bool] = lambda _value, _facts, _negated: False


def _protocol(value: str, facts: Facts) -> bool | None:
    number = _PROTOCOLS.get(value, protocol_number(value))
    own = facts.header.get("proto")
    if number is None or own is None:
        return None
    return number == 0 or number == protocol_number(str(own))


def _is_protocol(value: str, own: int) -> bool:
    return _PROTOCOLS.get(value, protocol_number(value)) == own


_OF_ERRORS: Final = ("icmp", "icmpv6")


def _never_protocol(value: str, facts: Facts, negated: bool) -> bool:
    """Whether ``--ctproto`` cannot hold: without a connection it does not, and a connection has the packet's.

    But for an ICMP error, which may be of another one; and ``-j CT`` may give the packet one of no protocol.
    """
    own = facts.header.get("proto")
    number = None if own is None or facts.header.get("ext") else protocol_number(str(own))
    if number is None or own in _OF_ERRORS or is_written("ct state", facts.written):
        return False
    return _is_protocol(value, number) == negated


def _network(name: str) -> Test:
    """An address with a mask, which need not be a prefix."""

    def test(value: str, facts: Facts) -> bool | None:
        wanted, _, mask = value.partition("/")
        try:
            own, net = (ipaddress.ip_address(one) for one in (facts.header[name], wanted))
            bits = own.max_prefixlen
            keep = (
                (1 << bits) - (1 << bits - int(mask or bits))
                if not mask or mask.isdigit()
                else int(ipaddress.ip_address(mask))
            )
        except (KeyError, ValueError, TypeError):
            return None
        return own.version == net.version and int(own) & keep == int(net) & keep

    return test


def _interface(read: Callable[[Facts], str | None]) -> Test:
    def test(value: str, facts: Facts) -> bool | None:
        name = read(facts) or ""
        return name.startswith(value[:-1]) if value.endswith("+") else name == value

    return test


def _range(read: Callable[[Facts], int | None], *, separator: str = ":") -> Test:
    """One number, or from and to."""

    def test(value: str, facts: Facts) -> bool | None:
        own = read(facts)
        low, _, high = value.partition(separator)
        if own is None or not low.isdigit() or not (high or low).isdigit():
            return None
        return int(low) <= own <= int(high or low)

    return test


def _ports(*names: str) -> Test:
    def test(value: str, facts: Facts) -> bool | None:
        ports = [facts.header.get(name) for name in names]
        if any(port is None for port in ports):
            return None
        spans = [one.partition(":") for one in value.split(",")]
        return any(
            int(low) <= port <= int(high or low)
            for port in ports
            for low, _, high in spans
            if port is not None and low.isdigit()
        )

    return test


def _addresses(name: str) -> Test:
    """``--src-range A-B``."""

    def test(value: str, facts: Facts) -> bool | None:
        low, _, high = value.partition("-")
        try:
            own, first, last = (
                ipaddress.ip_address(one) for one in (facts.header[name], low, high or low)
            )
        except (KeyError, ValueError, TypeError):
            return None
        if not own.version == first.version == last.version:
            return False
        return int(first) <= int(own) <= int(last)

    return test


def _tcp_flags(value: str, facts: Facts) -> bool | None:
    mask, _, wanted = value.partition(" ")
    if "flags" not in facts.header:
        return None
    own = set(facts.header["flags"].split(",")) - {""}
    every = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
    looked_at = every if mask == "ALL" else set(mask.split(",")) - {"NONE"}
    expected = every if wanted == "ALL" else set(wanted.split(",")) - {"NONE"}
    return own & looked_at == expected


def _icmp_type(value: str, facts: Facts) -> bool | None:
    kind, _, code = value.partition("/")
    number = _number(kind, _NAMED_TYPES)
    if number is None or "type" not in facts.header:
        return None
    if number == _NAMED_TYPES["any"]:
        return True
    own = facts.header["type"] == number
    return own and (not code or facts.header.get("code") == _number(code, {}))


def _mark(value: str, facts: Facts) -> bool | None:
    wanted, _, mask = value.partition("/")
    if facts.mark is None:
        return None
    try:
        return facts.mark & int(mask or "0xffffffff", 0) == int(wanted, 0)
    except ValueError:
        return None


def _mac(value: str, facts: Facts) -> bool | None:
    require_ethernet(facts)
    return None if facts.source_mac is None else facts.source_mac.lower() == value.lower()


def _compared(sign: str) -> Test:
    """``--ttl-eq``, ``--ttl-lt``, ``--ttl-gt`` and their like for IPv6."""

    def test(value: str, facts: Facts) -> bool | None:
        own = facts.header.get("ttl", facts.header.get("hop_limit"))
        if own is None or not value.isdigit():
            return None
        return bool({"=": own == int(value), "<": own < int(value), ">": own > int(value)}[sign])

    return test


def _traffic_class(value: str, facts: Facts) -> bool | None:
    """``--tos VALUE/MASK``."""
    own = facts.header.get("tos")
    wanted, _, mask = value.partition("/")
    return None if own is None else own & int(mask or "0xff", 0) == int(wanted, 0)


def _class_of(value: str, facts: Facts) -> bool | None:
    """``--dscp``."""
    own = facts.header.get("tos")
    return None if own is None else own >> 2 == int(value, 0)


def _marked_ecn(value: str, facts: Facts) -> bool | None:
    """``--ecn-ip-ect``."""
    own = facts.header.get("tos")
    return None if own is None else own & 3 == int(value)


def _tcp_flag(name: str) -> Test:
    def test(_: str, facts: Facts) -> bool | None:
        flags = facts.header.get("flags")
        return name in flags.split(",") if isinstance(flags, str) else None

    return test


def _bridged(read: Callable[[Facts], str | None]) -> Test:
    """``--physdev-is-in`` and its like; traces of nf_tables do not tell a bridge's ports."""
    return lambda _, facts: None if facts.bits.joined else bool(read(facts))


def _port_of_bridge(read: Callable[[Facts], str | None]) -> Test:
    test = _interface(read)
    return lambda value, facts: None if facts.bits.joined else test(value, facts)


def _fragment(_: str, facts: Facts) -> bool | None:
    """``-f``: second and further fragments."""
    return bool(facts.header.get("frag", 0))


def _number(text: str, names: dict[str, int]) -> int | None:
    if text in names:
        return names[text]
    return int(text) if text.isascii() and text.isdigit() else None


def _nothing(_: Facts) -> None:
    """For an option that asks for more than one thing."""


def _dumped(_: str, facts: Facts) -> str:
    return dumped_of_tcp(facts)


def _own_tos(facts: Facts) -> str | None:
    own = facts.header.get("tos")
    return None if own is None else f"{own:#04x}"


def _own_class(facts: Facts) -> str | None:
    own = facts.header.get("tos")
    return None if own is None else f"{own >> 2:#04x}"


def _own_mark(facts: Facts) -> str | None:
    return None if facts.mark is None else f"0x{facts.mark:x}"


def _first(test: Test) -> Test:
    """Look into the transport header, which later fragments do not have.

    nf_tables takes their data for it, in rules of iptables-nft too: what it was is not known.
    """

    def guarded(value: str, facts: Facts) -> bool | None:
        if facts.header.get("frag") and not facts.bits.joined:
            raise AbsentError("a later fragment")
        return test(value, facts)

    return guarded


def _connection(key: str, fits: Callable[[str, int], bool]) -> Option:
    return Option(host.of_connection(key, fits), FIELDS[key].own)


def _group_option(side: int) -> Option:
    """``side``: 0 of the interface that the packet came in by, 1 of the one by which it goes out."""

    def own(facts: Facts) -> str | None:
        number = facts.groups()[side]
        return None if number is None else f"{number:#x}"

    return Option(lambda value, facts: host.in_group(value, facts.groups()[side]), own)


_PORTS: Final = {
    "--sport": Option(_first(_range(lambda facts: facts.header.get("sport"))), of_header("sport")),
    "--dport": Option(_first(_range(lambda facts: facts.header.get("dport"))), of_header("dport")),
}
CORE: Final[dict[str, Option]] = {  # iptables' own, of no module
    "-p": Option(_protocol, of_header("proto")),
    "-s": Option(_network("src"), of_header("src")),
    "-d": Option(_network("dst"), of_header("dst")),
    "-i": Option(_interface(lambda facts: facts.in_), lambda facts: facts.in_ or "none"),
    "-o": Option(_interface(lambda facts: facts.out), lambda facts: facts.out or "none"),
    "-f": Option(_fragment, _nothing),
}
# By "" is judged what a module asks for without an option, by `ALL` all its options together.
# Modules whose options nobody can judge afterwards are not here.
MODULES: Final[dict[str, dict[str, Option]]] = {
    "comment": {},
    "tcp": {
        **_PORTS,
        "--tcp-flags": Option(_first(_tcp_flags), of_header("flags")),
        "--tcp-option": Option(raw.tcp_option, _nothing, _dumped),
    },
    "udp": _PORTS,
    "udplite": _PORTS,
    "sctp": {**_PORTS, "--chunk-types": Option(raw.chunk_types, _nothing)},
    "dccp": {**_PORTS, "--dccp-types": Option(raw.dccp_types, _nothing)},
    "ipcomp": {"--ipcompspi": Option(raw.compression, _nothing)},
    "mh": {"--mh-type": Option(raw.mobility_type, _nothing)},
    "srh": {option: Option(test, _nothing) for option, test in raw.SEGMENTS.items()},
    "pkttype": {"--pkt-type": Option(host.frame_type, host.own_frame_type)},
    "rpfilter": {
        "": Option(host.has_way_back, _nothing),
        ALL: Option(host.has_way_back, _nothing),
    },
    "icmp": {"--icmp-type": Option(_first(_icmp_type), of_header("name"))},
    "icmp6": {"--icmpv6-type": Option(_first(_icmp_type), of_header("name"))},
    "multiport": {
        "--sports": Option(_first(_ports("sport")), of_header("sport")),
        "--dports": Option(_first(_ports("dport")), of_header("dport")),
        "--ports": Option(_first(_ports("sport", "dport")), _nothing),
    },
    "iprange": {
        "--src-range": Option(_addresses("src"), of_header("src")),
        "--dst-range": Option(_addresses("dst"), of_header("dst")),
    },
    "mark": {"--mark": Option(_mark, _own_mark)},
    "addrtype": {
        "--src-type": Option(host.address_type("src"), of_header("src")),
        "--dst-type": Option(host.address_type("dst"), of_header("dst")),
    },
    "set": {"--match-set": Option(host.in_set, _nothing, host.seen_in_set, host.was_in_set)},
    "length": {
        "--length": Option(_range(lambda facts: facts.header.get("length")), of_header("length"))
    },
    "ttl": {
        "--ttl-eq": Option(_compared("="), of_header("ttl")),
        "--ttl-lt": Option(_compared("<"), of_header("ttl")),
        "--ttl-gt": Option(_compared(">"), of_header("ttl")),
    },
    "hl": {
        "--hl-eq": Option(_compared("="), of_header("hop_limit")),
        "--hl-lt": Option(_compared("<"), of_header("hop_limit")),
        "--hl-gt": Option(_compared(">"), of_header("hop_limit")),
    },
    "mac": {"--mac-source": Option(_mac, lambda facts: facts.source_mac)},
    "dscp": {"--dscp": Option(_class_of, _own_class)},
    "tos": {"--tos": Option(_traffic_class, _own_tos)},
    "ecn": {
        "--ecn-ip-ect": Option(_marked_ecn, _own_tos),
        "--ecn-tcp-ece": Option(_tcp_flag("ECE"), of_header("flags")),
        "--ecn-tcp-cwr": Option(_tcp_flag("CWR"), of_header("flags")),
    },
    "tcpmss": {"--mss": Option(raw.tcp_mss, _nothing, _dumped)},
    "u32": {"--u32": Option(raw.u32, _nothing)},
    "string": {
        "--string": Option(raw.text, _nothing),
        "--hex-string": Option(raw.text, _nothing),
    },
    "time": {ALL: Option(within, _nothing, why_unknown)},
    "conntrack": {
        "--ctstate": Option(host.state, host.own_state),
        "--ctproto": _connection("ct protocol", _is_protocol)._replace(never=_never_protocol),
        "--ctdir": _connection("ct direction", host.has_direction),
        "--ctstatus": _connection("ct status", host.has_status),
        "--ctorigsrc": _connection("ct original saddr", host.is_in_network),
        "--ctorigdst": _connection("ct original daddr", host.is_in_network),
        "--ctorigsrcport": _connection("ct original proto-src", raw.is_in_range),
        "--ctorigdstport": _connection("ct original proto-dst", raw.is_in_range),
    },
    "connmark": {"--mark": Option(host.marked_connection, _nothing)},
    "helper": {"--helper": Option(host.has_helper, _nothing)},
    "state": {"--state": Option(host.state, host.own_state)},
    "devgroup": {"--src-group": _group_option(0), "--dst-group": _group_option(1)},
    "policy": {ALL: Option(host.by_ipsec, _nothing, lambda _value, facts: host.of_ipsec(facts))},
    "bpf": {"--bytecode": Option(accepts, _nothing)},
    "hbh": {
        "": Option(raw.has_hop, _nothing),
        "--hbh-len": Option(raw.hop_length, _nothing),
        "--hbh-opts": Option(raw.hop_options, _nothing),
    },
    "dst": {
        "": Option(raw.has_dst, _nothing),
        "--dst-len": Option(raw.dst_length, _nothing),
        "--dst-opts": Option(raw.dst_options, _nothing),
    },
    "rt": {
        "--rt-type": Option(raw.route_type, _nothing),
        "--rt-segsleft": Option(raw.route_left, _nothing),
        "--rt-len": Option(raw.route_length, _nothing),
        "--rt-0-res": Option(raw.route_reserved, _nothing),
        "--rt-0-addrs": Option(raw.route_addresses, _nothing),
    },
    "frag": {
        "--fragid": Option(raw.fragment_id, _nothing),
        "--fragfirst": Option(raw.fragment_first, _nothing),
        "--fragmore": Option(raw.fragment_more, _nothing),
        "--fraglast": Option(raw.fragment_last, _nothing),
        "--fragres": Option(raw.fragment_reserved, _nothing),
    },
    "ah": {
        "--ahspi": Option(raw.auth_spi, of_header("spi")),
        "--ahlen": Option(raw.auth_length, _nothing),
        "--ahres": Option(raw.auth_reserved, _nothing),
    },
    "esp": {"--espspi": Option(raw.spi, of_header("spi"))},
    "ipv6header": {"--header": Option(raw.has_headers, _nothing)},
    "eui64": {"": Option(raw.eui64, lambda facts: facts.source_mac)},
    "physdev": {
        "--physdev-in": Option(
            _port_of_bridge(lambda facts: facts.physin), lambda facts: facts.physin or "none"
        ),
        "--physdev-out": Option(
            _port_of_bridge(lambda facts: facts.physout), lambda facts: facts.physout or "none"
        ),
        "--physdev-is-in": Option(_bridged(lambda facts: facts.physin), _nothing),
        "--physdev-is-out": Option(_bridged(lambda facts: facts.physout), _nothing),
        "--physdev-is-bridged": Option(_bridged(lambda facts: facts.physout), _nothing),
    },
}
