"""Header fields of many packets at once, for the plain packets that most are.

`decode.packet.header` reads any packet; what it says of a packet with one of these layouts is decided by
the layout's few fields, each some bytes at a fixed place. Packets that are cut off, fragmented, have
options, quote others or are of a rare protocol have no layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.decode import packet
from iptrec.decode.packet import Field

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.names import I64, U8, U64, Mask


_WIDTH: Final = 64  # bytes of a packet that are looked at: those of the longest layout
_KINDS: Final = 1 << 17  # protocol, type of ICMP, family
_LONGEST_NUMBER: Final = 4  # bytes
_ICMP, _ICMPV6 = 1, 58
_NEXT_HEADER: Final = 6  # of IPv6
_ADDRESSES4: Final = {"src": Field(12, 4), "dst": Field(16, 4)}
_ADDRESSES6: Final = {"src": Field(8, 16), "dst": Field(24, 16)}
_TRANSPORTS: Final = {
    6: packet.TCP,
    17: packet.UDP,
    33: packet.UDP,
    132: packet.SCTP,
    136: packet.UDP,
}


class Texts(NamedTuple):
    """A column of texts of which few are different: value i is ``distinct[which[i]]``."""

    distinct: list[str]
    which: I64

    def listed(self) -> list[str]:
        """As a list."""
        found: list[str] = np.array(self.distinct, object)[self.which].tolist()
        return found


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of some packets lie, from their IP header on; ``size``: bytes that hold them all."""

    ipv6: bool
    fields: dict[str, Field]
    size: int

    @property
    def shown(self) -> U8:
        """255 where a byte belongs to a field, shape (64,)."""
        shown = np.zeros(_WIDTH, np.uint8)
        for one in self.fields.values():
            shown[one.start : one.start + one.size] = 255
        return shown


def _layout(protocol: int, kind: int, *, ipv6: bool) -> Layout | None:
    """The layout of packets of a protocol and type of ICMP; None: `decode.packet` reads them."""
    if protocol in packet.RARE:
        return None
    base = packet.IPV6_SIZE if ipv6 else packet.IPV4_SIZE
    own: dict[str, Field] = _TRANSPORTS.get(protocol, {})
    if protocol == _ICMP:
        if kind in packet.ICMP_QUOTING:
            return None
        own = packet.ICMP_CSUM | (packet.ICMP_ECHO if kind in packet.ICMP_ECHOES else {})
    elif protocol == _ICMPV6:
        if kind < packet.ICMPV6_INFORMATION or kind in packet.ICMPV6_TARGETED:
            return None
        own = packet.ICMP_CSUM | (packet.ICMP_ECHO if kind in packet.ICMPV6_ECHOES else {})
    elif ipv6 and protocol in packet.EXTENSIONS:
        return None
    fields = _ADDRESSES6 | packet.IPV6 if ipv6 else _ADDRESSES4 | packet.IPV4
    fields |= {name: one._replace(start=base + one.start) for name, one in own.items()}
    return Layout(ipv6, fields, max(base, *(one.start + one.size for one in fields.values())))


def are_cut(buffer: U8, start: I64, length: npt.NDArray[Any], ipv6: Mask) -> Mask:
    """Packets of which all before the transport header was not captured, or nothing at all; shape (n,).

    For IPv6 that is where an extension header begins behind the last byte. Parameters as of `Headers`.
    """
    at = np.maximum(start, 0)
    size = np.where(ipv6, packet.IPV6_SIZE, (buffer[at] & 0x0F) * 4)
    extended = ipv6 & np.isin(buffer[at + _NEXT_HEADER], list(packet.EXTENSIONS))
    cut: Mask = (start < 0) | (length < size) | (extended & (length <= size))
    return cut


class Headers:
    """The packets that begin at ``start`` (-1: nowhere) of a buffer and were captured for ``length`` bytes.

    ``ipv6``: as what each is to be read. Packet i has the layout ``layouts[which[i]]``; ``which`` is -1
    where it has none. What `decode.packet.header` says beside the fields is equal for packets of equal
    ``kind``. The buffer is padded with 64 bytes at least.
    """

    def __init__(self, buffer: U8, start: I64, length: npt.NDArray[Any], ipv6: Mask) -> None:
        present = start >= 0
        # A packet's first bytes as one value: to gather such is the fastest.
        values = np.ndarray((len(buffer) - _WIDTH + 1,), f"V{_WIDTH}", buffer, strides=(1,))
        gathered = values[np.where(present, start, 0)]
        self._bytes: U8 = gathered.view(np.uint8).reshape(-1, _WIDTH)
        protocol = np.where(ipv6, self._bytes[:, 6], self._bytes[:, 9]).astype(np.int64)
        icmp = (protocol == _ICMP) | (protocol == _ICMPV6)
        sort, code = (
            np.where(
                icmp,
                np.where(
                    ipv6, self._bytes[:, packet.IPV6_SIZE + i], self._bytes[:, packet.IPV4_SIZE + i]
                ),
                0,
            )
            for i in range(2)
        )
        kind = (protocol << 8 | sort) << 1 | ipv6
        number = np.full(_KINDS, -1)
        size = np.zeros(_KINDS, np.int64)
        self.layouts: list[Layout] = []
        for one in np.flatnonzero(np.bincount(kind, minlength=_KINDS)).tolist():
            layout = _layout(one >> 9, one >> 1 & 0xFF, ipv6=bool(one & 1))
            if layout is not None:
                number[one], size[one] = len(self.layouts), layout.size
                self.layouts.append(layout)
        first = self._bytes[:, 0]
        plain = np.where(
            ipv6,
            first >> 4 == 6,  # noqa: PLR2004 - the version
            # version 4, five words, no fragment
            (first == 0x45) & (self._bytes[:, 6] & 0x3F == 0) & (self._bytes[:, 7] == 0),  # noqa: PLR2004
        )
        plain &= present & (length >= size[kind])
        self.which: I64 = np.where(plain, number[kind], -1)
        self.kind: I64 = np.where(self.which >= 0, kind << 8 | code, -1)

    def values(self, name: str, rows: I64) -> I64 | Texts:
        """A field of some packets of one layout, as `decode.packet.header` gives it."""
        layout = self.layouts[self.which[rows[0]]]
        if name in ("src", "dst"):
            return _addresses(self._field(layout.fields[name], rows))
        values = self._number(layout.fields[name], rows)
        if name != "flags":
            return values
        present, which = np.unique(values, return_inverse=True)
        return Texts([packet.TCP_FLAGS[one] for one in present.tolist()], which)

    def changes(self) -> I64:
        """Which fields of each packet differ from those of the packet before, shape (n,).

        Bit j stands for the layout's j-th field. -1 where either has no layout, or they are of different
        kinds, and for the first packet.
        """
        found = np.full(len(self.kind), -1)
        if not len(found) or not self.layouts:
            return found
        width = (max(one.size for one in self.layouts) + 7) // 8
        words: U64 = self._bytes.view("<u8")[:, :width]
        differ = words[1:] ^ words[:-1]
        masks = np.array([one.shown for one in self.layouts]).view("<u8")[:, :width]
        differ &= masks[0] if len(masks) == 1 else masks[self.which[1:]]
        alike = (self.kind[1:] == self.kind[:-1]) & (self.kind[1:] >= 0)
        found[1:][alike] = 0
        changed = np.flatnonzero(alike & (np.bitwise_or.reduce(differ, axis=1) != 0)) + 1
        for number, layout in enumerate(self.layouts):
            rows = changed[self.which[changed] == number]
            for bit, field in enumerate(layout.fields.values()):
                if field.size <= _LONGEST_NUMBER:
                    other = self._number(field, rows) != self._number(field, rows - 1)
                else:
                    other = (self._field(field, rows) != self._field(field, rows - 1)).any(axis=1)
                found[rows] |= other.astype(np.int64) << bit
        return found

    def _field(self, field: Field, rows: I64) -> U8:
        """Its bytes, shape (n, size)."""
        return self._bytes[rows, field.start : field.start + field.size]

    def _number(self, field: Field, rows: I64) -> I64:
        value = np.zeros(len(rows), np.int64)
        for column in self._field(field, rows).T:
            value = value << 8 | column
        return (value >> field.shift & field.mask) + field.plus


def _addresses(packed: U8) -> Texts:
    """As text, each distinct one made once."""
    whole = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}")[:, 0].tolist()
    number = {one: at for at, one in enumerate(dict.fromkeys(whole))}
    which = np.fromiter(map(number.__getitem__, whole), np.int64, len(whole))
    return Texts([packet.address(one) for one in number], which)
