"""A JSON object many times, with other values in some places: as texts, or as bytes in one buffer.

Few are made text by text; of many, numpy copies each piece to all lines at once. Texts that are filled in have
nothing to be escaped.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from iptrec.decode.headers import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    from iptrec.names import I64, U8

    Values: TypeAlias = "I64 | list[Any] | Texts | Template"
    Place = tuple[str | int, ...]  # keys into the JSON object

# U+E000 is nobody's: an object in whose text it stands for itself has no template.
_MARK: Final = "\ue000"
_MARKED: Final = re.compile(r'"\\ue000([0-9]+)\\ue000"')
_QUAD: Final = 10_000
_QUADS: Final = np.array([f"{number:04d}".encode() for number in range(_QUAD)]).view("<u4")
_POWERS: Final = 10 ** np.arange(1, 19)


class _Cells(NamedTuple):
    """Bytes of each line, side by side: ``size[i]`` of them from column ``start[i]`` on."""

    bytes: U8
    start: I64
    size: I64


def listed(values: Values) -> list[Any]:
    """A column as Python's own values."""
    if isinstance(values, list):
        return values
    if isinstance(values, Template):
        return list(values.texts())
    return values.listed() if isinstance(values, Texts) else values.tolist()


@dataclass(frozen=True, slots=True)
class Template:
    """What all lines have between their values, one piece more than there are columns."""

    pieces: list[str]
    columns: list[Values]

    @classmethod
    def of(
        cls,
        model: dict[str, Any],
        values: Iterable[tuple[Place, Values]],
        dumped: Callable[[dict[str, Any]], str],
    ) -> Self | None:
        """That of an object, the model, and others that differ in these places; None where it has our mark."""
        line = dumped(model)
        if _MARK.encode("unicode_escape").decode() in line:
            return None
        marked = json.loads(line)
        columns: list[Values] = []
        quoted = []
        for place, column in values:
            here = marked
            for key in place[:-1]:
                here = here[key]
            quoted.append('"' if isinstance(here[place[-1]], str) else "")
            here[place[-1]] = f"{_MARK}{len(columns)}{_MARK}"
            columns.append(column)
        first, *found = _MARKED.split(dumped(marked))
        order = [int(number) for number in found[::2]]
        pieces = [first]
        for number, piece in zip(order, found[1::2], strict=True):
            pieces[-1] += quoted[number]
            pieces.append(quoted[number] + piece)
        return cls(pieces, [columns[number] for number in order])

    def texts(self) -> Iterator[str]:
        """Each line as a text."""
        form = "%s".join(piece.replace("%", "%%") for piece in self.pieces)
        return map(form.__mod__, zip(*map(listed, self.columns), strict=True))

    def cut(self, rows: slice) -> Lines:
        """Some of the lines, to be written."""
        known: dict[int, _Cells] = {}  # columns may stand in several places
        for column in self.columns:
            if id(column) not in known:
                known[id(column)] = _cells(column, rows)
        return Lines(
            [piece.encode() for piece in self.pieces], [known[id(one)] for one in self.columns]
        )


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of which each has the pieces, and its own cells between them."""

    pieces: list[bytes]
    cells: list[_Cells]

    @property
    def sizes(self) -> I64:
        """Bytes of each."""
        found: I64 = np.add.reduce([one.size for one in self.cells])
        return found + sum(map(len, self.pieces))

    def write(self, buffer: U8, starts: I64) -> None:
        """Put each where it begins."""
        at = starts
        for piece, cells in zip(self.pieces, [*self.cells, None], strict=True):
            if piece:
                _spans(buffer, len(piece))[at] = np.frombuffer(piece, f"V{len(piece)}")
            at = at + len(piece)
            if cells is not None:
                _put(buffer, at, cells)
                at = at + cells.size


def _put(buffer: U8, at: I64, cells: _Cells) -> None:
    width = cells.bytes.shape[1]
    source = cells.bytes.reshape(-1)
    begin = np.arange(len(at)) * width + cells.start
    low, high = int(cells.size.min()), int(cells.size.max())
    if low == high:
        _spans(buffer, low)[at] = _spans(source, low)[begin]
        return
    for size in range(max(low, 1), high + 1):
        rows = np.flatnonzero(cells.size == size)
        if len(rows):
            _spans(buffer, size)[at[rows]] = _spans(source, size)[begin[rows]]


def _spans(buffer: U8, size: int) -> Any:  # noqa: ANN401 - of void
    """Each place of a buffer as the bytes that follow: to copy such is the fastest."""
    return np.ndarray((len(buffer) - size + 1,), f"V{size}", buffer, strides=(1,))


def _cells(values: Values, rows: slice) -> _Cells:
    if isinstance(values, np.ndarray):
        numbers = values[rows]
        if not len(numbers) or int(numbers.min()) >= 0:
            return _digits(numbers)
        values, rows = numbers.tolist(), slice(None)
    if isinstance(values, Texts):
        distinct, which = values.distinct, values.which[rows]
    else:
        distinct = [str(one) for one in listed(values)[rows]]
        which = np.arange(len(distinct))
    encoded = [one.encode() for one in distinct]
    width = max(1, *map(len, encoded))
    whole = np.array(encoded, f"S{width}").view(np.uint8).reshape(-1, width)
    size = np.array([len(one) for one in encoded])[which]
    return _Cells(whole[which], np.zeros(len(which), np.int64), size)


def _digits(numbers: I64) -> _Cells:
    """Numbers from 0 on, in decimal."""
    size = np.searchsorted(_POWERS, numbers, "right") + 1
    quads = (int(size.max(initial=1)) + 3) // 4
    found = np.empty((len(numbers), quads), "<u4")
    left = numbers
    for place in range(quads - 1, -1, -1):
        rest = left // _QUAD
        found[:, place] = _QUADS[left - rest * _QUAD]
        left = rest
    return _Cells(found.view(np.uint8), quads * 4 - size, size)
