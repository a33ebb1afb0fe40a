"""Header fields of many packets at once, for the plain packets that most are.

`decode.packet.header` reads any packet; what it says of a packet with one of these layouts is decided by
the layout's few fields, each some bytes at a fixed place. Packets that are cut off, fragmented, have
options or quote others have no layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.decode.packet import TCP_FLAGS, address

if TYPE_CHECKING:
    import numpy.typing as npt

    I64 = npt.NDArray[np.int64]
    U8 = npt.NDArray[np.uint8]
    U64 = npt.NDArray[np.uint64]
    Mask = npt.NDArray[np.bool_]

_IPV4: Final = 20  # bytes of a header without options
_IPV6: Final = 40
_WIDTH: Final = 64  # bytes of a packet that are looked at: those of the longest layout
_KINDS: Final = 1 << 17  # protocol, type of ICMP, family
_SHARED: Final = 4  # bytes of a word that holds several fields
_ICMP, _ICMPV6 = 1, 58
_QUOTING: Final = (3, 4, 5, 11, 12)  # errors of ICMP hold a packet
_LEAST_INFORMATION: Final = 128  # RFC 4443: types below are errors
_TARGETED: Final = (135, 136, 137)  # RFC 4861: neighbours and redirects name an address
_EXTENSIONS: Final = (0, 43, 44, 51, 60)  # RFC 8200: another header follows


class Field(NamedTuple):
    """A field's bytes in its header, which bits of that number it is, and what is added to it."""

    start: int
    size: int
    shift: int = 0
    mask: int = (1 << 62) - 1
    plus: int = 0


_FIELDS4: Final = {
    "src": Field(12, 4), "dst": Field(16, 4), "length": Field(2, 2), "ttl": Field(8, 1),
    "id": Field(4, 2), "tos": Field(1, 1),
}  # fmt: skip
_FIELDS6: Final = {
    "src": Field(8, 16), "dst": Field(24, 16), "length": Field(4, 2, plus=_IPV6),
    "hop_limit": Field(7, 1), "tos": Field(0, 4, 20, 0xFF), "flow_label": Field(0, 4, 0, 0xFFFFF),
}  # fmt: skip
_PORTS: Final = {"sport": Field(0, 2), "dport": Field(2, 2)}
_CSUM: Final = {"csum": Field(2, 2)}
_ECHO: Final = _CSUM | {"icmp_id": Field(4, 2), "icmp_seq": Field(6, 2)}
_TRANSPORTS: Final = {
    6: _PORTS | {
        "flags": Field(13, 1), "seq": Field(4, 4), "ack": Field(8, 4), "window": Field(14, 2),
        "csum": Field(16, 2),
    },
    17: _PORTS | {"csum": Field(6, 2)},
    33: _PORTS | {"csum": Field(6, 2)},
    132: _PORTS | {"csum": Field(8, 4)},
    136: _PORTS | {"csum": Field(6, 2)},
}  # fmt: skip


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
    base = _IPV6 if ipv6 else _IPV4
    own: dict[str, Field] = _TRANSPORTS.get(protocol, {})
    if protocol == _ICMP:
        if kind in _QUOTING:
            return None
        own = _ECHO if kind in (0, 8) else _CSUM
    elif protocol == _ICMPV6:
        if kind < _LEAST_INFORMATION or kind in _TARGETED:
            return None
        own = _ECHO if kind in (128, 129) else _CSUM
    elif ipv6 and protocol in _EXTENSIONS:
        return None
    fields = dict(_FIELDS6 if ipv6 else _FIELDS4)
    fields |= {name: one._replace(start=base + one.start) for name, one in own.items()}
    return Layout(ipv6, fields, max(base, *(one.start + one.size for one in fields.values())))


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
            np.where(icmp, np.where(ipv6, self._bytes[:, _IPV6 + i], self._bytes[:, _IPV4 + i]), 0)
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

    def values(self, name: str, rows: I64) -> list[Any]:
        """A field of some packets of one layout, as `decode.packet.header` gives it."""
        layout = self.layouts[self.which[rows[0]]]
        if name in ("src", "dst"):
            return _addresses(self._field(layout.fields[name], rows))
        values = self._number(layout.fields[name], rows).tolist()
        return [TCP_FLAGS[one] for one in values] if name == "flags" else values

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
                other = (self._field(field, rows) != self._field(field, rows - 1)).any(axis=1)
                if field.size == _SHARED:
                    other = self._number(field, rows) != self._number(field, rows - 1)
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


def _addresses(packed: U8) -> list[str]:
    """As text, each distinct one made once."""
    size = packed.shape[1]
    whole = packed.tobytes()
    known: dict[bytes, str] = {}
    found = []
    for at in range(0, len(whole), size):
        one = whole[at : at + size]
        if one not in known:
            known[one] = address(one)
        found.append(known[one])
    return found
