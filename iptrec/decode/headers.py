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


_WORD: Final = 8  # bytes
# Bytes of a packet that are looked at: those of the longest layout, and of the longest one of IPv4.
_WIDTH, _WIDTH4 = 64, 40
_ICMP, _ICMPV6 = 1, 58
_NEXT_HEADER, _PROTOCOL = 6, 9  # of IPv6, of IPv4
_FRAGMENT: Final = Field(6, 2)  # of IPv4: that it is one, and where
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

    Most events of a packet bring the same bytes again: these are read once, those of the first of a run.
    """

    def __init__(self, buffer: U8, start: I64, length: npt.NDArray[Any], ipv6: Mask) -> None:
        present = start >= 0
        width = _WIDTH if ipv6.any() else _WIDTH4
        whole = spans(buffer, width)[np.where(present, start, 0)].view("<u8")
        whole = whole.reshape(-1, width // _WORD)
        begins = np.ones(len(start), np.bool_)
        begins[1:] = _any(whole[1:] ^ whole[:-1])
        for column in (present, length, ipv6):
            begins[1:] |= column[1:] != column[:-1]
        self._first = np.flatnonzero(begins)  # of each run
        self._run = np.cumsum(begins) - 1  # of each packet
        self._words: list[U64] = list(whole[self._first].byteswap().T.copy())
        self._read(present[self._first], length[self._first], ipv6[self._first])
        self.which: I64 = self._layout[self._run]
        self.kind: I64 = self._kind[self._run]

    def _read(self, present: Mask, length: npt.NDArray[Any], ipv6: Mask) -> None:
        """Find the layouts and kinds of the runs."""
        protocol = np.where(ipv6, self._byte(_NEXT_HEADER), self._byte(_PROTOCOL))
        icmp = (protocol == _ICMP) | (protocol == _ICMPV6)
        six = packet.IPV6_SIZE if ipv6.any() else packet.IPV4_SIZE
        sort, code = (
            np.where(icmp, np.where(ipv6, self._byte(six + i), self._byte(packet.IPV4_SIZE + i)), 0)
            for i in range(2)
        )
        kind = (protocol << 8 | sort) << 1 | ipv6
        there = np.flatnonzero(np.bincount(kind)).tolist()
        number = np.full(there[-1] + 1 if there else 0, -1)
        size = np.zeros(len(number), np.int64)
        self.layouts: list[Layout] = []
        for one in there:
            layout = _layout(one >> 9, one >> 1 & 0xFF, ipv6=bool(one & 1))
            if layout is not None:
                number[one], size[one] = len(self.layouts), layout.size
                self.layouts.append(layout)
        first = self._byte(0)
        fragment = self._number(_FRAGMENT, np.arange(len(kind)))
        plain = np.where(
            ipv6,
            first >> 4 == 6,  # noqa: PLR2004 - the version
            (first == 0x45) & (fragment & 0x3FFF == 0),  # noqa: PLR2004 - version 4, five words
        )
        plain &= present & (length >= size[kind])
        self._layout = np.where(plain, number[kind], -1)
        self._kind = np.where(self._layout >= 0, kind << 8 | code, -1)

    def values(self, name: str, rows: I64) -> I64 | Texts:
        """A field of some packets of one layout, as `decode.packet.header` gives it."""
        runs = self._run[rows]
        field = self.layouts[self._layout[runs[0]]].fields[name]
        if name in ("src", "dst"):
            return _addresses(self._parts(field, runs), field.size)
        values = self._number(field, runs)
        if name != "flags":
            return values
        present, which = np.unique(values, return_inverse=True)
        return Texts([packet.TCP_FLAGS[one] for one in present.tolist()], which)

    def changes(self) -> I64:
        """Which fields of each packet differ from those of the packet before, shape (n,).

        Bit j stands for the layout's j-th field. -1 where either has no layout, or they are of different
        kinds, and for the first packet.
        """
        found = np.where(self.kind >= 0, 0, -1)
        if not len(found):
            return found
        found[self._first] = -1
        kind, layout = self._kind, self._layout
        alike = np.flatnonzero((kind[1:] == kind[:-1]) & (kind[1:] >= 0)) + 1
        bits = np.zeros(len(kind), np.int64)
        for number, one in enumerate(self.layouts):
            runs = alike if len(self.layouts) == 1 else alike[layout[alike] == number]
            for bit, field in enumerate(one.fields.values()):
                for now, before in zip(
                    self._parts(field, runs), self._parts(field, runs - 1), strict=True
                ):
                    differ = now ^ before
                    if field.size < _WORD:
                        differ = differ >> np.uint64(field.shift) & np.uint64(field.mask)
                    bits[runs] |= (differ != 0).astype(np.int64) << bit
        found[self._first[alike]] = bits[alike]
        return found

    def _byte(self, place: int) -> I64:
        """One byte of each run."""
        shift = np.uint64(8 * (_WORD - 1 - place % _WORD))
        return (self._words[place // _WORD] >> shift & np.uint64(0xFF)).astype(np.int64)

    def _parts(self, field: Field, runs: I64) -> list[U64]:
        """A field of some runs, as numbers of at most eight bytes: most are one."""
        found = []
        at, end = field.start, field.start + field.size
        while at < end:
            until = min(end, at // _WORD * _WORD + _WORD)
            shift = np.uint64(8 * (-until % _WORD))
            mask = np.uint64((1 << 8 * (until - at)) - 1)
            found.append(self._words[at // _WORD][runs] >> shift & mask)
            at = until
        return found

    def _number(self, field: Field, runs: I64) -> I64:
        (value,) = self._parts(field, runs)
        return (value.astype(np.int64) >> field.shift & field.mask) + field.plus


def spans(buffer: U8, size: int) -> Any:  # noqa: ANN401 - of void
    """So many bytes from each place of a buffer on as one value: to gather and to copy such is the fastest."""
    return np.ndarray((len(buffer) - size + 1,), f"V{size}", buffer, strides=(1,))


def _any(words: U64) -> Mask:
    """Which rows have a bit, shape (n,)."""
    found: Mask = words[:, 0] != 0
    for column in words.T[1:]:
        found |= column != 0
    return found


def _addresses(parts: list[U64], size: int) -> Texts:
    """As text, each distinct one made once."""
    changes = np.logical_or.reduce([one[1:] != one[:-1] for one in parts])
    begins = np.concatenate([[0], np.flatnonzero(changes) + 1])
    width = size // len(parts)
    packed = np.stack([one[begins] for one in parts], axis=1).astype(f">u{width}")
    whole = packed.view(f"V{size}")[:, 0].tolist()
    number = {one: at for at, one in enumerate(dict.fromkeys(whole))}
    which = np.fromiter(map(number.__getitem__, whole), np.int64, len(whole))
    sizes = np.diff(begins, append=len(parts[0]))
    return Texts([packet.address(one) for one in number], np.repeat(which, sizes))
