"""A packet's bytes by the headers that they belong to, as nf_tables addresses them.

A trace of nf_tables holds the beginnings of two headers and not what is between and behind them; what was not
captured is not known.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Base = Literal["ll", "nh", "th"]  # link layer, network and transport header

_IPV4, _IPV6 = 4, 6
_IPV6_SIZE: Final = 40
_ROOM: Final = 40  # for a network header in a trace


class Span(NamedTuple):
    """Some bits of a packet: ``start`` counts from the beginning of a header; "ih": see `inner`."""

    base: str
    start: int
    size: int

    def overlaps(self, other: Span) -> bool:
        """Whether they may share a bit."""
        if {self.base, other.base} == {"th", "ih"}:
            return True  # where the inner header begins is not known here
        return (
            self.base == other.base
            and self.start < other.start + other.size
            and other.start < self.start + self.size
        )


class Bits(NamedTuple):
    """``captured``: from the network header on, as far as it was captured. ``link``: what is before it.

    ``joined``: it is the beginnings of two headers, and what is between them is not there. ``behind``: the
    transport header's beginning, where there is something between them.
    """

    captured: bytes = b""
    link: bytes = b""
    joined: bool = False
    behind: bytes = b""

    @property
    def version(self) -> int | None:
        """That of IP; None where nobody knows."""
        return self.captured[0] >> 4 if self.captured else None

    def number(self, span: Span) -> int | None:
        """The bits as a number; None where they were not captured. Not of an inner header."""
        data, start = self.link if span.base == "ll" else self.captured, span.start
        if span.base == "th" and self.behind:
            data = self.behind
        elif span.base == "th":
            size = self.network_size
            if size is None:
                return None
            start += 8 * size
        end = start + span.size
        if end > 8 * len(data):
            return None
        whole = int.from_bytes(data[start // 8 : -(-end // 8)], "big")
        return whole >> (-end % 8) & (1 << span.size) - 1

    def replaced(self, span: Span, value: int) -> Bits:
        """With other bits in the place of some of a header of IP or of what follows, which were captured."""
        if span.base == "th" and self.behind:
            return self._replace(behind=_replaced(self.behind, span.start, span.size, value))
        start = span.start + (8 * (self.network_size or 0) if span.base == "th" else 0)
        return self._replace(captured=_replaced(self.captured, start, span.size, value))

    @property
    def network_size(self) -> int | None:
        """How many bytes the network header has, without extension headers; None where nobody knows."""
        if self.version == _IPV4:
            size = 4 * (self.captured[0] & 0x0F)
            return None if self.joined and size > _ROOM else size
        return _IPV6_SIZE if self.version == _IPV6 else None


def _replaced(data: bytes, start: int, size: int, value: int) -> bytes:
    rest = 8 * len(data) - start - size
    mask = (1 << size) - 1 << rest
    whole = int.from_bytes(data, "big") & ~mask | value << rest & mask
    return whole.to_bytes(len(data), "big")
