"""Fields that are less than a byte, in concatenations, as nft 1.0.6 prints them: ip dscp >> 2 . ip saddr.

It compiles in that such a field is taken out of its bytes, and prints the shift of that and not the mask. One
that somebody wrote looks alike in later versions. Of numbers without a name it then prints other values of an
anonymous set than the kernel has: 4 . 10.0.0.1 of a version as 0 . 4.0.0.0. What reaches over two bytes (ip6
dscp) the kernel shifts in the host's order of bytes, so that it is anything, for a named set, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_matches import Bitwise, Concat, read_of
from iptrec.matching.nft_payload import span

if TYPE_CHECKING:
    from iptrec.decode.rulesets.nft_matches import Left
    from iptrec.matching.bits import Span

_BYTE: Final = 8  # bits
_SHIFTS: Final = frozenset(["<<", ">>"])
_PRINTED_WELL: Final = frozenset({"ip dscp", "ip6 ecn", "dccp type"})


def extracts(left: Bitwise) -> bool:
    """Whether it may be the shift by which a field is taken out of its bytes."""
    own = span(left.of) if isinstance(left.of, str) else None
    return own is not None and left.op == ">>" and left.by == _behind(own)


def scrambled(left: str | Bitwise) -> bool:
    """Whether a field reaches over two bytes and is shifted, or, if it is but its key, has to be."""
    if isinstance(left, Bitwise):
        own = span(read_of(left))
        return own is not None and left.op in _SHIFTS and _wide(own)
    own = span(left)
    return own is not None and not left.startswith("@") and _behind(own) > 0 and _wide(own)


def _wide(own: Span) -> bool:
    return own.start // _BYTE != (own.start + own.size - 1) // _BYTE


def _behind(own: Span) -> int:
    """The bits between a field and the end of its last byte."""
    return -(own.start + own.size) % _BYTE


def garbled(left: Left) -> bool:
    """Whether the values of an anonymous set may be others than those that are printed."""
    return isinstance(left, Concat) and any(map(_garbled, left.parts))


def _garbled(part: Left) -> bool:
    while isinstance(part, Bitwise):
        if extracts(part):
            return part.of not in _PRINTED_WELL
        part = part.of
    return False
