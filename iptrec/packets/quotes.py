"""What errors of ICMP quote of packets, where nf_tables dumps only the first 12 bytes of a quote.

Of IPv4 these are the header but for its addresses: the checksum tells their sum, and the error's destination
one of them. Of IPv6 they are flow label, length, next header, and where the source's begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.packets.identity import Packets, combined

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.names import U64, Mask

_HEADERS: Final = (40, 20)  # bytes: of IPv6, of IPv4
_WITHOUT_OPTIONS: Final = 5  # words of 32 bits
_QUOTED: Final = (0, 4, 8)  # where those are that a quote has
_PROTOCOL: Final = 9
# Of the first eight bytes: IPv4's length, identification, flags and offset; IPv6's flow label, length and next
# header. Rules change the others.
_CONSTANT: Final = (np.uint64(0x00FFFFFFFFFF0F00), np.uint64(0xFFFFFFFFFFFF0000))
_NAME: Final = (np.uint64(0xFFFF0F00), np.uint64(0x0000FFFF00000000))
_LOW: Final = np.uint64(0xFFFF)
_SUMS: Final = np.uint64(0xFFFF)  # RFC 1071: sums are equal if they are so modulo this
_ICMP, _ICMPV6 = 1, 58
_HOST_UNREACHABLE, _ADDRESS_UNREACHABLE = 0x0103, 0x0301  # code and type


class Quotes(Packets):
    """Packets, as they are quoted."""

    def quotable_keys(self) -> tuple[U64, U64]:
        """One key a packet for what is quoted of it, and its source; 0 of what is not told apart by that.

        And one that is the same wherever it goes to.
        """
        _, *source, _, destination, _, _ = self.ends()
        keys = self._keys_of(source, _sum([source[0], destination]))
        return keys, self._keys_of(source, np.zeros_like(destination))

    def quoted_keys(self) -> tuple[U64, U64, Mask]:
        """`quotable_keys` of what errors quote, 0 where they quote more.

        And which of them name one packet, mostly, by IPv4's identification, or IPv6's flow label.
        """
        start, v6, quoted = self._inner()
        there = np.flatnonzero(quoted & (self._end - start < np.where(v6, *_HEADERS)))
        keys, anywhere = np.zeros((2, len(start)), np.uint64)
        named = np.zeros(len(start), np.bool_)
        if len(there):
            inner = Quotes(self._buffer, start[there], self._end[there], v6[there])
            *_, low, high, _ = self.ends()
            rest = _SUMS - _sum(inner._word(inner._start + at) for at in _QUOTED)
            source = [low[there], high[there]]
            keys[there] = inner._keys_of(source, rest % _SUMS)
            anywhere[there] = inner._keys_of(source, np.zeros_like(rest))
            named[there] = inner._word(inner._start) & np.where(inner._ipv6, *_NAME) != 0
        return keys, anywhere, named

    def tell_of_neighbours(self) -> Mask:
        """Which are errors that may say that a neighbour did not answer."""
        word, _, _ = self.transports()
        wanted = np.where(self._ipv6, _ADDRESS_UNREACHABLE, _HOST_UNREACHABLE)
        found: Mask = (word & _LOW).astype(np.int64) == wanted
        found &= self.protocols() == np.where(self._ipv6, _ICMPV6, _ICMP)
        return found

    def _keys_of(self, source: list[U64], addresses: U64) -> U64:
        """``addresses``: their sum, of IPv4."""
        fixed = self._word(self._start)
        protocol = self._byte(self._start + _PROTOCOL).astype(np.uint64)
        rest = np.where(self._ipv6, np.uint64(0), addresses << np.uint64(8) | protocol)
        keys = combined([fixed & np.where(self._ipv6, *_CONSTANT), *source, rest])
        plain = self._ipv6 | (self._byte(self._start) & 0x0F == _WITHOUT_OPTIONS)
        return np.where(plain, keys, np.uint64(0))


def _sum(words: Iterable[U64]) -> U64:
    """Of the halves of words of 32 bits, as checksums are made."""
    total = sum((one & _LOW) + (one >> np.uint64(16) & _LOW) for one in words)
    assert not isinstance(total, int)  # noqa: S101 - there are some
    return total % _SUMS
