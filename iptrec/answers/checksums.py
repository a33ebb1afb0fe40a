"""Packets that came to this host with a wrong checksum, where the kernel counted such meanwhile.

RFC 1071, 768, 8200 (section 8.1), 9293, 4443. A sender on the same machine leaves the sum to the device: there
is no more in the packet than that of the pseudo-header, and the kernel knows that it is good
(CHECKSUM_PARTIAL); TCP leaves out the length where it has a device cut it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.answers.unheard import accepted_here
from iptrec.context.counters import in_words
from iptrec.packets.ends import End

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.context.counters import Rise
    from iptrec.packets.window import Window

_ONES: Final = 0xFFFF  # sums of words of 16 bits are equal if they are modulo this
_FRAGMENT: Final = 0x3FFF
_UDP, _SIX, _HEADER6 = 17, 6, 40


class _Sum(NamedTuple):
    """``at``: where in the header it is. ``pseudo``: whether addresses are in it."""

    name: str
    at: int
    counter: str
    pseudo: bool = True


_SUMS: Final = {
    (4, 1): _Sum("ICMP", 2, "IcmpInCsumErrors", pseudo=False),
    (4, 6): _Sum("TCP", 16, "TcpInCsumErrors"),
    (4, 17): _Sum("UDP", 6, "UdpInCsumErrors"),
    (6, 6): _Sum("TCP", 16, "TcpInCsumErrors"),
    (6, 17): _Sum("UDP", 6, "Udp6InCsumErrors"),
    (6, 58): _Sum("ICMP", 2, "Icmp6InCsumErrors"),
}


class Checksums:
    """Of one namespace, some of whose counters ``rose``, by their names."""

    def __init__(self, rose: Mapping[str, Rise]) -> None:
        self._rose = rose
        self._counted = any(one.counter in rose for one in _SUMS.values())

    def ends(self, window: Window) -> dict[int, End]:
        """By their positions in a window."""
        if not self._counted:
            return {}
        at, _ = accepted_here(window)
        rows = window.assembly.lasts()[at].tolist()
        found = {}
        for position, row in zip(at.tolist(), rows, strict=True):
            wrong = wrong_in(window.events.packet(row))
            if wrong is not None and wrong.counter in self._rose:
                found[position] = self._end(wrong)
        return found

    def _end(self, wrong: _Sum) -> End:
        sentence = f"it was dropped for its checksum of {wrong.name}"
        evidence = f"that is wrong, {in_words([self._rose[wrong.counter]])}"
        return End("recorded", f"{wrong.name}_CSUM", sentence, sure=False, evidence=evidence)


def wrong_in(packet: bytes) -> _Sum | None:
    """Which checksum of a packet is wrong; None where all are good, or it was not captured whole."""
    six = bool(packet) and packet[0] >> 4 == _SIX
    if len(packet) < (_HEADER6 if six else 20):
        return None
    start = _HEADER6 if six else (packet[0] & 15) * 4
    end = int.from_bytes(packet[4:6] if six else packet[2:4], "big") + (start if six else 0)
    protocol = packet[6] if six else packet[9]
    known = _SUMS.get((6 if six else 4, protocol))
    if not six and int.from_bytes(packet[6:8], "big") & _FRAGMENT:
        return None
    if known is None or end > len(packet) or start + known.at + 2 > end:
        return None
    body = packet[start:end]
    told = int.from_bytes(body[known.at : known.at + 2], "big")
    if told == 0 and protocol == _UDP and not six:
        return None  # it has none
    ends = protocol + _sum(packet[8:_HEADER6] if six else packet[12:20]) if known.pseudo else 0
    head = ends + len(body) if known.pseudo else 0
    partial = known.pseudo and told % _ONES in (ends % _ONES, head % _ONES)
    return None if partial or (head + _sum(body)) % _ONES == 0 else known


def _sum(data: bytes) -> int:
    """Of its words, or equal to it."""
    return int.from_bytes(data + bytes(len(data) % 2), "big") % _ONES
