"""The bytes of an IP packet out of the fields that a text tells of it.

A header ends before the first field that is not told, if none behind it is. A field that is not told in the
middle is 0, and the stream's ``untold`` has to name it (see `sources.Source`). What is told beyond its range
makes `ValueError`: a line that lies is not a packet.

Layouts: RFC 791, 8200, 9293, 768, 792, 4443, 9260, 4303, 4302.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iptrec.names import AF_INET, AF_INET6, PROTOCOL_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable

ICMP, TCP, UDP, ESP, AH, ICMPV6, SCTP, UDPLITE = (
    PROTOCOL_NUMBERS[one] for one in ("icmp", "tcp", "udp", "esp", "ah", "icmpv6", "sctp", "udplite")
)  # fmt: skip
FRAGMENT: Final = 44  # RFC 8200: the extension header

# Of the byte of TCP's flags (RFC 9293), by the names of the kernel's log and of nft, which writes them small.
TCP_FLAGS: Final = {
    name: 1 << bit
    for bit, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"))
}
DF, MF, EVIL = 0x4000, 0x2000, 0x8000  # of the word that has IPv4's fragment offset
_LENGTH_BYTES: Final = 40  # of an IPv6 header, which its length does not count
_PORTED: Final = (UDP, UDPLITE, SCTP, 33)  # and DCCP

# Where checksums are in the header of each protocol, and whether they are over addresses as well
_SUMS: Final = {TCP: (16, True), UDP: (6, True), ICMP: (2, False), ICMPV6: (2, True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a text tells of one packet; None, or empty, where it does not.

    ``source``, ``destination``: 4 or 16 bytes, which make the family. ``protocol``: the number of what is
    behind the extension headers. ``length``: bytes, of the whole packet. ``tos``: DSCP and ECN, also of IPv6.
    ``flags``: `DF`, `MF`, `EVIL`. ``fragment``: the offset, bytes. ``options``: of IPv4, a multiple of 4 bytes.
    ``extensions``: of IPv6, the number and the bytes of each, whose first one is set here.
    ``tcp_flags``: the byte. ``reserved``: TCP's four bits between its length and them. ``datagram_length``: of
    UDP, bytes. ``rest``: the second word of an ICMP header: id and number of an echo, an MTU, a gateway.
    ``body``: what is behind the transport header, such as the quote in an ICMP error.
    """

    source: bytes
    destination: bytes
    protocol: int | None = None
    length: int | None = None
    tos: int | None = None
    ttl: int | None = None
    id: int | None = None
    flags: int = 0
    fragment: int = 0
    options: bytes = b""
    flow_label: int | None = None
    extensions: tuple[tuple[int, bytes], ...] = ()
    sport: int | None = None
    dport: int | None = None
    seq: int | None = None
    ack: int | None = None
    reserved: int = 0
    tcp_flags: int | None = None
    window: int | None = None
    urgent: int | None = None
    tcp_options: bytes = b""
    datagram_length: int | None = None
    kind: int | None = None  # of ICMP and ICMPv6
    code: int | None = None
    rest: bytes = b""
    spi: int | None = None
    body: bytes = b""


def built(told: Told) -> bytes:
    """The packet from its IP header on, as far as it is told.

    IPv4's checksum is right; the transport's is right where all of its bytes are told, and 0 elsewhere.
    Raises `ValueError` for numbers beyond their fields.
    """
    transport = _transport(told)
    six = len(told.source) != 4  # noqa: PLR2004
    header = _ipv6(told, len(transport)) if six else _ipv4(told, len(transport))
    if told.protocol is None:
        return header
    return header + _with_sum(
        told, transport, _total(told, len(header) + len(transport)) - len(header)
    )


def _ipv4(told: Told, behind: int) -> bytes:
    size = 20 + len(told.options)
    offset, odd = divmod(told.fragment, 8)
    if odd or size > 60 or size % 4:  # noqa: PLR2004 - the header's own length has four bits
        raise ValueError("not an IPv4 header")
    place = told.flags & 0xE000 | _number(offset, 13)
    header = b"".join(
        (
            bytes([0x40 | size // 4]),
            _field(told.tos, 1),
            _field(_total(told, size + behind), 2),
            _field(told.id, 2),
            place.to_bytes(2),
            _field(told.ttl, 1),
            _field(told.protocol, 1),
            bytes(2),
            _address(told.source, 4),
            _address(told.destination, 4),
            told.options,
        )
    )
    return header[:10] + checksum([header]).to_bytes(2) + header[12:]


def _ipv6(told: Told, behind: int) -> bytes:
    numbers = [one for one, _ in told.extensions]
    following = [*numbers[1:], told.protocol or 0][: len(numbers)]
    extensions = b"".join(
        _field(after, 1) + one[1:]
        for after, (_, one) in zip(following, told.extensions, strict=True)
    )
    total = _total(told, _LENGTH_BYTES + len(extensions) + behind)
    first = 6 << 28 | _number(told.tos or 0, 8) << 20 | _number(told.flow_label or 0, 20)
    return b"".join(
        (
            first.to_bytes(4),
            _field(max(total - _LENGTH_BYTES, 0), 2),
            _field(numbers[0] if numbers else told.protocol, 1),
            _field(told.ttl, 1),
            _address(told.source, 16),
            _address(told.destination, 16),
            extensions,
        )
    )


def _transport(told: Told) -> bytes:
    """The transport header, with its checksum 0, and what is behind it."""
    if told.fragment or told.protocol is None:
        return told.body
    if told.protocol == TCP:
        return _tcp(told)
    if told.protocol in (ICMP, ICMPV6):
        header = _until_told(((told.kind, 1), (told.code, 1)))
        if len(header) < 2 or not (told.rest or told.body):  # noqa: PLR2004
            return header
        return header + bytes(2) + told.rest.ljust(4, b"\0")[:4] + told.body
    if told.protocol in _PORTED:
        header = _until_told(((told.sport, 2), (told.dport, 2), (told.datagram_length, 2)))
        whole = len(header) == 6 and told.protocol in (UDP, UDPLITE)  # noqa: PLR2004
        return header + (bytes(2) + told.body if whole else b"")
    if told.protocol == ESP:
        return _until_told(((told.spi, 4),))
    if told.protocol == AH and told.spi is not None:
        return bytes(4) + _field(told.spi, 4)
    return told.body


def _tcp(told: Told) -> bytes:
    size, odd = divmod(20 + len(told.tcp_options), 4)
    if odd or size > 15:  # noqa: PLR2004 - the header's own length has four bits
        raise ValueError("not a TCP header")
    where = None if told.tcp_flags is None else size << 4 | _number(told.reserved, 4)
    header = _until_told(
        (
            (told.sport, 2), (told.dport, 2), (told.seq, 4), (told.ack, 4), (where, 1),
            (told.tcp_flags, 1), (told.window, 2), (None if told.urgent is None else 0, 2), (told.urgent, 2),
        )
    )  # fmt: skip
    return header + told.tcp_options + told.body if len(header) == 20 else header  # noqa: PLR2004


def _with_sum(told: Told, transport: bytes, length: int) -> bytes:
    """With the checksum, where ``length``, bytes of the transport, says that all of it is there."""
    place, addressed = _SUMS.get(told.protocol or 0, (0, False))
    fragment = (
        told.fragment or told.flags & MF or any(one == FRAGMENT for one, _ in told.extensions)
    )
    if not place or len(transport) != length or length < place + 2 or fragment:
        return transport
    if told.protocol == TCP and None in (told.seq, told.ack):
        return transport
    pseudo = [told.source, told.destination, struct.pack("!II", length, told.protocol or 0)]
    found = checksum([*(pseudo if addressed else ()), transport])
    if not found and told.protocol == UDP:  # RFC 768: 0 is that there is none
        found = 0xFFFF
    return transport[:place] + found.to_bytes(2) + transport[place + 2 :]


def checksum(pieces: Iterable[bytes]) -> int:
    """RFC 1071; each piece but the last has an even length."""
    data = b"".join(pieces)
    words = struct.iter_unpack("!H", data + bytes(len(data) % 2))
    total = sum(int(one) for (one,) in words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _until_told(fields: Iterable[tuple[int | None, int]]) -> bytes:
    """Numbers of so many bytes each, up to the last one that is told."""
    pieces = [(value is not None, _field(value, size)) for value, size in fields]
    while pieces and not pieces[-1][0]:
        pieces.pop()
    return b"".join(one for _, one in pieces)


def _total(told: Told, least: int) -> int:
    return least if told.length is None else told.length


def _field(value: int | None, size: int) -> bytes:
    return _number(value or 0, 8 * size).to_bytes(size)


def _number(value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{value} does not fit into {bits} bits")
    return value


def _address(packed: bytes, size: int) -> bytes:
    if len(packed) != size:
        raise ValueError("source and destination are of two families")
    return packed


def family(packet: bytes) -> int:
    """AF_INET or AF_INET6, of a packet that was built here."""
    return AF_INET6 if packet[0] >> 4 == 6 else AF_INET  # noqa: PLR2004
