"""What conditions of nft look at in extension headers and options (net/netfilter/nft_exthdr.c).

A trace does not hold them. The headers that it holds tell which of them come first, or that there are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.matching.bits import Span
from iptrec.matching.field import AbsentError, Field, as_number, nothing

if TYPE_CHECKING:
    from iptrec.matching.facts import Facts
    from iptrec.matching.field import Read

_EXTENSIONS: Final = {"hbh": 0, "rt": 43, "frag": 44, "dst": 60, "mh": 135}
_CHAINED: Final = frozenset({0, 43, 44, 51, 60})  # what ipv6_find_hdr walks on behind
# How many bytes of one must be there for the kernel to find it (ipv6_find_hdr of net/ipv6/exthdrs_core.c).
_NEEDED: Final = {"hbh": 2, "rt": 4, "frag": 4, "dst": 2, "mh": 0}
_IPV6_SIZE: Final = 40
_VERSION, _HDRLENGTH = Span("nh", 0, 4), Span("nh", 4, 4)
_NEXTHDR, _DOFF = Span("nh", 48, 8), Span("th", 96, 4)
_SHORTEST: Final = 5  # words of a header without options
# The kernel takes an option or chunk for missing where there is no TCP or SCTP; nft may ask for that before,
# and not print it.
_MISSING_OR_NOT: Final = frozenset({0, -1})


def _version(facts: Facts, wanted: int) -> bool:
    own = facts.bits.number(_VERSION)
    if own is not None and own != wanted:
        raise AbsentError(f"IPv{own}")
    return own is not None


def _extension(name: str) -> Read:
    """Whether a packet has an extension header: 1 or 0."""
    number = _EXTENSIONS.get(name)

    def read(facts: Facts) -> int | None:
        if not _version(facts, 6) or number is None:
            return None
        first = facts.bits.number(_NEXTHDR)
        if first == number:
            return _found(facts, _NEEDED[name])
        return None if first is None or first in _CHAINED else 0

    return read


def _found(facts: Facts, needed: int) -> int | None:
    """Whether the first bytes of a header that IPv6 announces are there: 1 or 0.

    They are where the kernel found the transport header behind them. IP cuts off what is longer than the
    header says, and drops what is shorter, of packets that come in; the length of a jumbogram is 0 there.
    """
    length = facts.header.get("length")
    if facts.bits.behind or not needed:
        return 1
    if facts.in_ is None or facts.frames or not isinstance(length, int):
        return None
    if length == _IPV6_SIZE and facts.bits.number(_NEXTHDR) == _EXTENSIONS["hbh"]:
        return None
    return int(length >= _IPV6_SIZE + needed)


def _ip_option(_: str) -> Read:
    def read(facts: Facts) -> int | None:
        if not _version(facts, 4):
            return None
        return 0 if facts.bits.number(_HDRLENGTH) == _SHORTEST else None

    return read


def _tcp_option(_: str) -> Read:
    def read(facts: Facts) -> int | frozenset[int] | None:
        protocol = facts.header.get("proto")
        if protocol is None or facts.header.get("ext"):
            return None
        if protocol != "tcp" or facts.header.get("frag"):
            return _MISSING_OR_NOT
        return 0 if facts.bits.number(_DOFF) == _SHORTEST else None

    return read


def _chunk(_: str) -> Read:
    def read(facts: Facts) -> frozenset[int] | None:
        protocol = facts.header.get("proto")
        return None if protocol in (None, "sctp") or facts.header.get("ext") else _MISSING_OR_NOT

    return read


_KINDS: Final = {
    "exthdr": _extension, "ip option": _ip_option, "tcp option": _tcp_option, "sctp chunk": _chunk,
}  # fmt: skip


def field(key: str) -> Field | None:
    """A field by its key: "tcp option maxseg size", "exthdr frag exists"; None for what is not one of these."""
    for kind, make in _KINDS.items():
        if key.startswith(f"{kind} "):
            name, _, of = key.removeprefix(f"{kind} ").partition(" ")
            return _of(make(name), exists=of == "exists")
    return None


def _of(found: Read, *, exists: bool) -> Field:
    if exists:
        return Field(found, as_number, lambda facts: _there(found(facts)))
    return Field(_inside(found), as_number, nothing)


def _inside(exists: Read) -> Read:
    """A field of what may not be there."""

    def read(facts: Facts) -> None:
        if exists(facts) in (0, _MISSING_OR_NOT):
            raise AbsentError("missing")

    return read


def _there(found: object) -> str:
    return "missing" if found in (0, _MISSING_OR_NOT) else "there"
