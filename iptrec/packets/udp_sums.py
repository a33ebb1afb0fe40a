"""What NAT leaves of UDP's checksum: it is of all bytes, and tells packets apart whose first bytes are equal.

Who rewrites addresses and ports changes the checksum by as much (RFC 3022, section 4.1): their sum stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.packets.identity import Packets

if TYPE_CHECKING:
    from iptrec.names import I64, U64

UNKNOWN: Final = -1
_UDP: Final = 17
_SUMS: Final = 0xFFFF  # RFC 1071: sums are equal if they are so modulo this
_HEADERS: Final = (40, 20)  # bytes: of IPv6, of IPv4 without options
_PROTOCOL: Final = _UDP << 8  # of the pseudo-header, in the packet's byte order


class Summed(Packets):
    """Packets, by their sums."""

    def nat_sums(self) -> I64:
        """The sum of checksum, ports and addresses of each packet, shape (n,); `UNKNOWN` of what has none.

        That is what is not UDP, came without a checksum, or has not got it yet: where the interface is to
        compute it, it has the sum of the pseudo-header until then (CHECKSUM_PARTIAL, linux/skbuff.h). With
        options and extension headers it may be of another destination.
        """
        _, low, high, _, to_low, to_high, _ = self.ends()
        udp, _, _ = self.transports()
        layer4, protocol, fragment = self._layer4()
        addresses = sum(map(_halves, (low, high, to_low, to_high)), np.zeros(len(udp), np.int64))
        length, checksum = (_half(udp, at).astype(np.int64) for at in (2, 3))
        plain = layer4 - self._start == np.where(self._ipv6, *_HEADERS)
        waits = (addresses + length + _PROTOCOL - checksum) % _SUMS == 0
        told = plain & (protocol == _UDP) & (fragment == 0) & (checksum > 0) & ~waits
        found = (addresses + _halves(udp) - length) % _SUMS
        return np.where(told, found, UNKNOWN)


def _halves(word: U64) -> I64:
    """The sum of the four numbers of 16 bits that a word is made of."""
    return sum((_half(word, at).astype(np.int64) for at in range(4)), np.zeros(len(word), np.int64))


def _half(word: U64, at: int) -> U64:
    half: U64 = word >> np.uint64(16 * at) & np.uint64(_SUMS)
    return half
