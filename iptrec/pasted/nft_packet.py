"""What nft prints of a packet in a trace: "iif "eth0" ether saddr ... ip saddr 10.0.0.1 ... tcp dport 22".

It leaves out checksums, fragments, TCP's sequence numbers, and what another field implies: "ip protocol" may be
missing, as the name of the next header tells it (src/netlink.c, src/proto.c of nft). What it has no name for it
prints as bits: "@th,64,96 0x0123".
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.matching.nft_fields import field
from iptrec.matching.nft_payload import FLAGS, HEADERS
from iptrec.names import PROTOCOL_NUMBERS
from iptrec.pasted import packet as packets

if TYPE_CHECKING:
    from collections.abc import Mapping

_VALUE: Final = r'(?:== )?("[^"]*"|\( ?[^)]*\)|\S+(?: \| \S+)*)'
_KEYS: Final = sorted(
    (f"{name} {one}" for name, header in HEADERS.items() for one in header.fields),
    key=len,
    reverse=True,
)
_FIELD: Final = re.compile(
    r"(?<!\S)(?P<key>iif|oif|vlan (?:id|type|pcp|dei|cfi)"
    r"|arp [sd]addr (?:ip|ether)|arp (?:htype|ptype|hlen|plen|operation)"
    rf"|@(?:ll|nh|th),\d{{1,4}},\d{{1,4}}|{'|'.join(map(re.escape, _KEYS))}) {_VALUE}(?!\S)"
)
_LONGEST: Final = 4096  # characters; nft prints 80 bytes of headers
# The fields of the transport header whose names tell the protocol
_PROTOCOLS: Final = PROTOCOL_NUMBERS | {"comp": PROTOCOL_NUMBERS["ipcomp"]}
_IPV6: Final = "ip6"
_VERSIONS: Final = (("ip", 4), (_IPV6, 6))
_ROOM: Final = 20  # bytes of a transport header that the kernel dumps
_DUMPED: Final = 40  # and of a network header
_BODY: Final = 8  # where what is behind a header of UDP or ICMP begins
_DIGITS: Final = 128


@dataclass(frozen=True, slots=True)
class Packet:
    """The headers as the kernel dumps them, as far as they are told; empty where nothing is.

    ``iif``, ``oif``: names of interfaces, "" for none. ``said``: the version of IP of which a line has words.
    """

    iif: str = ""
    oif: str = ""
    link: bytes = b""
    network: bytes = b""
    transport: bytes = b""
    said: int | None = None

    @property
    def version(self) -> int | None:
        """Of IP; None where nothing tells that there is such a header."""
        return self.network[0] >> 4 if self.network else self.said


@functools.lru_cache(maxsize=1024)  # the same one is told in each base chain
def packet(text: str) -> Packet:
    """Read what stands behind "packet: "; what cannot be read is not told."""
    told: dict[str, str] = {}
    for found in _FIELD.finditer(text[:_LONGEST]):
        told.setdefault(found["key"], found[2].strip('"'))
    network, transport = _headers(told)
    return Packet(
        iif=told.get("iif", ""),
        oif=told.get("oif", ""),
        link=_link(told, network),
        network=network[:_DUMPED],
        transport=transport[:_ROOM],
        said=next((one for name, one in _VERSIONS if f"{name} saddr" in told), None),
    )


def _headers(told: Mapping[str, str]) -> tuple[bytes, bytes]:
    """The network header, and the transport header."""
    version = next((one for one in ("ip", _IPV6) if f"{one} saddr" in told), None)
    source, destination = (
        _number(told, f"{version} {one}", 1 << 128) for one in ("saddr", "daddr")
    )
    if version is None or source is None or destination is None:
        return b"", b""
    six = version == _IPV6
    size = 16 if six else 4
    named = _number(told, "ip6 nexthdr" if six else "ip protocol", 256)
    above = next((one for one in told if one.partition(" ")[0] in _PROTOCOLS), "")
    protocol = _PROTOCOLS.get(above.partition(" ")[0], named)
    length = _number(told, f"{version} length", 1 << 16)
    dscp, ecn = (_number(told, f"{version} {one}", 64) for one in ("dscp", "ecn"))
    one = packets.Told(
        source=source.to_bytes(size),
        destination=destination.to_bytes(size),
        protocol=protocol,
        length=length if length is None or not six else length + _DUMPED,
        tos=None if dscp is None else dscp << 2 | (ecn or 0) & 3,
        ttl=_number(told, "ip6 hoplimit" if six else "ip ttl", 256),
        id=_number(told, "ip id", 1 << 16),
        flow_label=_number(told, "ip6 flowlabel", 1 << 20),
        **_transport(told, above.partition(" ")[0]),
    )
    try:
        whole = packets.built(one)
    except (
        ValueError,
        OverflowError,
    ):  # an address of the other version, a number beyond its field
        return b"", b""
    start = _DUMPED if six else (whole[0] & 15) * 4
    network = bytearray(whole[:start])
    if six and named is not None:
        network[6] = named  # an extension header's, which the kernel does not dump
    if not above and (raw := _raw(told)):
        return bytes(network), raw[1]
    return bytes(network), whole[start:]


def _transport(told: Mapping[str, str], name: str) -> dict[str, Any]:
    """The fields of a transport header, as `packet.Told` has them."""
    found: dict[str, Any] = {
        "sport": _number(told, f"{name} sport", 1 << 16),
        "dport": _number(told, f"{name} dport", 1 << 16),
        "kind": _number(told, f"{name} type", 256),
        "code": _number(told, f"{name} code", 256),
        "window": _number(told, "tcp window", 1 << 16),
        "seq": _number(told, "tcp sequence", 1 << 32),
        "ack": _number(told, "tcp ackseq", 1 << 32),
        "tcp_flags": _flags(told.get("tcp flags")),
        "datagram_length": _number(told, "udp length", 1 << 16),
        "spi": _number(told, f"{name} spi", 1 << 32),
        "rest": _rest(told, name),
    }
    raw = _raw(told)
    if raw and raw[0] == _BODY:
        found["body"] = raw[1]
    return found


def _rest(told: Mapping[str, str], name: str) -> bytes:
    """The second word of an ICMP header: nft has several names for it."""
    for one in ("parameter-problem", "gateway"):
        if (whole := _number(told, f"{name} {one}", 1 << 32)) is not None:
            return whole.to_bytes(4)
    first, second = (_number(told, f"{name} {one}", 1 << 16) for one in ("id", "sequence"))
    if second is None:
        second = _number(told, f"{name} mtu", 1 << 16)
    if first is None and second is None:
        return b""
    return (first or 0).to_bytes(2) + (second or 0).to_bytes(2)


def _flags(text: str | None) -> int | None:
    """TCP's: "syn", "0x12", and what several may be joined by."""
    if text is None:
        return None
    found = 0
    for one in re.split(r"[\s|,()]+", text.strip("( )")):
        if one in FLAGS:
            found |= FLAGS[one]
        elif (number := _integer(one, 256)) is not None:
            found |= number
        else:
            return None
    return found


def _raw(told: Mapping[str, str]) -> tuple[int, bytes] | None:
    """Bits of the transport header without a name: at which byte they begin, and they themselves."""
    for key, text in told.items():
        base, _, place = key.partition(",")
        if base == "@th":
            start, size = (int(one) for one in place.split(","))
            number = _integer(text, 1 << size)
            if number is not None and not start % 8 and not size % 8:
                return start // 8, number.to_bytes(size // 8)
    return None


def _link(told: Mapping[str, str], network: bytes) -> bytes:
    """The header of Ethernet; its type where that is told, or follows from what is behind it."""
    ends = [_number(told, f"ether {one}", 1 << 48) for one in ("daddr", "saddr")]
    above = {4: "ip", 6: "ip6"}.get(network[0] >> 4 if network else 0)
    tag = _tag(told)
    kind = field_number("ether type", "vlan" if tag else told.get("ether type", above))
    if None in ends or kind is None:
        return b""
    inner = field_number("ether type", told.get("vlan type", above)) if tag else None
    if tag and inner is None:
        return b""
    addresses = b"".join(one.to_bytes(6) for one in ends if one is not None)
    return addresses + kind.to_bytes(2) + (b"" if inner is None else tag + inner.to_bytes(2))


def _tag(told: Mapping[str, str]) -> bytes:
    """The two bytes of 802.1Q."""
    number = _integer(told.get("vlan id", ""), 1 << 12)
    if number is None:
        return b""
    priority, drop = (_integer(told.get(f"vlan {one}", "0"), 8) or 0 for one in ("pcp", "dei"))
    return (priority << 13 | (drop & 1) << 12 | number).to_bytes(2)


def _number(told: Mapping[str, str], key: str, below: int) -> int | None:
    """A field's value, None where it is not told or is none of the field's."""
    found = field_number(key, told.get(key))
    return found if found is not None and 0 <= found < below else None


def field_number(key: str, text: str | None) -> int | None:
    """What nft's word for a value stands for, None for none."""
    known = None if text is None else field(key)
    if text is None or known is None:
        return None
    if (found := _integer(text, 1 << 128)) is not None and ":" not in text:
        return found
    try:
        value = known.number(text)
    except (LookupError, TypeError, ValueError):
        return None
    return value if isinstance(value, int) else None


def _integer(text: str, below: int) -> int | None:
    """A number as nft prints it, decimal or hexadecimal."""
    wide = text.startswith("0x")
    digits = text.removeprefix("0x")
    if not digits.isalnum() or not digits.isascii() or len(digits) > _DIGITS:
        return None
    try:
        found = int(digits, 16 if wide else 10)
    except ValueError:
        return None
    return found if found < below else None
