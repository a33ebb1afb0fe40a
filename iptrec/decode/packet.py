"""The headers of one packet as plain values, in the order in which a reader expects them.

What was captured may be cut off anywhere: what is there is decoded, where dpkt would refuse the packet as a
whole. The tables of fields serve `headers`, too, which reads many packets at once; those of rare protocols
are dpkt's, which is loaded (30 ms) when such a packet comes.
"""

from __future__ import annotations

import ipaddress
import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.names import AF_INET6, PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Header = dict[str, Any]

_ETHERNET: Final = 14
_VLAN: Final = b"\x81\x00"  # ETH_P_8021Q
_FRAGMENT, _AH = 44, 51
_EXTENSIONS_WALKED: Final = 16

# RFC 8200: the headers between IPv6 and the transport
EXTENSIONS: Final = {0: "hopopt", 43: "routing", 44: "fragment", 51: "ah", 60: "dstopts"}

ICMP_UNREACHABLE: Final = 3
ICMP_ECHOES: Final = (0, 8)
ICMP_QUOTING: Final = (3, 4, 5, 11, 12)  # errors hold the packet that they are about
ICMPV6_UNREACHABLE: Final = 1
ICMPV6_ECHOES: Final = (128, 129)
ICMPV6_TARGETED: Final = (135, 136, 137)  # RFC 4861, section 4: they name an address
ICMPV6_INFORMATION: Final = 128  # RFC 4443: the types below are errors

_UNREACHABLE: Final = {
    0: "net-unreachable", 1: "host-unreachable", 2: "protocol-unreachable", 3: "port-unreachable",
    4: "fragmentation-needed", 5: "source-route-failed", 9: "net-prohibited", 10: "host-prohibited",
    13: "admin-prohibited",
}  # fmt: skip
_ICMP: Final = {
    0: "echo-reply", 3: "destination-unreachable", 4: "source-quench", 5: "redirect",
    8: "echo-request", 9: "router-advertisement", 10: "router-solicitation", 11: "time-exceeded",
    12: "parameter-problem", 13: "timestamp-request", 14: "timestamp-reply",
}  # fmt: skip
_UNREACHABLE6: Final = {
    0: "no-route", 1: "admin-prohibited", 2: "beyond-scope", 3: "address-unreachable",
    4: "port-unreachable", 5: "policy-fail", 6: "reject-route",
}  # fmt: skip
_ICMPV6: Final = {
    1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 4: "parameter-problem",
    128: "echo-request", 129: "echo-reply", 130: "mld-query", 131: "mld-report", 132: "mld-done",
    133: "router-solicitation", 134: "router-advertisement", 135: "neighbour-solicitation",
    136: "neighbour-advertisement", 137: "redirect", 143: "mld2-report",
}  # fmt: skip


class Field(NamedTuple):
    """A number in a header: its bytes, which bits of them it is, and what is added to it."""

    start: int
    size: int
    shift: int = 0
    mask: int = (1 << 62) - 1
    plus: int = 0


IPV4_SIZE: Final = 20  # bytes without options
IPV6_SIZE: Final = 40
IPV4: Final = {
    "length": Field(2, 2), "ttl": Field(8, 1), "id": Field(4, 2), "tos": Field(1, 1),
}  # fmt: skip
IPV6: Final = {
    "length": Field(4, 2, plus=IPV6_SIZE), "hop_limit": Field(7, 1), "tos": Field(0, 4, 20, 0xFF),
    "flow_label": Field(0, 4, 0, 0xFFFFF),
}  # fmt: skip
_UNKNOWN: Final[Header] = {"src": None, "dst": None, "proto": None, "length": None}
_PORTS: Final = {"sport": Field(0, 2), "dport": Field(2, 2)}
TCP: Final = _PORTS | {
    "flags": Field(12, 2, 0, 0xFF), "seq": Field(4, 4), "ack": Field(8, 4), "window": Field(14, 2),
    "csum": Field(16, 2),
}  # fmt: skip
UDP: Final = _PORTS | {"csum": Field(6, 2)}
SCTP: Final = _PORTS | {"csum": Field(8, 4)}
_ICMP_KIND: Final = {"type": Field(0, 1), "code": Field(1, 1)}
ICMP_CSUM: Final = {"csum": Field(2, 2)}
ICMP_ECHO: Final = {"icmp_id": Field(4, 2), "icmp_seq": Field(6, 2)}

# Protocol -> dpkt's class, and our names of its fields. ESP and AH as the LOG target tells them.
RARE: Final = {
    2: ("igmp.IGMP", {"type": "type", "group": "group", "csum": "sum"}),
    50: ("esp.ESP", {"spi": "spi", "seq": "seq"}),
    51: ("ah.AH", {"spi": "spi", "seq": "seq"}),
    112: ("vrrp.VRRP", {"vrid": "vrid", "priority": "priority", "csum": "sum"}),
}

_TCP_FLAG: Final = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
# The names of all that are set, by the byte that they are bits of.
TCP_FLAGS: Final = tuple(
    ",".join(name for bit, name in enumerate(_TCP_FLAG) if flags >> bit & 1) for flags in range(256)
)


def header(payload: bytes, family: int, ethertype: int = 0, untold: Collection[str] = ()) -> Header:
    """The IP header and what it carries, as the "header" object of ``show --json``.

    ``payload`` is the packet from its IP header on, as far as it was captured; ``family`` is AF_INET
    (2) or AF_INET6 (10). Keys, where the packet has them: src, dst, proto, length (of the whole packet,
    bytes), ttl or hop_limit, id, tos, flow_label, ext, frag (offset in bytes), mf, sport, dport, flags,
    seq, ack, window, csum, type, code, name, icmp_id, icmp_seq, target, group (of IGMP), spi (of ESP and
    AH), vrid and priority (of VRRP), inner (the packet that an ICMP error quotes).
    "truncated" is True where headers are cut off or senseless; what was not captured of src, dst, proto and
    length is None. Of a frame that is not IP (``family`` 0) there is its ethertype alone, None for 0. Keys that
    are ``untold`` (see `recording.rows.Stream`) are left out. Never raises.
    """
    if family:
        found = _packet(payload, family, quote=True)
        return _without(found, untold) if untold else found
    return _UNKNOWN | {"ethertype": f"0x{ethertype:04x}" if ethertype else None}


def _without(header: Header, untold: Collection[str]) -> Header:
    """Without fields that nobody told; also in what it quotes."""
    kept = {name: value for name, value in header.items() if name not in untold}
    return kept | ({"inner": _without(kept["inner"], untold)} if "inner" in kept else {})


def link(data: bytes) -> Header | None:
    """An Ethernet header (802.3, with 802.1Q): src, dst, type, vlan; None if it is none.

    The kernel gives ``hard_header_len`` bytes: other lengths are headers of tunnels and the like.
    """
    tagged = data[12:14] == _VLAN
    if len(data) != _ETHERNET + (4 if tagged else 0):
        return None
    result: Header = {"src": data[6:12].hex(":"), "dst": data[:6].hex(":")}
    if tagged:
        result["vlan"] = int.from_bytes(data[14:16], "big") & 0x0FFF
    return result | {"type": f"0x{data[-2:].hex()}"}


def address(packed: bytes) -> str:
    """An IPv4 address of 4 bytes, or an IPv6 address of 16, as text."""
    if len(packed) == 4:  # noqa: PLR2004
        return ".".join(map(str, packed))
    return str(ipaddress.IPv6Address(packed))


def _packet(data: bytes, family: int, *, quote: bool) -> Header:
    try:
        return _ipv6(data, quote) if family == AF_INET6 else _ipv4(data, quote)
    except (IndexError, ValueError):
        return _UNKNOWN | {"truncated": True}


def _ipv4(data: bytes, quote: bool) -> Header:
    if data[0] >> 4 != 4:  # noqa: PLR2004
        raise ValueError("no IPv4")
    offset = int.from_bytes(data[6:8], "big") if len(data) > 7 else 0  # noqa: PLR2004
    size = (data[0] & 0x0F) * 4
    result = _UNKNOWN | _addresses(data, 12, 4)
    if len(data) > 9:  # noqa: PLR2004 - where the protocol is
        result["proto"] = protocol_name(data[9])
    result |= _captured(data, IPV4)
    fragment = (offset & 0x1FFF) * 8
    if fragment or offset & 0x2000:
        result |= {"frag": fragment, "mf": bool(offset & 0x2000)}
    if size < IPV4_SIZE or len(data) < IPV4_SIZE:
        return result | {"truncated": True}
    return _transport(result, data[9], data[size:], fragment, quote=quote)


def _ipv6(data: bytes, quote: bool) -> Header:
    if data[0] >> 4 != 6:  # noqa: PLR2004
        raise ValueError("no IPv6")
    result = _UNKNOWN | _addresses(data, 8, 16) | _captured(data, IPV6)
    if len(data) < IPV6_SIZE:
        return result | _next_header(data[6:7]) | {"truncated": True}
    protocol, data, fragment = data[6], data[IPV6_SIZE:], 0
    extensions: list[str] = []
    for _ in range(_EXTENSIONS_WALKED):
        if protocol not in EXTENSIONS or len(data) < 8:  # noqa: PLR2004 - the shortest extension
            break
        extensions.append(EXTENSIONS[protocol])
        size = 8 * (1 + data[1])
        if protocol == _FRAGMENT:
            size = 8
            position = int.from_bytes(data[2:4], "big")
            fragment = position & 0xFFF8
            result |= {
                "frag": fragment,
                "mf": bool(position & 1),
                "id": int.from_bytes(data[4:8], "big"),
            }
        elif protocol == _AH:
            size = 4 * (2 + data[1])  # RFC 4302 counts in 4-byte units
        protocol, data = data[0], data[size:]
        if fragment:
            break
    if protocol in EXTENSIONS and not fragment:  # cut off in it, or more than we walk
        extensions.append(EXTENSIONS[protocol])
        return result | {"ext": extensions, "truncated": True}
    result["proto"] = protocol_name(protocol)
    if extensions:
        result["ext"] = extensions
    return _transport(result, protocol, data, fragment, quote=quote)


def _addresses(data: bytes, start: int, size: int) -> Header:
    """Source and destination, those that were captured whole."""
    ends = {"src": data[start : start + size], "dst": data[start + size : start + 2 * size]}
    return {name: address(one) for name, one in ends.items() if len(one) == size}


def _next_header(number: bytes) -> Header:
    """What an IPv6 header says of the next one, where nothing of that was captured."""
    if not number:
        return {}
    extension = EXTENSIONS.get(number[0])
    return {"ext": [extension]} if extension else {"proto": protocol_name(number[0])}


def _transport(result: Header, protocol: int, data: bytes, fragment: int, *, quote: bool) -> Header:
    """Add what the transport header says; only the first fragment has one."""
    if fragment:
        return result
    if protocol in RARE:
        return result | _rare(protocol, data)
    read = _TRANSPORTS.get(protocol)
    return result if read is None else result | read(data, quote)


def _tcp(data: bytes, _quote: bool) -> Header:
    result = _captured(data, TCP)
    if "flags" in result:
        result["flags"] = TCP_FLAGS[result["flags"]]
    return result


def _udp(data: bytes, _quote: bool) -> Header:
    return _captured(data, UDP)


def _sctp(data: bytes, _quote: bool) -> Header:
    return _captured(data, SCTP)


def _icmp(data: bytes, quote: bool) -> Header:
    result = _captured(data, _ICMP_KIND)
    if "code" not in result:
        return result
    kind, code = result["type"], result["code"]
    result |= {"name": icmp_name(kind, code)} | _captured(data, ICMP_CSUM)
    if kind in ICMP_ECHOES:
        result |= _captured(data, ICMP_ECHO)
    elif kind in ICMP_QUOTING and quote:
        result |= _quoted(data, 2)
    return result


def _icmpv6(data: bytes, quote: bool) -> Header:
    result = _captured(data, _ICMP_KIND)
    if "code" not in result:
        return result
    kind, code = result["type"], result["code"]
    result |= {"name": icmp_name(kind, code, ipv6=True)} | _captured(data, ICMP_CSUM)
    if kind in ICMPV6_ECHOES:
        result |= _captured(data, ICMP_ECHO)
    elif kind in ICMPV6_TARGETED:
        target = data[8:24]
        whole = len(target) == 16  # noqa: PLR2004
        result |= {"target": address(target)} if whole else {"truncated": True}
    elif kind < ICMPV6_INFORMATION and quote:
        result |= _quoted(data, AF_INET6)
    return result


def icmp_name(kind: int, code: int, *, ipv6: bool = False) -> str:
    """What a message of ICMP is called, by its type and code."""
    names, unreachable, codes = (
        (_ICMPV6, ICMPV6_UNREACHABLE, _UNREACHABLE6)
        if ipv6
        else (_ICMP, ICMP_UNREACHABLE, _UNREACHABLE)
    )
    name = names.get(kind, f"type-{kind}")
    return f"{name}/{codes.get(code, f'code-{code}')}" if kind == unreachable else name


def load() -> None:
    """Load what is loaded when it is needed, for a process that may not be able to read it later."""
    import dpkt  # noqa: F401, PLC0415


def _rare(protocol: int, data: bytes) -> Header:
    import dpkt  # noqa: PLC0415 - takes 30 ms, and few recordings hold such packets

    name, names = RARE[protocol]
    result = _captured(data, _fields(attrgetter(name)(dpkt), names))
    if "group" in result:
        result["group"] = address(result["group"].to_bytes(4, "big"))
    return result


def _fields(kind: Any, names: dict[str, str]) -> dict[str, Field]:  # noqa: ANN401 - dpkt is untyped
    """Some fields of a header as dpkt has them, under our names."""
    found, start = {}, 0
    for name, code, _ in kind.__hdr__:
        size = struct.calcsize("!" + code)
        found[name] = Field(start, size)
        start += size
    return {ours: found[name] for ours, name in names.items()}


def _quoted(data: bytes, family: int) -> Header:
    """What an ICMP error quotes, 8 bytes behind its start."""
    return {"inner": _packet(data[8:], family, quote=False)} if data[8:] else {"truncated": True}


_TRANSPORTS: Final[dict[int, Callable[[bytes, bool], Header]]] = {
    1: _icmp, 6: _tcp, 17: _udp, 33: _udp, 58: _icmpv6, 132: _sctp, 136: _udp,
}  # fmt: skip


def _captured(data: bytes, fields: dict[str, Field]) -> Header:
    """The fields that were captured whole; "truncated" if that is not all."""
    result: Header = {}
    size = len(data)
    for name, (start, length, shift, mask, plus) in fields.items():
        if start + length <= size:
            number = int.from_bytes(data[start : start + length], "big")
            result[name] = (number >> shift & mask) + plus
        else:
            result["truncated"] = True
    return result


def protocol_name(number: int) -> str:
    """As /etc/protocols has it, else the number."""
    return PROTOCOLS.get(number, str(number))
