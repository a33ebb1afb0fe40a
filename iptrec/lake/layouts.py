"""How the tables of a lake lie in files: those of iptrec's own schema, or the events of a published one.

A lake is of one schema. Whichever it is, `recordings` says what has come in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.lake import tables
from iptrec.views import arrow, event_columns
from iptrec.views.published import OURS, PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.views.events import Schema
    from iptrec.views.tables import Table

LAST: Final = "recordings"


@dataclass(frozen=True, slots=True)
class Layout:
    """One table's.

    ``time``: the column of ns since 1970 that rows are sorted by; ``sorted_by``: which of the file's columns
    that is. ``packet``: the column with the number of the packet, under whose day a row is filed; ``leads``: a
    row is the packet itself. ``schema``: of its files, and with dictionaries; ``dictionaries``: the columns
    that have one. ``written``: makes rows of the file of those that come.
    """

    time: str | None
    sorted_by: int | None
    packet: str | None
    leads: bool
    schema: Callable[[bool], Any]
    dictionaries: list[str]
    written: Callable[[Any], Any]


def layouts(schema: Schema | None) -> dict[str, Layout]:
    """Those of a lake's tables, by their names; None: our own schema."""
    if schema is None:
        return {one.name: _ours(one) for one in tables.TABLES}
    return {schema.table: _events(schema), LAST: _ours(tables.NAMED[LAST])}


def schema_of(names: set[str]) -> str | None:
    """The schema of a lake that has these directories; None: it has none of a schema's own."""
    for name, one in PUBLISHED.items():
        if one.table in names:
            return name
    return OURS if names & (tables.NAMED.keys() - {LAST}) else None


def _ours(table: Table) -> Layout:
    timed = "time_ns" in table.places
    return Layout(
        time="time_ns" if timed else None,
        sorted_by=table.places["time_ns"] if timed else None,
        packet="packet" if table.name in tables.OF_PACKETS else None,
        leads=table.name == "packets",
        schema=lambda coded: tables.schema(table, coded=coded),
        dictionaries=arrow.coded(tables.schema(table, coded=True)),
        written=lambda rows: rows,
    )


def _events(schema: Schema) -> Layout:
    names = [one.name for one in schema.fields]
    exact = next(one.name for one in schema.fields if one.kind == "time")
    return Layout(
        time=schema.time,
        sorted_by=names.index(exact),
        packet=schema.number,
        leads=True,
        schema=lambda coded: event_columns.written_schema(schema, coded=coded),
        dictionaries=event_columns.paths(schema),
        written=lambda rows: event_columns.written(schema, rows),
    )
