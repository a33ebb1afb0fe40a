"""Matches of iptables that look into headers and data which `decode.packet` does not tell.

What was not captured is not known, nor what is behind the first byte that a rule may have changed. Layouts and
order of tests are those of net/netfilter/xt_*.c and net/ipv6/netfilter/ip6t_*.c.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.rulesets.iptables_save import WORD
from iptrec.matching.field import AbsentError
from iptrec.matching.iptables_sctp import has_chunks
from iptrec.matching.rewrites import first_written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.matching.facts import Facts
    from iptrec.matching.iptables_sctp import Chunk

    Test = Callable[[str, Facts], bool | None]

_IPV4, _IPV6 = 4, 6
_IPV6_SIZE, _TCP_SIZE = 40, 20
_HOP, _ROUTING, _FRAGMENT, _ESP, _AUTH, _NONE, _DEST = 0, 43, 44, 50, 51, 59, 60
_SEGMENTS: Final = 4  # the type of a routing header
_TYPE_0: Final = 8  # bytes of one of type 0 before its addresses
_PROTOCOL: Final = -1  # any other one
_BEGINNING: Final = 2  # bytes: what follows, and how long it is
CHAINED: Final = frozenset({_HOP, _ROUTING, _FRAGMENT, _AUTH, _DEST})
_NAMES: Final = {
    "hop-by-hop": _HOP, "ipv6-route": _ROUTING, "ipv6-frag": _FRAGMENT, "esp": _ESP, "ah": _AUTH,
    "ipv6-nonxt": _NONE, "ipv6-opts": _DEST, "protocol": _PROTOCOL,
}  # fmt: skip
_WHOLE: Final = frozenset({_HOP, _DEST, _ROUTING})
_MSS: Final = 2
_WORD: Final = 32  # bits
# Since then skb_find_text of net/core/skbuff.c finds nothing that ends behind --to. Before, it was enough to
# begin there, but not where the packet's data lay in several pieces.
_ENDS_BEFORE_TO: Final = (6, 7)
_LAST: Final = 65535
MALFORMED: Final = "malformed"
_DCCP_TYPES: Final = (
    "REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK",
)  # fmt: skip


class UnknownError(Exception):
    """It depends on what was not captured."""


class _Extension(NamedTuple):
    kind: int
    data: bytes  # from its first byte on, as far as it was captured
    size: int


def data(facts: Facts) -> bytes:
    """The packet from its IP header on, as far as it was captured without a gap, and unchanged by rules."""
    bits, extensions = facts.bits, facts.header.get("ext")
    gap = bits.joined and extensions and extensions[0] != "ah"
    found = bits.captured[:_IPV6_SIZE] if gap else bits.captured
    return found[: first_written(facts.bits, facts.written)]


def known_length(facts: Facts) -> int:
    """The length of the packet, from its IP header on. Raises UnknownError."""
    total = facts.header.get("length")
    if not isinstance(total, int):
        raise UnknownError
    return total


def _number(found: bytes, start: int, size: int) -> int:
    if start + size > len(found):
        raise UnknownError
    return int.from_bytes(found[start : start + size], "big")


def _known(test: Test) -> Test:
    """A test that is open where it depends on what was not captured."""

    def guarded(value: str, facts: Facts) -> bool | None:
        try:
            return test(value, facts)
        except UnknownError:
            return None

    return guarded


def is_in_range(value: str, own: int) -> bool:
    """Whether a number is in ``low:high``, or is the one that is told."""
    low, _, high = value.partition(":")
    return int(low, 0) <= own <= int(high or low, 0)


def _transport(protocol: str, facts: Facts) -> bytes:
    """What follows IP and its extension headers, as far as it was captured."""
    if facts.header.get("frag"):
        raise AbsentError("a later fragment")
    size = facts.bits.network_size
    if size is None or facts.header.get("proto") != protocol:
        raise UnknownError
    if facts.header.get("ext"):
        size += sum(one.size for one in _extensions(facts))
    return data(facts)[size:]


def _tcp_options(facts: Facts) -> bytes:
    found = _transport("tcp", facts)
    length = 4 * (_number(found, 12, 1) >> 4)
    if length > len(found):
        raise UnknownError
    return found[_TCP_SIZE:length]


def _each(options: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind, and the bytes from it on, as the kernel walks over them."""
    at = 0
    while at < len(options):
        yield options[at], options[at:]
        short = options[at] < _MSS
        at += 1 if short else (options[at + 1] if at + 1 < len(options) else 0) or 1


@_known
def tcp_option(value: str, facts: Facts) -> bool:
    """``--tcp-option``."""
    return any(kind == int(value) for kind, _ in _each(_tcp_options(facts)))


@_known
def tcp_mss(value: str, facts: Facts) -> bool:
    """``-m tcpmss --mss``: by the first option that has one."""
    for kind, one in _each(_tcp_options(facts)):
        if kind == _MSS and len(one) >= 4 and one[1] == 4:  # noqa: PLR2004 - TCPOLEN_MSS
            return is_in_range(value, int.from_bytes(one[2:4], "big"))
    return False


@_known
def dccp_types(value: str, facts: Facts) -> bool:
    """``--dccp-types``: four bits of the header's byte 8."""
    own = _number(_transport("dccp", facts), 8, 1) >> 1 & 0xF
    return (_DCCP_TYPES[own] if own < len(_DCCP_TYPES) else "INVALID") in value.split(",")


@_known
def chunk_types(value: str, facts: Facts) -> bool:
    """``--chunk-types``: a chunk that is cut off, or has no length, has the packet dropped."""
    return has_chunks(value, lambda start: _chunks(start, facts))


def _chunks(at: int, facts: Facts) -> Iterator[Chunk]:
    found = _transport("sctp", facts)
    end = known_length(facts) - (len(data(facts)) - len(found))
    while True:  # it wants one at least
        if at + 4 > end or not (size := _number(found, at + 2, 2)):
            raise AbsentError(MALFORMED)
        yield _number(found, at, 1), _number(found, at + 1, 1)
        at += -(-size // 4) * 4
        if at >= end:
            return


@_known
def compression(value: str, facts: Facts) -> bool:
    """``--ipcompspi``."""
    return is_in_range(value, _number(_transport("ipcomp", facts), 2, 2))


@_known
def mobility_type(value: str, facts: Facts) -> bool:
    """``--mh-type``."""
    return is_in_range(value, _number(_transport("135", facts), 2, 1))


@_known
def u32(value: str, facts: Facts) -> bool:
    """``--u32``: all tests of it."""
    return all(
        _u32(part.partition("=")[0], part.partition("=")[2], facts)
        for part in value.strip('"').split("&&")
    )


def _u32(location: str, ranges: str, facts: Facts) -> bool:
    """One test (u32_match_it of xt_u32.c): a number of the packet, by operators from left to right."""
    first, *rest = re.findall(r"<<|>>|[&@]|[^<>&@]+", location.replace(" ", ""))
    found, total, base = data(facts), known_length(facts), 0
    at = int(first, 0)

    def read(position: int) -> int | None:
        return None if position + 4 > total else _number(found, position, 4)

    value = read(at)
    for op, by in zip(rest[::2], rest[1::2], strict=True):
        if value is None:
            return False
        number = int(by, 0)
        if op in ("<<", ">>") and number > _WORD:
            raise ValueError(by)
        match op:
            case "&":
                value &= number
            case "<<":
                value = value << number & 0xFFFFFFFF
            case ">>":
                value >>= number
            case "@":
                base += value
                value = read(base + number)
    return value is not None and any(is_in_range(one, value) for one in ranges.split(","))


@_known
def text(value: str, facts: Facts) -> bool:
    """``--string`` with what belongs to it: all of it is between ``--from`` and ``--to``."""
    words = WORD.findall(value)
    options = dict(zip(words[1::2], words[2::2], strict=False))
    pattern, found = _pattern(words[0]), data(facts)
    if "--icase" in words:
        pattern, found = pattern.lower(), found.lower()
    first, last = int(options.get("--from", 0)), int(options.get("--to", _LAST))
    at = found.find(pattern, first)
    if 0 <= at <= last - len(pattern):
        return True
    reach = last if facts.kernel >= _ENDS_BEFORE_TO else last + len(pattern)
    if 0 <= at <= reach - len(pattern) or len(found) < min(known_length(facts), reach):
        raise UnknownError
    return False


def _pattern(word: str) -> bytes:
    """A pattern as iptables-save prints it: with bytes between bars, backslashes before quotes."""
    plain = word.removeprefix('"').removesuffix('"')
    if not re.fullmatch(r"\|[0-9a-f]*\|", plain):
        return re.sub(r"\\(.)", r"\1", plain).encode()
    return bytes.fromhex(plain.strip("|"))


def _extensions(facts: Facts) -> Iterator[_Extension]:
    """The headers between IPv6 and the transport, as ipv6_find_hdr walks over them."""
    found = data(facts)
    if _number(found, 0, 1) >> 4 != _IPV6:
        raise AbsentError("IPv4")
    kind, at = _number(found, 6, 1), _IPV6_SIZE
    while kind in CHAINED:
        size = extension_size(kind, _number(found, at + 1, 1))
        yield _Extension(kind, found[at:], size)
        if kind == _FRAGMENT and _number(found, at + 2, 2) & ~7:
            return
        kind, at = _number(found, at, 1), at + size
    yield _Extension(kind, b"", 0)


def extension_size(kind: int, units: int) -> int:
    """How many bytes an extension header has, by its second byte."""
    if kind == _FRAGMENT:
        return 8
    return 4 * (units + 2) if kind == _AUTH else 8 * (units + 1)


def _extension(kind: int, facts: Facts) -> _Extension:
    for one in _extensions(facts):
        if one.kind == kind:
            # ip6t_hbh.c and ip6t_rt.c drop those of which the packet does not hold all: nothing matches
            begun = len(data(facts)) - len(one.data)
            if kind in _WHOLE and begun + one.size > known_length(facts):
                raise AbsentError("cut short")
            return one
    raise AbsentError("missing")


def _of_extension(
    kind: int, test: Callable[[str, _Extension], bool]
) -> Callable[[str, Facts], bool | None]:
    return _known(lambda value, facts: test(value, _extension(kind, facts)))


def _has_options(value: str, one: _Extension) -> bool:
    """``--hbh-opts``: its first options, in this order, with these lengths."""
    at = 2
    for wanted in value.split(","):
        kind, _, length = wanted.partition(":")
        if at >= one.size or _number(one.data, at, 1) != int(kind):
            return False
        if int(kind):
            own = _number(one.data, at + 1, 1)
            if length and own != int(length):
                return False
            at += own + 2
        else:
            at += 1
    return True


def _offset(one: _Extension) -> int:
    return _number(one.data, 2, 2)


def _via(value: str, one: _Extension) -> bool:
    """``--rt-0-addrs``: exactly these; with ``--rt-0-not-strict`` these in their order, and others."""
    wanted, _, loose = value.partition(" ")
    addresses = [ipaddress.ip_address(address).packed for address in wanted.split(",")]
    own = [_address(one.data, at) for at in range(_TYPE_0, one.size - 15, 16)]
    if not loose:
        return own == addresses
    rest = iter(own)
    return all(address in rest for address in addresses)


def _address(found: bytes, start: int) -> bytes:
    return _number(found, start, 16).to_bytes(16, "big")


@_known
def has_headers(value: str, facts: Facts) -> bool:
    """``--header`` of ipv6header: exactly these; with ``--soft`` these and others, negated none of them."""
    names, _, soft = value.partition(" ")
    wanted, own = {_NAMES[one] for one in names.split(",")}, set(_flagged(facts))
    if soft and not wanted <= own and wanted & own:
        raise AbsentError(",".join(name for name, kind in _NAMES.items() if kind in own))
    return wanted <= own if soft else wanted == own


def _flagged(facts: Facts) -> Iterator[int]:
    """The headers as ip6t_ipv6header.c walks over them: through the data of later fragments as well."""
    found = data(facts)
    if _number(found, 0, 1) >> 4 != _IPV6:
        raise AbsentError("IPv4")
    kind, at, total = _number(found, 6, 1), _IPV6_SIZE, known_length(facts)
    while kind in CHAINED and at <= total:
        _require_beginning(at, total)
        yield kind
        kind, at = _number(found, at, 1), at + extension_size(kind, _number(found, at + 1, 1))
    last = kind if kind in (_NONE, _ESP) else _PROTOCOL
    if last == _ESP and at <= total:
        _require_beginning(at, total)
    if last == _PROTOCOL or at <= total:  # not behind one that says to be longer than the packet
        yield last


def _require_beginning(at: int, total: int) -> None:
    """Raise AbsentError where a packet ends before the first bytes of a header that is announced."""
    if total - at < _BEGINNING:
        raise AbsentError("cut short")


def eui64(_: str, facts: Facts) -> bool | None:
    """Whether the source address is made of that of the link layer."""
    found = data(facts)
    if facts.source_mac is None or len(found) < _IPV6_SIZE:
        return None
    mac = bytes.fromhex(facts.source_mac.replace(":", ""))
    return found[16:24] == bytes([mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, *mac[3:6]])


def _segments(read: Callable[[bytes], int], compare: Callable[[int, int], bool]) -> Test:
    """Of a segment routing header that is whole, as segments6_mt6 of ip6t_srh.c looks for one."""

    def test(value: str, facts: Facts) -> bool:
        one = _extension(_ROUTING, facts)
        start = len(data(facts)) - len(one.data)
        cut = start + one.size > known_length(facts)
        _number(one.data, 0, 8)
        if cut or one.data[2] != _SEGMENTS or one.data[3] > one.data[4]:
            raise AbsentError("no header of segments")
        return compare(read(one.data), int(value, 0))

    return _known(test)


def _each_way(name: str, read: Callable[[bytes], int]) -> dict[str, Test]:
    """The options of one number: equal, greater, less."""
    ways = {"eq": operator.eq, "gt": operator.gt, "lt": operator.lt}
    return {f"--srh-{name}-{way}": _segments(read, compare) for way, compare in ways.items()}


# Not --srh-tag, which the kernel compares in the byte order of the host.
SEGMENTS: Final[dict[str, Test]] = {
    "--srh-next-hdr": _segments(lambda found: found[0], operator.eq),
    **_each_way("hdr-len", lambda found: found[1]),
    **_each_way("segs-left", lambda found: found[3]),
    **_each_way("last-entry", lambda found: found[4]),
}
hop_length = _of_extension(_HOP, lambda value, one: one.size == int(value))
hop_options = _of_extension(_HOP, _has_options)
dst_length = _of_extension(_DEST, lambda value, one: one.size == int(value))
dst_options = _of_extension(_DEST, _has_options)
has_hop = _of_extension(_HOP, lambda _value, _one: True)
has_dst = _of_extension(_DEST, lambda _value, _one: True)
route_type = _of_extension(_ROUTING, lambda value, one: _number(one.data, 2, 1) == int(value))
route_left = _of_extension(_ROUTING, lambda value, one: is_in_range(value, _number(one.data, 3, 1)))
route_length = _of_extension(_ROUTING, lambda value, one: one.size == int(value))
route_reserved = _of_extension(_ROUTING, lambda _, one: not _number(one.data, 4, 4))
route_addresses = _of_extension(_ROUTING, _via)
fragment_id = _of_extension(
    _FRAGMENT, lambda value, one: is_in_range(value, _number(one.data, 4, 4))
)
fragment_first = _of_extension(_FRAGMENT, lambda _, one: not _offset(one) & ~7)
fragment_more = _of_extension(_FRAGMENT, lambda _, one: bool(_offset(one) & 1))
fragment_last = _of_extension(_FRAGMENT, lambda _, one: not _offset(one) & 1)
fragment_reserved = _of_extension(
    _FRAGMENT, lambda _, one: not _number(one.data, 1, 1) and not _offset(one) & 6
)
auth_length = _of_extension(_AUTH, lambda value, one: one.size == int(value))
auth_reserved = _of_extension(_AUTH, lambda _, one: not _number(one.data, 2, 2))
_auth_spi6 = _of_extension(_AUTH, lambda value, one: is_in_range(value, _number(one.data, 4, 4)))


def auth_spi(value: str, facts: Facts) -> bool | None:
    """``--ahspi``: in IPv4 a protocol, in IPv6 an extension header."""
    return _auth_spi6(value, facts) if facts.bits.version == _IPV6 else spi(value, facts)


def spi(value: str, facts: Facts) -> bool | None:
    """``--espspi``."""
    own = facts.header.get("spi")
    if facts.header.get("frag"):
        raise AbsentError("a later fragment")
    return None if own is None else is_in_range(value, own)
