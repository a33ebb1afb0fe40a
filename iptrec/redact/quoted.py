"""Headers of IPv4 cut after 12 bytes, as nf_tables dumps what an ICMP error quotes.

Their checksum is the only word of the addresses that are missing, and by it the analysis knows the packet
(`iptrec.packets.quotes`). So it has to be that of the addresses in their place; they are those of a packet that
was seen before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.redact.sums import ONES, adjusted, total

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

HEADER: Final = 12  # bytes
CUT: Final = 20  # bytes of an ICMP error that are dumped: its own header, and those
_CACHED: Final = 1 << 17
_Key = tuple[bytes, int]


class Quoted:
    """Knows the packets that were seen by what a quote has of them."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._seen: dict[_Key, dict[bytes, None]] = {}

    def see(self, packet: bytes) -> None:
        """Remember the addresses of a packet of IPv4."""
        if len(self._seen) >= _CACHED:
            self._seen.clear()
        self._seen.setdefault(_key(packet), {})[packet[12:20]] = None

    def header(self, start: bytes) -> bytes:
        """In the place of the first 12 bytes of a header."""
        wanted = (ONES - total(start)) % ONES
        told = int.from_bytes(start[10:12], "big")
        for addresses in self._seen.get(_key(start), ()):
            if total(addresses) == wanted:
                made = b"".join(self._maps.address(addresses[at : at + 4]) for at in (0, 4))
                checksum = adjusted(told, total(addresses), total(made))
                return start[:10] + checksum.to_bytes(2, "big")
        return start[:10] + self._maps.filler(start[10:12])


def _key(packet: bytes) -> _Key:
    """Length, identification, place of a fragment; protocol."""
    return packet[2:8], packet[9]
