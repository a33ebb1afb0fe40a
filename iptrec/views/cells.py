"""Columns of values as bytes, side by side, to be copied into lines: numbers in decimal, times, texts.

What all lines have in common is not a column's: it comes as plain bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.decode.headers import Texts, spans
from iptrec.views.packet_json import iso_time

if TYPE_CHECKING:
    from iptrec.names import I32, I64, U8

_QUAD: Final = 10_000
_QUADS: Final = np.array([f"{number:04d}".encode() for number in range(_QUAD)]).view("<u4")
_POWERS: Final = 10 ** np.arange(1, 19)
_LOW: Final = _QUAD * _QUAD  # a number below takes two quads, and 32 bits
_SECOND: Final = 1_000_000_000  # ns
_DIGITS: Final = 9  # of the rest of a second


class Times(NamedTuple):
    """Times (ns since 1970) as `packet_json.iso_time` tells them, at least one."""

    time_ns: I64

    def listed(self) -> list[str]:
        """As texts."""
        cells = cells_of(self)
        if isinstance(cells, bytes):
            return [cells.decode()] * len(self.time_ns)
        if cells.fixed is None:
            return list(map(iso_time, self.time_ns.tolist()))
        found: list[str] = cells.whole.view(f"S{cells.fixed}").astype(str)[:, 0].tolist()
        return found


class Cells(NamedTuple):
    """Bytes of each line: ``size[i]`` of ``bytes[i]`` from ``start[i]`` on.

    ``fixed``: the size, where it is that of all and they end where the row does.
    """

    bytes: U8
    start: I64
    size: I64
    fixed: int | None = None

    def cut(self, rows: slice) -> Cells:
        """Those of some lines."""
        return Cells(self.bytes[rows], self.start[rows], self.size[rows], self.fixed)

    @property
    def whole(self) -> U8:
        """Where the size is fixed: just the bytes, shape (n, size)."""
        return np.ascontiguousarray(self.bytes[:, self.bytes.shape[1] - (self.fixed or 0) :])

    def put(self, buffer: U8, at: I64) -> None:
        """Copy each to its place."""
        if self.fixed is not None:
            if self.fixed:
                spans(buffer, self.fixed)[at] = self.whole.view(f"V{self.fixed}")[:, 0]
            return
        begin = np.arange(len(at)) * self.bytes.shape[1] + self.start
        copy(buffer, at, self.bytes.reshape(-1), begin, self.size)


def copy(buffer: U8, at: I64, source: U8, start: I64, size: I32 | I64) -> None:
    """Copy bytes: ``size[i]`` of the source from ``start[i]`` on to the buffer from ``at[i]`` on."""
    counts = np.bincount(size)
    sizes = np.flatnonzero(counts)
    order = np.argsort(size, kind="stable") if len(sizes) > 1 else np.arange(len(size))
    ends = np.cumsum(counts[sizes]).tolist()
    for one, begin, end in zip(sizes.tolist(), [0, *ends], ends, strict=False):
        if one:
            rows = order[begin:end]
            spans(buffer, one)[at[rows]] = spans(source, one)[start[rows]]


def cells_of(values: I64 | Texts | Times | list[Any]) -> Cells | bytes:
    """The values of a column, at least one; bytes, if all are equal."""
    if isinstance(values, np.ndarray):
        low, high = int(values.min()), int(values.max())
        if low == high:
            return b"%d" % low
        if low >= 0:
            return _numbers(values, low, high)
        return _texts(list(map(str, values.tolist())))
    if isinstance(values, Times):
        return _times(values.time_ns)
    if isinstance(values, Texts):
        return _texts(values.distinct, values.which)
    return _texts(list(map(str, values)))


def _numbers(numbers: I64, low: int, high: int) -> Cells:
    """Numbers from 0 on, in decimal."""
    for count in range(1, 5):
        above = _QUAD**count
        if low // above == high // above and low >= above:  # they begin with the same digits
            begin = np.frombuffer(str(low // above).encode(), np.uint8)
            found = np.empty((len(numbers), len(begin) + 4 * count), np.uint8)
            found[:, : len(begin)] = begin
            found[:, len(begin) :] = _quads(numbers - low // above * above, count)
            return _fixed(found, found.shape[1])
    digits = len(str(high))
    found = _quads(numbers, (digits + 3) // 4)
    if digits == len(str(low)):
        return _fixed(found, digits)
    size = np.searchsorted(_POWERS, numbers, "right") + 1
    return Cells(found, found.shape[1] - size, size)


def _quads(numbers: I64, count: int) -> U8:
    """So many times four digits of each number, shape (n, 4 * count)."""
    found = np.empty((len(numbers), count), "<u4")
    left = numbers.astype(np.uint32) if count <= 2 else numbers  # noqa: PLR2004 - below _LOW
    for place in range(count - 1, 0, -1):
        rest = left // _QUAD
        found[:, place] = _QUADS[left - rest * _QUAD]
        left = rest
    found[:, 0] = _QUADS[left]
    return found.view(np.uint8)


def _times(time_ns: I64) -> Cells | bytes:
    low, high = int(time_ns.min()), int(time_ns.max())
    if low == high:
        return iso_time(low).encode()
    seconds = range(low // _SECOND, high // _SECOND + 1)
    # Far years are told as numbers; and who knows what a broken clock said.
    ends = [iso_time(one * _SECOND).encode() for one in (seconds[0], seconds[-1])]
    if len(ends[0]) != len(ends[1]) or not all(one.endswith(b"Z") for one in ends):
        return _texts(list(map(iso_time, time_ns.tolist())))
    width = len(ends[0])
    found = np.empty((len(time_ns), width), np.uint8)
    digits = found[:, -_DIGITS - 1 : -1]
    rest = time_ns
    if len(seconds) == 1:
        found[:] = np.frombuffer(ends[0], np.uint8)
        rest = time_ns - seconds[0] * _SECOND
    else:
        which = time_ns // _SECOND
        rest = time_ns - which * _SECOND
        distinct, which = np.unique(which, return_inverse=True)
        texts = [iso_time(one * _SECOND).encode() for one in distinct.tolist()]
        found[:] = np.array(texts, f"S{width}").view(np.uint8).reshape(-1, width)[which]
    first = rest // _LOW
    digits[:, 0] = first + ord("0")
    digits[:, 1:] = _quads(rest - first * _LOW, 2)
    return _fixed(found, width)


def _texts(distinct: list[str], which: I64 | None = None) -> Cells | bytes:
    encoded = [one.encode() for one in distinct]
    if len(encoded) == 1:
        return encoded[0]
    size = np.array(list(map(len, encoded)))
    width = max(1, int(size.max()))
    whole = np.array(encoded, f"S{width}").view(np.uint8).reshape(-1, width)
    if which is None:
        which = np.arange(len(encoded))
    if width == int(size.min()):
        return _fixed(whole[which], width)
    return Cells(whole[which], np.zeros(len(which), np.int64), size[which])


def _fixed(found: U8, size: int) -> Cells:
    start = np.full(len(found), found.shape[1] - size)
    return Cells(found, start, np.full(len(found), size), size)
