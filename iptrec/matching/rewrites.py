"""What rules make of a packet that passes them: its mark, its headers, and what is no longer known of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.decode.conntrack import OTHER_STATUS, STATES
from iptrec.decode.packet import header
from iptrec.decode.rulesets.nft_matches import TEMPLATE
from iptrec.matching.bits import Span
from iptrec.matching.nft_payload import HEADERS, span
from iptrec.names import AF_INET, AF_INET6

if TYPE_CHECKING:
    from typing import Any

    from iptrec.matching.bits import Bits
    from iptrec.matching.facts import Facts

_TRACKED: Final = ("established", "related", "new")
MARK: Final = "meta mark"
ANYTHING: Final = ""
_OTHER_IP: Final = {"ip": "ip6", "ip6": "ip"}
_FAMILIES: Final = {4: AF_INET, 6: AF_INET6}
# Where what follows is and what it is depends on these: of IP the version, its length, fragments, the protocol.
_LAYOUT: Final = {
    4: (Span("nh", 0, 8), Span("nh", 16, 16), Span("nh", 48, 16), Span("nh", 72, 8)),
    6: (Span("nh", 0, 4), Span("nh", 32, 24)),
}
_DATA_OFFSET: Final = Span("th", 96, 4)  # of TCP
_ADDRESSES: Final = {
    4: Span("nh", 96, 64),
    6: Span("nh", 64, 256),
}  # they are in checksums of what follows

_OVER_ADDRESSES: Final = frozenset({"tcp", "udplite", "icmpv6"})  # and UDP's, if it is there


def is_written(key: str, written: frozenset[str]) -> bool:
    """Whether what a key stands for may be another than it was seen; `ANYTHING` stands for all."""
    if not written:
        return False
    if key in written or ANYTHING in written or (key.startswith("ct ") and "ct" in written):
        return True
    own = span(key)
    version = _OTHER_IP.get(key.partition(" ")[0])  # a packet is of one
    return own is not None and any(
        own.overlaps(found)
        for one in written
        if one.partition(" ")[0] != version and (found := span(one)) is not None
    )


def first_written(bits: Bits, written: frozenset[str]) -> int | None:
    """The first byte, from the network header on, that may be another than it was seen; None: none of them."""
    if ANYTHING in written:
        return 0
    start = {"nh": 0, "th": bits.network_size}
    places = [span(key) for key in written]
    return min(
        (
            (start[one.base] or 0) + one.start // 8
            for one in places
            if one is not None and one.base in start
        ),
        default=None,
    )


def known(facts: Facts, key: str) -> int | None:
    """The number in a field of a header; None where nobody knows it."""
    where = span(key)
    if where is None or is_written(key, facts.written):
        return None
    return facts.bits.number(where)


def rewritten(facts: Facts, key: str, value: int | None, *, certain: bool = True) -> Facts:
    """A packet whose field was set.

    ``value``: None where nobody knows to what; not ``certain``: it may have stayed what it was.
    """
    if key == MARK:
        return replace(facts, mark=value if certain or value == facts.mark else None)
    if key == "ct mark":
        return replace(facts, ct_mark=value if certain or value == facts.ct_mark else None)
    if key == TEMPLATE and _is_tracked(facts):
        return facts
    where = span(key)
    if where is None or where.base == "ih":
        return replace(facts, written=facts.written | {key})
    own = known(facts, key)
    if own is not None and own == value:
        return facts
    written = facts.written | _checksums(where, facts)
    there = facts.bits.number(where) is not None and not _of_layout(where, facts.bits.version)
    if value is None or value >> where.size or not certain or not there:
        return replace(facts, written=written | {key})
    bits = facts.bits.replaced(where, value)
    return replace(
        facts,
        bits=bits,
        header=_header(facts.header, facts.bits, bits),
        written=frozenset(one for one in written if not _inside(one, where)),
    )


def _is_tracked(facts: Facts) -> bool:
    template = (facts.ct_status or 0) & OTHER_STATUS["template"]
    return not template and any(facts.ct_state & STATES[one] for one in _TRACKED)


def can_be_mended(facts: Facts, key: str) -> bool | None:
    """Whether a packet has the checksums that a field is in: without, it is not set. None: not known.

    net/netfilter/nft_payload.c: nft_payload_set_eval, nft_payload_l4csum_offset.
    """
    where = span(key)
    if where is None or key.startswith(("@", "th ")):  # nft knows of no checksum then
        return True
    needed = {one.partition(" ")[0] for one in _checksums(where, facts)} - {"ip"}
    if where.base == "nh":
        needed &= _OVER_ADDRESSES
    lacks = {one for one in needed if facts.bits.number(_checksum(one)) is None}
    if not lacks:
        return True
    whole = facts.header.get("length") == len(facts.bits.captured) and not facts.bits.behind
    return False if whole and lacks != {"sctp"} else None  # which is set before that is found


def _checksum(protocol: str) -> Span:
    return Span("th", *HEADERS[protocol].fields["checksum"])


def _of_layout(where: Span, version: int | None) -> bool:
    if where.base == "th":
        return where.overlaps(_DATA_OFFSET)
    return where.base == "ll" or any(where.overlaps(one) for one in _LAYOUT.get(version or 0, ()))


def _inside(key: str, where: Span) -> bool:
    """Whether a field is written anew by what was written now."""
    own = span(key)
    return (
        own is not None
        and own.base == where.base
        and where.start <= own.start
        and own.start + own.size <= where.start + where.size
    )


def _checksums(where: Span, facts: Facts) -> set[str]:
    """The checksums that the kernel mends."""
    found = set()
    version = facts.bits.version
    if where.base == "nh" and version == 4:  # noqa: PLR2004
        found.add("ip checksum")
    addressed = version is not None and where.overlaps(_ADDRESSES[version])
    # Behind extension headers the protocol may not be known.
    protocols = HEADERS if facts.bits.behind else [str(facts.header.get("proto"))]
    if where.base == "th" or addressed:
        found |= {f"{one} checksum" for one in protocols if _has_checksum(one)}
    return found


def _has_checksum(protocol: str) -> bool:
    header = HEADERS.get(protocol)
    return header is not None and header.base == "th" and "checksum" in header.fields


def _header(told: dict[str, Any], before: Bits, after: Bits) -> dict[str, Any]:
    """A header, which may tell more than was captured, with what has changed of what was."""
    family = _FAMILIES.get(before.version or 0, 0)
    old, new = header(before.captured, family), header(after.captured, family)
    changed = {name: value for name, value in new.items() if old.get(name) != value}
    return {name: value for name, value in told.items() if name in new or name not in old} | changed
