"""A packet's bytes by the headers that they belong to, as nf_tables addresses them.

A trace of nf_tables holds the beginnings of two headers and not what is between and behind them; what was not
captured is not known.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Base = Literal["ll", "nh", "th"]  # link layer, network and transport header

_IPV4, _IPV6 = 4, 6
_IPV6_SIZE: Final = 40


class Span(NamedTuple):
    """Some bits of a packet: ``start`` counts from the beginning of a header."""

    base: str
    start: int
    size: int

    def overlaps(self, other: Span) -> bool:
        """Whether they share a bit."""
        return (
            self.base == other.base
            and self.start < other.start + other.size
            and other.start < self.start + self.size
        )


class Bits(NamedTuple):
    """``captured``: from the network header on, as far as it was captured. ``link``: what is before it."""

    captured: bytes = b""
    link: bytes = b""

    def number(self, span: Span) -> int | None:
        """The bits as a number; None where they were not captured."""
        data = self.link if span.base == "ll" else self.captured
        start = span.start
        if span.base == "th":
            size = self.network_size
            if size is None:
                return None
            start += 8 * size
        end = start + span.size
        if end > 8 * len(data):
            return None
        whole = int.from_bytes(data[start // 8 : -(-end // 8)], "big")
        return whole >> (-end % 8) & (1 << span.size) - 1

    @property
    def network_size(self) -> int | None:
        """How many bytes the network header has, without extension headers; None where nobody knows."""
        if not self.captured:
            return None
        if self.captured[0] >> 4 == _IPV4:
            return 4 * (self.captured[0] & 0x0F)
        return _IPV6_SIZE if self.captured[0] >> 4 == _IPV6 else None
