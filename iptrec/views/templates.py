"""A JSON object many times, with other values in some places: as texts, or as bytes in one buffer.

Few are made text by text; of many, numpy copies each piece to all lines at once. Texts that are filled in have
nothing to be escaped.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from iptrec.decode.headers import Texts, spans
from iptrec.views.cells import Cells, Times, cells_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    from iptrec.names import I64, U8

    Values: TypeAlias = "I64 | list[Any] | Texts | Times | Template"
    Place = tuple[str | int, ...]  # keys into the JSON object

# U+E000 is nobody's: an object in whose text it stands for itself has no template.
_MARK: Final = "\ue000"
_MARKED: Final = re.compile(r'"\\ue000([0-9]+)\\ue000"')


def listed(values: Values) -> list[Any]:
    """A column as Python's own values."""
    if isinstance(values, list):
        return values
    if isinstance(values, Template):
        return list(values.texts())
    return values.listed() if isinstance(values, (Texts, Times)) else values.tolist()


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

    def lines(self, count: int) -> Lines:
        """As bytes to be written; ``count``: how many there are, at least one."""
        known: dict[int, Cells | bytes] = {}  # columns may stand in several places
        lines = Lines(count)
        for piece, column in zip(self.pieces, self.columns, strict=False):
            lines.add(piece.encode())
            if id(column) not in known:
                known[id(column)] = cells_of(
                    listed(column) if isinstance(column, Template) else column
                )
            lines.add(known[id(column)])
        lines.add(self.pieces[-1].encode())
        return lines


class Lines:
    """Lines that are alike, some bytes and some cells after the other.

    What comes between cells of different sizes is as long in all lines, a stretch: it is copied as a whole, and
    then the cells in it, which all have one size.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stretches: list[tuple[bytearray, list[tuple[int, Cells]]]] = [(bytearray(), [])]
        self._between: list[Cells] = []

    def add(self, one: Cells | bytes) -> None:
        """Go on with these."""
        constant, cells = self._stretches[-1]
        if isinstance(one, bytes):
            constant += one
        elif one.fixed is None:
            self._between.append(one)
            self._stretches.append((bytearray(), []))
        elif one.fixed:
            cells.append((len(constant), one))
            constant += bytes(one.fixed)

    @property
    def sizes(self) -> I64:
        """Bytes of each."""
        found = np.full(self._count, sum(len(constant) for constant, _ in self._stretches))
        for one in self._between:
            found += one.size
        return found

    def write(self, buffer: U8, starts: I64, first: int = 0) -> None:
        """Put some, from the ``first`` on, where they begin."""
        rows = slice(first, first + len(starts))
        at = starts
        for (constant, cells), between in zip(self._stretches, [*self._between, None], strict=True):
            size = len(constant)
            if size:
                spans(buffer, size)[at] = np.frombuffer(constant, f"V{size}")
            for offset, one in cells:
                one.cut(rows).put(buffer, at + offset)
            if between is not None:
                at = at + size
                some = between.cut(rows)
                some.put(buffer, at)
                at = at + some.size
