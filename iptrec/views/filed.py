"""The rows of a table of many packets: one for those that are alike, and the columns in which they differ.

Who writes them takes each value once: what is said of all is not repeated for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TYPE_CHECKING, Self

from iptrec.views.templates import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.names import I64
    from iptrec.views.tables import Row, Table
    from iptrec.views.templates import Values


@dataclass(frozen=True, slots=True)
class Alike:
    """Packets of which each has as many rows, equal but for some columns.

    ``at``: the packets' places in their batch, ascending. ``rows``: those of the first packet. ``varying``:
    for each of these rows the columns that differ, name -> a value a packet.
    """

    at: I64
    rows: Sequence[Row]
    varying: Sequence[Mapping[str, Values]]

    def each(self, table: Table) -> Iterator[tuple[Row, ...]]:
        """The rows of each packet."""
        columns = [
            [
                listed(varying[column.name])
                if column.name in varying
                else repeat(value, len(self.at))
                for column, value in zip(table.columns, row, strict=True)
            ]
            for row, varying in zip(self.rows, self.varying, strict=True)
        ]
        return zip(*(zip(*one, strict=True) for one in columns), strict=True)


@dataclass(frozen=True, slots=True)
class Filed:
    """Rows of one table, packet by packet. ``odd``: a packet's place in the batch -> its rows."""

    table: Table
    alike: list[Alike] = field(default_factory=list)
    odd: dict[int, list[Row]] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, rows: Iterable[Row]) -> Self:
        """Rows that are of no packets."""
        some = list(rows)
        return cls(table, odd={0: some} if some else {})

    @property
    def places(self) -> int:
        """How many packets the batch has, up to the last one that has rows."""
        return 1 + max([-1, *self.odd, *(int(one.at[-1]) for one in self.alike)])

    def rows(self) -> Iterator[Row]:
        """All of them, in order."""
        found: dict[int, Sequence[Row]] = dict(self.odd)
        for one in self.alike:
            found.update(zip(one.at.tolist(), one.each(self.table), strict=True))
        return chain.from_iterable(found[at] for at in sorted(found))
